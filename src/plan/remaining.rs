//! What is to remain of a figure.

/// What is to remain of a figure of the model: a share or a number. A float converts to a share, an integer to a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Remaining {
    /// A share of the original.
    Share(f64),
    /// An absolute figure.
    Absolute(u64),
}

impl Remaining {
    /// What remains of `whole`.
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
