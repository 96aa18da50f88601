//! One nonnegative factor: W ≈ A·B with B ≥ 0 and A of any sign (Ding, Li & Jordan 2010).
//!
//! The start is exact: the best approximation A₀B₀ of rank r − 1 becomes A₀(B₀ + c 1ᵀ) − (A₀c) 1ᵀ with c
//! large enough that B₀ + c 1ᵀ ≥ 0, which has inner size r and a nonnegative right factor (Gillis &
//! Kumar 2015, arXiv:1410.7220, theorem 3). Alternating least squares for A and coordinate descent for B
//! only improve on it, so rank r is never worse than the SVD at rank r − 1.

use ndarray::{Array2, ArrayView2};

use super::low_rank::{LowRank, energy, require_rank};
use super::nmf::sweep;
use crate::Result;
use crate::linalg::{Backend, Ridge};

/// Relative decrease of the error in a round below which the iteration ends.
const TOLERANCE: f64 = 1e-5;

/// Rounds after which to stop in any case.
const MAX_ROUNDS: usize = 200;

/// Coordinate-descent sweeps over B for each solve for A.
const SWEEPS: usize = 4;

/// Regularization of the solve for A, as a share of the mean squared row of B.
const RIDGE: f64 = 1e-12;

/// A rank-r split of W (K×N) with B ≥ 0; `error` is ‖W − AB‖²_F.
///
/// # Errors
/// Entries that are not finite; rank 0 or above full.
pub fn split(backend: &dyn Backend, w: ArrayView2<'_, f64>, rank: usize, name: &str) -> Result<LowRank> {
    require_rank(rank, w.nrows().min(w.ncols()), name)?;
    let mut best = shifted_svd(backend, w, rank, name)?;
    best.error = residual(backend, w, &best);
    let mut bt = best.b.t().as_standard_layout().to_owned();
    for _ in 0..MAX_ROUNDS {
        let Ok(a) = least_squares(backend, w, &bt, name) else { break };
        let target = backend.matmul(w.t(), a.view());
        let gram = backend.matmul(a.t(), a.view());
        for _ in 0..SWEEPS {
            sweep(&mut bt, &target, &gram);
        }
        let mut next = LowRank { a, b: bt.t().to_owned(), bias_shift: None, error: 0.0 };
        next.error = residual(backend, w, &next);
        let decrease = best.error - next.error;
        if decrease > 0.0 {
            best = next;
        }
        if decrease <= TOLERANCE * best.error {
            break;
        }
    }
    Ok(best.balanced())
}

fn residual(backend: &dyn Backend, w: ArrayView2<'_, f64>, split: &LowRank) -> f64 {
    energy(&(&w - &split.product(backend)))
}

/// The best split of rank r − 1, written with inner size r and B ≥ 0.
fn shifted_svd(backend: &dyn Backend, w: ArrayView2<'_, f64>, rank: usize, name: &str) -> Result<LowRank> {
    let (k, n) = w.dim();
    let svd = backend.svd_f64(w, name)?;
    let mut a = Array2::zeros((k, rank));
    let mut b = Array2::ones((rank, n));
    for i in 0..rank - 1 {
        let (u, v) = (svd.u.column(i), svd.vt.row(i));
        let root = svd.sigma[i].sqrt();
        // The sign that needs the smaller shift.
        let (low, high) = v.iter().fold((0.0_f64, 0.0_f64), |(low, high), &x| (low.min(x), high.max(x)));
        let sign = if -low <= high { root } else { -root };
        let shift = (-low).min(high) * root;
        a.column_mut(i).assign(&(&u * sign));
        b.row_mut(i).assign(&v.mapv(|x| (sign * x + shift).max(0.0)));
        a.column_mut(rank - 1).scaled_add(-shift * sign, &u);
    }
    Ok(LowRank { a, b, bias_shift: None, error: 0.0 })
}

/// A = W Bᵀ (B Bᵀ)⁻¹, for Bᵀ (N×r).
fn least_squares(backend: &dyn Backend, w: ArrayView2<'_, f64>, bt: &Array2<f64>, name: &str) -> Result<Array2<f64>> {
    let gram = backend.matmul(bt.t(), bt.view());
    let lambda = RIDGE * gram.diag().mean().unwrap_or(0.0);
    let right = backend.matmul(bt.t(), w.t());
    Ok(Ridge::primal(backend, &gram, right.view(), None).weights(lambda, name)?.reversed_axes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::backends;
    use crate::lowrank::sample::{decaying, uniform};
    use crate::lowrank::svd::WeightSvd;

    #[test]
    fn rank_r_lies_between_the_svds_of_rank_r_minus_1_and_r() {
        for backend in backends() {
            for w in [uniform(30, 20, 1), uniform(20, 30, 2), decaying(24, 24, 0.8, 3)] {
                let svd = WeightSvd::new(backend, w.view(), "w").unwrap();
                for rank in 1..=20 {
                    let split = split(backend, w.view(), rank, "w").unwrap();
                    assert!(split.b.iter().all(|&x| x >= 0.0));
                    let measured = energy(&(&w - &split.product(backend)));
                    let slack = 1e-10 * energy(&w);
                    assert!((measured - split.error).abs() <= slack);
                    assert!(split.error <= svd.curve().error(rank - 1) + slack);
                    assert!(split.error >= svd.curve().error(rank) - slack);
                }
            }
        }
    }

    #[test]
    fn iterations_improve_on_the_start() {
        let backend = backends()[0];
        let w = uniform(40, 30, 4);
        let svd = WeightSvd::new(backend, w.view(), "w").unwrap();
        let gain = |r: usize| {
            let (before, after) = (svd.curve().error(r - 1), svd.curve().error(r));
            (before - split(backend, w.view(), r, "w").unwrap().error) / (before - after)
        };
        assert!(gain(5) > 0.1, "{}", gain(5));
    }

    #[test]
    fn a_matrix_of_rank_r_minus_1_is_reproduced() {
        let backend = backends()[0];
        let w = uniform(20, 4, 5).dot(&uniform(4, 25, 6));
        let split = split(backend, w.view(), 5, "w").unwrap();
        assert!(split.error < 1e-16 * energy(&w));
    }
}
