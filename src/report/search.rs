//! What was tried on the way to a target: results under a latency budget, candidates of a search.

use serde::{Deserialize, Serialize};

use super::figures::percent;
use crate::latency::Timing;
use crate::verify::Pairs;

/// A latency budget: what was asked for, and what was predicted and measured on the way to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LatencyReport {
    /// Runtime, version, processor and threads.
    pub runtime: String,
    /// Median time of one run of the original, in milliseconds.
    pub before_ms: f64,
    /// The time that was asked for.
    pub wanted_ms: f64,
    /// The results that were tried; the last one was carried out.
    pub rounds: Vec<LatencyRound>,
    /// Number of operators, as the runtime groups nodes.
    pub operators: usize,
    /// Number of operators whose time is an estimate.
    pub estimated: usize,
    /// Number of operator sizes that were timed by this job; the others were in the table.
    pub timed: usize,
    /// The times of the operators by which sizes were chosen, from input to output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<OperatorTime>,
}

impl LatencyReport {
    /// Largest distance of a measured time from what was asked for, as a share of it.
    pub(crate) const CLOSE: f64 = 0.03;

    /// Whether the result that was carried out meets the budget; `None` if it was not measured.
    pub(crate) fn verdict(&self) -> Option<String> {
        let last = self.rounds.last()?;
        let took = last.after?.median_ms / last.before?.median_ms.max(1e-9);
        let wanted = self.wanted_ms / self.before_ms.max(1e-9);
        let (number, found) = (self.rounds.len(), percent(took));
        Some(if took > wanted * (1.0 + Self::CLOSE) {
            format!("result {number} was carried out: the budget is missed, with {found} of {}", percent(wanted))
        } else if took < wanted * (1.0 - Self::CLOSE) {
            format!("result {number} was carried out: it is faster than asked for, with {found} of {}", percent(wanted))
        } else {
            format!("result {number} was carried out: the budget is met within {:.0} %", 100.0 * Self::CLOSE)
        })
    }
}

/// What an operator of a model takes, as fitted to the sizes at which it was timed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OperatorTime {
    /// Name of its main node.
    pub node: String,
    /// Operator of that node.
    pub op: String,
    /// Time in the original, in milliseconds.
    pub before_ms: f64,
    /// Time in the result, in milliseconds.
    pub after_ms: f64,
}

/// One result on the way to a latency budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LatencyRound {
    /// Predicted time, as a share of the original's.
    pub predicted: f64,
    /// Measured time of the original; `null` if the operators were timed on another machine.
    pub before: Option<Timing>,
    /// Measured time of the result, in alternation with the original.
    pub after: Option<Timing>,
}

impl std::fmt::Display for LatencyRound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} predicted, ", percent(self.predicted))?;
        let (Some(before), Some(after)) = (&self.before, &self.after) else { return f.write_str("not measured") };
        write!(
            f,
            "{} measured ({:.3} ± {:.3} ms, {:.3} ms before)",
            percent(after.median_ms / before.median_ms.max(1e-9)),
            after.median_ms,
            (after.high_ms - after.low_ms) / 2.0,
            before.median_ms
        )
    }
}

/// A search for the largest reduction within the allowed loss.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SearchReport {
    /// Share of the metric that may be lost.
    pub allowed: f64,
    /// The metric: `accuracy`, `R²`, `top-1 agreement`, `cosine similarity` or the name of the user's own.
    pub figure: String,
    /// Share of the metric that the result loses.
    pub lost: f64,
    /// What the result loses at most, if a confidence was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<BoundReport>,
    /// Number of held-out samples that the metric is measured on; `None` if it is the user's own.
    pub samples: Option<usize>,
    /// The reductions that were tried, in order.
    pub trials: Vec<TrialReport>,
}

/// What a result loses at most, with a given confidence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BoundReport {
    /// Probability that the bound holds, for all candidates of the search together.
    pub confidence: f64,
    /// Share of the metric that is lost at most, on all samples like those that it was measured on.
    pub at_most: f64,
    /// Answers sample by sample.
    pub pairs: Pairs,
    /// Number of candidates that share the probability of an error.
    pub candidates: usize,
    /// How many samples with the same shares would give how low a bound: one with half of the distance to the measured
    /// loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<(usize, f64)>,
}

impl BoundReport {
    /// The bound for one of `candidates` whose answers are `pairs`.
    pub(crate) fn new(confidence: f64, pairs: Pairs, candidates: usize) -> Self {
        let error = Self::error(confidence, candidates);
        let at_most = pairs.at_most(error);
        let half = f64::midpoint(pairs.share(), at_most);
        let more = pairs.needed(half, error).map(|samples| (samples, half));
        Self { confidence, at_most, pairs, candidates, more }
    }

    /// The probability of an error for each of `candidates`, so that all bounds hold together (Bonferroni).
    pub(crate) fn error(confidence: f64, candidates: usize) -> f64 {
        (1.0 - confidence) / candidates.max(1) as f64
    }
}

impl std::fmt::Display for BoundReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let points = |share: f64| format!("{:.2}", 100.0 * share);
        let (confidence, samples) = (100.0 * self.confidence, self.pairs.samples);
        write!(f, "at most {} points at {confidence} %, {samples} samples", points(self.at_most))?;
        match self.more {
            Some((samples, bound)) => write!(f, "; {samples} would allow {}", points(bound)),
            None => Ok(()),
        }
    }
}

/// One reduction that a search tried.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TrialReport {
    /// Share of the multiply–accumulates that is kept.
    pub macs: f64,
    /// Share of the metric that is lost; `null` if the reduction is out of reach.
    pub lost: Option<f64>,
    /// What is lost at most, if a confidence was asked for; this is what has to be within the allowed loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// Whether that loss is within the allowed one.
    pub fits: bool,
}

impl std::fmt::Display for TrialReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let macs = percent(self.macs);
        match self.lost {
            None => write!(f, "{macs} out of reach"),
            Some(lost) => {
                write!(f, "{macs} loses {}", percent(lost))?;
                self.at_most.iter().try_for_each(|most| write!(f, ", at most {}", percent(*most)))?;
                f.write_str(if self.fits { "" } else { " (too much)" })
            }
        }
    }
}
