//! What is known of a layer's inputs and targets, and the weights that explain it best.

use ndarray::{Array1, Array2, Axis};

use crate::calibrate::moments::Moments;
use crate::error::Result;
use crate::linalg::{Backend, Ridge, strength};

/// Shares of the inputs' mean variance that may pull toward the kept weights; held-out data chooses.
pub const RIDGES: [f64; 3] = [1e-2, 1e-3, 1e-4];

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

    /// The weights that explain the targets best, pulled towards `w0` by each of these shares of the inputs' mean variance.
    ///
    /// # Errors
    /// If a system cannot be solved.
    pub fn weights(
        &self,
        backend: &dyn Backend,
        w0: &Array2<f64>,
        shares: &[f64],
        name: &str,
    ) -> Result<Vec<Array2<f64>>> {
        let lambdas = |variance: f64, square: f64| -> Vec<f64> {
            shares.iter().map(|&share| strength(share, variance, square, w0.nrows())).collect()
        };
        match self {
            Self::Sums(sums) => {
                let covariance = sums.covariance();
                let lambdas = lambdas(covariance.diag().sum(), sums.xx.diag().sum() / count(sums.rows));
                let cross = sums.cross_covariance();
                Ridge::primal(backend, &covariance, cross.view(), Some(w0.view())).path(&lambdas, name)
            }
            Self::Rows(x, y) => {
                let (mean_x, mean_y) = (self.mean_x(), self.mean_y());
                let (x, y) = (x - &mean_x, y - &mean_y);
                let variance = x.iter().map(|v| v * v).sum::<f64>() / count(x.nrows());
                let lambdas = lambdas(variance, variance + mean_x.dot(&mean_x));
                Ridge::dual(backend, x.view(), y.view(), w0.view()).path(&lambdas, name)
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

#[allow(clippy::cast_precision_loss)]
fn count(n: usize) -> f64 {
    n.max(1) as f64
}
