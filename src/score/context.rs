//! What every criterion is given.

use std::sync::Mutex;

use crate::analysis::Subject;
use crate::calibrate::{Calibration, Recording};
use crate::error::{Error, Result};
use crate::plan::Group;

/// What a criterion is given.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a, 'g> {
    /// The model.
    pub subject: Subject<'a>,
    /// The groups whose units are scored.
    pub groups: &'a [&'g Group],
    /// Seed of every random choice.
    pub seed: u64,
    /// Samples, where there are any.
    pub data: Option<Calibration<'a>>,
    /// What the first pass over all samples also records, for the repair.
    pub(crate) recording: Option<&'a Mutex<Recording>>,
}

impl<'a, 'g> Context<'a, 'g> {
    /// For what needs no samples.
    pub(crate) fn without_data(subject: Subject<'a>, groups: &'a [&'g Group], seed: u64) -> Self {
        Self { subject, groups, seed, data: None, recording: None }
    }

    pub(super) fn calibration(&self) -> Result<Calibration<'a>> {
        self.data.ok_or_else(|| Error::usage("this criterion needs data: give some with `data`, or choose l2"))
    }
}
