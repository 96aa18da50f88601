//! Positions that only fill up a batch of samples of different lengths: they are left out of statistics.

use crate::runtime::{NamedTensor, Tensor};

/// Which positions of each sample count, as an input that names a mask says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Padding {
    /// The input that says it.
    mask: String,
    length: usize,
    counts: Vec<bool>,
}

impl Padding {
    /// Of a batch: an input of zeros and ones, `[samples, positions]`, with "mask" in its name (`attention_mask`), that
    /// leaves a position out and never all of a sample.
    pub(crate) fn of(inputs: &[NamedTensor]) -> Option<Self> {
        inputs.iter().find_map(|(name, tensor)| {
            let &[samples, length] = tensor.shape() else { return None };
            let counts = if Self::is_mask(name) { flags(tensor)? } else { return None };
            let is_useful = samples > 0 && counts.chunks(length.max(1)).all(|sample| sample.contains(&true));
            (is_useful && counts.contains(&false)).then(|| Self { mask: name.clone(), length, counts })
        })
    }

    /// Whether an input may say which positions count.
    pub(crate) fn is_mask(input: &str) -> bool {
        input.to_lowercase().contains("mask")
    }

    /// The input that says which positions count, and how many positions it has.
    pub(crate) fn mask(&self) -> (&str, usize) {
        (&self.mask, self.length)
    }

    /// Positions of each sample up to the last one that counts.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = usize> {
        let length = |counts: &[bool]| counts.iter().rposition(|&counts| counts).map_or(0, |last| last + 1);
        self.counts.chunks(self.length.max(1)).map(length)
    }

    /// Whether position `position` of `length` of sample `sample` counts; all do where lengths differ.
    pub(crate) fn counts(&self, sample: usize, position: usize, length: usize) -> bool {
        length != self.length || self.counts.get(sample * length + position).copied().unwrap_or(true)
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

    fn mask(values: &[i64]) -> Vec<NamedTensor> {
        let tensor = Tensor::new(&[2, values.len() / 2], values);
        vec![("attention_mask".to_owned(), tensor.unwrap())]
    }

    #[test]
    fn zeros_of_a_mask_do_not_count() {
        let padding = Padding::of(&mask(&[1, 1, 0, 1, 1, 1])).unwrap();
        assert!(padding.counts(0, 1, 3) && !padding.counts(0, 2, 3) && padding.counts(1, 2, 3));
        assert!(padding.counts(0, 2, 4), "another length is another axis");
    }

    #[test]
    fn a_mask_that_leaves_nothing_out_or_all_of_a_sample_is_none() {
        assert_eq!(Padding::of(&mask(&[1, 1, 1, 1])), None);
        assert_eq!(Padding::of(&mask(&[0, 0, 1, 1])), None);
        assert_eq!(Padding::of(&mask(&[2, 0, 1, 1])), None);
    }
}
