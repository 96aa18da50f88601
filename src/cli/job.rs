//! What every command that rewrites a model has in common: its options, and the way from the file to the proved result.
//!
//! A command reads its own options, then: [`Common::open`] → rewrite → [`Job::prove`] → [`Job::finish`].

use std::path::{Path, PathBuf};

use indicatif::ProgressBar;

use super::options::{Data, Dims, Samples, spinner};
use crate::analysis::Analysis;
use crate::calibrate::data::Dataset;
use crate::error::{Error, Result};
use crate::jobs::prune::Comparison;
use crate::onnx::{Model, SaveOptions};
use crate::plan::Plan;
use crate::report::{Progress, Report, result};
use crate::runtime::inputs::DimSizes;
use crate::texts::{check_texts, write_text};

/// What is read, what is written, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// The ONNX file
    model: PathBuf,
    /// Where to write the result
    #[arg(long, short, value_name = "FILE", required_unless_present = "dry_run", display_order = 0)]
    output: Option<PathBuf>,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    dims: Dims,
    /// Show the table, write no model
    #[arg(long)]
    dry_run: bool,
    /// Seed of every random choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,
    /// Keep weights in a file beside the model (by itself above 2 GiB)
    #[arg(long)]
    external_data: bool,
    /// Write without running the model
    #[arg(long)]
    pub(super) no_verify: bool,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Overwrite an existing output
    #[arg(long)]
    force: bool,
    /// Print nothing but errors
    #[arg(long, short)]
    quiet: bool,
}

/// What was decided, to be carried out again or edited by hand.
#[derive(Debug, clap::Args)]
pub(super) struct Plans {
    /// Carry out a plan file
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Write what was decided to a plan file
    #[arg(long, value_name = "FILE")]
    plan_out: Option<PathBuf>,
}

impl Plans {
    /// The plan to carry out, if one was given.
    pub(super) fn load(&self) -> Result<Option<Plan>> {
        self.plan.as_deref().map(Plan::load).transpose()
    }
}

impl Common {
    /// Sizes of dynamic dimensions as typed.
    pub(super) fn dims(&self) -> Result<DimSizes> {
        self.dims.sizes()
    }

    /// Refuses contradictory paths, then loads the model and opens the samples. `others` are files that the command reads
    /// besides; `doing` is shown meanwhile.
    pub(super) fn open<'a>(
        &'a self,
        plans: Option<&'a Plans>,
        others: impl IntoIterator<Item = &'a Path>,
        doing: &'static str,
    ) -> Result<Job<'a>> {
        let (plan, plan_out) = plans.map_or((None, None), |plans| (plans.plan.as_deref(), plans.plan_out.as_deref()));
        let read = self.data.paths().chain(plan).chain(others);
        check_texts(
            &self.model,
            read,
            self.output.as_deref(),
            &[("--plan-out", plan_out), ("--report", self.report.as_deref())],
        )?;
        let bar = spinner(self.quiet, doing);
        let model = Model::load(&self.model)?;
        let output = self.output.as_deref().filter(|_| !self.dry_run);
        if let Some(output) = output {
            model.check_output(output, self.force)?;
        }
        let samples = self.data.open(&model, &self.dims()?, self.seed)?;
        Ok(Job { common: self, plan_out, output, bar, model, samples })
    }
}

/// A model that is being rewritten.
pub(super) struct Job<'a> {
    common: &'a Common,
    plan_out: Option<&'a Path>,
    output: Option<&'a Path>,
    bar: ProgressBar,
    /// The original.
    pub(super) model: Model,
    samples: Samples,
}

impl Job<'_> {
    /// Samples to decide on.
    pub(super) fn calibration(&self) -> Option<&Dataset> {
        self.samples.calibration.as_ref()
    }

    /// The original, analysed, and what it was rewritten to: to be compared. Outputs in `thaw` may have shrunk.
    pub(super) fn comparison<'c>(
        &'c self,
        analysis: &'c Analysis<'c>,
        rewritten: &'c Model,
        thaw: &'c [String],
        dims: &'c DimSizes,
    ) -> Comparison<'c> {
        let (data, seed) = (self.samples.to_measure(), self.common.seed);
        Comparison { analysis, rewritten: &rewritten.proto, thaw, data, dims, seed }
    }

    /// Shows what is being done.
    pub(super) fn progress(&self) -> Progress {
        let bar = self.bar.clone();
        Progress::to(move |what| bar.set_message(what.to_owned()))
    }

    /// An outcome whose error names the model's file.
    pub(super) fn located<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error: Error| error.in_file(&self.common.model))
    }

    /// Runs `proof`, unless `--no-verify` was typed.
    pub(super) fn prove(&self, report: &mut Report, proof: impl FnOnce(&mut Report) -> Result<()>) -> Result<()> {
        if self.common.no_verify {
            report.notes.push("nothing was run: that the file is valid and the rewrite exact is not proved".to_owned());
            return Ok(());
        }
        self.bar.set_message("proving");
        self.located(proof(report))
    }

    /// Writes the model, then the plan and the report, and prints what was done.
    pub(super) fn finish(self, rewritten: &Model, plan: Option<&Plan>, mut report: Report) -> Result<()> {
        if let Some(output) = self.output {
            self.bar.set_message("writing");
            let external_data = self.common.external_data || self.model.used_external_data();
            let options = SaveOptions { external_data, force: self.common.force };
            report.model.after.bytes = rewritten.save(output, &options)?;
        }
        if let (Some(path), Some(plan)) = (self.plan_out, plan) {
            write_text(path, &plan.to_text())?;
        }
        if let Some(path) = &self.common.report {
            write_text(path, &report.to_json())?;
        }
        self.bar.finish_and_clear();
        if self.common.quiet { Ok(()) } else { super::print(&result(&report)) }
    }
}
