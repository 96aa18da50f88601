//! Importance of units. Each criterion is a file; [`CRITERIA`] is their table.

mod magnitude;
mod random;

use crate::error::{Error, Result};
use crate::plan::{Group, Scored};
use crate::rewrite::Subject;

/// Scores every unit of a group; higher is more important.
type Score = fn(Subject<'_>, &[&Group], u64) -> Result<Vec<Vec<f64>>>;

/// A line of the table of criteria.
#[derive(Clone, Copy)]
pub struct Criterion {
    /// Name on the command line.
    pub name: &'static str,
    /// One line of help.
    pub about: &'static str,
    score: Score,
}

/// All criteria, sorted by name.
pub const CRITERIA: &[Criterion] = &[
    Criterion { name: "l1", about: "sum of absolute weights of the unit's slices", score: magnitude::l1 },
    Criterion { name: "l2", about: "Euclidean norm of the unit's slices", score: magnitude::l2 },
    Criterion { name: "random", about: "seeded random numbers, the baseline", score: random::random },
];

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
    /// If a weight cannot be read.
    pub fn score<'g>(&self, subject: Subject<'_>, groups: &[&'g Group], seed: u64) -> Result<Vec<Scored<'g>>> {
        let scores = (self.score)(subject, groups, seed)?;
        Ok(groups.iter().zip(scores).map(|(&group, scores)| Scored { group, scores }).collect())
    }
}
