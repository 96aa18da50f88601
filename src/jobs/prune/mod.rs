//! Structured pruning, from an analysed model to a proved one.

mod checkpoint;
mod prove;
mod quantized;
mod search;
mod steps;
mod survey;
mod trial;

use std::path::PathBuf;

use crate::analysis::Analysis;
use crate::axes::Selection;
use crate::error::Result;
use crate::onnx::Model;
use crate::plan::{Budget, CostModel, Filter, Group, Plan, Quota, Request, Scope, Units, groups};
use crate::repair::Method;
use crate::report::{Progress, Report};
use crate::runtime::inputs::DimSizes;

pub use prove::{Comparison, Proof, prove, verify};
pub use search::prune;

/// How much is to go, as the user says it.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// This share of every group's units.
    Ratio(f64),
    /// What remains of the whole model: parameters.
    Params(Remaining),
    /// What remains: multiply–accumulates.
    Macs(Remaining),
    /// What remains: bytes of the file, external data included.
    Size(Remaining),
    /// As little as possible remains, as long as no more than this share of accuracy or agreement is lost.
    MaxDrop(f64),
    /// What a plan file says.
    Plan(Plan),
}

/// What remains of a figure.
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

/// Options of [`prune`].
#[derive(Debug, Clone)]
pub struct Options {
    /// How much is to go.
    pub target: Target,
    /// Name of the importance criterion; by default `obs` with data, `l2` without.
    pub criterion: Option<String>,
    /// How the rest is repaired; by default `lstsq` with data, not at all without.
    pub repair: Option<Method>,
    /// In how many equal steps the units go; each step is scored on the repaired result of the one before.
    pub steps: usize,
    /// Whether groups are compared; the default depends on the target.
    pub scope: Option<Scope>,
    /// Which factor of merged axes goes.
    pub units: Units,
    /// Fewest units that stay in a group.
    pub min_keep: usize,
    /// Kept units are a multiple of this.
    pub align: usize,
    /// Whether removals that shift a statistic are allowed.
    pub allow_shifts: bool,
    /// Patterns of groups or tensors to prune; all if empty.
    pub include: Vec<String>,
    /// Patterns of groups or tensors to leave alone.
    pub exclude: Vec<String>,
    /// Graph inputs and outputs that may be pruned.
    pub thaw: Vec<String>,
    /// Sizes of dynamic dimensions.
    pub dims: DimSizes,
    /// Whether and how the weights are trained after each step.
    pub retrain: Option<Retrain>,
    /// Whether the result is to be proved, so that a model that does not run in tract by itself is bad input.
    pub verify: bool,
    /// Seed of every random choice.
    pub seed: u64,
    /// Who is told what goes on.
    pub progress: Progress,
}

/// Training after each step, towards the original's outputs and the data's labels, if there are any.
#[derive(Debug, Clone)]
pub struct Retrain {
    /// How.
    pub training: crate::train::Options,
    /// Where finished steps are kept, so that an interrupted job can go on.
    pub checkpoints: Option<PathBuf>,
}

impl Options {
    /// The defaults, for this target.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            criterion: None,
            repair: None,
            steps: 1,
            scope: None,
            units: Units::default(),
            min_keep: 1,
            align: 1,
            allow_shifts: false,
            include: Vec::new(),
            exclude: Vec::new(),
            thaw: Vec::new(),
            dims: DimSizes::default(),
            retrain: None,
            verify: true,
            seed: 0,
            progress: Progress::default(),
        }
    }

    /// What is asked of the original once `done` of all steps are done.
    fn request(&self, model: &Model, cost: &CostModel<'_>, done: f64) -> Request {
        let whole = cost.cost(&Selection::all());
        let part = |whole: u64, remaining: Remaining| {
            let limit = remaining.of(whole);
            whole - Remaining::Share(done).of(whole.saturating_sub(limit)).min(whole)
        };
        let quota = match self.target {
            Target::Ratio(ratio) => Quota::Ratio(ratio * done),
            Target::Params(remaining) => Quota::Budget(Budget::Params(part(whole.params, remaining))),
            Target::Macs(remaining) => Quota::Budget(Budget::Macs(part(whole.macs, remaining))),
            Target::Size(remaining) => {
                let rest = model.file_bytes().saturating_sub(whole.bytes);
                Quota::Budget(Budget::Bytes { limit: part(model.file_bytes(), remaining), rest })
            }
            // A search tries budgets.
            Target::Plan(_) | Target::MaxDrop(_) => Quota::Ratio(0.0),
        };
        let default = if matches!(quota, Quota::Ratio(_)) { Scope::Layer } else { Scope::Global };
        Request { quota, scope: self.scope.unwrap_or(default), min_keep: self.min_keep.max(1) }
    }
}

/// A pruned model that has not been proved or written yet.
#[derive(Debug)]
pub struct Pruned<'m> {
    /// What is known about the original.
    pub analysis: Analysis<'m>,
    /// The groups of the original.
    pub groups: Vec<Group>,
    /// What stays.
    pub selection: Selection,
    /// The same as a plan.
    pub plan: Plan,
    /// The rewritten model.
    pub model: Model,
    /// What was done; proofs are added by [`prove`].
    pub report: Report,
}

/// Analyses a model: all its groups, nothing removed.
///
/// # Errors
/// [`Input`](crate::ErrorKind::Input) if the model is malformed; [`Usage`](crate::ErrorKind::Usage) if a pattern or dimension name is.
pub fn inspect(model: &Model, dims: &DimSizes, allow_shifts: bool, thaw: &[String]) -> Result<Report> {
    let analysis = Analysis::new(model, dims, &thaw.iter().cloned().collect())?;
    let cost = CostModel::new(analysis.subject());
    let filter = Filter::new(&[], &[], Units::default(), allow_shifts)?;
    let groups = groups(analysis.subject(), &cost, &filter);
    let whole = cost.cost(&Selection::all());
    Ok(Report::new(&analysis, &groups, &Selection::all(), whole, whole))
}
