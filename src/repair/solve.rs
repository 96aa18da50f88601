//! Ridge regression toward given weights.
//!
//! With centred inputs X̃ (n×K) and targets Ỹ (n×N), `C = X̃ᵀX̃ / n` and λ,
//!
//! ```text
//! W = (C + λI)⁻¹ (X̃ᵀỸ/n + λ W₀)  =  W₀ + (C + λI)⁻¹ (X̃ᵀỸ/n − C W₀)  =  W₀ + X̃ᵀ (X̃X̃ᵀ + nλI)⁻¹ (Ỹ − X̃ W₀)
//! b = mean(y) − Wᵀ mean(x)
//! ```
//!
//! The last form of W (the *dual*) needs an n×n matrix only.

use ndarray::{Array1, Array2, ArrayView2, Axis};

use crate::calibrate::moments::Moments;
use crate::error::Result;
use crate::linalg::{Backend, solvable};

/// Shares of the inputs' mean variance that may pull toward the kept weights; held-out data chooses.
pub const RIDGES: [f64; 3] = [1e-2, 1e-3, 1e-4];

/// `W₀ + (C + λI)⁻¹ (D − C W₀)` for the covariance C (K×K) of the inputs and D (K×N) of inputs with targets.
///
/// # Errors
/// If `C + λI` is not positive definite.
pub fn ridge(
    backend: &dyn Backend,
    covariance: ArrayView2<'_, f64>,
    cross: ArrayView2<'_, f64>,
    w0: ArrayView2<'_, f64>,
    lambda: f64,
    name: &str,
) -> Result<Array2<f64>> {
    let rest = &cross - &backend.matmul(covariance, w0);
    let mut damped = covariance.to_owned();
    damped.diag_mut().mapv_inplace(|d| d + lambda);
    Ok(&backend.solve_spd(damped.view(), rest.view(), name)? + &w0)
}

/// What is known of a layer's inputs and targets.
#[derive(Debug)]
pub enum Evidence {
    /// Sums over rows.
    Sums(Moments),
    /// The rows themselves, where they are fewer than inputs: x (n×K), y (n×N).
    Rows(Array2<f64>, Array2<f64>),
}

impl Evidence {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Sums(sums) => sums.rows,
            Self::Rows(x, _) => x.nrows(),
        }
    }

    /// The weights that explain the targets best, pulled toward `w0` by `share` of the inputs' mean variance.
    ///
    /// # Errors
    /// If the system cannot be solved.
    pub fn weights(&self, backend: &dyn Backend, w0: &Array2<f64>, share: f64, name: &str) -> Result<Array2<f64>> {
        match self {
            Self::Sums(sums) => {
                let covariance = sums.covariance();
                let square = sums.xx.diag().sum() / count(sums.rows);
                let lambda = strength(share, covariance.diag().sum(), square, w0.nrows());
                ridge(backend, covariance.view(), sums.cross_covariance().view(), w0.view(), lambda, name)
            }
            Self::Rows(x, y) => {
                let n = count(x.nrows());
                let (mean_x, mean_y) = (self.mean_x(), self.mean_y());
                let (x, y) = (x - &mean_x, y - &mean_y);
                let square = x.iter().map(|v| v * v).sum::<f64>() / n;
                let lambda = strength(share, square, square + mean_x.dot(&mean_x), x.ncols());
                let mut kernel = backend.matmul(x.view(), x.t());
                kernel.diag_mut().mapv_inplace(|d| d + n * lambda);
                let rest = &y - &backend.matmul(x.view(), w0.view());
                let dual = backend.solve_spd(kernel.view(), rest.view(), name)?;
                Ok(w0 + &backend.matmul(x.t(), dual.view()))
            }
        }
    }

    /// The best bias for these weights: `mean(y) − Wᵀ mean(x)`.
    pub fn bias(&self, w: &Array2<f64>) -> Array1<f64> {
        self.mean_y() - w.t().dot(&self.mean_x())
    }

    /// Mean over rows of `‖y − Wᵀx − b‖²`.
    pub fn error(&self, backend: &dyn Backend, w: &Array2<f64>, b: &Array1<f64>) -> f64 {
        match self {
            Self::Sums(sums) => sums.squared_error(backend, w, b) / count(sums.rows),
            Self::Rows(x, y) => {
                let rest = y - &backend.matmul(x.view(), w.view()) - b;
                rest.iter().map(|v| v * v).sum::<f64>() / count(x.nrows())
            }
        }
    }

    /// Mean over rows of `‖y − mean y‖²`.
    pub fn spread(&self) -> f64 {
        match self {
            Self::Sums(sums) => sums.spread() / count(sums.rows),
            Self::Rows(x, y) => (y - &self.mean_y()).iter().map(|v| v * v).sum::<f64>() / count(x.nrows()),
        }
    }

    fn mean_x(&self) -> Array1<f64> {
        match self {
            Self::Sums(sums) => &sums.x / count(sums.rows),
            Self::Rows(x, _) => x.sum_axis(Axis(0)) / count(x.nrows()),
        }
    }

    fn mean_y(&self) -> Array1<f64> {
        match self {
            Self::Sums(sums) => &sums.y / count(sums.rows),
            Self::Rows(_, y) => y.sum_axis(Axis(0)) / count(y.nrows()),
        }
    }
}

/// λ for inputs of this total variance and total mean square.
fn strength(share: f64, variance: f64, square: f64, inputs: usize) -> f64 {
    let k = count(inputs);
    solvable(share * variance / k, square / k)
}

#[allow(clippy::cast_precision_loss)]
fn count(n: usize) -> f64 {
    n.max(1) as f64
}
