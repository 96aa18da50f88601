//! How samples are cropped to a few lengths, because a model is planned anew for each.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::batch::Batch;
use crate::error::Result;

/// Consecutive samples that are cropped to one length, and run together: it does not depend on the size of a batch.
pub(super) const TOGETHER: usize = 8;

/// Lengths that samples are cropped to.
const LENGTHS: usize = 3;

/// Positions that are left must be at most this share of all.
const WORTH: f64 = 0.9;

/// How samples are cropped.
#[derive(Debug, Clone)]
pub(super) struct Crop {
    /// Inputs and their axes that count positions.
    axes: Arc<[(usize, usize)]>,
    /// Positions of each sample that are left.
    lengths: Arc<[usize]>,
}

impl Crop {
    /// For samples of these lengths, filled up to `whole` positions; `None` if little would be cropped.
    pub(super) fn new(axes: Vec<(usize, usize)>, lengths: &[usize], whole: usize) -> Option<Self> {
        let windows: Vec<usize> =
            lengths.chunks(TOGETHER).map(|window| window.iter().copied().max().unwrap_or(whole)).collect();
        let few = fewest(&windows);
        let rounded = |&length: &usize| few.range(length..).next().copied().unwrap_or(whole);
        let crop = Self { axes: axes.into(), lengths: lengths.iter().map(rounded).collect() };
        (crop.mean() <= WORTH * whole as f64).then_some(crop)
    }

    /// The first sample of each length that samples are cropped to.
    pub(super) fn examples(&self) -> impl Iterator<Item = usize> {
        let mut first = BTreeMap::new();
        for (sample, &length) in self.lengths.iter().enumerate() {
            first.entry(length).or_insert(sample);
        }
        first.into_values()
    }

    /// Of these samples, the one that keeps the most positions.
    pub(super) fn longest(&self, samples: Range<usize>) -> Option<usize> {
        samples.max_by_key(|&sample| self.lengths.get(sample))
    }

    /// For some of the samples, by their numbers.
    pub(super) fn only(&self, samples: &[usize]) -> Self {
        let lengths = samples.iter().filter_map(|&sample| self.lengths.get(sample).copied()).collect();
        Self { axes: self.axes.clone(), lengths }
    }

    /// Positions that are left of a sample, on average.
    pub(super) fn mean(&self) -> f64 {
        let windows = self.lengths.chunks(TOGETHER);
        let sum: usize = windows.map(|window| window.len() * window.iter().max().copied().unwrap_or(0)).sum();
        sum as f64 / self.lengths.len().max(1) as f64
    }

    /// A batch that lies in one window of samples, cropped to the longest sample of the window.
    ///
    /// # Errors
    /// If an input has no such axis.
    pub(super) fn cropped(&self, mut batch: Batch, window: Range<usize>) -> Result<Batch> {
        let lengths = self.lengths.get(window).unwrap_or_default();
        let Some(&length) = lengths.iter().max() else { return Ok(batch) };
        for &(input, axis) in &*self.axes {
            let Some((_, tensor)) = batch.inputs.get_mut(input) else { continue };
            if tensor.shape().get(axis).is_some_and(|&size| size > length) {
                *tensor = tensor.narrow(axis, 0, length)?;
            }
        }
        Ok(batch)
    }
}

/// The [`LENGTHS`] lengths that leave the fewest positions if each of `all` is rounded up to one of them.
fn fewest(all: &[usize]) -> BTreeSet<usize> {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    all.iter().for_each(|&length| *counts.entry(length).or_default() += 1);
    let distinct: Vec<usize> = counts.keys().copied().collect();
    let mut before = vec![0];
    before.extend(counts.values().scan(0, |sum, count| {
        *sum += count;
        Some(*sum)
    }));
    // For the first lengths: the positions that are left of them, and the lengths that they are rounded up to.
    let mut best: Vec<(usize, BTreeSet<usize>)> = vec![(usize::MAX, BTreeSet::new()); distinct.len() + 1];
    best[0].0 = 0;
    for _ in 0..LENGTHS {
        let longer = |end: usize| {
            let length = distinct[end - 1];
            let with_last = |start: usize| best[start].0.saturating_add((before[end] - before[start]) * length);
            let start = (0..end).min_by_key(|&start| with_last(start)).unwrap_or(0);
            let mut lengths = best[start].1.clone();
            lengths.insert(length);
            (with_last(start), lengths)
        };
        let next = (1..=distinct.len()).map(longer).collect::<Vec<_>>();
        best.truncate(1);
        best.extend(next);
    }
    best.pop().map(|(_, lengths)| lengths).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Tensor;

    #[test]
    fn lengths_are_those_that_leave_the_fewest_positions() {
        assert_eq!(fewest(&[5, 5, 6, 6, 9, 70]), BTreeSet::from([6, 9, 70]));
        assert_eq!(fewest(&[5, 5, 5, 5, 5, 6, 69, 70]), BTreeSet::from([5, 6, 70]));
        assert_eq!(fewest(&[7, 7]), BTreeSet::from([7]));
        assert_eq!(fewest(&[]), BTreeSet::new());
    }

    #[test]
    fn a_window_is_as_long_as_its_longest_sample() {
        let lengths = [[3, 3, 4, 4, 4, 5, 6, 8].as_slice(), &[5; 8], &[2]].concat();
        let crop = Crop::new(vec![(0, 1)], &lengths, 20).unwrap();
        assert_eq!(crop.mean(), f64::from(8 * 8 + 8 * 5 + 2) / 17.0);
        let tensor = Tensor::new(&[1, 20], &[0_f32; 20]).unwrap();
        let batch = Batch::of_rows(vec![("x".to_owned(), tensor)], None);
        let length = |window| crop.cropped(batch.clone(), window).unwrap().inputs[0].1.shape()[1];
        assert_eq!((length(0..8), length(8..16), length(16..17)), (8, 5, 2));
        assert!(Crop::new(vec![(0, 1)], &[19, 3, 3, 3], 20).is_none(), "little would be cropped");
    }
}
