//! Where the time went.

use std::collections::BTreeMap;
use std::time::Instant;

/// Wall-clock time of each phase, in seconds.
pub(crate) struct Clock {
    last: Instant,
    pub(crate) laps: BTreeMap<String, f64>,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { last: Instant::now(), laps: BTreeMap::new() }
    }

    pub(crate) fn lap(&mut self, phase: &str) {
        let now = Instant::now();
        *self.laps.entry(phase.to_owned()).or_default() += (now - self.last).as_secs_f64();
        self.last = now;
    }
}
