//! `paredown prune`: remove units, prove the rewrite, write the file.

use std::path::PathBuf;

use clap::{Command, ValueEnum};

use super::bench::{Bench, Latency};
use super::job::{Common, Plans};
use super::options::{Sizes, TypedEffort, ratio, remaining};
use super::training::Retraining;
use crate::error::{Error, Result};
use crate::repair::METHODS;
use crate::score::CRITERIA;
use crate::{PruneOptions, Remaining, Repair, Scope, Units};

/// Removes the least important neurons, channels and attention heads, proves the result and writes it
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["ratio", "params", "macs", "size", "latency", "max_drop", "plan"]))]
pub(super) struct Args {
    /// Share of each group's units to remove: 0.5 or 50%
    #[arg(long, value_name = "R", value_parser = ratio)]
    ratio: Option<f64>,
    /// Parameters to keep: 50% or 12.5M
    #[arg(long, value_name = "B", value_parser = remaining)]
    params: Option<Remaining>,
    /// Multiply–accumulates (MACs) to keep: 50% or 1.5G
    #[arg(long, value_name = "B", value_parser = remaining)]
    macs: Option<Remaining>,
    /// File size to keep, including external data: 50% or 40MB
    #[arg(long, value_name = "B", value_parser = remaining)]
    size: Option<Remaining>,
    #[command(flatten)]
    latency: Latency,
    /// Remove as many multiply–accumulates as possible while losing at most this share of accuracy, of agreement with the
    /// original if the data has no labels, or of --metric-cmd: 1%
    #[arg(long, value_name = "D", value_parser = ratio)]
    max_drop: Option<f64>,
    /// With --max-drop: the probability with which no more than that is lost, on all samples like those of --data: 95%
    #[arg(long, value_name = "P", value_parser = super::options::share, requires = "max_drop")]
    confidence: Option<f64>,
    #[arg(long, value_name = "C", help = criteria())]
    criterion: Option<String>,
    #[arg(long, value_name = "METHOD", help = methods())]
    repair: Option<String>,
    /// Remove in this many equal steps; each step scores the repaired result of the previous one
    #[arg(long, value_name = "N", default_value_t = 1)]
    steps: usize,
    /// Whether units are ranked within each layer or across the whole network [default: layer for --ratio, global for
    /// budgets]
    #[arg(long, value_enum)]
    scope: Option<TypedScope>,
    /// How many widths to try when measuring each group's effect on the output: 1 (fast), 3 (normal) or 7 (thorough).
    /// All but fast then correct what they measured by what the repair of the whole network leaves of it. Applies when groups
    /// share a budget and there is data
    #[arg(long, value_enum, default_value = "normal")]
    effort: TypedEffort,
    /// Which factor of a merged axis to remove: whole heads, dimensions inside every head, or both. The same choice
    /// applies to grouped convolutions: whole groups, or channels inside each group. auto: dimensions of heads if the
    /// samples can rank them, otherwise whole heads
    #[arg(long, value_enum, default_value = "auto")]
    unit: TypedUnit,
    /// Minimum number of units to keep in each group
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_keep: usize,
    #[command(flatten)]
    sizes: Sizes,
    /// Also prune groups whose removal shifts a statistic (LayerNorm, Softmax, …): the result is valid but not exact
    #[arg(long)]
    allow_shifts: bool,
    /// Prune only groups whose name or tensors match this pattern (* and ? are wildcards); may be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Skip groups whose name or tensors match this pattern; may be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Allow pruning the axes of this graph output or input; may be repeated
    #[arg(long, value_name = "NAME")]
    thaw: Vec<String>,
    #[command(flatten)]
    retrain: Retraining,
    /// With --retrain: save finished steps in this directory, so that an interrupted job can resume
    #[arg(long, value_name = "DIR", requires = "retrain")]
    checkpoint_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(super) bench: Bench,
    #[command(flatten)]
    pub(super) plans: Plans,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TypedScope {
    /// Rank units within each group: every group loses the same share
    Layer,
    /// Rank units across the whole network: the least important ones are removed
    Global,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TypedUnit {
    Auto,
    Heads,
    Dims,
    Both,
}

/// The help of `--criterion`.
fn criteria() -> String {
    let rows = CRITERIA.iter().map(|criterion| (criterion.name, criterion.about));
    table("Criterion that ranks units [default: obs with --data, l2 without]", rows)
}

/// The help of `--repair`.
fn methods() -> String {
    let rows = METHODS.iter().map(|row| (row.name, row.about));
    table("How the kept weights are repaired [default: lstsq with --data, none without]", rows)
}

fn table(head: &str, rows: impl Iterator<Item = (&'static str, &'static str)>) -> String {
    rows.fold(format!("{head}:"), |text, (name, about)| format!("{text}\n- {name}: {about}"))
}

impl Args {
    fn target(&self) -> Result<PruneOptions> {
        if let Some(drop) = self.max_drop {
            return Ok(PruneOptions::max_drop(drop));
        }
        if let Some(latency) = self.latency.latency {
            return Ok(PruneOptions::latency(latency));
        }
        match (self.plans.load()?, self.ratio, self.params, self.macs, self.size) {
            (Some(plan), ..) => Ok(PruneOptions::plan(plan)),
            (_, Some(ratio), ..) => Ok(PruneOptions::ratio(ratio)),
            (_, _, Some(params), ..) => Ok(PruneOptions::params(params)),
            (_, _, _, Some(macs), _) => Ok(PruneOptions::macs(macs)),
            (_, _, _, _, Some(size)) => Ok(PruneOptions::size(size)),
            _ => Err(Error::usage(
                "say how much to remove: --ratio, --params, --macs, --size, --latency, --max-drop or --plan",
            )),
        }
    }

    /// The options of the job, without its samples and sizes.
    pub(super) fn options(&self) -> Result<PruneOptions> {
        let units = match self.unit {
            TypedUnit::Auto => Units::Auto,
            TypedUnit::Heads => Units::Heads,
            TypedUnit::Dims => Units::Dims,
            TypedUnit::Both => Units::Both,
        };
        let mut options =
            self.target()?.steps(self.steps).units(units).min_keep(self.min_keep).allow_shifts(self.allow_shifts);
        if self.common.no_verify {
            options = options.no_verify();
        }
        options.effort = self.effort.effort();
        options.align = self.sizes.align();
        options.confidence = self.confidence;
        options.criterion.clone_from(&self.criterion);
        options.repair = self.repair.as_deref().map(Repair::by_name).transpose()?;
        options.scope = self.scope.map(|scope| match scope {
            TypedScope::Layer => Scope::Layer,
            TypedScope::Global => Scope::Global,
        });
        options.include.clone_from(&self.include);
        options.exclude.clone_from(&self.exclude);
        options.thaw.clone_from(&self.thaw);
        options.retrain = self.retrain.options()?;
        options.checkpoints.clone_from(&self.checkpoint_dir);
        options.runtimes = self.latency.options(&self.bench);
        Ok(options)
    }
}

pub(super) fn run(args: &Args, command: &Command) -> Result<()> {
    let options = args.options()?;
    let job = args.common.open(Some(&args.plans), args.latency.table(), "analysing and rewriting")?;
    let options = job.configure(options)?;
    job.finish_timed(command, Some(&args.bench), |model| crate::prune(model, &options))
}
