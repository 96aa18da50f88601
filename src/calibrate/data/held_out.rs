//! The samples that a trained model is judged on. Neither training nor the repair before it sees them: weights that were
//! fitted to them would look better than they are.

use std::sync::Arc;

use super::batch::Batch;
use super::rows::Rows;
use crate::error::Result;

/// One in this many samples is held out, or one in this many batches if the model fixes its batch axis.
pub(crate) const HELD_OUT: usize = 10;

/// Whether sample number `sample` of a data set is held out, for a model that takes `batch` samples at once, or any number
/// (1).
pub(crate) fn is_held_out(sample: usize, batch: usize) -> bool {
    sample / batch.max(1) % HELD_OUT == HELD_OUT - 1
}

/// Some samples of a piece of a data set.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) rows: Arc<dyn Rows>,
    /// Their numbers.
    pub(super) kept: Arc<[usize]>,
}

impl Rows for Chosen {
    fn count(&self) -> usize {
        self.kept.len()
    }

    fn are_runs(&self) -> bool {
        self.rows.are_runs()
    }

    fn read(&self, start: usize, end: usize) -> Result<Batch> {
        let kept = &self.kept[start..end];
        let (Some(&first), Some(&last)) = (kept.iter().min(), kept.iter().max()) else { return self.rows.read(0, 0) };
        let span = self.rows.read(first, last + 1)?;
        if kept.iter().copied().eq(first..=last) {
            return Ok(span);
        }
        span.pick(&kept.iter().map(|row| row - first).collect::<Vec<_>>())
    }
}
