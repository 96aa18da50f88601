//! Inputs of unit variance: conjugate gradients then converge in few steps.

use ndarray::{Array1, Array2, s};

use crate::calibrate::{Detail, Sums};
use crate::error::Result;
use crate::linalg::default_backend;

/// Least variance of a direction, as a share of the mean: what the data does not show is not blown up.
const LEAST: f64 = 1e-4;

/// `x̃ = [(x − μ) C^-½, 1]`, and back.
#[derive(Debug)]
pub(super) struct Whitening {
    mean: Array1<f64>,
    /// C^-½ and C^½.
    shrink: Array2<f64>,
    grow: Array2<f64>,
}

impl Whitening {
    /// Of the rows of these matrices.
    ///
    /// # Errors
    /// If an entry is not finite.
    pub(super) fn of<'m>(rows: impl Iterator<Item = &'m Array2<f64>>, width: usize, name: &str) -> Result<Self> {
        let backend = default_backend();
        let mut sums = Sums::new(width, 0, Detail::Covariance);
        for x in rows {
            sums.merge(&Sums::of(backend, x.view(), x.slice(s![.., ..0])));
        }
        let mean = sums.mean_x();
        let covariance = sums.covariance();
        let least = (LEAST * covariance.diag().mean().unwrap_or(0.0)).max(f64::MIN_POSITIVE);
        let eigen = backend.eigh(covariance.view(), name)?;
        let root = |power: f64| {
            let values = eigen.values.mapv(|v| (v.max(0.0) + least).powf(power));
            backend.matmul((&eigen.vectors * &values).view(), eigen.vectors.t())
        };
        Ok(Self { shrink: root(-0.5), grow: root(0.5), mean })
    }

    /// x̃ of the rows x.
    pub(super) fn apply(&self, x: &Array2<f64>) -> Array2<f64> {
        let mut whitened = Array2::ones((x.nrows(), x.ncols() + 1));
        let backend = default_backend();
        let rows = backend.matmul((x - &self.mean).view(), self.shrink.view());
        whitened.slice_mut(s![.., ..x.ncols()]).assign(&rows);
        whitened
    }

    /// The matrix, bias last, that does to x̃ what `weights` and `bias` do to x.
    pub(super) fn enter(&self, weights: &Array2<f64>, bias: &Array1<f64>) -> Array2<f64> {
        let k = weights.nrows();
        let mut all = Array2::zeros((k + 1, weights.ncols()));
        all.slice_mut(s![..k, ..]).assign(&self.grow.dot(weights));
        all.row_mut(k).assign(&(bias + &self.mean.dot(weights)));
        all
    }

    /// Weights and bias for x of a matrix for x̃.
    pub(super) fn leave(&self, all: &Array2<f64>) -> (Array2<f64>, Array1<f64>) {
        let k = all.nrows() - 1;
        let weights = self.shrink.dot(&all.slice(s![..k, ..]));
        let bias = &all.row(k) - &self.mean.dot(&weights);
        (weights, bias)
    }
}
