//! `paredown prune`: remove units, prove the rewrite, write the file.

use std::path::PathBuf;

use clap::ValueEnum;

use super::job::{Common, Plans};
use super::options::{ratio, remaining};
use super::training::Retraining;
use crate::error::{Error, Result};
use crate::jobs::prune::{Options, Proof, Pruned, Remaining, Retrain, Target, prove};
use crate::plan::{Scope, Units};
use crate::repair::Method;
use crate::report::Progress;

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
    /// How units are ranked: ablation, activation, apoz, fisher, fluctuation, l1, l2, obd, obd-loss, obs, random, taylor,
    /// wanda [default: obs with --data, l2 without]
    #[arg(long, value_name = "C")]
    criterion: Option<String>,
    /// How the rest is repaired: none, bias, bn, lstsq [default: lstsq with --data, none without]
    #[arg(long, value_name = "METHOD")]
    repair: Option<String>,
    /// Remove in so many equal steps, each scored on the repaired result of the one before
    #[arg(long, value_name = "N", default_value_t = 1)]
    steps: usize,
    /// Whether groups are compared with each other [default: layer for --ratio, global for budgets]
    #[arg(long, value_enum)]
    scope: Option<TypedScope>,
    /// Which factor of a merged axis is removed: whole heads, indices inside every head, or both (also channels inside
    /// groups of a convolution and whole groups)
    #[arg(long, value_enum, default_value = "heads")]
    unit: TypedUnit,
    /// Fewest units that stay in a group
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_keep: usize,
    /// Kept units are a multiple of this, unless the group is smaller
    #[arg(long, value_name = "N", default_value_t = 1)]
    align: usize,
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
enum TypedUnit {
    Heads,
    Dims,
    Both,
}

impl Args {
    fn target(&self) -> Result<Target> {
        if let Some(drop) = self.max_drop {
            return Ok(Target::MaxDrop(drop));
        }
        match (self.plans.load()?, self.ratio, self.params, self.macs, self.size) {
            (Some(plan), ..) => Ok(Target::Plan(plan)),
            (_, Some(ratio), ..) => Ok(Target::Ratio(ratio)),
            (_, _, Some(params), ..) => Ok(Target::Params(params)),
            (_, _, _, Some(macs), _) => Ok(Target::Macs(macs)),
            (_, _, _, _, Some(size)) => Ok(Target::Size(size)),
            _ => Err(Error::usage("say how much is to go: --ratio, --params, --macs, --size, --max-drop or --plan")),
        }
    }

    fn retrain(&self) -> Result<Option<Retrain>> {
        let checkpoints = self.checkpoint_dir.clone();
        let training = self.retrain.options(self.common.seed)?;
        Ok(training.map(|training| Retrain { training, checkpoints }))
    }

    fn options(&self) -> Result<Options> {
        if self.min_keep == 0 || self.align == 0 || self.steps == 0 {
            return Err(Error::usage("--min-keep, --align and --steps are at least one"));
        }
        Ok(Options {
            target: self.target()?,
            criterion: self.criterion.clone(),
            repair: self.repair.as_deref().map(Method::by_name).transpose()?,
            steps: self.steps,
            scope: self.scope.map(|scope| match scope {
                TypedScope::Layer => Scope::Layer,
                TypedScope::Global => Scope::Global,
            }),
            units: match self.unit {
                TypedUnit::Heads => Units::Heads,
                TypedUnit::Dims => Units::Dims,
                TypedUnit::Both => Units::Both,
            },
            min_keep: self.min_keep,
            align: self.align,
            allow_shifts: self.allow_shifts,
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            thaw: self.thaw.clone(),
            dims: self.common.dims()?,
            retrain: self.retrain()?,
            verify: !self.common.no_verify,
            seed: self.common.seed,
            progress: Progress::default(),
        })
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    let mut options = args.options()?;
    let job = args.common.open(Some(&args.plans), None, "analysing and rewriting")?;
    options.progress = job.progress();
    let pruned = job.located(crate::jobs::prune::prune(&job.model, &options, job.calibration()))?;
    let Pruned { analysis, groups, selection, plan, model, mut report } = pruned;
    let comparison = job.comparison(&analysis, &model, &options.thaw, &options.dims);
    let proof = Proof { comparison, groups: &groups, selection: &selection, adjusted: plan.adjusted };
    job.prove(&mut report, |report| prove(&proof, report))?;
    job.finish(&model, Some(&plan), report)
}
