//! The data-aware split: the best rank-r approximation of a layer's *outputs*.
//!
//! For inputs x with covariance C and mean μ, the orthogonal projection V_r of the outputs that keeps
//! most of their variance makes A = W V_r, B = V_rᵀ with bias b' = b + (I − V_r V_rᵀ) Wᵀ μ. The expected
//! squared error of an output is then exactly the sum of the trailing eigenvalues of Wᵀ C W, and no
//! map of rank r has less (principal components of the outputs; Chen et al. 2021, DRONE; Yu & Wu 2023,
//! arXiv:2303.07520, atomic feature mimicking).
//!
//! * N ≤ K: V are the eigenvectors of Wᵀ C W (N×N).
//! * N > K: C^½ W (K×N) is decomposed instead. Its right singular vectors are V_r = Wᵀ C^½ U_r Λ_r^-½ for
//!   the eigenvectors U of C^½ W Wᵀ C^½, its squared singular values are Λ (whitening; Wang et al. 2024,
//!   arXiv:2403.07378, SVD-LLM); the direct decomposition keeps V orthogonal for small λ too.
//!
//! C is not damped. Directions that the data does not span (samples < K) are ordered by the plain SVD of
//! what is left of W, so full rank reproduces W for inputs that were never seen.
//!
//! When earlier layers are split already, x is the input that the layer now gets and y the output that
//! it should give: [`OutputPca::corrected`] is reduced-rank regression (Izenman 1975) of y on x.

use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate, s};

use super::low_rank::{ErrorCurve, LowRank, require_rank, require_shape};
use crate::linalg::{Backend, Ridge, strength};
use crate::{Error, Result};

/// Eigenvalues below this share of the largest are rounding, not data: sums of f32 products have
/// about 1e-13 of noise.
const SPAN: f64 = 1e-12;

/// Mean and covariance of the inputs of one matrix (K values), or of its outputs without bias (N values).
#[derive(Debug, Clone)]
pub struct Inputs {
    /// Rows that they were measured on.
    pub rows: usize,
    /// What they are moments of.
    pub space: Space,
    /// `E[x]`.
    pub mean: Array1<f64>,
    /// `E[x xᵀ] − μ μᵀ`, K×K, or that of outputs, N×N.
    pub covariance: Array2<f64>,
}

/// What moments are taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// A layer's inputs x.
    Inputs,
    /// Its outputs Wᵀx. A layer whose inputs have not changed can be split by these alone.
    Outputs,
}

/// Moments of a layer's input x (K values), over samples.
#[derive(Debug, Clone, Copy)]
pub struct InputMoments<'a> {
    /// K×K: the covariance E[(x − μ)(x − μ)ᵀ] if `mean` is given, else E[x xᵀ].
    pub matrix: ArrayView2<'a, f64>,
    /// μ, the expectation of x. Without it no bias is corrected, for layers that must stay without one.
    pub mean: Option<&'a Array1<f64>>,
}

/// What a layer should give for the inputs it now gets, for [`OutputPca::corrected`].
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// K×N: E[(x − E x)(y − E y)ᵀ], or E[x yᵀ] where moments are not centred.
    pub cross: ArrayView2<'a, f64>,
    /// The expectation of y without the layer's bias, N values; present exactly if the input's mean is.
    pub mean: Option<&'a Array1<f64>>,
    /// E‖y − E y‖², or E‖y‖² where moments are not centred.
    pub energy: f64,
}

/// The principal components of a layer's outputs, from which every rank can be read.
#[derive(Debug, Clone)]
pub struct OutputPca {
    /// The map whose outputs are projected, K×N: W, or the regression M.
    map: Array2<f64>,
    /// V: N×min(K, N), orthonormal columns, most important first.
    basis: Array2<f64>,
    /// Mean output of `map`, mean output to reach; N values each, without bias.
    means: Option<(Array1<f64>, Array1<f64>)>,
    curve: ErrorCurve,
    name: String,
}

