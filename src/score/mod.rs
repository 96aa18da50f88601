//! Importance of units. [`CRITERIA`] is the table of criteria; related ones share a file.
//!
//! A consumer of a group is a layer that contracts one of its units: input x (K), weight W (K×N), unit u owns the rows
//! `W_u`. Scores are summed over the consumers of a group. A group without one (query–key width) is scored by `l2`.

mod ablation;
mod consumers;
mod context;
mod diagonal;
mod fisher;
mod gates;
mod magnitude;
mod obd_loss;
mod obs;
mod random;
pub mod surgeon;
#[cfg(test)]
mod surgeon_tests;
mod taps;
mod taylor;

use crate::error::{Error, Result};
use crate::plan::Scored;

pub(crate) use consumers::Consumers;
pub use context::Context;
pub use surgeon::{Block, Surgeon};

/// Scores every unit of a group; higher is more important.
type Score = fn(&Context<'_, '_>) -> Result<Vec<Vec<f64>>>;

/// A line of the table of criteria.
#[derive(Clone, Copy)]
pub struct Criterion {
    /// Name on the command line.
    pub name: &'static str,
    /// One line of help.
    pub about: &'static str,
    /// Whether it cannot do without samples.
    pub needs_data: bool,
    /// Whether scores of different groups have one unit (a share of a layer's output error), so that they compare.
    pub is_error: bool,
    score: Score,
}

/// All criteria, sorted by name.
pub const CRITERIA: &[Criterion] = &[
    row("ablation", "actual change of the output when the unit is masked", true, true, ablation::ablation),
    row("activation", "mean square of the unit's activation", true, false, diagonal::activation),
    row("apoz", "share of the unit's activations that are nonzero", true, false, diagonal::apoz),
    row("fisher", "mean squared gradient of the loss with respect to a gate on the unit", true, true, fisher::fisher),
    row("fluctuation", "variance of the unit's activation times its weights", true, false, diagonal::fluctuation),
    row("l1", "sum of the absolute weights in the unit's slices", false, false, magnitude::l1),
    row("l2", "Euclidean norm of the unit's slices", false, false, magnitude::l2),
    row("obd", "second-order loss without compensation (optimal brain damage)", true, true, diagonal::obd),
    row(
        "obd-loss",
        "second-order change of the loss itself, from its diagonal Fisher matrix",
        true,
        true,
        obd_loss::obd_loss,
    ),
    row("obs", "second-order loss after compensation by the other units (optimal brain surgeon)", true, true, obs::obs),
    row("random", "seeded random numbers, as a baseline", false, false, random::random),
    row("taylor", "mean absolute gradient of the loss with respect to a gate on the unit", true, true, taylor::taylor),
    row("wanda", "mean square of the unit's activation times its weights", true, false, diagonal::wanda),
];

const fn row(name: &'static str, about: &'static str, needs_data: bool, is_error: bool, score: Score) -> Criterion {
    Criterion { name, about, needs_data, is_error, score }
}

/// Gathers the sums that the scores of `obs` need, and keeps them in the statistics of the samples.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) without data; if the model cannot be run or the sums cannot be written.
pub(crate) fn gather(context: &Context<'_, '_>) -> Result<()> {
    obs::gather(context)
}

impl Criterion {
    /// The criterion called `name`.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) with the names that exist.
    pub fn by_name(name: &str) -> Result<&'static Self> {
        CRITERIA.iter().find(|c| c.name == name).ok_or_else(|| {
            let names: Vec<&str> = CRITERIA.iter().map(|c| c.name).collect();
            Error::usage(format!("criterion '{name}' is unknown; choose one of {}", names.join(", ")))
        })
    }

    /// Scores of all units of the groups.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) if it needs data and there is none; if a weight cannot be read or the model cannot be run.
    pub fn score<'g>(&self, context: &Context<'_, 'g>) -> Result<Vec<Scored<'g>>> {
        let scores = (self.score)(context)?;
        Ok(context
            .groups
            .iter()
            .zip(scores)
            .map(|(&group, scores)| Scored { group, scores, comparable: self.is_error })
            .collect())
    }
}
