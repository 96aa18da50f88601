//! The system's LAPACK (OpenBLAS) through `ndarray-linalg`, feature `lapack`.

use std::ffi::c_int;
use std::sync::Once;

use ndarray::{Array2, ArrayView2, ShapeBuilder, Slice, linalg::general_mat_mul, s};
use ndarray_linalg::{Cholesky, Diag, Eigh as _, InverseC, JobSvd, Lapack as Scalar};
use ndarray_linalg::{QR, SVDDC, SolveTriangular, UPLO};

use super::backend::{
    Backend, Eigh, Qr, Svd, mirror_lower, no_convergence, not_positive_definite, require_finite, require_symmetric,
};
use crate::Result;

/// Linear algebra by the system's OpenBLAS, kept to one thread so that results do not depend on
/// the machine's number of cores. Matrix products are `ndarray`'s own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lapack;

unsafe extern "C" {
    fn openblas_set_num_threads(threads: c_int);
}

/// Keeps OpenBLAS sequential, once for the process.
fn sequential() {
    static ONCE: Once = Once::new();
    // SAFETY: OpenBLAS, which this feature links, exports `void openblas_set_num_threads(int)`; it
    // takes its argument by value and no BLAS call of ours runs before `call_once` returns.
    ONCE.call_once(|| unsafe { openblas_set_num_threads(1) });
}

impl Backend for Lapack {
    fn name(&self) -> &'static str {
        "lapack"
    }

    fn svd_f32(&self, a: ArrayView2<'_, f32>, name: &str) -> Result<Svd<f32>> {
        thin_svd(a, name)
    }

    fn svd_f64(&self, a: ArrayView2<'_, f64>, name: &str) -> Result<Svd<f64>> {
        thin_svd(a, name)
    }

    fn eigh(&self, a: ArrayView2<'_, f64>, name: &str) -> Result<Eigh> {
        require_symmetric(a, name)?;
        sequential();
        let (values, vectors) = lower(a).eigh(UPLO::Lower).map_err(|_| no_convergence("eigendecomposition", name))?;
        // LAPACK sorts from small to large.
        Ok(Eigh {
            values: values.slice(s![..;-1]).to_owned(),
            vectors: vectors.slice_axis(ndarray::Axis(1), Slice::new(0, None, -1)).to_owned(),
        })
    }

    fn cholesky(&self, a: ArrayView2<'_, f64>, name: &str) -> Result<Array2<f64>> {
        require_symmetric(a, name)?;
        sequential();
        lower(a).cholesky(UPLO::Lower).map_err(|_| not_positive_definite(name))
    }

    fn solve_spd(&self, a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>, name: &str) -> Result<Array2<f64>> {
        require_finite(b, name)?;
        let l = self.cholesky(a, name)?;
        let half =
            l.solve_triangular(UPLO::Lower, Diag::NonUnit, &b.to_owned()).map_err(|_| not_positive_definite(name))?;
        l.t().to_owned().solve_triangular(UPLO::Upper, Diag::NonUnit, &half).map_err(|_| not_positive_definite(name))
    }

    fn inverse_spd(&self, a: ArrayView2<'_, f64>, name: &str) -> Result<Array2<f64>> {
        require_symmetric(a, name)?;
        sequential();
        lower(a).invc().map_err(|_| not_positive_definite(name))
    }

    fn qr(&self, a: ArrayView2<'_, f64>, name: &str) -> Result<Qr> {
        require_finite(a, name)?;
        sequential();
        let (q, r) = a.qr().map_err(|_| no_convergence("QR decomposition", name))?;
        Ok(Qr { q, r })
    }

    fn matmul_f32(&self, a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> Array2<f32> {
        a.dot(&b)
    }

    fn matmul(&self, a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Array2<f64> {
        a.dot(&b)
    }

    fn syrk(&self, x: ArrayView2<'_, f64>, gram: &mut Array2<f64>) {
        general_mat_mul(1.0, &x.t(), &x, 1.0, gram);
        mirror_lower(gram);
    }
}

fn thin_svd<T>(a: ArrayView2<'_, T>, name: &str) -> Result<Svd<T>>
where
    T: Scalar<Real = T> + Into<f64>,
{
    require_finite(a, name)?;
    sequential();
    let fail = || no_convergence("singular value decomposition", name);
    let mut columns = Array2::<T>::zeros(a.raw_dim().f());
    columns.assign(&a);
    let (u, sigma, vt) = columns.svddc(JobSvd::Some).map_err(|_| fail())?;
    Ok(Svd { u: u.ok_or_else(fail)?, sigma, vt: vt.ok_or_else(fail)? })
}

/// The symmetric matrix whose lower triangle is given: which one `ndarray-linalg` reads depends on
/// the memory layout.
fn lower(a: ArrayView2<'_, f64>) -> Array2<f64> {
    let mut whole = a.to_owned();
    mirror_lower(&mut whole);
    whole
}
