//! Options of compression.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::factorize::select;
use crate::jobs::factorize::FactorizeOptions;
use crate::jobs::prune::{PruneOptions, Target};
use crate::jobs::setting::{Setting, configured, selecting, timing};
use crate::latency::RuntimeOptions;
use crate::plan::{Align, Plan, Remaining, Units};
use crate::price::Effort;

/// A way to make a model smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Means {
    /// Channels, neurons, hidden units and heads are removed.
    Prune,
    /// Dimensions of every head are removed, in a basis that orders them.
    Dims,
    /// Layers are split into two of low rank.
    Rank,
    /// Tables of embeddings are split into a narrower table and a matrix.
    Tables,
}

impl Means {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Prune, Self::Dims, Self::Rank, Self::Tables];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prune => "prune",
            Self::Dims => "dims",
            Self::Rank => "rank",
            Self::Tables => "tables",
        }
    }
}

/// Options of [`compress`](crate::compress).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CompressOptions {
    /// How small the model is to become.
    pub(crate) target: Target,
    /// What may be done to it.
    pub(crate) means: BTreeSet<Means>,
    /// At how many widths each group's effect on the output is measured.
    pub(crate) effort: Effort,
    /// Fewest units that stay in a group.
    pub(crate) min_keep: usize,
    /// What kept units and ranks are multiples of.
    pub(crate) align: Align,
    /// Patterns of groups, layers or tensors to compress; all if empty.
    pub(crate) include: Vec<String>,
    /// Patterns of groups, layers or tensors to leave alone.
    pub(crate) exclude: Vec<String>,
    /// Where operators are timed for a latency budget.
    pub(crate) runtimes: RuntimeOptions,
    /// Samples, sizes, seed, and the progress listener.
    pub(crate) setting: Setting,
}

configured!(CompressOptions, |options| match options.target {
    // The original, and each candidate; the result is one of them.
    Target::MaxDrop(_) => 1 + crate::jobs::prune::options::HALVINGS,
    _ => 2,
});

selecting!(CompressOptions, "groups and layers", "kept units and ranks");
timing!(CompressOptions);

impl CompressOptions {
    /// Compresses to this budget of parameters: a share of the original's (`0.5`) or a number.
    pub fn params(remaining: impl Into<Remaining>) -> Self {
        Self::new(Target::Params(remaining.into()))
    }

    /// Compresses to this budget of multiply–accumulates: a share of the original's (`0.5`) or a number.
    pub fn macs(remaining: impl Into<Remaining>) -> Self {
        Self::new(Target::Macs(remaining.into()))
    }

    /// Compresses to this file size, including external data: a share of the original's (`0.5`) or a number of bytes.
    pub fn size(remaining: impl Into<Remaining>) -> Self {
        Self::new(Target::Size(remaining.into()))
    }

    /// Compresses to this latency: a share of the original's (`0.5`) or a [`Duration`](std::time::Duration). Operators are timed at
    /// several sizes in the runtime that [`runtimes`](Self::runtimes) names; the result is measured and corrected.
    pub fn latency(remaining: impl Into<Remaining>) -> Self {
        Self::new(Target::Latency(remaining.into()))
    }

    /// Compresses as much as possible while losing at most this share of accuracy; 0.01 is one point. Without labels, the share
    /// is of the agreement with the original.
    pub fn max_drop(share: f64) -> Self {
        Self::new(Target::MaxDrop(share))
    }

    /// Carries out a plan instead of choosing what to do.
    pub fn plan(plan: Plan) -> Self {
        Self::new(Target::Plan(plan))
    }

    fn new(target: Target) -> Self {
        Self {
            target,
            means: Means::ALL.into(),
            effort: Effort::default(),
            min_keep: 1,
            align: Align::default(),
            include: Vec::new(),
            exclude: Vec::new(),
            runtimes: RuntimeOptions::default(),
            setting: Setting::default(),
        }
    }

    /// Uses only these means; by default all of them.
    pub fn means(mut self, means: impl IntoIterator<Item = Means>) -> Self {
        self.means = means.into_iter().collect();
        self
    }

    /// Sets how many widths are tried when each group's effect on the output is measured: one, three (the default) or
    /// seven.
    pub fn effort(mut self, effort: Effort) -> Self {
        self.effort = effort;
        self
    }

    /// Keeps at least this many units in each group; 1 by default.
    pub fn min_keep(mut self, units: usize) -> Self {
        self.min_keep = units;
        self
    }

    /// Refuses numbers out of range.
    pub(super) fn check(&self) -> Result<()> {
        if self.means.is_empty() {
            return Err(Error::usage("`means` names at least one"));
        }
        self.pruning(self.target.clone()).check()
    }

    /// Whether units of groups may go.
    pub(super) fn narrows(&self) -> bool {
        self.means.contains(&Means::Prune) || self.means.contains(&Means::Dims)
    }

    /// Whether layers or tables may be split.
    pub(super) fn splits(&self) -> bool {
        self.means.contains(&Means::Rank) || self.means.contains(&Means::Tables)
    }

    /// The part that removes units.
    pub(super) fn pruning(&self, target: Target) -> PruneOptions {
        let mut options = PruneOptions::new(target).effort(self.effort).min_keep(self.min_keep);
        let is_meant = |means: Means| self.means.contains(&means);
        options.units = if is_meant(Means::Dims) { Units::Auto } else { Units::Heads };
        options.only_dims = is_meant(Means::Dims) && !is_meant(Means::Prune);
        options.align = self.align;
        options.include.clone_from(&self.include);
        options.exclude.clone_from(&self.exclude);
        options.setting = self.setting.clone();
        options
    }

    /// The part that splits layers.
    pub(super) fn splitting(&self, target: select::Target) -> FactorizeOptions {
        let mut options = FactorizeOptions::new(target);
        options.layers = self.means.contains(&Means::Rank);
        options.tables = self.means.contains(&Means::Tables);
        options.align = self.align;
        options.include.clone_from(&self.include);
        options.exclude.clone_from(&self.exclude);
        options.setting = self.setting.clone();
        options
    }
}
