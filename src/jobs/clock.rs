//! Where the time of a job goes, and where it checks whether it was cancelled.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::error::Result;
use crate::progress::Progress;

/// Wall-clock time of each phase, in seconds.
pub(super) struct Clock {
    last: Instant,
    progress: Progress,
    pub(super) laps: BTreeMap<String, f64>,
}

impl Clock {
    pub(super) fn start(progress: &Progress) -> Self {
        Self { last: Instant::now(), progress: progress.clone(), laps: BTreeMap::new() }
    }

    /// Ends `phase`, to which the time since the last one belongs.
    ///
    /// # Errors
    /// [`Interrupted`](crate::ErrorKind::Interrupted) if the job was cancelled.
    pub(super) fn lap(&mut self, phase: &str) -> Result<()> {
        let now = Instant::now();
        *self.laps.entry(phase.to_owned()).or_default() += (now - self.last).as_secs_f64();
        self.last = now;
        self.progress.check()
    }
}
