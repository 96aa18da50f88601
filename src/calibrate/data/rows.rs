//! What every form of data is read as.

use std::fmt::Debug;

use super::batch::Batch;
use crate::error::Result;

/// An open piece: samples by number.
pub(super) trait Rows: Debug + Send + Sync {
    /// Number of samples.
    fn count(&self) -> usize;
    /// Samples `start..end`.
    fn read(&self, start: usize, end: usize) -> Result<Batch>;
    /// Whether each sample is one run of the graph, so that only one can be read at a time.
    fn are_runs(&self) -> bool {
        false
    }
}
