//! Products of matrices, one or a batch of them.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, s};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::train::kernel::{Array, Kernel, Reads, Real, Slots};
use crate::train::tape::{Tensor, apply};

/// Rows of a product that one task computes.
const ROWS: usize = 64;

/// `a b`, each transposed first where asked for; batches of matrices where the operands have three axes.
struct Product {
    transposed: (bool, bool),
}

/// The product of matrices `m×k` and `k×n`, or of as many of them on both sides (`batch×m×k`, `batch×k×n`); an operand that
/// is `transposed` lies the other way round.
pub(super) fn matrices<T: Real>(a: &Tensor<T>, b: &Tensor<T>, transposed: (bool, bool)) -> Result<Tensor<T>> {
    apply(Product { transposed }, &[a, b])
}

/// Sizes of a batch of products.
struct Sizes {
    batch: usize,
    m: usize,
    k: usize,
    n: usize,
}

impl Product {
    fn sizes(&self, a: &[usize], b: &[usize]) -> Result<Sizes> {
        let (Some((&[rows_a, columns_a], batch_a)), Some((&[rows_b, columns_b], batch_b))) =
            (a.split_last_chunk().map(|(x, y)| (y, x)), b.split_last_chunk().map(|(x, y)| (y, x)))
        else {
            return Err(Error::input(format!("shapes {a:?} and {b:?} are no matrices")));
        };
        let (m, k) = if self.transposed.0 { (columns_a, rows_a) } else { (rows_a, columns_a) };
        let (inner, n) = if self.transposed.1 { (columns_b, rows_b) } else { (rows_b, columns_b) };
        if inner != k || batch_a != batch_b {
            return Err(Error::input(format!("matrices of shapes {a:?} and {b:?} cannot be multiplied")));
        }
        Ok(Sizes { batch: batch_a.iter().product(), m, k, n })
    }
}

/// A matrix of `rows`×`columns`, the other way round in memory if `transposed`.
fn view<T>(data: &[T], rows: usize, columns: usize, transposed: bool) -> Result<ArrayView2<'_, T>> {
    let stored = if transposed { (columns, rows) } else { (rows, columns) };
    let view = ArrayView2::from_shape(stored, data).map_err(|e| Error::input(e.to_string()))?;
    Ok(if transposed { view.reversed_axes() } else { view })
}

/// `into = kept · into + a b`, row block by row block: each element is one sum, whatever the number of threads.
pub(super) fn multiply<T: Real>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>, kept: f64, into: &mut [T]) {
    let n = b.ncols();
    if n == 0 {
        return;
    }
    let block = |(block, rows): (usize, &mut [T])| {
        let first = block * ROWS;
        let count = rows.len() / n;
        if let Ok(mut rows) = ArrayViewMut2::from_shape((count, n), rows) {
            let a = a.slice(s![first..first + count, ..]);
            general_mat_mul(T::from_f64(1.0), &a, &b, T::from_f64(kept), &mut rows);
        }
    };
    if into.len() <= ROWS * n {
        block((0, into));
    } else {
        into.par_chunks_mut(ROWS * n).enumerate().for_each(block);
    }
}

impl<T: Real> Kernel<T> for Product {
    fn reads(&self) -> Reads {
        Reads::Operands
    }

    fn forward(&self, operands: &[Array<'_, T>]) -> Result<(Vec<T>, Vec<usize>)> {
        let (a, b) = (operands[0], operands[1]);
        let Sizes { batch, m, k, n } = self.sizes(a.dims, b.dims)?;
        let mut result = vec![T::ZERO; batch * m * n];
        each(&mut result, m * n, |index, into| {
            let a = view(&a.data[index * m * k..][..m * k], m, k, self.transposed.0)?;
            let b = view(&b.data[index * k * n..][..k * n], k, n, self.transposed.1)?;
            multiply(a, b, 0.0, into);
            Ok(())
        })?;
        let dims = a.dims[..a.dims.len() - 2].iter().copied().chain([m, n]);
        Ok((result, dims.collect()))
    }

    fn backward(
        &self,
        operands: &[Array<'_, T>],
        _result: Array<'_, T>,
        gradient: Vec<T>,
        into: &mut Slots<'_, T>,
    ) -> Result<()> {
        let (a, b) = (operands[0], operands[1]);
        let Sizes { m, k, n, .. } = self.sizes(a.dims, b.dims)?;
        let gradient = |index: usize| view(&gradient[index * m * n..][..m * n], m, n, false);
        if let Some(of_a) = into.of(0) {
            each(of_a, m * k, |index, into| {
                let b = view(&b.data[index * k * n..][..k * n], k, n, self.transposed.1)?;
                if self.transposed.0 {
                    multiply(b, gradient(index)?.t(), 1.0, into);
                } else {
                    multiply(gradient(index)?, b.t(), 1.0, into);
                }
                Ok(())
            })?;
        }
        if let Some(of_b) = into.of(1) {
            each(of_b, k * n, |index, into| {
                let a = view(&a.data[index * m * k..][..m * k], m, k, self.transposed.0)?;
                if self.transposed.1 {
                    multiply(gradient(index)?.t(), a, 1.0, into);
                } else {
                    multiply(a.t(), gradient(index)?, 1.0, into);
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Parts of `size` elements of `all`, each written by `part`.
fn each<T: Real>(all: &mut [T], size: usize, part: impl Fn(usize, &mut [T]) -> Result<()> + Sync) -> Result<()> {
    if size == 0 {
        return Ok(());
    }
    all.par_chunks_mut(size).enumerate().try_for_each(|(index, into)| part(index, into))
}
