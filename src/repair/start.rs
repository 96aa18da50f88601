//! Where the fit of a layer starts: its remaining weights, compensated for the removed inputs.
//!
//! A ridge pulls the fit towards its start; held-out samples choose how strongly. On few rows the pull is strong, and the start
//! decides. The covariance C of the original's inputs tells how the kept inputs S can replace the removed inputs R. It is known
//! better than the effect of all changes in earlier layers, so the start includes it:
//!
//! ```text
//! W₁ = W_S + (C_SS + λI)⁻¹ C_SR W_R
//! ```
//!
//! This is the update of optimal brain surgery, all units at once (Hassibi & Stork 1993), with the damping that `obs` scores with.

use ndarray::{Array2, Axis};

use super::member::Member;
use crate::analysis::Subject;
use crate::axes::Selection;
use crate::calibrate::{Recorded, Sums};
use crate::error::Result;
use crate::linalg::growing;

/// [`start`] of each member, one after the other to save memory; `None` where its weights are others than the original's.
///
/// # Errors
/// As [`start`].
pub(super) fn starts(
    subject: Subject<'_>,
    selection: &Selection,
    members: &[Member],
    recorded: Option<&Recorded>,
) -> Result<Vec<Option<Array2<f64>>>> {
    let of_member = |member: &Member| match recorded.filter(|_| member.is_plain) {
        Some(recorded) => start(subject, selection, member, recorded),
        None => Ok(None),
    };
    members.iter().map(of_member).collect()
}

/// Compensated weights (K×N) of a layer of one convolution group; `None` if it lost no inputs, or nothing is known of these.
///
/// # Errors
/// If the weight of the original is malformed.
fn start(
    subject: Subject<'_>,
    selection: &Selection,
    member: &Member,
    recorded: &Recorded,
) -> Result<Option<Array2<f64>>> {
    let layer = &member.original;
    let (Some(sums), [weights]) = (recorded.inputs(layer), member.weights.as_slice()) else { return Ok(None) };
    let Some(kept) = member.kept_inputs(subject, selection) else { return Ok(None) };
    if kept.len() == layer.inputs() || kept.len() != weights.nrows() || sums.inputs() != layer.inputs() {
        return Ok(None);
    }
    let original = layer.stored_matrices(|name| subject.constant(subject.graph.value(name)?))?;
    let Some(original) = original.into_iter().next() else { return Ok(None) };
    let original = original.select(Axis(1), &member.kept);
    compensated(weights, &original, &kept, sums, &layer.name).map(Some)
}

/// `weights` (S×N), which are the rows `kept` of `original` (K×N), compensated for the others.
fn compensated(
    weights: &Array2<f64>,
    original: &Array2<f64>,
    kept: &[usize],
    sums: &Sums,
    name: &str,
) -> Result<Array2<f64>> {
    let gone: Vec<usize> = (0..original.nrows()).filter(|input| kept.binary_search(input).is_err()).collect();
    let gain = |lambda| sums.compensation(original, (kept, &gone), lambda, name);
    let (gained, _) = growing(sums.ridge(sums.damping()), gain)?;
    Ok(weights + &gained)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::linalg::default_backend;

    /// Input 2 is the sum of the others, which take over its weight; input 3 is on its own.
    #[test]
    fn inputs_that_stay_take_over_what_they_know() {
        let x = Array2::from_shape_fn((4000, 4), |(row, column)| match (column, row % 8) {
            (0, at) => f64::from(u8::from(at < 4)),
            (1, at) => f64::from(u8::from(at % 4 < 2)),
            (2, at) => f64::from(u8::from(at < 4)) + f64::from(u8::from(at % 4 < 2)),
            (_, at) => f64::from(u8::from(at % 2 == 0)),
        });
        let sums = Sums::of(default_backend(), x.view(), Array2::zeros((4000, 0)).view());
        let original = array![[1.0], [2.0], [10.0], [5.0]];
        let (kept, weights) = ([0, 1], array![[1.0], [2.0]]);
        let found = compensated(&weights, &original, &kept, &sums, "layer").unwrap();
        // The damping is a hundredth of the mean variance, 5/16.
        let gain = 10.0 * 0.25 / (0.25 + 0.003_125);
        for (found, wanted) in found.iter().zip([1.0 + gain, 2.0 + gain]) {
            assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
        }
        let alone = compensated(&array![[5.0]], &original, &[3], &sums, "layer").unwrap();
        assert!((alone[[0, 0]] - 5.0).abs() < 1e-6, "{alone}");
    }
}
