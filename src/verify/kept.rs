//! Which positions of named values a rewrite leaves over.

use std::collections::BTreeMap;

use crate::Result;
use crate::runtime::NamedTensor;

/// For each value that shrinks: its cut axes, and the positions that stay of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept(BTreeMap<String, Vec<(usize, Vec<usize>)>>);

impl From<BTreeMap<String, Vec<(usize, Vec<usize>)>>> for Kept {
    fn from(cuts: BTreeMap<String, Vec<(usize, Vec<usize>)>>) -> Self {
        Self(cuts)
    }
}

impl Kept {
    /// The part of `tensors` that is left over.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) if a tensor is smaller than the value of its name.
    pub fn of(&self, tensors: &[NamedTensor]) -> Result<Vec<NamedTensor>> {
        let cut = |(name, tensor): &NamedTensor| {
            let cuts = self.0.get(name).map_or(&[][..], Vec::as_slice);
            let part = cuts.iter().try_fold(tensor.clone(), |part, (axis, positions)| part.take(*axis, positions))?;
            Ok((name.clone(), part))
        };
        tensors.iter().map(cut).collect()
    }
}
