//! Sums over rows: means, second moments, cross moments. All in f64, rows in order; strips of the matrices side by side.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};

use crate::linalg::{Backend, in_strips, mirror_lower};

/// Inputs whose products with all others are one task. A constant as well.
const STRIP: usize = 128;

/// Rows that are added to a Gram matrix at once. A constant: the order of the sums depends on nothing else.
const CHUNK_ROWS: usize = 1024;

/// Sums of x (K) and y (N) over rows, N may be zero.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Number of rows.
    pub rows: usize,
    /// Σ x.
    pub x: Array1<f64>,
    /// Σ y.
    pub y: Array1<f64>,
    /// Σ x xᵀ, K×K.
    pub xx: Array2<f64>,
    /// Σ x yᵀ, K×N.
    pub xy: Array2<f64>,
    /// Σ y², for each of N.
    pub yy: Array1<f64>,
}

impl Moments {
    /// Nothing yet.
    pub fn new(inputs: usize, outputs: usize) -> Self {
        Self {
            rows: 0,
            x: Array1::zeros(inputs),
            y: Array1::zeros(outputs),
            xx: Array2::zeros((inputs, inputs)),
            xy: Array2::zeros((inputs, outputs)),
            yy: Array1::zeros(outputs),
        }
    }

    /// Adds rows of x (n×K) and of y (n×N).
    pub fn add(&mut self, backend: &dyn Backend, x: ArrayView2<'_, f64>, y: ArrayView2<'_, f64>) {
        self.rows += x.nrows();
        self.x += &x.sum_axis(Axis(0));
        let columns = x.t().as_standard_layout().into_owned();
        in_strips(&mut self.xx, STRIP, |rows, mut part| {
            let up_to = columns.slice(s![..rows.end, ..]);
            let mut below = part.slice_mut(s![.., ..rows.end]);
            below += &backend.matmul(columns.slice(s![rows, ..]), up_to.t());
        });
        mirror_lower(&mut self.xx);
        if y.ncols() > 0 {
            self.y += &y.sum_axis(Axis(0));
            for row in y.rows() {
                self.yy.zip_mut_with(&row, |sum, &value| *sum += value * value);
            }
            in_strips(&mut self.xy, STRIP, |rows, mut part| {
                part += &backend.matmul(columns.slice(s![rows, ..]), y);
            });
        }
    }

    /// Covariance of x: `E[x xᵀ] − μ μᵀ`.
    #[allow(clippy::cast_precision_loss)]
    pub fn covariance(&self) -> Array2<f64> {
        let n = self.rows.max(1) as f64;
        let mut covariance = &self.xx / n;
        for (i, mut row) in covariance.rows_mut().into_iter().enumerate() {
            let mean = self.x[i] / n;
            row.zip_mut_with(&self.x, |c, &sum| *c -= mean * sum / n);
        }
        covariance
    }

    /// Covariance of x with y: `E[x yᵀ] − E[x] E[y]ᵀ`.
    #[allow(clippy::cast_precision_loss)]
    pub fn cross_covariance(&self) -> Array2<f64> {
        let n = self.rows.max(1) as f64;
        let mut covariance = &self.xy / n;
        for (i, mut row) in covariance.rows_mut().into_iter().enumerate() {
            let mean = self.x[i] / n;
            row.zip_mut_with(&self.y, |c, &sum| *c -= mean * sum / n);
        }
        covariance
    }

    /// Σ over rows of `‖y − Wᵀx − b‖²`.
    #[allow(clippy::cast_precision_loss)]
    pub fn squared_error(&self, backend: &dyn Backend, w: &Array2<f64>, b: &Array1<f64>) -> f64 {
        let quadratic: f64 = (&backend.matmul(self.xx.view(), w.view()) * w).sum();
        let cross: f64 = (&self.xy * w).sum();
        let mapped = w.t().dot(&self.x);
        let n = self.rows as f64;
        let error =
            self.yy.sum() - 2.0 * cross + quadratic - 2.0 * b.dot(&self.y) + 2.0 * b.dot(&mapped) + n * b.dot(b);
        error.max(0.0)
    }

    /// Σ over rows of `‖y − mean y‖²`.
    #[allow(clippy::cast_precision_loss)]
    pub fn spread(&self) -> f64 {
        (self.yy.sum() - self.y.dot(&self.y) / self.rows.max(1) as f64).max(0.0)
    }
}

/// Rows on their way to sums: added in chunks of fixed size, whatever the batches.
#[derive(Debug)]
pub(crate) struct Buffered {
    pub(crate) moments: Moments,
    x: Vec<f64>,
    y: Vec<f64>,
}

impl Buffered {
    pub(crate) fn new(inputs: usize, outputs: usize) -> Self {
        Self { moments: Moments::new(inputs, outputs), x: Vec::new(), y: Vec::new() }
    }

    /// Appends rows of x and y.
    pub(crate) fn push(&mut self, backend: &dyn Backend, x: &[f64], y: &[f64]) {
        self.x.extend_from_slice(x);
        self.y.extend_from_slice(y);
        let (inputs, outputs) = (self.moments.x.len(), self.moments.y.len());
        while self.x.len() >= CHUNK_ROWS * inputs.max(1) {
            self.add_first(backend, CHUNK_ROWS, inputs, outputs);
        }
    }

    /// The sums of all rows.
    pub(crate) fn finish(mut self, backend: &dyn Backend) -> Moments {
        let (inputs, outputs) = (self.moments.x.len(), self.moments.y.len());
        let rest = self.x.len() / inputs.max(1);
        if rest > 0 {
            self.add_first(backend, rest, inputs, outputs);
        }
        self.moments
    }

    fn add_first(&mut self, backend: &dyn Backend, rows: usize, inputs: usize, outputs: usize) {
        let x = ArrayView2::from_shape((rows, inputs), &self.x[..rows * inputs]);
        let y = ArrayView2::from_shape((rows, outputs), &self.y[..rows * outputs]);
        if let (Ok(x), Ok(y)) = (x, y) {
            self.moments.add(backend, x, y);
        }
        self.x.drain(..rows * inputs);
        self.y.drain(..rows * outputs);
    }
}
