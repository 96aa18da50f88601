//! Products of matrices, one or a batch of them.

use candle_core::{Result, Tensor, bail};
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, s};
use rayon::prelude::*;

use crate::train::kernel::{Array, Kernel, Real, apply};

/// Rows of a product that one task computes.
const ROWS: usize = 64;

/// `a b`, each transposed first where asked for; batches of matrices where the operands have three axes.
struct Product {
    transposed: (bool, bool),
}

/// The product of matrices `m×k` and `k×n`, or of as many of them on both sides (`batch×m×k`, `batch×k×n`); an operand that
/// is `transposed` lies the other way round.
pub(super) fn matrices(a: &Tensor, b: &Tensor, transposed: (bool, bool)) -> Result<Tensor> {
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
            bail!("shapes {a:?} and {b:?} are no matrices")
        };
        let (m, k) = if self.transposed.0 { (columns_a, rows_a) } else { (rows_a, columns_a) };
        let (inner, n) = if self.transposed.1 { (columns_b, rows_b) } else { (rows_b, columns_b) };
        if inner != k || batch_a != batch_b {
            bail!("matrices of shapes {a:?} and {b:?} cannot be multiplied");
        }
        Ok(Sizes { batch: batch_a.iter().product(), m, k, n })
    }
}

/// A matrix of `rows`×`columns`, the other way round in memory if `transposed`.
fn view<T>(data: &[T], rows: usize, columns: usize, transposed: bool) -> Result<ArrayView2<'_, T>> {
    let stored = if transposed { (columns, rows) } else { (rows, columns) };
    let view = ArrayView2::from_shape(stored, data).map_err(candle_core::Error::wrap)?;
    Ok(if transposed { view.reversed_axes() } else { view })
}

/// `into = a b`, row block by row block: each element is one sum, whatever the number of threads.
pub(super) fn multiply<T: Real>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>, into: &mut [T]) {
    let n = b.ncols();
    if n == 0 {
        return;
    }
    let block = |(block, rows): (usize, &mut [T])| {
        let first = block * ROWS;
        let count = rows.len() / n;
        if let Ok(mut rows) = ArrayViewMut2::from_shape((count, n), rows) {
            let a = a.slice(s![first..first + count, ..]);
            general_mat_mul(T::from_f64(1.0), &a, &b, T::from_f64(0.0), &mut rows);
        }
    };
    if into.len() <= ROWS * n {
        block((0, into));
    } else {
        into.par_chunks_mut(ROWS * n).enumerate().for_each(block);
    }
}

impl Kernel for Product {
    fn name(&self) -> &'static str {
        "MatMul"
    }

    fn forward<T: Real>(&self, args: &[Array<'_, T>]) -> Result<(Vec<T>, Vec<usize>)> {
        let [a, b] = args else { bail!("a product takes two operands") };
        let Sizes { batch, m, k, n } = self.sizes(a.dims, b.dims)?;
        let result = each_of(batch, m * n, |index, into| {
            let a = view(&a.data[index * m * k..][..m * k], m, k, self.transposed.0)?;
            let b = view(&b.data[index * k * n..][..k * n], k, n, self.transposed.1)?;
            multiply(a, b, into);
            Ok(())
        })?;
        let dims = a.dims[..a.dims.len() - 2].iter().copied().chain([m, n]);
        Ok((result, dims.collect()))
    }

    fn backward<T: Real>(
        &self,
        args: &[Array<'_, T>],
        _result: Array<'_, T>,
        grad: Array<'_, T>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Vec<T>>>> {
        let [a, b] = args else { bail!("a product takes two operands") };
        let Sizes { batch, m, k, n } = self.sizes(a.dims, b.dims)?;
        let of_a = |index: usize, into: &mut [T]| {
            let g = view(&grad.data[index * m * n..][..m * n], m, n, false)?;
            let b = view(&b.data[index * k * n..][..k * n], k, n, self.transposed.1)?;
            if self.transposed.0 {
                multiply(b, g.t(), into);
            } else {
                multiply(g, b.t(), into);
            }
            Ok(())
        };
        let of_b = |index: usize, into: &mut [T]| {
            let g = view(&grad.data[index * m * n..][..m * n], m, n, false)?;
            let a = view(&a.data[index * m * k..][..m * k], m, k, self.transposed.0)?;
            if self.transposed.1 {
                multiply(g.t(), a, into);
            } else {
                multiply(a.t(), g, into);
            }
            Ok(())
        };
        Ok(vec![
            wanted[0].then(|| each_of(batch, m * k, of_a)).transpose()?,
            wanted[1].then(|| each_of(batch, k * n, of_b)).transpose()?,
        ])
    }
}

/// `batch` parts of `size` elements, each written by `part`.
fn each_of<T: Real>(batch: usize, size: usize, part: impl Fn(usize, &mut [T]) -> Result<()> + Sync) -> Result<Vec<T>> {
    let mut all = vec![T::from_f64(0.0); batch * size];
    if size > 0 {
        all.par_chunks_mut(size).enumerate().try_for_each(|(index, into)| part(index, into))?;
    }
    Ok(all)
}
