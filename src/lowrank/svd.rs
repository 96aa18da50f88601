//! The plain split: the best rank-r approximation of a weight, without data.
//!
//! W = U Σ Vᵀ gives A = U_r Σ_r^½ and B = Σ_r^½ V_rᵀ, whose error ‖W − AB‖²_F is Σ_{i>r} σᵢ², the least
//! that any rank r can reach (Eckart & Young 1936).

use ndarray::{ArrayView2, s};

use super::low_rank::{ErrorCurve, LowRank, require_rank};
use crate::Result;
use crate::linalg::{Backend, Svd};

/// Above this smaller side a weight is decomposed in f32: six digits are enough for a weight, and it
/// halves the time where the time matters.
const DOUBLE_UP_TO: usize = 1024;

/// A decomposed weight, from which every rank can be read.
#[derive(Debug, Clone)]
pub struct WeightSvd {
    svd: Svd<f64>,
    curve: ErrorCurve,
    name: String,
}

impl WeightSvd {
    /// Decomposes W (K×N), completely.
    ///
    /// # Errors
    /// Entries that are not finite; no convergence. Both name the weight.
    #[allow(clippy::cast_possible_truncation)] // single precision is what large matrices are split in
    pub fn new(backend: &dyn Backend, w: ArrayView2<'_, f64>, name: &str) -> Result<Self> {
        let svd = if w.nrows().min(w.ncols()) <= DOUBLE_UP_TO {
            backend.svd_f64(w, name)?
        } else {
            widened(&backend.svd_f32(w.mapv(|x| x as f32).view(), name)?)
        };
        Ok(Self::from_svd(svd, name))
    }

    fn from_svd(svd: Svd<f64>, name: &str) -> Self {
        let curve = ErrorCurve::from_components(svd.sigma.iter().map(|x| x * x));
        Self { svd, curve, name: name.to_owned() }
    }

    /// ‖W − AB‖²_F at every rank.
    pub fn curve(&self) -> &ErrorCurve {
        &self.curve
    }

    /// The singular values, large to small.
    pub fn sigma(&self) -> &[f64] {
        self.svd.sigma.as_slice().unwrap_or_default()
    }

    /// A and B of rank r, balanced by construction.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when the rank is 0 or above full.
    pub fn split(&self, rank: usize) -> Result<LowRank> {
        require_rank(rank, self.curve.full_rank(), &self.name)?;
        let root = self.svd.sigma.slice(s![..rank]).mapv(f64::sqrt);
        let a = &self.svd.u.slice(s![.., ..rank]) * &root;
        let b = &self.svd.vt.slice(s![..rank, ..]) * &root.insert_axis(ndarray::Axis(1));
        Ok(LowRank { a, b, bias_shift: None, error: self.curve.error(rank) })
    }
}

fn widened(svd: &Svd<f32>) -> Svd<f64> {
    Svd { u: svd.u.mapv(f64::from), sigma: svd.sigma.mapv(f64::from), vt: svd.vt.mapv(f64::from) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::backends;
    use crate::lowrank::low_rank::energy;
    use crate::lowrank::sample::{decaying, uniform};

    #[test]
    fn error_is_the_trailing_singular_values_and_full_rank_reproduces() {
        for backend in backends() {
            for (k, n) in [(1, 4), (30, 50), (50, 30), (40, 40)] {
                let w = decaying(k, n, 0.8, 1);
                let svd = WeightSvd::new(backend, w.view(), "w").unwrap();
                for rank in 1..=k.min(n) {
                    let split = svd.split(rank).unwrap();
                    assert_eq!((split.a.dim(), split.b.dim()), ((k, rank), (rank, n)));
                    let measured = energy(&(&w - &split.product(backend)));
                    let allowed = 1e-4 * split.error + 1e-22 * energy(&w);
                    assert!((measured - split.error).abs() <= allowed, "{measured} {}", split.error);
                }
                let whole = svd.split(k.min(n)).unwrap().product(backend);
                assert!((&whole - &w).iter().all(|x| x.abs() < 1e-12));
            }
        }
    }

    #[test]
    fn the_issue_example_has_exactly_200_000_parameters() {
        let w = uniform(1000, 1000, 2);
        let backend = crate::linalg::default_backend();
        let split = WeightSvd::new(backend, w.view(), "w").unwrap().split(100).unwrap();
        assert_eq!(split.a.len() + split.b.len(), 200_000);
    }

    #[test]
    fn large_weights_are_decomposed_in_single_precision_accurately_enough() {
        let w = uniform(1030, 1026, 3);
        let backend = crate::linalg::default_backend();
        let split = WeightSvd::new(backend, w.view(), "w").unwrap().split(1026).unwrap();
        let worst = (split.product(backend) - &w).iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        assert!(worst < 1e-5 * 35.0, "{worst}"); // σ₁ is about 35
        assert!(energy(&(split.product(backend) - &w)).sqrt() < 1e-5 * energy(&w).sqrt());
    }
}
