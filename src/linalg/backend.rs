//! The trait that a linear-algebra library fulfils, and the decompositions it returns.

use std::ops::Range;

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use crate::{Error, Result};

/// Thin singular value decomposition `A = U diag(σ) Vᵀ` of an m×n matrix, k = min(m, n).
#[derive(Debug, Clone)]
pub struct Svd<T> {
    /// m×k, orthonormal columns.
    pub u: Array2<T>,
    /// The k singular values, large to small.
    pub sigma: Array1<T>,
    /// k×n, orthonormal rows.
    pub vt: Array2<T>,
}

/// Eigendecomposition `A = Q diag(λ) Qᵀ` of a symmetric n×n matrix.
#[derive(Debug, Clone)]
pub struct Eigh {
    /// The n eigenvalues, large to small.
    pub values: Array1<f64>,
    /// n×n, column i belongs to eigenvalue i.
    pub vectors: Array2<f64>,
}

/// Thin decomposition `A = Q R` of an m×n matrix, k = min(m, n).
#[derive(Debug, Clone)]
pub struct Qr {
    /// m×k, orthonormal columns.
    pub q: Array2<f64>,
    /// k×n, upper triangular.
    pub r: Array2<f64>,
}

/// Rows that [`Backend::syrk_f32`] widens to f64 at a time. A constant, so that the order of the
/// sums depends on nothing else.
const SYRK_ROWS: usize = 512;

/// A dense linear-algebra library.
///
/// `name` is what error messages call the matrix (the tensor's name). Decompositions fail with
/// [`ErrorKind::Input`](crate::ErrorKind::Input) when the matrix holds NaN or infinity, or when the
/// iteration does not converge.
pub trait Backend: Sync {
    /// Short name for reports.
    fn name(&self) -> &'static str;

