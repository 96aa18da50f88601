//! What data says about a layer: its inputs x and what it should make of them, y.

use std::ops::Range;

use ndarray::{Array1, Array2, Axis, concatenate};

use super::block::{Block, Columns};
use super::sums::{Detail, Sums};
use crate::error::Result;
use crate::linalg::{Backend, Ridge, default_backend, strength};

/// What is known of a layer's inputs and targets.
#[derive(Debug, Clone)]
pub enum Evidence {
    /// Sums over rows, products included.
    Sums(Box<Sums>),
    /// The rows themselves, where they are fewer than inputs: x (n×K), y (n×N).
    Rows(Array2<f64>, Array2<f64>),
}

impl Evidence {
    /// Nothing yet of `inputs` and `outputs` values; `rows` are expected.
    pub(crate) fn expecting(rows: usize, inputs: usize, outputs: usize) -> Self {
        if rows < inputs {
            Self::Rows(Array2::zeros((0, inputs)), Array2::zeros((0, outputs)))
        } else {
            Self::sums(inputs, outputs, Detail::Covariance)
        }
    }

    /// Sums over no rows yet of `inputs` and `outputs` values.
    pub(crate) fn sums(inputs: usize, outputs: usize, detail: Detail) -> Self {
        Self::Sums(Box::new(Sums::new(inputs, outputs, detail)))
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Sums(sums) => sums.rows(),
            Self::Rows(x, _) => x.nrows(),
        }
    }

    /// The weights (K×N) that explain the targets best, pulled towards `w0` by each of these shares of the inputs' mean
    /// variance.
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
        self.regression(backend, w0, |ridge, lambda| {
            let lambdas: Vec<f64> = shares.iter().map(|&share| lambda(share)).collect();
            ridge.path(&lambdas, name)
        })
    }

    /// As [`weights`](Self::weights) at one share, with the effective dimension of the inputs.
    ///
    /// # Errors
    /// If the system cannot be solved.
    pub fn weights_and_dimension(
        &self,
        backend: &dyn Backend,
        w0: &Array2<f64>,
        share: f64,
        name: &str,
    ) -> Result<(Array2<f64>, f64)> {
        self.regression(backend, w0, |ridge, lambda| ridge.weights_and_dimension(lambda(share), name))
    }

    /// Calls `solve` with the regression of the targets on the inputs, and with λ as a function of its share.
    fn regression<T>(
        &self,
        backend: &dyn Backend,
        w0: &Array2<f64>,
        solve: impl FnOnce(&Ridge<'_>, &dyn Fn(f64) -> f64) -> Result<T>,
    ) -> Result<T> {
        match self {
            Self::Sums(sums) => {
                let covariance = self.covariance();
                let (variance, square) = (covariance.diag().sum(), sums.square_x().sum());
                let cross = sums.cross_covariance();
                let ridge = Ridge::primal(backend, &covariance, cross.view(), Some(w0.view()));
                solve(&ridge, &|share| strength(share, variance, square, w0.nrows()))
            }
            Self::Rows(x, y) => {
                let mean = self.mean_x();
                let (x, y) = (x - &mean, y - &self.mean_y());
                let variance = x.iter().map(|v| v * v).sum::<f64>() / count(x.nrows());
                let square = variance + mean.dot(&mean);
                let ridge = Ridge::dual(backend, x.view(), y.view(), w0.view());
                solve(&ridge, &|share| strength(share, variance, square, w0.nrows()))
            }
        }
    }

    /// The best bias for these weights: `mean(y) − Wᵀ mean(x)`.
    pub fn bias(&self, w: &Array2<f64>) -> Array1<f64> {
        self.mean_y() - w.t().dot(&self.mean_x())
    }

    /// Mean over rows of `(y − Wᵀx − b)²`, for each output.
    pub fn errors(&self, backend: &dyn Backend, w: &Array2<f64>, b: &Array1<f64>) -> Array1<f64> {
        match self {
            Self::Sums(sums) => sums.errors(backend, w, b),
            Self::Rows(x, y) => {
                let rest = y - &backend.matmul(x.view(), w.view()) - b;
                (&rest * &rest).sum_axis(Axis(0)) / count(x.nrows())
            }
        }
    }

    /// Mean over rows of `(y − mean y)²`, for each output.
    pub fn spreads(&self) -> Array1<f64> {
        match self {
            Self::Sums(sums) => sums.variance_y(),
            Self::Rows(_, y) => {
                let rest = y - &self.mean_y();
                (&rest * &rest).sum_axis(Axis(0)) / count(y.nrows())
            }
        }
    }

    /// Adds what other rows of the same values say.
    ///
    /// # Panics
    /// When the sizes differ.
    pub fn merge(&mut self, other: &Self, backend: &dyn Backend) {
        match (&mut *self, other) {
            (Self::Sums(sums), Self::Sums(other)) => sums.merge(other),
            (Self::Sums(sums), Self::Rows(x, y)) => sums.merge(&Sums::of(backend, x.view(), y.view())),
            (Self::Rows(x, y), Self::Rows(more_x, more_y)) => {
                *x = concatenate![Axis(0), *x, *more_x];
                *y = concatenate![Axis(0), *y, *more_y];
            }
            (Self::Rows(x, y), Self::Sums(other)) => {
                let mut sums = Sums::of(backend, x.view(), y.view());
                sums.merge(other);
                *self = Self::Sums(Box::new(sums));
            }
        }
    }

    /// `E[x xᵀ] − E[x] E[x]ᵀ`, K×K.
    pub fn covariance(&self) -> Array2<f64> {
        match self {
            Self::Sums(sums) => sums.covariance(),
            Self::Rows(x, _) => {
                let x = x - &self.mean_x();
                x.t().dot(&x) / count(x.nrows())
            }
        }
    }

    /// `E[x yᵀ] − E[x] E[y]ᵀ`, K×N.
    pub fn cross_covariance(&self) -> Array2<f64> {
        match self {
            Self::Sums(sums) => sums.cross_covariance(),
            Self::Rows(x, y) => (x - &self.mean_x()).t().dot(&(y - &self.mean_y())) / count(x.nrows()),
        }
    }

    /// `E[x]`, K values.
    pub fn mean_x(&self) -> Array1<f64> {
        match self {
            Self::Sums(sums) => sums.mean_x(),
            Self::Rows(x, _) => x.sum_axis(Axis(0)) / count(x.nrows()),
        }
    }

    /// `E[y]`, N values.
    pub fn mean_y(&self) -> Array1<f64> {
        match self {
            Self::Sums(sums) => sums.mean_y(),
            Self::Rows(_, y) => y.sum_axis(Axis(0)) / count(y.nrows()),
        }
    }

    /// The same as sums.
    pub(crate) fn into_sums(self, backend: &dyn Backend) -> Sums {
        match self {
            Self::Sums(sums) => *sums,
            Self::Rows(x, y) => Sums::of(backend, x.view(), y.view()),
        }
    }
}

