//! Which samples some activations belong to.

use super::Padding;

/// Which samples a visit is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'v> {
    /// Samples of the visit.
    pub(crate) samples: usize,
    /// Number of the first one in the data set.
    pub(crate) first: usize,
    /// Samples of the whole data set.
    pub(crate) total: usize,
    /// Positions that do not count.
    pub(crate) padding: Option<&'v Padding>,
}
