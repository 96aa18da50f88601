//! The embedded backend: `faer`, always sequential inside a call.

use std::borrow::Cow;
use std::cell::RefCell;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj,
};
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::qr::no_pivoting::factor;
use faer::linalg::svd::{ComputeSvdVectors, SvdParams, svd, svd_scratch};
use faer::traits::RealField;
use faer::{Accum, Auto, Col, Conj, Mat, MatMut, MatRef, Par};
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, ShapeBuilder, s};

use super::backend::{
    Backend, Eigh, Qr, Svd, mirror_lower, no_convergence, not_positive_definite, require_finite, require_symmetric,
};
use crate::Result;

/// Linear algebra by the `faer` crate: no system library, same bits for any number of threads.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faer;

impl Backend for Faer {
    fn name(&self) -> &'static str {
        "faer"
    }

    fn svd_f32(&self, a: ArrayView2<'_, f32>, name: &str) -> Result<Svd<f32>> {
        thin_svd(a, name)
    }

    fn svd_f64(&self, a: ArrayView2<'_, f64>, name: &str) -> Result<Svd<f64>> {
        thin_svd(a, name)
    }

    fn eigh(&self, a: ArrayView2<'_, f64>, name: &str) -> Result<Eigh> {
        require_symmetric(a, name)?;
        let n = a.nrows();
        let held = Dense::new(a);
        let mut values = Col::<f64>::zeros(n);
        let mut vectors = Mat::<f64>::zeros(n, n);
        let yes = ComputeEigenvectors::Yes;
        let mut scratch = MemBuffer::new(self_adjoint_evd_scratch::<f64>(n, yes, Par::Seq, Default::default()));
        self_adjoint_evd(
            held.mat(),
            values.as_diagonal_mut(),
            Some(vectors.as_mut()),
            Par::Seq,
            MemStack::new(&mut scratch),
            Default::default(),
        )
        .map_err(|_| no_convergence("eigendecomposition", name))?;
        // faer sorts from small to large.
        Ok(Eigh {
            values: (0..n).rev().map(|i| values[i]).collect(),
            vectors: Array2::from_shape_fn((n, n).f(), |(i, j)| vectors[(i, n - 1 - j)]),
        })
    }

    fn cholesky(&self, a: ArrayView2<'_, f64>, name: &str) -> Result<Array2<f64>> {
        let l = lower_factor(a, name)?;
        Ok(filled(l.nrows(), l.ncols(), |mut out| out.copy_from_triangular_lower(&l)))
    }

    fn solve_spd(&self, a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>, name: &str) -> Result<Array2<f64>> {
        require_finite(b, name)?;
        let l = lower_factor(a, name)?;
        let rhs = Dense::new(b);
        Ok(filled(b.nrows(), b.ncols(), |mut out| {
            out.copy_from(rhs.mat());
            let request = llt::solve::solve_in_place_scratch::<f64>(l.nrows(), out.ncols(), Par::Seq);
            let mut scratch = MemBuffer::new(request);
            llt::solve::solve_in_place(l.as_ref(), out, Par::Seq, MemStack::new(&mut scratch));
        }))
    }

    fn inverse_spd(&self, a: ArrayView2<'_, f64>, name: &str) -> Result<Array2<f64>> {
        let l = lower_factor(a, name)?;
        let n = l.nrows();
        let mut inverse = filled(n, n, |out| {
            let mut scratch = MemBuffer::new(llt::inverse::inverse_scratch::<f64>(n, Par::Seq));
            llt::inverse::inverse(out, l.as_ref(), Par::Seq, MemStack::new(&mut scratch));
        });
        mirror_lower(&mut inverse);
        Ok(inverse)
    }

    fn qr(&self, a: ArrayView2<'_, f64>, name: &str) -> Result<Qr> {
        require_finite(a, name)?;
        Ok(thin_qr(a))
    }

    fn matmul_f32(&self, a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> Array2<f32> {
        product(a, b)
    }

    fn matmul(&self, a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Array2<f64> {
        product(a, b)
    }

    fn add_product(
        &self,
        factor: f64,
        a: ArrayView2<'_, f64>,
        b: ArrayView2<'_, f64>,
        mut sum: ArrayViewMut2<'_, f64>,
    ) {
        assert_eq!((a.nrows(), a.ncols()), (sum.nrows(), b.nrows()), "sizes of a matrix product");
        let (rows, width) = sum.dim();
        match sum.as_slice_mut() {
            Some(slice) => {
                let into = MatMut::from_row_major_slice_mut(slice, rows, width).subcols_mut(0, b.ncols());
                matmul(into, Accum::Add, Dense::new(a).mat(), Dense::new(b).mat(), factor, Par::Seq);
            }
            None => sum.slice_mut(s![.., ..b.ncols()]).scaled_add(factor, &product(a, b)),
        }
    }

    fn add_product_f32(&self, a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, mut sum: ArrayViewMut2<'_, f64>) {
        assert_eq!(
            (a.nrows(), a.ncols(), b.ncols()),
            (sum.nrows(), b.nrows(), sum.ncols()),
            "sizes of a matrix product"
        );
        let left = Dense::new(a);
        PRODUCT.with_borrow_mut(|product| {
            for first in (0..b.ncols()).step_by(TILE) {
                let columns = first..b.ncols().min(first + TILE);
                let width = columns.len();
                let right = b.slice(s![.., columns.clone()]);
                let right = Dense::new(right);
                product.resize(a.nrows() * width, 0.0);
                let out = MatMut::from_row_major_slice_mut(product, a.nrows(), width);
                matmul(out, Accum::Replace, left.mat(), right.mat(), 1.0, Par::Seq);
                let mut tile = sum.slice_mut(s![.., columns]);
                for (mut row, product) in tile.rows_mut().into_iter().zip(product.chunks_exact(width)) {
                    row.iter_mut().zip(product).for_each(|(sum, &product)| *sum += f64::from(product));
                }
            }
        });
    }

    fn syrk(&self, x: ArrayView2<'_, f64>, gram: &mut Array2<f64>) {
        assert_eq!(gram.dim(), (x.ncols(), x.ncols()), "shape of the Gram matrix");
        let held = Dense::new(x);
        in_place(gram, |dst| {
            triangular::matmul(
                dst,
                BlockStructure::TriangularLower,
                Accum::Add,
                held.mat().transpose(),
                BlockStructure::Rectangular,
                held.mat(),
                BlockStructure::Rectangular,
                1.0,
                Par::Seq,
            );
        });
        mirror_lower(gram);
    }
}

/// Columns of a product that are formed in single precision before they are added to the sums: few enough to stay in the cache.
const TILE: usize = 512;

thread_local! {
    /// Where such columns are formed.
    static PRODUCT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Below this size, divide and conquer hands over to the implicit QR iteration, whose rounding errors
/// add up over its many sweeps: in single precision 16 keeps σ to 4e-7·σ₁ where faer's own 128 keeps
/// 7e-6·σ₁ (1024², uniform entries), at the same speed.
const SVD_RECURSION: usize = 16;

/// The values of a view without gaps: borrowed when they lie in row or column order, else copied.
struct Dense<'a, T: Clone> {
    values: Cow<'a, [T]>,
    rows: usize,
    columns: usize,
    by_column: bool,
}

impl<'a, T: Copy> Dense<'a, T> {
    fn new(a: ArrayView2<'a, T>) -> Self {
        let (rows, columns) = a.dim();
        let (values, by_column) = if let Some(slice) = a.to_slice() {
            (Cow::Borrowed(slice), false)
        } else if let Some(slice) = a.reversed_axes().to_slice() {
            (Cow::Borrowed(slice), true)
        } else {
            (Cow::Owned(a.iter().copied().collect()), false)
        };
        Self { values, rows, columns, by_column }
    }

    fn mat(&self) -> MatRef<'_, T> {
        if self.by_column {
            MatRef::from_column_major_slice(&self.values, self.rows, self.columns)
        } else {
            MatRef::from_row_major_slice(&self.values, self.rows, self.columns)
        }
    }
}

