//! The leading part of a large SVD by randomized subspace iteration (Halko, Martinsson & Tropp 2011,
//! arXiv:0909.4061, algorithms 4.4 and 5.1).
//!
//! Weights decay slowly, so the random subspace needs power iterations to find the right one, and pays
//! only when the rank is a small part of the size: both limits are enforced. The error is exact for the
//! factors that are returned: ‖W‖² − Σ σ̂ᵢ².

use ndarray::{Array2, ArrayView2, Axis, s};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::low_rank::{LowRank, require_rank};
use crate::linalg::Backend;
use crate::{Error, Result};

/// The least number of power iterations that weights with slow decay need.
pub const MIN_POWER_ITERATIONS: usize = 4;

/// Columns of the random subspace beyond the rank.
const OVERSAMPLING: usize = 10;

/// How the random subspace is drawn and sharpened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomizedOptions {
    /// Multiplications by W Wᵀ, at least [`MIN_POWER_ITERATIONS`].
    pub power_iterations: usize,
    /// Seed of the random subspace.
    pub seed: u64,
}

impl Default for RandomizedOptions {
    fn default() -> Self {
        Self { power_iterations: MIN_POWER_ITERATIONS, seed: 0 }
    }
}

/// Whether a rank is small enough (≤ 0.1 · min(K, N)) for [`split`].
pub fn allowed(inputs: usize, outputs: usize, rank: usize) -> bool {
    10 * rank <= inputs.min(outputs)
}

/// A rank-r split of W (K×N) close to the best one, A = U Σ^½, B = Σ^½ Vᵀ.
///
/// # Errors
/// Rank 0 or above 0.1 · min(K, N), fewer than four power iterations
/// ([`ErrorKind::Usage`](crate::ErrorKind::Usage)); entries that are not finite.
pub fn split(
    backend: &dyn Backend,
    w: ArrayView2<'_, f64>,
    rank: usize,
    options: RandomizedOptions,
    name: &str,
) -> Result<LowRank> {
    let (k, n) = w.dim();
    require_rank(rank, k.min(n), name)?;
    if !allowed(k, n, rank) {
        return Err(Error::usage(format!(
            "rank {rank} of '{name}' is too large for a randomized decomposition; use the full one above {}",
            k.min(n) / 10
        )));
    }
    if options.power_iterations < MIN_POWER_ITERATIONS {
        return Err(Error::usage(format!(
            "{} power iterations are too few for weights; use at least {MIN_POWER_ITERATIONS}",
            options.power_iterations
        )));
    }
    let columns = (rank + OVERSAMPLING).min(k.min(n));
    let mut range = backend.matmul(w, gaussian(n, columns, options.seed).view());
    for _ in 0..options.power_iterations {
        let q = backend.qr(range.view(), name)?.q;
        let back = backend.qr(backend.matmul(w.t(), q.view()).view(), name)?.q;
        range = backend.matmul(w, back.view());
    }
    let q = backend.qr(range.view(), name)?.q;
    let svd = backend.svd_f64(backend.matmul(q.t(), w).view(), name)?;
    let root = svd.sigma.slice(s![..rank]).mapv(f64::sqrt);
    let kept: f64 = svd.sigma.iter().take(rank).map(|x| x * x).sum();
    let total: f64 = w.iter().map(|x| x * x).sum();
    Ok(LowRank {
        a: backend.matmul(q.view(), svd.u.slice(s![.., ..rank])) * &root,
        b: &svd.vt.slice(s![..rank, ..]) * &root.insert_axis(Axis(1)),
        bias_shift: None,
        error: (total - kept).max(0.0),
    })
}

/// Standard normal entries (Box & Muller 1958), the same for a seed on every machine.
fn gaussian(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Array2::from_shape_simple_fn((rows, columns), || {
        let (radius, angle): (f64, f64) = (rng.random(), rng.random());
        (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::factorize::low_rank::energy;
    use crate::factorize::sample::{decaying, uniform};
    use crate::factorize::svd::WeightSvd;
    use crate::linalg::backends;

    #[test]
    fn error_is_measured_and_within_a_percent_of_the_best_on_slow_decay() {
        for backend in backends() {
            for w in [uniform(200, 150, 1), uniform(150, 200, 2), decaying(200, 160, 0.95, 3)] {
                let best = WeightSvd::new(backend, w.view(), "w").unwrap().curve().error(15);
                let split = split(backend, w.view(), 15, RandomizedOptions::default(), "w").unwrap();
                let measured = energy(&(&w - &split.product(backend)));
                assert!((measured - split.error).abs() < 1e-9 * energy(&w));
                assert!(split.error >= best * (1.0 - 1e-9) && split.error < best * 1.01);
            }
        }
    }

    #[test]
    fn the_seed_alone_decides() {
        let w = uniform(100, 80, 4);
        let with = |seed| {
            let options = RandomizedOptions { seed, ..Default::default() };
            split(backends()[0], w.view(), 8, options, "w").unwrap()
        };
        assert_eq!(with(7).a, with(7).a);
        assert_ne!(with(7).a, with(8).a);
    }

    #[test]
    fn random_entries_are_standard_normal() {
        let g = gaussian(400, 100, 5);
        let mean = g.mean().unwrap();
        let variance = g.mapv(|x| x * x).mean().unwrap() - mean * mean;
        let kurtosis = g.mapv(|x| x.powi(4)).mean().unwrap();
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03 && (kurtosis - 3.0).abs() < 0.2);
    }

    #[test]
    fn large_ranks_and_few_iterations_are_refused() {
        let w = uniform(100, 80, 6);
        let few = RandomizedOptions { power_iterations: 3, seed: 0 };
        let good = RandomizedOptions::default();
        for (rank, options, text) in [(9, good, "above 8"), (0, good, "1 to 80"), (8, few, "at least 4")] {
            let error = split(backends()[0], w.view(), rank, options, "w").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
