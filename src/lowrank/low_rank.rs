//! What a factorization returns: the two factors, and the error of every rank.

use ndarray::{Array1, Array2, Axis};

use crate::linalg::Backend;
use crate::{Error, Result};

/// W ≈ A·B, with the change of bias that goes with it.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// K×r.
    pub a: Array2<f64>,
    /// r×N.
    pub b: Array2<f64>,
    /// N values to add to the layer's bias, when means of the data are known.
    pub bias_shift: Option<Array1<f64>>,
    /// Predicted squared error: ‖W − AB‖²_F without data, the expected squared distance of one
    /// sample's outputs with data.
    pub error: f64,
}

impl LowRank {
    /// The inner size r.
    pub fn rank(&self) -> usize {
        self.a.ncols()
    }

    /// A·B, K×N.
    pub fn product(&self, backend: &dyn Backend) -> Array2<f64> {
        backend.matmul(self.a.view(), self.b.view())
    }

    /// The same product with the largest magnitude of column i of A equal to that of row i of B, so
    /// that both factors quantize with one scale each (cross-layer equalization, Nagel et al. 2019,
    /// arXiv:1906.04721, section 4.1).
    #[must_use]
    pub fn balanced(mut self) -> Self {
        let largest = |values: ndarray::ArrayView1<'_, f64>| values.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        for (mut column, mut row) in self.a.axis_iter_mut(Axis(1)).zip(self.b.rows_mut()) {
            let (left, right) = (largest(column.view()), largest(row.view()));
            if left > 0.0 && right > 0.0 {
                let scale = (right / left).sqrt();
                column *= scale;
                row /= scale;
            }
        }
        self
    }
}

/// The squared error of a factorization at every rank from 0 to full.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorCurve {
    errors: Vec<f64>,
}

impl ErrorCurve {
    /// From what each component explains (σ² or λ), first component first: the error at rank r is
    /// the sum of the components from r on.
    pub fn from_components(components: impl DoubleEndedIterator<Item = f64>) -> Self {
        // Summed from the small end, so that small tails keep their digits.
        let mut errors = vec![0.0];
        for energy in components.rev() {
            errors.push(errors[errors.len() - 1] + energy.max(0.0));
        }
        errors.reverse();
        Self { errors }
    }

    /// From the error without any component and the decrease that each component brings.
    pub fn from_gains(total: f64, gains: impl Iterator<Item = f64>) -> Self {
        let rest = gains.scan(total, |left, gain| {
            *left -= gain;
            Some(left.max(0.0))
        });
        Self { errors: std::iter::once(total).chain(rest).collect() }
    }

    /// The largest useful rank, at which W is reproduced.
    pub fn full_rank(&self) -> usize {
        self.errors.len() - 1
    }

    /// Squared error at a rank; ranks above full count as full.
    pub fn error(&self, rank: usize) -> f64 {
        self.errors[rank.min(self.full_rank())]
    }

    /// Squared error at rank 0, that is, of an output that is constant.
    pub fn total(&self) -> f64 {
        self.errors[0]
    }

    /// Share of the total that rank r keeps, 0 to 1.
    pub fn energy(&self, rank: usize) -> f64 {
        if self.total() > 0.0 { 1.0 - self.error(rank) / self.total() } else { 1.0 }
    }

    /// The smallest rank ≥ 1 that keeps `share` of the total energy.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when `share` is not in (0, 1].
    pub fn rank_for_energy(&self, share: f64) -> Result<usize> {
        if !(share > 0.0 && share <= 1.0) {
            return Err(Error::usage(format!("the energy to keep is {share}; choose one in (0, 1]")));
        }
        // Slack for the rounding of 1 − share; at share 1 only an error of exactly zero is enough.
        let allowed = (1.0 - share) * self.total() * (1.0 + 1e-12);
        let enough = (1..=self.full_rank()).find(|&r| self.error(r) <= allowed);
        Ok(enough.unwrap_or(self.full_rank()))
    }
}

/// Refuses rank 0 and ranks above full.
pub(crate) fn require_rank(rank: usize, full: usize, name: &str) -> Result<()> {
    if (1..=full).contains(&rank) {
        return Ok(());
    }
    Err(Error::usage(format!("rank {rank} does not fit '{name}'; choose one from 1 to {full}")))
}

/// Refuses operands that do not fit together.
pub(crate) fn require_shape(actual: (usize, usize), expected: (usize, usize), what: &str, name: &str) -> Result<()> {
    if actual == expected {
        return Ok(());
    }
    let ((m, n), (k, l)) = (actual, expected);
    Err(Error::input(format!("the {what} of '{name}' is {m}×{n} where {k}×{l} is needed")))
}

/// Σ x².
pub(crate) fn energy(values: &Array2<f64>) -> f64 {
    values.iter().map(|x| x * x).sum()
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::ErrorKind;
    use crate::linalg::default_backend;

    #[test]
    fn curve_counts_tails_and_energies() {
        let curve = ErrorCurve::from_components([4.0, 3.0, 2.0, 1.0].into_iter());
        assert_eq!((0..=5).map(|r| curve.error(r)).collect::<Vec<_>>(), [10.0, 6.0, 3.0, 1.0, 0.0, 0.0]);
        assert_eq!(curve.full_rank(), 4);
        for (share, rank) in [(1e-9, 1), (0.4, 1), (0.41, 2), (0.7, 2), (0.9, 3), (0.91, 4), (1.0, 4)] {
            assert_eq!(curve.rank_for_energy(share).unwrap(), rank, "{share}");
        }
        for share in [0.0, -0.1, 1.01, f64::NAN] {
            assert_eq!(curve.rank_for_energy(share).unwrap_err().kind(), ErrorKind::Usage);
        }
    }

    #[test]
    fn all_of_the_energy_needs_every_component_that_is_not_zero() {
        let curve = ErrorCurve::from_components([1.0, 1e-30, 0.0].into_iter());
        assert_eq!(curve.rank_for_energy(1.0).unwrap(), 2);
    }

    #[test]
    fn balance_keeps_the_product_and_equals_the_ranges() {
        let a = array![[100.0, 0.0], [-200.0, 0.0], [50.0, 0.0]];
        let b = array![[0.5, -0.02], [3.0, 4.0]];
        let split = LowRank { a, b, bias_shift: None, error: 0.0 };
        let before = split.product(default_backend());
        let after = split.balanced();
        assert!((after.product(default_backend()) - before).iter().all(|x| x.abs() < 1e-12));
        assert!((after.a[[1, 0]].abs() - 10.0).abs() < 1e-12);
        assert!((after.b[[0, 0]].abs() - 10.0).abs() < 1e-12);
    }

    #[test]
    fn ranks_out_of_range_are_usage_errors() {
        for rank in [0, 6] {
            let error = require_rank(rank, 5, "fc.weight").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains("'fc.weight'; choose one from 1 to 5"), "{error}");
        }
    }
}
