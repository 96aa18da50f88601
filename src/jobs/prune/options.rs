//! Options of pruning, and what they ask of a model.

use std::path::PathBuf;

use crate::axes::Selection;
use crate::error::{Error, Result};
use crate::jobs::latency::check as check_latency;
use crate::jobs::setting::{Setting, configured, recalling, selecting, timing};
use crate::latency::RuntimeOptions;
use crate::onnx::Model;
use crate::plan::{Align, Budget, CostModel, Plan, Quota, Remaining, Request, Scope, Units};
use crate::price::Effort;
use crate::repair::Method;
use crate::train;

/// Candidates that a search tries, halving what remains: the result is within 1/128 of the multiplications.
pub(in crate::jobs) const HALVINGS: usize = 7;

/// How much is to be removed, as the user says it.
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
    /// What remains: the time of one run, a share of the original's or nanoseconds.
    Latency(Remaining),
    /// As little as possible remains, as long as no more than this share of accuracy or agreement is lost.
    MaxDrop(f64),
    /// What a plan file says.
    Plan(Plan),
}

/// Options of [`prune`](crate::prune).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PruneOptions {
    /// How much is to be removed.
    pub(crate) target: Target,
    /// Name of the importance criterion; by default `obs` with data, `l2` without.
    pub(crate) criterion: Option<String>,
    /// How the rest is repaired; by default `lstsq` with data, not at all without.
    pub(crate) repair: Option<Method>,
    /// In how many equal steps the units are removed; each step is scored on the repaired result of the one before.
    pub(crate) steps: usize,
    /// Whether groups are compared; the default depends on the target.
    pub(crate) scope: Option<Scope>,
    /// At how many widths each group's effect on the output is measured, where groups share a budget.
    pub(crate) effort: Effort,
    /// Which factor of merged axes is removed.
    pub(crate) units: Units,
    /// Whether only dimensions of heads in a new basis may go.
    pub(crate) only_dims: bool,
    /// Fewest units that stay in a group.
    pub(crate) min_keep: usize,
    /// What kept units are multiples of.
    pub(crate) align: Align,
    /// Whether removals that shift a statistic are allowed.
    pub(crate) allow_shifts: bool,
    /// Patterns of groups or tensors to prune; all if empty.
    pub(crate) include: Vec<String>,
    /// Patterns of groups or tensors to leave alone.
    pub(crate) exclude: Vec<String>,
    /// Graph inputs and outputs that may be pruned.
    pub(crate) thaw: Vec<String>,
    /// Whether and how the weights are trained after each step.
    pub(crate) retrain: Option<train::Options>,
    /// Where finished steps are kept, so that an interrupted job can go on.
    pub(crate) checkpoints: Option<PathBuf>,
    /// With which probability a search loses no more than it may.
    pub(crate) confidence: Option<f64>,
    /// Where operators are timed for a latency budget.
    pub(crate) runtimes: RuntimeOptions,
    /// Whether the result is to be proved, so that an original that does not run in tract is bad input.
    pub(crate) verify: bool,
    /// Samples, sizes, seed, and the progress listener.
    pub(crate) setting: Setting,
}

configured!(PruneOptions, |options| match options.target {
    // The original, and each candidate; the result is one of them.
    Target::MaxDrop(_) => 1 + HALVINGS,
    _ => 2,
});
recalling!(PruneOptions);
selecting!(PruneOptions, "groups", "kept units");
timing!(PruneOptions);

impl PruneOptions {
    /// Removes this share of every group's units: 0.5 removes half.
    pub fn ratio(share: f64) -> Self {
        Self::new(Target::Ratio(share))
    }

    /// Prunes to this budget of parameters: a share of the original's (`0.5`) or a number.
    pub fn params(remaining: impl Into<Remaining>) -> Self {
        Self::new(Target::Params(remaining.into()))
    }

    /// Prunes to this budget of multiply–accumulates: a share of the original's (`0.5`) or a number.
    pub fn macs(remaining: impl Into<Remaining>) -> Self {
        Self::new(Target::Macs(remaining.into()))
    }

    /// Prunes to this file size, including external data: a share of the original's (`0.5`) or a number of bytes.
    pub fn size(remaining: impl Into<Remaining>) -> Self {
        Self::new(Target::Size(remaining.into()))
    }

    /// Prunes to this latency: a share of the original's (`0.5`) or a [`Duration`](std::time::Duration). Operators are timed at
    /// several sizes in the runtime that [`runtimes`](Self::runtimes) names; the result is measured and the sizes corrected.
    pub fn latency(remaining: impl Into<Remaining>) -> Self {
        Self::new(Target::Latency(remaining.into()))
    }

    /// Removes as much as possible while losing at most this share of accuracy; 0.01 is one point. Without labels, the
    /// share is of the agreement with the original.
    pub fn max_drop(share: f64) -> Self {
        Self::new(Target::MaxDrop(share))
    }

    /// Carries out a plan instead of choosing what to remove.
    pub fn plan(plan: Plan) -> Self {
        Self::new(Target::Plan(plan))
    }

