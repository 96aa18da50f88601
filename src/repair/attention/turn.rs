//! The closed rule: of all bases of a head, the one whose first r dimensions do most of what all of them do.
//!
//! Queries and keys of a head take part in `q kᵀ` alone, values and the rows of the output projection in `c W_o` alone (c
//! are the mixed values). An invertible matrix F may stand between the two, F with one of them and F⁻¹ with the other. With C
//! the covariance of keys (of mixed values) and G the second moments of the queries (`W_o W_oᵀ`), each d×d:
//!
//! ```text
//! C^½ G C^½ = U S² Uᵀ      F = C^-½ U      F⁻¹ = Uᵀ C^½
//! ```
//!
//! Without the dimensions beyond r, the scores (the output of the head) err by the sum of the other S², and by no less in any
//! other basis of r dimensions, if queries and keys are independent (Eckart and Young 1936, in the norm of C and G). The mean
//! of the keys does not count: softmax ignores what is the same for all keys. Nor does that of the mixed values: it goes into
//! the bias of the output projection.

use ndarray::{Array1, Array2};

use crate::error::Result;
use crate::linalg::default_backend;

/// Least variance of a direction of C, as a share of the largest: F stays invertible in single precision.
const LEAST_VARIANCE: f64 = 1e-7;

/// Least S, as a share of the largest, by which the two sides of a dimension are brought to one size.
const LEAST_SIZE: f64 = 1e-3;

/// The new basis of a head: `forward` stands after keys or values, `back`, its inverse, before the rows of what they meet.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    /// F, d×d.
    pub(super) forward: Array2<f64>,
    /// F⁻¹.
    pub(super) back: Array2<f64>,
    /// S², large to small: what each dimension adds to the squared error once it is gone.
    pub(super) squares: Array1<f64>,
}

impl Turn {
    /// The basis for the covariance C and the second moments G (d×d both) of what the two sides are.
    ///
    /// # Errors
    /// If an entry is not finite.
    pub(super) fn of(covariance: &Array2<f64>, met: &Array2<f64>, name: &str) -> Result<Self> {
        let backend = default_backend();
        let eigen = backend.eigh(covariance.view(), name)?;
        let largest = eigen.values.first().copied().unwrap_or(0.0);
        let least = (LEAST_VARIANCE * largest).max(f64::MIN_POSITIVE.sqrt());
        let root = |power: f64| {
            let values = eigen.values.mapv(|value| value.max(least).powf(power));
            backend.matmul((&eigen.vectors * &values).view(), eigen.vectors.t())
        };
        let (grow, shrink) = (root(0.5), root(-0.5));
        let inner = symmetric(backend.matmul(backend.matmul(grow.view(), met.view()).view(), grow.view()));
        let spectrum = backend.eigh(inner.view(), name)?;
        let squares = spectrum.values.mapv(|value| value.max(0.0));
        let mut forward = backend.matmul(shrink.view(), spectrum.vectors.view());
        let mut back = backend.matmul(spectrum.vectors.t(), grow.view());
        let floor = LEAST_SIZE * squares.first().copied().unwrap_or(0.0).sqrt();
        for (i, &square) in squares.iter().enumerate() {
            // The side that C belongs to has unit variance now, the other one the mean square S².
            let size = square.sqrt().max(floor).sqrt();
            if size > 0.0 {
                forward.column_mut(i).mapv_inplace(|f| f * size);
                back.row_mut(i).mapv_inplace(|f| f / size);
            }
        }
        Ok(Self { forward, back, squares })
    }
}

fn symmetric(a: Array2<f64>) -> Array2<f64> {
    (&a + &a.t()) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Axis, s};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn random(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Array2::from_shape_simple_fn((rows, columns), || rng.random_range(-1.0..1.0))
    }

    /// Rows of unequal variance in correlated directions, centred.
    fn rows(n: usize, d: usize, seed: u64) -> Array2<f64> {
        let mix = random(d, d, seed + 1);
        let scales = Array1::from_shape_fn(d, |i| 1.0 / (1.0 + i as f64));
        let x = (random(n, d, seed) * &scales).dot(&mix);
        let mean = x.mean_axis(Axis(0)).unwrap();
        x - &mean
    }

    #[test]
    fn the_full_basis_changes_nothing() {
        let (k, q) = (rows(50, 6, 1), random(40, 6, 2));
        let turn = Turn::of(&(k.t().dot(&k) / 50.0), &(q.t().dot(&q) / 40.0), "k").unwrap();
        let (before, after) = (q.dot(&k.t()), q.dot(&turn.back.t()).dot(&k.dot(&turn.forward).t()));
        let worst = (&before - &after).iter().fold(0.0_f64, |m, d| m.max(d.abs()));
        assert!(worst < 1e-10, "{worst:e}");
    }

    #[test]
    fn squares_are_the_errors_of_all_scores() {
        // Every query meets every key, so that the two are independent.
        let (k, q) = (rows(30, 5, 3), random(20, 5, 4));
        let turn = Turn::of(&(k.t().dot(&k) / 30.0), &(q.t().dot(&q) / 20.0), "k").unwrap();
        let (k2, q2) = (k.dot(&turn.forward), q.dot(&turn.back.t()));
        for r in 0..=5 {
            let rest = q.dot(&k.t()) - q2.slice(s![.., ..r]).dot(&k2.slice(s![.., ..r]).t());
            let error = rest.iter().map(|e| e * e).sum::<f64>() / (30.0 * 20.0);
            let expected: f64 = turn.squares.iter().skip(r).sum();
            assert!((error - expected).abs() < 1e-9 * turn.squares.sum(), "{r}: {error} {expected}");
        }
    }

    #[test]
    fn both_sides_of_a_dimension_are_of_one_size() {
        let (c, w) = (rows(60, 4, 5), random(4, 9, 6));
        let turn = Turn::of(&(c.t().dot(&c) / 60.0), &w.dot(&w.t()), "v").unwrap();
        let (c2, w2) = (c.dot(&turn.forward), turn.back.dot(&w));
        for i in 0..4 {
            let (left, right) = (c2.column(i).dot(&c2.column(i)) / 60.0, w2.row(i).dot(&w2.row(i)));
            assert!((left / right - 1.0).abs() < 1e-6, "{left} {right}");
        }
    }

    #[test]
    fn a_direction_without_variance_stays_invertible() {
        let mut k = rows(30, 4, 7);
        let copy = k.column(0).to_owned();
        k.column_mut(3).assign(&copy);
        let turn = Turn::of(&(k.t().dot(&k) / 30.0), &Array2::eye(4), "k").unwrap();
        let product = turn.forward.dot(&turn.back);
        let worst = (&product - &Array2::<f64>::eye(4)).iter().fold(0.0_f64, |m, d| m.max(d.abs()));
        assert!(worst < 1e-8, "{worst:e}");
    }
}
