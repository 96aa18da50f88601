//! Least squares pulled towards given weights: the one such solve.
//!
//! With centred inputs X̃ (n×K), centred targets Ỹ (n×N), `C = X̃ᵀX̃ / n`, `D = X̃ᵀỸ / n` and λ > 0,
//!
//! ```text
//! W = argmin ‖Ỹ − X̃ W‖² / n + λ ‖W − W₀‖²
//!   = W₀ + (C + λI)⁻¹ (D − C W₀)            primal: a system of K×K
//!   = W₀ + X̃ᵀ (X̃X̃ᵀ + nλI)⁻¹ (Ỹ − X̃ W₀)     dual: a system of n×n
//! ```
//!
//! What does not depend on λ is computed once; several λ are solved side by side.

use std::borrow::Cow;

use ndarray::{Array2, ArrayView2, Axis, concatenate};
use rayon::prelude::*;

use super::Backend;
use crate::{Error, Result};

/// Random signs that the effective dimension is estimated with.
const PROBES: usize = 8;

/// How often λ grows tenfold where a system cannot be solved with less.
const GROWTHS: usize = 9;

/// Systems of at least this size are worth a task of their own.
const LARGE: usize = 64;

/// A regression of which only λ is open.
pub struct Ridge<'a> {
    backend: &'a dyn Backend,
    /// C, or X̃X̃ᵀ / n.
    system: Cow<'a, Array2<f64>>,
    /// D − C W₀, or (Ỹ − X̃ W₀) / n.
    rest: Array2<f64>,
    start: Option<ArrayView2<'a, f64>>,
    /// X̃ of the dual form.
    rows: Option<ArrayView2<'a, f64>>,
}

impl<'a> Ridge<'a> {
    /// From the covariance C (K×K) of the inputs and D (K×N) of inputs with targets, pulled towards `start` (W₀, K×N) or
    /// towards zero.
    ///
    /// # Panics
    /// When the shapes do not fit together.
    pub fn primal(
        backend: &'a dyn Backend,
        covariance: &'a Array2<f64>,
        cross: ArrayView2<'_, f64>,
        start: Option<ArrayView2<'a, f64>>,
    ) -> Self {
        let rest = match start {
            Some(start) => &cross - &backend.matmul(covariance.view(), start),
            None => cross.to_owned(),
        };
        Self { backend, system: Cow::Borrowed(covariance), rest, start, rows: None }
    }

    /// From centred rows of inputs (n×K) and of targets (n×N), which pays where rows are fewer than inputs.
    ///
    /// # Panics
    /// When the shapes do not fit together.
    #[allow(clippy::cast_precision_loss)]
    pub fn dual(
        backend: &'a dyn Backend,
        inputs: ArrayView2<'a, f64>,
        targets: ArrayView2<'_, f64>,
        start: ArrayView2<'a, f64>,
    ) -> Self {
        let n = inputs.nrows().max(1) as f64;
        let system = backend.matmul(inputs, inputs.t()) / n;
        let rest = (&targets - &backend.matmul(inputs, start)) / n;
        Self { backend, system: Cow::Owned(system), rest, start: Some(start), rows: Some(inputs) }
    }

    /// W (K×N) at one λ.
    ///
    /// # Errors
    /// Entries that are not finite. `name` is what messages call the layer.
    pub fn weights(&self, lambda: f64, name: &str) -> Result<Array2<f64>> {
        let (solved, _) = self.solved(lambda, self.rest.view(), name)?;
        Ok(self.finished(solved.view()))
    }

    /// W at each λ.
    ///
    /// # Errors
    /// As [`weights`](Self::weights).
    pub fn path(&self, lambdas: &[f64], name: &str) -> Result<Vec<Array2<f64>>> {
        if self.system.nrows() < LARGE {
            return lambdas.iter().map(|&lambda| self.weights(lambda, name)).collect();
        }
        lambdas.par_iter().map(|&lambda| self.weights(lambda, name)).collect()
    }

    /// W at one λ, and the effective dimension `tr C (C + λI)⁻¹`: how many parameters an output really has. Estimated from
    /// eight vectors of fixed random signs (Hutchinson), which cost next to nothing beside the solve.
    ///
    /// # Errors
    /// As [`weights`](Self::weights).
    #[allow(clippy::cast_precision_loss)]
    pub fn weights_and_dimension(&self, lambda: f64, name: &str) -> Result<(Array2<f64>, f64)> {
        let size = self.system.nrows();
        let signs = signs(size, PROBES);
        let right = concatenate(Axis(1), &[self.rest.view(), signs.view()]);
        let right = right.map_err(|e| Error::input(format!("'{name}': {e}")))?;
        let (solved, lambda) = self.solved(lambda, right.view(), name)?;
        let (weights, inverse) = solved.view().split_at(Axis(1), self.rest.ncols());
        // tr C (C + λI)⁻¹ = size − λ tr (C + λI)⁻¹, and tr M ≈ the mean of zᵀ M z.
        let trace = (&signs * &inverse).sum() / PROBES as f64;
        Ok((self.finished(weights), (size as f64 - lambda * trace).clamp(0.0, size as f64)))
    }

    /// The solution of the system at λ or, if that is too little, at the least λ that is enough, and that λ.
    fn solved(&self, lambda: f64, right: ArrayView2<'_, f64>, name: &str) -> Result<(Array2<f64>, f64)> {
        growing(lambda, |lambda| self.backend.solve_spd(self.damped(lambda).view(), right, name))
    }

    fn damped(&self, lambda: f64) -> Array2<f64> {
        let mut damped = self.system.as_ref().clone();
        damped.diag_mut().mapv_inplace(|d| d + lambda);
        damped
    }

    /// W from the solution of the system.
    fn finished(&self, solved: ArrayView2<'_, f64>) -> Array2<f64> {
        let mut weights = match self.rows {
            Some(rows) => self.backend.matmul(rows.t(), solved),
            None => solved.to_owned(),
        };
        if let Some(start) = self.start {
            weights += &start;
        }
        weights
    }
}

/// λ as a share of the mean variance of inputs, of which `variance` and `square` are the sums over inputs of `E[x²] − E[x]²`
/// and of `E[x²]`. Inputs that do not vary get what keeps the solve possible: a billionth of their mean square, or 1 where
/// they are always zero and say nothing at all.
#[allow(clippy::cast_precision_loss)]
pub fn strength(share: f64, variance: f64, square: f64, inputs: usize) -> f64 {
    let k = inputs.max(1) as f64;
    let lambda = (share * variance / k).max(1e-9 * square / k);
    if lambda > 0.0 { lambda } else { 1.0 }
}

/// What `solve` makes of λ, or of ten times as much for as long as that fails, and the λ that was enough: rounding gives the
/// covariance of inputs that hardly vary small negative eigenvalues.
///
/// # Errors
/// That of the largest λ.
pub(crate) fn growing<T>(lambda: f64, mut solve: impl FnMut(f64) -> Result<T>) -> Result<(T, f64)> {
    let mut lambda = lambda;
    let mut outcome = solve(lambda);
    for _ in 0..GROWTHS {
        if outcome.is_ok() {
            break;
        }
        lambda *= 10.0;
        outcome = solve(lambda);
    }
    outcome.map(|solved| (solved, lambda))
}

/// Fixed random signs, rows×columns.
fn signs(rows: usize, columns: usize) -> Array2<f64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state >> 63 == 0 { 1.0 } else { -1.0 }
    };
    Array2::from_shape_simple_fn((rows, columns), next)
}

#[cfg(test)]
#[path = "ridge_tests.rs"]
mod tests;
