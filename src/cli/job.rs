//! What every command that rewrites a model shares: its options, and the path from the file to the proved result.
//!
//! A command builds the options of its job, then: [`Common::open`] → [`Job::configure`] → the job → [`Job::finish`].

use std::path::{Path, PathBuf};

use clap::Command;
use indicatif::ProgressBar;

use super::bench::Bench;
use super::flags::as_typed;
use super::metric::Judging;
use super::options::{Inputs, listener, spinner};
use super::paths::check_paths;
use super::print::print;
use super::reports::{proof, typed, write_report};
use crate::error::{Error, Result};
use crate::jobs::setting::{Configured, Setting};
use crate::progress::Progress;
use crate::report::result;
use crate::{Model, Outcome, Plan, SaveOptions};

/// What is read, what is written, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// The ONNX file
    model: PathBuf,
    /// The file to write the result to
    #[arg(long, short, value_name = "FILE", required_unless_present = "dry_run", display_order = 0)]
    output: Option<PathBuf>,
    #[command(flatten)]
    inputs: Inputs,
    #[command(flatten)]
    judging: Judging,
    /// Print the results but write no model
    #[arg(long)]
    dry_run: bool,
    /// Seed for every random choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Store the weights in a separate file next to the model (always done above 2 GiB)
    #[arg(long)]
    external_data: bool,
    /// Write the result without running it to prove it
    #[arg(long)]
    pub(super) no_verify: bool,
    /// Write the report to this file: as a page to look at if the name ends in .html, otherwise as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Overwrite an existing output file
    #[arg(long)]
    force: bool,
    /// Print only errors
    #[arg(long, short)]
    quiet: bool,
}

/// What a job leaves for later ones: plans, which can be edited by hand and carried out again, and statistics.
#[derive(Debug, clap::Args)]
pub(super) struct Plans {
    /// Carry out this plan instead of choosing what to change
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Write the choices that were made to a plan file
    #[arg(long, value_name = "FILE")]
    plan_out: Option<PathBuf>,
    /// With --data: keep what passes over the samples find in this file, and take up what an earlier job on the same model
    /// and samples left in it, such as one with another budget
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,
}

impl Plans {
    /// The file of statistics, if one was given.
    pub(super) fn stats(&self) -> Option<&Path> {
        self.stats.as_deref()
    }

    /// The plan to carry out, if one was given.
    pub(super) fn load(&self) -> Result<Option<Plan>> {
        self.plan.as_deref().map(Plan::load).transpose()
    }
}

impl Common {
    /// The samples, sizes and seed that were typed; the job measures the user's metric this many times at most.
    pub(super) fn setting(&self, metric_runs: usize, progress: Progress) -> Result<Setting> {
        let metric = self.judging.metric(metric_runs, self.quiet)?;
        Ok(Setting { metric, ..self.inputs.setting(self.seed, progress)? })
    }

    /// Refuses contradictory paths, then loads the model. `others` are files that the command reads besides; `doing` is
    /// shown meanwhile.
    pub(super) fn open<'a>(
        &'a self,
        plans: Option<&'a Plans>,
        others: impl IntoIterator<Item = &'a Path>,
        doing: &'static str,
    ) -> Result<Job<'a>> {
        let (plan, plan_out) = plans.map_or((None, None), |plans| (plans.plan.as_deref(), plans.plan_out.as_deref()));
        let stats = plans.and_then(Plans::stats);
        let read = self.inputs.data.paths().chain(plan).chain(others);
        check_paths(
            &self.model,
            read,
            self.output.as_deref(),
            &[("--plan-out", plan_out), ("--report", self.report.as_deref()), ("--stats", stats)],
        )?;
        let bar = spinner(self.quiet, doing);
        let model = Model::load(&self.model)?;
        let output = self.output.as_deref().filter(|_| !self.dry_run);
        if let Some(output) = output {
            model.check_output(output, self.force)?;
        }
        Ok(Job { common: self, plan, plan_out, stats, output, bar, model })
    }
}

/// A model that is being rewritten.
pub(super) struct Job<'a> {
    common: &'a Common,
    plan: Option<&'a Path>,
    plan_out: Option<&'a Path>,
    stats: Option<&'a Path>,
    output: Option<&'a Path>,
    bar: ProgressBar,
    /// The original.
    pub(super) model: Model,
}

impl Job<'_> {
    /// `options` with the samples, sizes and seed that were typed.
    pub(super) fn configure<O: Configured>(&self, mut options: O) -> Result<O> {
        let runs = options.metric_runs();
        *options.setting_mut() = self.common.setting(runs, listener(&self.bar))?;
        options.setting_mut().stats = self.stats.map(Path::to_owned);
        Ok(options)
    }

    /// Proves what `rewrite` makes of the model, unless `--no-verify` was typed, writes the model, then the plan and the
    /// report, and prints what was done, in the flags of `command`.
    pub(super) fn finish(self, command: &Command, rewrite: impl FnOnce(&Model) -> Result<Outcome>) -> Result<()> {
        self.finish_timed(command, None, rewrite)
    }

    /// As [`finish`](Self::finish); the result is timed in the runtimes of `bench` once it is proved.
    pub(super) fn finish_timed(
        self,
        command: &Command,
        bench: Option<&Bench>,
        rewrite: impl FnOnce(&Model) -> Result<Outcome>,
    ) -> Result<()> {
        let original = &self.common.model;
        if self.common.no_verify && bench.is_some_and(Bench::has_command) {
            return Err(Error::usage("--bench-cmd cannot be used with --no-verify"));
        }
        let bench = bench.filter(|_| !self.common.no_verify);
        let runtimes = bench.map(|bench| bench.open(original)).transpose()?;
        let located = |error: Error| error.in_file(&self.common.model);
        let mut outcome = rewrite(&self.model).map_err(located)?;
        if !self.common.no_verify {
            outcome = outcome.prove().map_err(located)?;
        }
        if let Some(runtimes) = &runtimes {
            outcome = outcome.time(original, runtimes)?;
        }
        if let Some(output) = self.output {
            let Common { external_data, force, .. } = *self.common;
            outcome.save_with(output, &SaveOptions { external_data, force })?;
        }
        if let Some(path) = self.plan_out {
            outcome.plan.save(path)?;
        }
        if let Some(path) = &self.common.report {
            outcome.report.commands = vec![typed()];
            let written = self.output.map(|output| proof(command, original, output, self.plan_out.or(self.plan)));
            outcome.report.commands.extend(written);
            write_report(path, &outcome.report)?;
        }
        self.bar.finish_and_clear();
        if self.common.quiet { Ok(()) } else { print(&as_typed(&result(&outcome.report), command)) }
    }
}