    /// Thin SVD in single precision.
    ///
    /// # Errors
    /// Entries that are not finite; no convergence.
    fn svd_f32(&self, a: ArrayView2<'_, f32>, name: &str) -> Result<Svd<f32>>;

    /// Thin SVD in double precision.
    ///
    /// # Errors
    /// Entries that are not finite; no convergence.
    fn svd_f64(&self, a: ArrayView2<'_, f64>, name: &str) -> Result<Svd<f64>>;

    /// Eigendecomposition of a symmetric matrix; only the lower triangle is read.
    ///
    /// # Errors
    /// Entries that are not finite; no convergence.
    fn eigh(&self, a: ArrayView2<'_, f64>, name: &str) -> Result<Eigh>;

    /// Cholesky factor L (lower triangular, zeros above) of a symmetric positive definite
    /// A = L Lᵀ; only the lower triangle is read.
    ///
    /// # Errors
    /// Entries that are not finite; A is not positive definite.
    fn cholesky(&self, a: ArrayView2<'_, f64>, name: &str) -> Result<Array2<f64>>;

    /// X with A X = B, for a symmetric positive definite A (n×n, lower triangle read), B n×m.
    ///
    /// # Errors
    /// Entries that are not finite; A is not positive definite.
    fn solve_spd(&self, a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>, name: &str) -> Result<Array2<f64>>;

    /// A⁻¹, both triangles, for a symmetric positive definite A (lower triangle read).
    ///
    /// # Errors
    /// Entries that are not finite; A is not positive definite.
    fn inverse_spd(&self, a: ArrayView2<'_, f64>, name: &str) -> Result<Array2<f64>>;

    /// Thin QR decomposition.
    ///
    /// # Errors
    /// Entries that are not finite.
    fn qr(&self, a: ArrayView2<'_, f64>, name: &str) -> Result<Qr>;

    /// A·B in single precision.
    ///
    /// # Panics
    /// When A has not as many columns as B has rows.
    fn matmul_f32(&self, a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> Array2<f32>;

    /// A·B in double precision.
    ///
    /// # Panics
    /// When A has not as many columns as B has rows.
    fn matmul(&self, a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Array2<f64>;

    /// Adds `factor`·A·B to the first columns of `sum`.
    ///
    /// # Panics
    /// When the shapes do not fit together.
    fn add_product(
        &self,
        factor: f64,
        a: ArrayView2<'_, f64>,
        b: ArrayView2<'_, f64>,
        mut sum: ArrayViewMut2<'_, f64>,
    ) {
        sum.slice_mut(s![.., ..b.ncols()]).scaled_add(factor, &self.matmul(a, b));
    }

    /// Adds A·B to `sum`: products of f32 numbers formed in single precision, sums of them in double.
    ///
    /// # Panics
    /// When the shapes do not fit together.
    fn add_product_f32(&self, a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, mut sum: ArrayViewMut2<'_, f64>) {
        sum.zip_mut_with(&self.matmul_f32(a, b), |sum, &product| *sum += f64::from(product));
    }

    /// Adds XᵀX to the symmetric K×K `gram`, for X of n samples × K; both triangles are written.
    ///
    /// # Panics
    /// When `gram` is not K×K.
    fn syrk(&self, x: ArrayView2<'_, f64>, gram: &mut Array2<f64>);

    /// [`syrk`](Self::syrk) for single-precision samples: products and sums are formed in f64.
    ///
    /// # Panics
    /// When `gram` is not K×K.
    fn syrk_f32(&self, x: ArrayView2<'_, f32>, gram: &mut Array2<f64>) {
        for rows in x.axis_chunks_iter(Axis(0), SYRK_ROWS) {
            self.syrk(rows.mapv(f64::from).view(), gram);
        }
    }
}

/// Refuses a matrix with entries that are not finite.
pub(super) fn require_finite<T: Copy + Into<f64>>(a: ArrayView2<'_, T>, name: &str) -> Result<()> {
    let bad = |&x: &T| !x.into().is_finite();
    let Some(((row, column), _)) = a.indexed_iter().find(|(_, x)| bad(x)) else {
        return Ok(());
    };
    let count = a.iter().filter(|x| bad(x)).count();
    Err(Error::input(format!(
        "'{name}' holds {count} of {} values that are NaN or infinite (the first at [{row}, {column}]); repair or exclude it",
        a.len()
    )))
}

/// Refuses a matrix that is not square, or has entries that are not finite.
pub(super) fn require_symmetric(a: ArrayView2<'_, f64>, name: &str) -> Result<()> {
    if a.nrows() == a.ncols() {
        return require_finite(a, name);
    }
    Err(Error::input(format!("'{name}' is {}×{}, not square", a.nrows(), a.ncols())))
}

pub(super) fn no_convergence(what: &str, name: &str) -> Error {
    Error::input(format!("the {what} of '{name}' does not converge; exclude it"))
}

pub(super) fn not_positive_definite(name: &str) -> Error {
    Error::input(format!("'{name}' is not positive definite; use more samples, or exclude it"))
}

/// Calls `each` with every strip of `height` rows of a matrix and the numbers of these rows, strips side by side on all threads.
pub(crate) fn in_strips(
    matrix: &mut Array2<f64>,
    height: usize,
    each: impl Fn(Range<usize>, ArrayViewMut2<'_, f64>) + Sync,
) {
    let strips: Vec<_> = matrix.axis_chunks_iter_mut(Axis(0), height).collect();
    strips.into_par_iter().enumerate().for_each(|(i, strip)| each(i * height..i * height + strip.nrows(), strip));
}

/// Copies the lower triangle over the upper one, in squares that fit into the cache.
pub(crate) fn mirror_lower(a: &mut Array2<f64>) {
    const SIDE: usize = 32;
    let n = a.nrows();
    for top in (0..n).step_by(SIDE) {
        for left in (0..=top).step_by(SIDE) {
            for i in top..n.min(top + SIDE) {
                for j in left..i.min(left + SIDE) {
                    a[[j, i]] = a[[i, j]];
                }
            }
        }
    }
}
