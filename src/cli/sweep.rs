//! `paredown sweep`: one model at several sizes.

use std::path::PathBuf;

use clap::Command;

use super::bench::Bench;
use super::flags::as_typed;
use super::metric::Judging;
use super::options::{Inputs, Sizes, listener, remaining, spinner};
use super::paths::check_paths;
use super::print::print;
use super::reports::typed;
use super::training::Retraining;
use crate::error::{Error, Result};
use crate::jobs::setting::Setting;
use crate::progress::Progress;
use crate::report::points;
use crate::{Counted, Model, PruneOptions, Remaining, SweepOptions};

/// Prunes a model to several budgets, proves and times each result, and marks the sizes that no other one beats
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("budgets").args(["macs", "params", "size"]))]
pub(super) struct Args {
    /// The ONNX file
    model: PathBuf,
    /// The directory to write the results, sweep.json and sweep.html to; an interrupted sweep goes on there
    #[arg(long, short, value_name = "DIR", display_order = 0)]
    output: PathBuf,
    /// Multiply–accumulates (MACs) to keep: 80,65,50,35% or 2G,1G [default: 80,70,60,50,40,30,20,10%]
    #[arg(long, value_name = "B,…")]
    macs: Option<String>,
    /// Parameters to keep: 80,65,50,35% or 20M,10M
    #[arg(long, value_name = "B,…")]
    params: Option<String>,
    /// File sizes to keep, including external data: 80,65,50,35% or 40MB,20MB
    #[arg(long, value_name = "B,…")]
    size: Option<String>,
    #[command(flatten)]
    inputs: Inputs,
    #[command(flatten)]
    judging: Judging,
    #[command(flatten)]
    sizes: Sizes,
    /// Prune only groups whose name or tensors match this pattern (* and ? are wildcards); may be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Skip groups whose name or tensors match this pattern; may be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    #[command(flatten)]
    retrain: Retraining,
    #[command(flatten)]
    pub(super) bench: Bench,
    /// With --data: keep what passes over the samples find in this file, and take up what an earlier job on the same model
    /// and samples left in it
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,
    /// Seed for every random choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print only errors
    #[arg(long, short)]
    quiet: bool,
}

impl Args {
    /// What is counted, and the budgets as they were typed.
    fn budgets(&self) -> Result<(Counted, Vec<Remaining>)> {
        let typed = [(Counted::Macs, &self.macs), (Counted::Params, &self.params), (Counted::Size, &self.size)];
        let given = typed.into_iter().find_map(|(counted, typed)| Some((counted, typed.as_ref()?)));
        let Some((counted, typed)) = given else { return Ok((Counted::Macs, Vec::new())) };
        Ok((counted, budgets(typed).map_err(Error::usage)?))
    }

    /// Each budget as it would be typed alone; empty if none was typed.
    pub(super) fn each(&self) -> Vec<String> {
        [&self.macs, &self.params, &self.size].into_iter().flatten().flat_map(|typed| each(typed)).collect()
    }

    /// The options of the job.
    pub(super) fn options(&self, progress: Progress) -> Result<SweepOptions> {
        let (counted, budgets) = self.budgets()?;
        let mut options = PruneOptions::macs(0.5);
        options.align = self.sizes.align();
        options.include.clone_from(&self.include);
        options.exclude.clone_from(&self.exclude);
        options.retrain = self.retrain.options()?;
        let mut options = SweepOptions::of(counted, budgets, &self.output).pruning(options);
        let metric = self.judging.metric(1 + options.len(), self.quiet)?;
        let setting = self.inputs.setting(self.seed, progress)?;
        *options.setting_mut() = Setting { metric, stats: self.stats.clone(), ..setting };
        Ok(options)
    }
}

/// The budgets of a list.
fn budgets(typed: &str) -> Result<Vec<Remaining>, String> {
    each(typed).iter().map(|part| remaining(part)).collect()
}

/// `80,65,50,35%`: a percent sign at the end holds for all, unless another one has a unit.
fn each(typed: &str) -> Vec<String> {
    let parts: Vec<&str> = typed.split(',').map(str::trim).collect();
    let is_bare = |part: &str| part.ends_with(|c: char| c.is_ascii_digit());
    let in_percent =
        parts.split_last().is_some_and(|(last, others)| last.ends_with('%') && others.iter().all(|part| is_bare(part)));
    let whole = |part: &str| if in_percent && is_bare(part) { format!("{part}%") } else { part.to_owned() };
    parts.into_iter().map(whole).collect()
}

pub(super) fn run(args: &Args, command: &Command) -> Result<()> {
    check_paths(&args.model, args.inputs.data.paths(), None, &[("--stats", args.stats.as_deref())])?;
    let bar = spinner(args.quiet, "analysing");
    let mut options = args.options(listener(&bar))?;
    options.commands = vec![typed()];
    let model = Model::load(&args.model)?;
    let runtimes = args.bench.open(&args.model)?;
    let report = crate::sweep(&model, &options, Some(&runtimes)).map_err(|e| e.in_file(&args.model))?;
    bar.finish_and_clear();
    if args.quiet { Ok(()) } else { print(&as_typed(&points(&report), command)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percent_sign_at_the_end_holds_for_all() {
        let shares = |shares: &[f64]| Ok(shares.iter().map(|&share| Remaining::Share(share)).collect());
        assert_eq!(budgets("80,65, 35%"), shares(&[0.8, 0.65, 0.35]));
        assert_eq!(budgets("0.5%"), shares(&[0.005]));
        assert_eq!(budgets("2M,1M"), Ok(vec![Remaining::Absolute(2_000_000), Remaining::Absolute(1_000_000)]));
        assert_eq!(budgets("2M,50%"), Ok(vec![Remaining::Absolute(2_000_000), Remaining::Share(0.5)]));
        assert!(budgets("80,,35%").is_err() && budgets("").is_err() && budgets("120,50%").is_err());
    }
}