/// A new rows×columns array in column order (what faer is fastest on), written by `fill`.
#[allow(clippy::expect_used)] // the length is the product of the sizes, a line above
fn filled<T: Copy + Default>(rows: usize, columns: usize, fill: impl FnOnce(MatMut<'_, T>)) -> Array2<T> {
    let mut values = vec![T::default(); rows * columns];
    fill(MatMut::from_column_major_slice_mut(&mut values, rows, columns));
    Array2::from_shape_vec((rows, columns).f(), values).expect("values holds rows × columns")
}

/// Lets `change` work on an existing array, whatever its memory layout.
fn in_place(a: &mut Array2<f64>, change: impl FnOnce(MatMut<'_, f64>)) {
    let (rows, columns) = a.dim();
    if let Some(slice) = a.as_slice_mut() {
        change(MatMut::from_row_major_slice_mut(slice, rows, columns));
        return;
    }
    let mut values: Vec<f64> = a.iter().copied().collect();
    change(MatMut::from_row_major_slice_mut(&mut values, rows, columns));
    for (to, from) in a.iter_mut().zip(values) {
        *to = from;
    }
}

#[allow(clippy::expect_used)] // the length is the product of the sizes, as allocated
fn product<T: RealField + Copy + Default>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>) -> Array2<T> {
    assert_eq!(a.ncols(), b.nrows(), "inner sizes of a matrix product");
    let (left, right) = (Dense::new(a), Dense::new(b));
    let mut values = vec![T::default(); a.nrows() * b.ncols()];
    let out = MatMut::from_row_major_slice_mut(&mut values, a.nrows(), b.ncols());
    matmul(out, Accum::Replace, left.mat(), right.mat(), T::one_impl(), Par::Seq);
    Array2::from_shape_vec((a.nrows(), b.ncols()), values).expect("values holds rows × columns")
}

fn thin_svd<T>(a: ArrayView2<'_, T>, name: &str) -> Result<Svd<T>>
where
    T: RealField + Copy + Default + Into<f64>,
{
    require_finite(a, name)?;
    let is_finite = |svd: &Svd<T>| {
        let values = svd.u.iter().chain(&svd.sigma).chain(&svd.vt);
        values.into_iter().all(|&value| value.into().is_finite())
    };
    // Divide and conquer may leave entries that are no numbers where many singular values are zero; QR iteration does not.
    let by = |recursion: usize| thin_svd_by(a, recursion, name).map(|svd| is_finite(&svd).then_some(svd));
    let found = match by(SVD_RECURSION)? {
        None => by(usize::MAX)?,
        found => found,
    };
    found.ok_or_else(|| no_convergence("singular value decomposition", name))
}

/// The decomposition by divide and conquer down to this size, and by QR iteration below it.
fn thin_svd_by<T>(a: ArrayView2<'_, T>, recursion_threshold: usize, name: &str) -> Result<Svd<T>>
where
    T: RealField + Copy + Default,
{
    let (m, n) = a.dim();
    let k = m.min(n);
    let held = Dense::new(a);
    let thin = ComputeSvdVectors::Thin;
    let params = SvdParams { recursion_threshold, ..<SvdParams as Auto<T>>::auto() }.into();
    let mut sigma = vec![T::default(); k];
    let mut v = Mat::<T>::zeros(n, k);
    let mut converged = Ok(());
    let u = filled(m, k, |u| {
        let request = svd_scratch::<T>(m, n, thin, thin, Par::Seq, params);
        let mut scratch = MemBuffer::new(request);
        converged = svd(
            held.mat(),
            faer::ColMut::from_slice_mut(&mut sigma).as_diagonal_mut(),
            Some(u),
            Some(v.as_mut()),
            Par::Seq,
            MemStack::new(&mut scratch),
            params,
        );
    });
    converged.map_err(|_| no_convergence("singular value decomposition", name))?;
    let vt = Array2::from_shape_fn((k, n), |(i, j)| v[(j, i)]);
    Ok(Svd { u, sigma: Array1::from_vec(sigma), vt })
}

fn lower_factor(a: ArrayView2<'_, f64>, name: &str) -> Result<Mat<f64>> {
    require_symmetric(a, name)?;
    let n = a.nrows();
    let mut l = Dense::new(a).mat().to_owned();
    let request = llt::factor::cholesky_in_place_scratch::<f64>(n, Par::Seq, Default::default());
    let mut scratch = MemBuffer::new(request);
    llt::factor::cholesky_in_place(
        l.as_mut(),
        Default::default(),
        Par::Seq,
        MemStack::new(&mut scratch),
        Default::default(),
    )
    .map_err(|_| not_positive_definite(name))?;
    Ok(l)
}

fn thin_qr(a: ArrayView2<'_, f64>) -> Qr {
    let (m, n) = a.dim();
    let k = m.min(n);
    let mut factors = Dense::new(a).mat().to_owned();
    let block = factor::recommended_block_size::<f64>(m, n);
    let mut tau = Mat::<f64>::zeros(block, k);
    let request = factor::qr_in_place_scratch::<f64>(m, n, block, Par::Seq, Default::default())
        .or(apply_block_householder_sequence_on_the_left_in_place_scratch::<f64>(m, block, k));
    let mut scratch = MemBuffer::new(request);
    let stack = MemStack::new(&mut scratch);
    factor::qr_in_place(factors.as_mut(), tau.as_mut(), Par::Seq, stack, Default::default());
    let q = filled(m, k, |mut q| {
        q.as_mut().diagonal_mut().fill(1.0);
        apply_block_householder_sequence_on_the_left_in_place_with_conj(
            factors.get(.., ..k),
            tau.as_ref(),
            Conj::No,
            q,
            Par::Seq,
            stack,
        );
    });
    let r = Array2::from_shape_fn((k, n), |(i, j)| if i <= j { factors[(i, j)] } else { 0.0 });
    Qr { q, r }
}