    /// The defaults, for this target.
    #[doc(hidden)]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            criterion: None,
            repair: None,
            steps: 1,
            scope: None,
            effort: Effort::default(),
            units: Units::default(),
            only_dims: false,
            min_keep: 1,
            align: Align::default(),
            allow_shifts: false,
            include: Vec::new(),
            exclude: Vec::new(),
            thaw: Vec::new(),
            retrain: None,
            checkpoints: None,
            confidence: None,
            runtimes: RuntimeOptions::default(),
            verify: true,
            setting: Setting::default(),
        }
    }

    /// Sets the criterion that ranks units, by one of the names that `paredown prune --help` lists. The default is
    /// `obs` with data and `l2` without.
    pub fn criterion(mut self, name: impl Into<String>) -> Self {
        self.criterion = Some(name.into());
        self
    }

    /// Sets how the kept weights are repaired. The default is least squares with data, and no repair without.
    pub fn repair(mut self, method: Method) -> Self {
        self.repair = Some(method);
        self
    }

    /// Removes in this many equal steps; 1 by default. Each step scores the repaired result of the previous one.
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// Sets whether units are ranked within each layer or across the whole network. The default is `Layer` for a ratio
    /// and `Global` for budgets.
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Sets how many widths are tried when each group's effect on the output is measured: one, three (the default) or
    /// seven. It applies when groups share a budget and there is data.
    pub fn effort(mut self, effort: Effort) -> Self {
        self.effort = effort;
        self
    }

    /// Sets which factor of a merged axis is pruned: whole heads, dimensions of every head, or both. The default is dimensions where
    /// a change of basis orders them, which takes data, and whole heads elsewhere.
    pub fn units(mut self, units: Units) -> Self {
        self.units = units;
        self
    }

    /// Keeps at least this many units in each group; 1 by default.
    pub fn min_keep(mut self, units: usize) -> Self {
        self.min_keep = units;
        self
    }

    /// Also prunes groups whose removal shifts a statistic (LayerNormalization, Softmax, …); off by default. The result
    /// is valid but not exact.
    pub fn allow_shifts(mut self, allow: bool) -> Self {
        self.allow_shifts = allow;
        self
    }

    /// Allows pruning the axes of this graph output or input.
    pub fn thaw(mut self, value: impl Into<String>) -> Self {
        self.thaw.push(value.into());
        self
    }

    /// Trains the kept weights after each step, on the original's outputs and on the data's labels if there are any.
    pub fn retrain(mut self, training: train::Options) -> Self {
        self.retrain = Some(training);
        self
    }

    /// Saves finished steps in this directory, so that an interrupted job with training can resume.
    pub fn checkpoints(mut self, folder: impl Into<PathBuf>) -> Self {
        self.checkpoints = Some(folder.into());
        self
    }

    /// Makes [`max_drop`](Self::max_drop) hold with this probability, such as 0.95, on all samples like those that were
    /// given: an exact bound on the loss is what has to be small enough. It needs labels that are classes, or class
    /// scores to compare with the original's. The result carries a certificate, which [`verify`](crate::verify) checks.
    pub fn confidence(mut self, probability: f64) -> Self {
        self.confidence = Some(probability);
        self
    }

    /// Skips the check that the original runs in tract, for results that will not be proved. Otherwise a model that
    /// does not run is refused as bad input.
    pub fn no_verify(mut self) -> Self {
        self.verify = false;
        self
    }

    /// What the plan to be carried out was allowed to do is allowed again.
    pub(in crate::jobs) fn with_those_of_plan(&self) -> Self {
        let mut options = self.clone();
        if let Target::Plan(plan) = &self.target {
            options.thaw.extend(plan.thaw.iter().filter(|value| !self.thaw.contains(value)).cloned());
            options.allow_shifts |= plan.allow_shifts;
        }
        options
    }

    /// Refuses numbers out of range.
    pub(in crate::jobs) fn check(&self) -> Result<()> {
        if self.min_keep == 0 || self.align == Align::Multiple(0) || self.steps == 0 {
            return Err(Error::usage("`min_keep`, `align` and `steps` are at least one"));
        }
        if let Some(confidence) = self.confidence {
            if !matches!(self.target, Target::MaxDrop(_)) {
                return Err(Error::usage("`confidence` is for `max_drop`"));
            }
            if !(confidence > 0.0 && confidence < 1.0) {
                return Err(Error::usage(format!("`confidence` {confidence} is not between 0 and 1")));
            }
        }
        match self.target {
            Target::Ratio(share) | Target::MaxDrop(share) if !(0.0..1.0).contains(&share) => {
                Err(Error::usage(format!("{share} is not a share from 0 to less than 1")))
            }
            Target::Latency(_) if !self.thaw.is_empty() => Err(Error::usage(
                "`latency` cannot be combined with `thaw`: the two models would take different inputs",
            )),
            Target::Latency(_) if self.checkpoints.is_some() => {
                Err(Error::usage("`latency` measures several results and saves no checkpoints"))
            }
            Target::Latency(remaining) => check_latency(remaining),
            _ => Ok(()),
        }
    }

    /// What is asked of the original once `done` of all steps are done.
    pub(in crate::jobs) fn request(&self, model: &Model, cost: &CostModel<'_>, done: f64) -> Request {
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
            Target::Latency(remaining) => Quota::Budget(Budget::Latency(part(whole.nanos, remaining))),
            // A search tries budgets.
            Target::Plan(_) | Target::MaxDrop(_) => Quota::Ratio(0.0),
        };
        let default = if matches!(quota, Quota::Ratio(_)) { Scope::Layer } else { Scope::Global };
        let (scope, min_keep) = (self.scope.unwrap_or(default), self.min_keep.max(1));
        Request { quota, scope, min_keep, whole_blocks: false }
    }
}