/// Rows on their way to evidence, a block at a time.
#[derive(Debug)]
pub(crate) struct Gather {
    x: Block,
    y: Block,
    evidence: Evidence,
}

impl Gather {
    /// For evidence on `inputs` and `outputs` values.
    pub(crate) fn new(inputs: usize, outputs: usize, evidence: Evidence) -> Self {
        Self { x: Block::new(inputs, inputs), y: Block::new(outputs, inputs), evidence }
    }

    /// Adds `rows` rows: `write` is called with the numbers of some of them, and with where their x and y belong.
    pub(crate) fn add(&mut self, rows: usize, mut write: impl FnMut(Range<usize>, &mut Columns<'_>, &mut Columns<'_>)) {
        let mut done = 0;
        while done < rows {
            let next = rows.min(done + self.x.room());
            write(done..next, &mut self.x.next(next - done), &mut self.y.next(next - done));
            done = next;
            if self.x.room() == 0 {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        match &mut self.evidence {
            Evidence::Sums(sums) => sums.add(default_backend(), &mut self.x, &mut self.y),
            Evidence::Rows(x, y) => {
                self.x.move_to(x);
                self.y.move_to(y);
            }
        }
    }

    /// The sums of all rows, not finished: those of other rows may still be added.
    pub(crate) fn finish_sums(mut self) -> Sums {
        self.flush();
        self.evidence.into_sums(default_backend())
    }

    /// The evidence of all rows.
    pub(crate) fn finish(mut self) -> Evidence {
        self.flush();
        match self.evidence {
            Evidence::Sums(sums) => Evidence::Sums(Box::new(sums.finish())),
            rows @ Evidence::Rows(..) => rows,
        }
    }
}

fn count(n: usize) -> f64 {
    n.max(1) as f64
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
