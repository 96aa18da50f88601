//! Layers to choose ranks for, as a benchmark and the tests of the knapsack use them.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Choice, ErrorCurve, Layer};

/// Layers like those of a transformer: sizes from a few hundred to a few thousand, spectra that decay at
/// their own speed, sensitivities over two decades.
pub(super) fn network(layers: usize, seed: u64) -> Vec<Layer> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..layers)
        .map(|i| {
            let mut side = || 64 * rng.random_range(3_usize..25);
            let (k, n) = (side(), side());
            let decay = rng.random_range(0.4..1.6_f64);
            let components = (1..=k.min(n)).map(|i| (i as f64).powf(-2.0 * decay)).collect::<Vec<_>>();
            let curve = ErrorCurve::from_components(components.into_iter());
            let weight = 10_f64.powf(rng.random_range(-1.0..1.0)) / curve.total();
            let split = (8..k * n / (k + n)).step_by(8).map(|rank| Choice {
                rank: Some(rank),
                cost: (rank * (k + n)) as u64,
                error: weight * curve.error(rank),
            });
            let whole = Choice { rank: None, cost: (k * n) as u64, error: 0.0 };
            Layer { name: format!("fc{i}"), choices: split.chain([whole]).collect() }
        })
        .collect()
}
