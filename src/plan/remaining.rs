//! Budgets: a share of the original or a number.

use std::time::Duration;

/// A budget: the parameters, multiply–accumulates, bytes or nanoseconds to keep. A float converts to a share of the original, an
/// integer to a number, and a [`Duration`] to its nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Remaining {
    /// A share of the original.
    Share(f64),
    /// An absolute number.
    Absolute(u64),
}

impl Remaining {
    /// The budget as a number, for an original of `whole`.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(crate) fn of(self, whole: u64) -> u64 {
        match self {
            Remaining::Share(share) => (whole as f64 * share) as u64,
            Remaining::Absolute(figure) => figure,
        }
    }
}

impl From<f64> for Remaining {
    fn from(share: f64) -> Self {
        Self::Share(share)
    }
}

impl From<u64> for Remaining {
    fn from(figure: u64) -> Self {
        Self::Absolute(figure)
    }
}

impl From<Duration> for Remaining {
    fn from(time: Duration) -> Self {
        Self::Absolute(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }
}
