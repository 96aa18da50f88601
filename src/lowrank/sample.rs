//! Random matrices for the tests of this folder.

use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::linalg::default_backend;

/// Entries uniform in (−1, 1).
pub(crate) fn uniform(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Array2::from_shape_simple_fn((rows, columns), || rng.random_range(-1.0..1.0))
}

/// Singular values rateⁱ, as trained weights and activations decay.
pub(crate) fn decaying(rows: usize, columns: usize, rate: f64, seed: u64) -> Array2<f64> {
    let backend = default_backend();
    let mut svd = backend.svd_f64(uniform(rows, columns, seed).view(), "sample").unwrap();
    svd.sigma.iter_mut().zip(0..).for_each(|(x, i)| *x = rate.powi(i));
    (&svd.u * &svd.sigma).dot(&svd.vt)
}
