//! Positions that only fill up a batch of samples of different lengths: they are left out of statistics.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::data::Batch;
use crate::runtime::Tensor;

/// Words in the names of masks that say something else: which positions are padding, are hidden, or see all others.
const OTHER_MASKS: [&str; 5] = ["pad", "masked", "global", "causal", "prompt"];

/// Which positions of each sample count, as the inputs that name a mask say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Padding {
    /// Whether each position of each sample counts, by the number of positions.
    counts: BTreeMap<usize, Vec<bool>>,
}

impl Padding {
    /// Of a batch: of its inputs of zeros and ones, `[samples, positions]`, whose names say mask (`attention_mask`). If several have
    /// as many positions, one that counts in any of them does. A sample of which none would count counts as a whole.
    pub(crate) fn of(batch: &Batch) -> Option<Self> {
        let mut counts: BTreeMap<usize, Vec<bool>> = BTreeMap::new();
        for ((name, tensor), of_samples) in batch.inputs.iter().zip(&batch.axes) {
            let &[_, length] = tensor.shape() else { continue };
            if length == 0 || !Self::is_mask(name) || *of_samples != Some(0) {
                continue;
            }
            let Some(flags) = flags(tensor) else { continue };
            match counts.entry(length) {
                Entry::Vacant(place) => {
                    place.insert(flags);
                }
                Entry::Occupied(mut known) => known.get_mut().iter_mut().zip(flags).for_each(|(a, b)| *a |= b),
            }
        }
        for (&length, counts) in &mut counts {
            counts.chunks_mut(length).filter(|sample| !sample.contains(&true)).for_each(|sample| sample.fill(true));
        }
        counts.retain(|_, counts| counts.contains(&false));
        (!counts.is_empty()).then_some(Self { counts })
    }

    /// Whether an input may say which positions count.
    pub(crate) fn is_mask(input: &str) -> bool {
        let name = input.to_lowercase();
        name.contains("mask") && !OTHER_MASKS.iter().any(|other| name.contains(other))
    }

    /// Whether an input marks padding, but may mark it with ones or with zeros.
    pub(crate) fn is_unclear(input: &str) -> bool {
        let name = input.to_lowercase();
        name.contains("mask") && name.contains("pad")
    }

    /// Positions of each sample up to the last one that counts, of `length`; `None` if all of them count.
    pub(crate) fn lengths(&self, length: usize) -> Option<impl Iterator<Item = usize>> {
        let of_sample = |counts: &[bool]| counts.iter().rposition(|&counts| counts).map_or(0, |last| last + 1);
        self.counts.get(&length).map(|counts| counts.chunks(length).map(of_sample))
    }

    /// Whether position `position` of `length` of sample `sample` counts; all do where no mask has this length.
    pub(crate) fn counts(&self, sample: usize, position: usize, length: usize) -> bool {
        let counts = self.counts.get(&length).and_then(|counts| counts.get(sample * length + position));
        counts.copied().unwrap_or(true)
    }
}

/// Zeros and ones as flags; `None` if there is anything else.
fn flags(tensor: &Tensor) -> Option<Vec<bool>> {
    let flag = |value: f64| match value {
        0.0 => Some(false),
        1.0 => Some(true),
        _ => None,
    };
    if let Some(values) = tensor.as_slice::<bool>() {
        return Some(values.to_vec());
    }
    if let Some(values) = tensor.as_slice::<i64>() {
        return values.iter().map(|&v| if v == 0 || v == 1 { Some(v == 1) } else { None }).collect();
    }
    tensor.to_vec::<f32>().ok()?.into_iter().map(|v| flag(f64::from(v))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(values: &[i64]) -> Batch {
        masks(&[("attention_mask", values)])
    }

    /// Two samples with these masks.
    fn masks(masks: &[(&str, &[i64])]) -> Batch {
        let input = |(name, values): &(&str, &[i64])| {
            let tensor = Tensor::new(&[2, values.len() / 2], values);
            ((*name).to_owned(), tensor.unwrap())
        };
        Batch::of_rows(masks.iter().map(input).collect(), None)
    }

    #[test]
    fn zeros_of_a_mask_do_not_count() {
        let padding = Padding::of(&mask(&[1, 1, 0, 1, 1, 1])).unwrap();
        assert!(padding.counts(0, 1, 3) && !padding.counts(0, 2, 3) && padding.counts(1, 2, 3));
        assert!(padding.counts(0, 2, 4), "another length is another axis");
        assert_eq!(padding.lengths(3).unwrap().collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_mask_that_leaves_nothing_out_is_none() {
        assert_eq!(Padding::of(&mask(&[1, 1, 1, 1])), None);
        assert_eq!(Padding::of(&mask(&[2, 0, 1, 1])), None);
        // What is along axis 0 may not be samples.
        let shared = Batch { axes: vec![None], ..mask(&[1, 0, 1, 1]) };
        assert_eq!(Padding::of(&shared), None);
    }

    /// Whether a sample counts does not depend on the others of its batch.
    #[test]
    fn a_sample_that_is_left_out_as_a_whole_counts() {
        let padding = Padding::of(&mask(&[0, 0, 1, 0])).unwrap();
        assert!(
            padding.counts(0, 0, 2) && padding.counts(0, 1, 2) && padding.counts(1, 0, 2) && !padding.counts(1, 1, 2)
        );
    }

    /// It is not known whose activations are those of which text.
    #[test]
    fn of_two_texts_a_position_counts_that_counts_in_either() {
        let padding = Padding::of(&masks(&[("mask_a", &[1, 0, 0, 1, 1, 0]), ("mask_b", &[1, 1, 0, 1, 0, 0])])).unwrap();
        assert_eq!(padding.lengths(3).unwrap().collect::<Vec<_>>(), [2, 2]);
        let padding = Padding::of(&masks(&[("mask_a", &[1, 0, 1, 1]), ("mask_b", &[1, 1, 0, 1, 1, 1])])).unwrap();
        assert!(!padding.counts(0, 1, 2) && !padding.counts(0, 2, 3));
    }

    /// `src_key_padding_mask` is true at what is padding, and Longformer's global mask at what sees everything.
    #[test]
    fn masks_that_say_something_else_are_none() {
        for name in ["src_key_padding_mask", "global_attention_mask", "bool_masked_pos", "ids"] {
            assert_eq!(Padding::of(&masks(&[(name, &[1, 0, 1, 1])])), None, "{name}");
        }
    }
}