impl OutputPca {
    /// Components of the outputs of W (K×N) on inputs with these moments.
    ///
    /// # Errors
    /// Moments that do not fit W; entries that are not finite; no convergence.
    pub fn new(backend: &dyn Backend, w: ArrayView2<'_, f64>, inputs: InputMoments<'_>, name: &str) -> Result<Self> {
        let (k, _) = w.dim();
        require_shape(inputs.matrix.dim(), (k, k), "input covariance", name)?;
        let (basis, energies) = principal_outputs(backend, w, inputs.matrix, name)?;
        let means = mean_output(w, inputs.mean, name)?.map(|mean| (mean.clone(), mean));
        Ok(Self {
            map: w.to_owned(),
            basis,
            means,
            curve: ErrorCurve::from_components(energies.into_iter()),
            name: name.to_owned(),
        })
    }

    /// Components of the outputs of W (K×N) with this mean and covariance (N values without bias, N×N), for N ≤ K.
    ///
    /// # Errors
    /// Moments that do not fit W; entries that are not finite; no convergence.
    pub(crate) fn of_outputs(
        backend: &dyn Backend,
        w: Array2<f64>,
        (mean, covariance): (&Array1<f64>, ArrayView2<'_, f64>),
        name: &str,
    ) -> Result<Self> {
        let n = w.ncols();
        require_shape(covariance.dim(), (n, n), "output covariance", name)?;
        require_shape((1, mean.len()), (1, n), "output mean", name)?;
        let eigh = backend.eigh(covariance, name)?;
        let seen = |rest: ArrayView2<'_, f64>| backend.matmul(covariance, rest);
        let (basis, energies) = all_spanned(backend, w.view(), (eigh.vectors, eigh.values.to_vec()), seen, name)?;
        let means = Some((mean.clone(), mean.clone()));
        Ok(Self {
            map: w,
            basis,
            means,
            curve: ErrorCurve::from_components(energies.into_iter()),
            name: name.to_owned(),
        })
    }

    /// As [`corrected`](Self::corrected), with outputs Wᵀx in place of the inputs x: the map is W M for the N×N regression M of
    /// the original outputs on those of W.
    ///
    /// # Errors
    /// As [`corrected`](Self::corrected).
    pub(crate) fn corrected_outputs(
        backend: &dyn Backend,
        w: ArrayView2<'_, f64>,
        outputs: InputMoments<'_>,
        target: Target<'_>,
        damping: f64,
        name: &str,
    ) -> Result<Self> {
        let same = Array2::eye(w.ncols());
        let found = Self::corrected(backend, same.view(), outputs, target, damping, name)?;
        Ok(Self { map: backend.matmul(w, found.map.view()), ..found })
    }

    /// Components of the rows of a table W (V×D) of which row i is picked with probability `shares[i]`: the eigenvectors of
    /// Wᵀ diag(shares) W, around zero, so that no bias is needed.
    ///
    /// # Errors
    /// Shares that do not fit W; entries that are not finite; no convergence.
    pub(crate) fn of_rows(backend: &dyn Backend, w: Array2<f64>, shares: &Array1<f64>, name: &str) -> Result<Self> {
        require_shape((shares.len(), w.ncols()), w.dim(), "shares of rows", name)?;
        let weighted = &w * &shares.view().insert_axis(Axis(1));
        let eigh = backend.eigh(backend.matmul(w.t(), weighted.view()).view(), name)?;
        let curve = ErrorCurve::from_components(eigh.values.to_vec().into_iter());
        Ok(Self { map: w, basis: eigh.vectors, means: None, curve, name: name.to_owned() })
    }

    /// Components for a layer whose inputs have changed since the original outputs were recorded:
    /// M = (C + λI)⁻¹ (E[x yᵀ] + λ W), then the principal components of x M. λ = `damping` · mean diag C;
    /// pulling towards W instead of 0 leaves W alone where data says nothing, and gives M = W when the
    /// inputs have not changed. Inputs that do not vary get a λ of 10⁻⁹ of their mean square.
    ///
    /// # Errors
    /// Moments that do not fit W; entries that are not finite; C + λI not positive definite.
    pub fn corrected(
        backend: &dyn Backend,
        w: ArrayView2<'_, f64>,
        inputs: InputMoments<'_>,
        target: Target<'_>,
        damping: f64,
        name: &str,
    ) -> Result<Self> {
        let (k, n) = w.dim();
        require_shape(inputs.matrix.dim(), (k, k), "input covariance", name)?;
        require_shape(target.cross.dim(), (k, n), "cross covariance", name)?;
        if inputs.mean.is_some() != target.mean.is_some() {
            return Err(Error::input(format!("'{name}': give the means of both sides or of neither")));
        }
        let map = regression(backend, w, (inputs.matrix, inputs.mean), target.cross, damping, name)?;
        let (basis, energies) = principal_outputs(backend, map.view(), inputs.matrix, name)?;
        let projected = backend.matmul(map.view(), basis.view());
        let wanted = backend.matmul(target.cross, basis.view());
        // E‖y − x M V Vᵀ‖² = E‖y‖² − Σ_r (2 (M v_r)ᵀ E[x yᵀ] v_r − λ_r)
        let agreement = (&projected * &wanted).sum_axis(Axis(0));
        let gains = agreement.iter().zip(&energies).map(|(a, e)| 2.0 * a - e);
        let means = mean_output(map.view(), inputs.mean, name)?.zip(target.mean.cloned());
        if let Some((_, mean)) = &means {
            require_shape((1, mean.len()), (1, n), "mean output", name)?;
        }
        Ok(Self { curve: ErrorCurve::from_gains(target.energy, gains), map, basis, means, name: name.to_owned() })
    }

    /// Expected squared error of one sample's outputs at every rank.
    pub fn curve(&self) -> &ErrorCurve {
        &self.curve
    }

    /// The squared error of some of the outputs at every rank, where only these are left: the tails of the eigenvalues of
    /// V_S Λ V_Sᵀ, for the rows S of V.
    ///
    /// # Errors
    /// No convergence.
    pub(crate) fn curve_of(&self, backend: &dyn Backend, outputs: &[usize]) -> Result<ErrorCurve> {
        let full = self.curve.full_rank();
        let root =
            Array1::from_iter((0..full).map(|i| (self.curve.error(i) - self.curve.error(i + 1)).max(0.0).sqrt()));
        let rows = self.basis.select(Axis(0), outputs) * &root;
        let gram = if outputs.len() <= full {
            backend.matmul(rows.view(), rows.t())
        } else {
            backend.matmul(rows.t(), rows.view())
        };
        Ok(ErrorCurve::from_components(backend.eigh(gram.view(), &self.name)?.values.to_vec().into_iter()))
    }

    /// A and B of rank r with the change of bias, A and B balanced.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when the rank is 0 or above full.
    pub fn split(&self, backend: &dyn Backend, rank: usize) -> Result<LowRank> {
        require_rank(rank, self.curve.full_rank(), &self.name)?;
        let v = self.basis.slice(s![.., ..rank]);
        let bias_shift = self.means.as_ref().map(|(given, wanted)| wanted - &v.dot(&v.t().dot(given)));
        let split = LowRank {
            a: backend.matmul(self.map.view(), v),
            b: v.t().to_owned(),
            bias_shift,
            error: self.curve.error(rank),
        };
        Ok(split.balanced())
    }
}

/// Wᵀ μ, N values.
fn mean_output(w: ArrayView2<'_, f64>, mean: Option<&Array1<f64>>, name: &str) -> Result<Option<Array1<f64>>> {
    let Some(mean) = mean else { return Ok(None) };
    require_shape((1, mean.len()), (1, w.nrows()), "input mean", name)?;
    if mean.iter().any(|x| !x.is_finite()) {
        return Err(Error::input(format!("the input mean of '{name}' is not finite; check the data")));
    }
    Ok(Some(w.t().dot(mean)))
}

fn regression(
    backend: &dyn Backend,
    w: ArrayView2<'_, f64>,
    (covariance, mean): (ArrayView2<'_, f64>, Option<&Array1<f64>>),
    cross: ArrayView2<'_, f64>,
    damping: f64,
    name: &str,
) -> Result<Array2<f64>> {
    let variance = covariance.diag().sum();
    let square = variance + mean.map_or(0.0, |mean| mean.dot(mean));
    let lambda = strength(damping, variance, square, w.nrows());
    Ridge::primal(backend, &covariance.to_owned(), cross, Some(w)).weights(lambda, name)
}

/// V (N×min(K, N)) and the energy vᵢᵀ Wᵀ C W vᵢ of each of its columns.
fn principal_outputs(
    backend: &dyn Backend,
    w: ArrayView2<'_, f64>,
    covariance: ArrayView2<'_, f64>,
    name: &str,
) -> Result<(Array2<f64>, Vec<f64>)> {
    let (k, n) = w.dim();
    let full = k.min(n);
    if full == 0 {
        return Err(Error::input(format!("'{name}' is {k}×{n}: there is nothing to split")));
    }
    let found = if n <= k { narrow(backend, w, covariance, name)? } else { wide(backend, w, covariance, name)? };
    let seen = |rest: ArrayView2<'_, f64>| {
        backend.matmul(w.t(), backend.matmul(covariance, backend.matmul(w, rest).view()).view())
    };
    all_spanned(backend, w, found, seen, name)
}

/// Completes the components of outputs with the directions that the data does not span, in the order of the SVD of W without
/// the spanned ones. `seen` multiplies directions with the covariance of the outputs.
fn all_spanned(
    backend: &dyn Backend,
    w: ArrayView2<'_, f64>,
    (v, energies): (Array2<f64>, Vec<f64>),
    seen: impl Fn(ArrayView2<'_, f64>) -> Array2<f64>,
    name: &str,
) -> Result<(Array2<f64>, Vec<f64>)> {
    let full = w.nrows().min(w.ncols());
    let largest = energies.first().copied().unwrap_or(0.0);
    let spanned = energies.iter().take_while(|&&x| x > SPAN * largest && x > 0.0).count();
    if spanned == full {
        return Ok((v, energies));
    }
    let basis = completed(backend, w, v.slice(s![.., ..spanned]), full, name)?;
    let rest = basis.slice(s![.., spanned..]);
    let left = (&seen(rest) * &rest).sum_axis(Axis(0));
    let energies = energies.into_iter().take(spanned).chain(left).collect();
    Ok((basis, energies))
}

/// N ≤ K: eigenvectors of Wᵀ C W.
fn narrow(
    backend: &dyn Backend,
    w: ArrayView2<'_, f64>,
    covariance: ArrayView2<'_, f64>,
    name: &str,
) -> Result<(Array2<f64>, Vec<f64>)> {
    let outputs = backend.matmul(w.t(), backend.matmul(covariance, w).view());
    let eigh = backend.eigh(outputs.view(), name)?;
    Ok((eigh.vectors, eigh.values.to_vec()))
}

/// N > K: right singular vectors of C^½ W, up to a rotation from the left: S^½ Qᵀ W with C = Q S Qᵀ.
fn wide(
    backend: &dyn Backend,
    w: ArrayView2<'_, f64>,
    covariance: ArrayView2<'_, f64>,
    name: &str,
) -> Result<(Array2<f64>, Vec<f64>)> {
    let eigh = backend.eigh(covariance, name)?;
    let root = eigh.values.mapv(|x| x.max(0.0).sqrt());
    let whitened = backend.matmul((&eigh.vectors * &root).t(), w);
    let svd = backend.svd_f64(whitened.view(), name)?;
    Ok((svd.vt.reversed_axes(), svd.sigma.iter().map(|x| x * x).collect()))
}

/// `spanned` (N×p, orthonormal) followed by the right singular vectors of W (I − V Vᵀ), N×full.
fn completed(
    backend: &dyn Backend,
    w: ArrayView2<'_, f64>,
    spanned: ArrayView2<'_, f64>,
    full: usize,
    name: &str,
) -> Result<Array2<f64>> {
    let residual = &w - &backend.matmul(backend.matmul(w, spanned).view(), spanned.t());
    let svd = backend.svd_f64(residual.view(), name)?;
    let missing = full - spanned.ncols();
    let rest = svd.vt.slice(s![..missing, ..]);
    let columns = concatenate(Axis(1), &[spanned, rest.t()]).map_err(|e| Error::input(format!("'{name}': {e}")))?;
    // Where W has less than full rank, the last singular vectors are arbitrary and may lie in
    // `spanned`; QR keeps the columns that are independent and replaces the others.
    let qr = backend.qr(columns.view(), name)?;
    Ok(qr.q)
}

#[cfg(test)]
#[path = "outputs_tests.rs"]
mod tests;
