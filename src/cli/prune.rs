//! `paredown prune`: remove units, prove the rewrite, write the file.

use std::path::PathBuf;

use clap::{Command, ValueEnum};

use super::bench::Bench;
use super::job::{Common, Plans};
use super::options::{Sizes, ratio, remaining};
use super::training::Retraining;
use crate::error::{Error, Result};
use crate::repair::METHODS;
use crate::score::CRITERIA;
use crate::{Effort, PruneOptions, Remaining, Repair, Scope, Units};

/// Removes the least important neurons, channels and heads, proves that nothing else changed, and writes the file
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["ratio", "params", "macs", "size", "max_drop", "plan"]))]
pub(super) struct Args {
    /// Share of each axis that is removed: 0.5 or 50%
    #[arg(long, value_name = "R", value_parser = ratio)]
    ratio: Option<f64>,
    /// Parameters that remain: 50% or 12.5M
    #[arg(long, value_name = "B", value_parser = remaining)]
    params: Option<Remaining>,
    /// Multiply–accumulates that remain: 50% or 1.5G
    #[arg(long, value_name = "B", value_parser = remaining)]
    macs: Option<Remaining>,
    /// File size that remains, external data included: 50% or 40MB
    #[arg(long, value_name = "B", value_parser = remaining)]
    size: Option<Remaining>,
    /// Remove as much as loses no more than this of accuracy (where the data has labels) or agreement: 1%
    #[arg(long, value_name = "D", value_parser = ratio)]
    max_drop: Option<f64>,
    #[arg(long, value_name = "C", help = criteria())]
    criterion: Option<String>,
    #[arg(long, value_name = "METHOD", help = methods())]
    repair: Option<String>,
    /// Remove in this many equal steps, each scored on the repaired result of the one before
    #[arg(long, value_name = "N", default_value_t = 1)]
    steps: usize,
    /// Whether groups are compared with each other [default: layer for --ratio, global for budgets]
    #[arg(long, value_enum)]
    scope: Option<TypedScope>,
    /// At how many widths each group's effect on the output is measured, where groups share a budget: one, three or seven
    #[arg(long, value_enum, default_value = "normal")]
    effort: TypedEffort,
    /// Which factor of a merged axis is removed: whole heads, indices inside every head, or both (also channels inside
    /// groups of a convolution and whole groups); auto: dimensions of heads, where samples put them in order, else heads
    #[arg(long, value_enum, default_value = "auto")]
    unit: TypedUnit,
    /// Fewest units that stay in a group
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_keep: usize,
    #[command(flatten)]
    sizes: Sizes,
    /// Also remove where a statistic (LayerNorm, Softmax, …) shifts: valid, but not exact
    #[arg(long)]
    allow_shifts: bool,
    /// Prune only groups that match, by name or tensor (* and ? match anything); may be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Leave groups alone that match; may be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// A graph output (or input) whose axes may be pruned; may be repeated
    #[arg(long, value_name = "NAME")]
    thaw: Vec<String>,
    #[command(flatten)]
    retrain: Retraining,
    /// With --retrain: keep finished steps here, so that an interrupted job goes on where it was
    #[arg(long, value_name = "DIR", requires = "retrain")]
    checkpoint_dir: Option<PathBuf>,
    #[command(flatten)]
    bench: Bench,
    #[command(flatten)]
    plans: Plans,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TypedScope {
    /// Every group loses the same share
    Layer,
    /// The least important units of the whole network go
    Global,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TypedEffort {
    Fast,
    Normal,
    Thorough,
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
    table("How units are ranked [default: obs with --data, l2 without]", rows)
}

/// The help of `--repair`.
fn methods() -> String {
    let rows = METHODS.iter().map(|row| (row.name, row.about));
    table("How the rest is repaired [default: lstsq with --data, none without]", rows)
}

fn table(head: &str, rows: impl Iterator<Item = (&'static str, &'static str)>) -> String {
    rows.fold(format!("{head}:"), |text, (name, about)| format!("{text}\n- {name}: {about}"))
}

impl Args {
    fn target(&self) -> Result<PruneOptions> {
        if let Some(drop) = self.max_drop {
            return Ok(PruneOptions::max_drop(drop));
        }
        match (self.plans.load()?, self.ratio, self.params, self.macs, self.size) {
            (Some(plan), ..) => Ok(PruneOptions::plan(plan)),
            (_, Some(ratio), ..) => Ok(PruneOptions::ratio(ratio)),
            (_, _, Some(params), ..) => Ok(PruneOptions::params(params)),
            (_, _, _, Some(macs), _) => Ok(PruneOptions::macs(macs)),
            (_, _, _, _, Some(size)) => Ok(PruneOptions::size(size)),
            _ => Err(Error::usage("say how much to remove: --ratio, --params, --macs, --size, --max-drop or --plan")),
        }
    }

    fn options(&self) -> Result<PruneOptions> {
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
        options.effort = match self.effort {
            TypedEffort::Fast => Effort::Fast,
            TypedEffort::Normal => Effort::Normal,
            TypedEffort::Thorough => Effort::Thorough,
        };
        options.align = self.sizes.align();
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
        Ok(options)
    }
}

pub(super) fn run(args: &Args, command: &Command) -> Result<()> {
    let options = args.options()?;
    let job = args.common.open(Some(&args.plans), None, "analysing and rewriting")?;
    let options = job.configure(options)?;
    job.finish_timed(command, Some(&args.bench), |model| crate::prune(model, &options))
}
