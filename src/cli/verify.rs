//! `paredown verify`: repeat the proof later.

use std::path::PathBuf;

use clap::Command;

use super::flags::as_typed;
use super::metric::Judging;
use super::options::{Inputs, listener, spinner};
use super::paths::check_paths;
use super::print::print;
use super::reports::{typed, write_report};
use crate::error::{Error, Result};
use crate::jobs::setting::{Configured, Setting};
use crate::progress::Progress;
use crate::report::result;
use crate::{Model, Plan, Report, VerifyOptions};

/// Proves a rewritten model against its original: checks that it is valid and, with the plan, exact; measures fidelity and latency
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The original ONNX file
    original: PathBuf,
    /// The rewritten ONNX file
    rewritten: PathBuf,
    /// The plan that the rewrite carried out; required to prove exactness
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    inputs: Inputs,
    #[command(flatten)]
    judging: Judging,
    /// Fail if the relative L2 distance between the outputs exceeds this
    #[arg(long, value_name = "X")]
    max_rel_l2: Option<f64>,
    /// Seed for synthetic inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write the report to this file: as a page to look at if the name ends in .html, otherwise as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print only errors
    #[arg(long, short)]
    quiet: bool,
}

impl Args {
    /// The options of the job.
    pub(super) fn options(&self, progress: Progress) -> Result<VerifyOptions> {
        let mut options = VerifyOptions::new();
        let metric = self.judging.metric(options.metric_runs(), self.quiet)?;
        options.setting = Setting { metric, ..self.inputs.setting(self.seed, progress)? };
        options.plan = self.plan.as_deref().map(Plan::load).transpose()?;
        Ok(options)
    }

    /// Refuses outputs that are farther from the original's than allowed.
    pub(super) fn check(&self, report: &Report) -> Result<()> {
        match (self.max_rel_l2, report.verify.rel_l2) {
            (Some(limit), Some(found)) if found > limit || found.is_nan() => {
                Err(Error::proof(format!("the relative L2 distance is {found:.4}, more than --max-rel-l2 {limit}")))
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn run(args: &Args, command: &Command) -> Result<()> {
    let read = args.inputs.data.paths().chain([args.rewritten.as_path()]).chain(args.plan.as_deref());
    check_paths(&args.original, read, None, &[("--report", args.report.as_deref())])?;
    let bar = spinner(args.quiet, "proving");
    let options = args.options(listener(&bar))?;
    let (original, rewritten) = (Model::load(&args.original)?, Model::load(&args.rewritten)?);
    let mut report = crate::verify(&original, &rewritten, &options).map_err(|e| e.in_file(&args.rewritten))?;
    if let Some(path) = &args.report {
        report.commands = vec![typed()];
        write_report(path, &report)?;
    }
    bar.finish_and_clear();
    if !args.quiet {
        print(&as_typed(&result(&report), command))?;
    }
    args.check(&report).map_err(|e| e.in_file(&args.rewritten))
}
