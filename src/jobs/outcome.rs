//! The result of a job: a rewritten model that can be proved and saved.

use std::path::Path;

use super::latency::inputs;
use super::setting::{Opened, Setting};
use crate::analysis::Analysis;
use crate::axes::Selection;
use crate::defect::contained;
use crate::error::Result;
use crate::latency::Runtimes;
use crate::onnx::{Model, SaveOptions};
use crate::plan::{Group, Plan};
use crate::report::{MemoryReport, Report};
use crate::runtime::{Limits, peak_bytes};
use crate::verify::{Proof, Proved, Removed, VerifyReport};

/// The result of a job: a rewritten model with its plan and report.
///
/// It owns everything that its proof needs, including the samples.
#[derive(Debug)]
pub struct Outcome {
    /// The rewritten model.
    pub model: Model,
    /// The plan that was carried out, which can be carried out again; empty after [`tune`](crate::tune).
    pub plan: Plan,
    /// The report on the job, including what [`prove`](Self::prove) measured.
    pub report: Report,
    /// The original that the proof compares the model with.
    #[doc(hidden)]
    pub evidence: Evidence,
    pub(super) setting: Setting,
    pub(super) samples: Opened,
}

/// The original model, and the units of it that were kept.
#[derive(Debug)]
pub struct Evidence {
    /// The original and what is known about it.
    pub analysis: Analysis<'static>,
    /// Groups of the original, if units were to be removed.
    pub groups: Option<Vec<Group>>,
    /// The units that are kept.
    pub selection: Selection,
    /// Graph inputs and outputs whose axes may have been pruned.
    pub thaw: Vec<String>,
}

impl Outcome {
    /// Proves the rewrite by running it in tract. Checks that the model runs, that its signature is the original's, and
    /// that removing units was exact (equal to masking them, before repair and training). Measures how far the outputs
    /// are from the original's and how long one run takes, and the metric, if one was given. All results are added to the
    /// report.
    ///
    /// # Errors
    /// What the metric returns; [`Proof`](crate::ErrorKind::Proof) if the rewritten model fails a check, [`Runtime`](crate::ErrorKind::Runtime)
    /// if tract cannot run it, [`Input`](crate::ErrorKind::Input) if the original itself does not run in tract.
    pub fn prove(mut self) -> Result<Self> {
        let progress = self.setting.progress.clone();
        progress.enter("proving")?;
        let proved = contained(&progress, || Ok(self.proof(self.samples.to_prove().as_ref()).prove()?))?;
        self.samples.kept(Ok(()))?;
        enter(&mut self.report, &proved, self.setting.limits);
        self.report.verify.fitted = self.plan.adjusted && self.samples.measures_on_data();
        if self.report.metric.is_none() {
            self.report.metric = self.setting.judge(&self.samples, &self.model)?;
        }
        Ok(self)
    }

    /// Measures the latency of the original and the rewritten model in `runtimes`, alternating between the two, and
    /// adds it to the report. `original` is the path of the original. A note says where ONNX Runtime computes other outputs
    /// than tract. Nothing is measured if `thaw` was used, because the two models may then take different inputs.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if the benchmark command fails, [`Output`](crate::ErrorKind::Output) if a copy of
    /// the model for that command cannot be written to the temporary directory.
    pub fn time(mut self, original: &Path, runtimes: &Runtimes) -> Result<Self> {
        if !self.evidence.thaw.is_empty() {
            let note = "latency was measured only in tract: with `thaw` the two models take different inputs";
            self.report.notes.push(note.to_owned());
            return Ok(self);
        }
        self.setting.progress.enter("timing")?;
        let inputs = inputs(&self.evidence.analysis, &self.setting)?;
        let measured = runtimes.measure(
            (&self.evidence.analysis.model, original),
            &self.model,
            &inputs,
            &self.setting.progress,
        )?;
        self.report.latencies = measured.latencies;
        self.report.notes.extend(measured.notes);
        Ok(self)
    }

    fn proof<'a>(&'a self, data: Option<&'a crate::calibrate::data::Dataset>) -> Proof<'a> {
        let Evidence { analysis, groups, selection, thaw } = &self.evidence;
        let adjusted = self.plan.adjusted;
        Proof {
            analysis,
            rewritten: &self.model.proto,
            removed: groups.as_ref().map(|groups| Removed { groups, selection, adjusted }),
            thaw,
            data,
            dims: &self.setting.dims,
            limits: self.setting.limits,
            seed: self.setting.seed,
        }
    }

    /// Writes the model to `path`, completely or not at all. An existing file is not overwritten. Weights go into a
    /// separate file next to the model if the original's did, or above 2 GiB.
    ///
    /// # Errors
    /// [`Output`](crate::ErrorKind::Output) if it cannot be written or exists already.
    pub fn save(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.save_with(path, &SaveOptions::default())
    }

    /// Writes the model to `path`, like [`save`](Self::save), with these options.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn save_with(&mut self, path: impl AsRef<Path>, options: &SaveOptions) -> Result<()> {
        let external_data = options.external_data || self.model.used_external_data();
        self.setting.progress.enter("writing")?;
        let options = SaveOptions { external_data, ..*options };
        self.report.model.after.bytes = self.model.save(path.as_ref(), &options)?;
        Ok(())
    }
}

/// Enters what a proof measured into the report.
pub(super) fn enter(report: &mut Report, proved: &Proved, limits: Limits) {
    let memory = MemoryReport { budget: limits.bytes(), peak: peak_bytes() };
    report.notes.extend(memory.excess());
    report.memory = Some(memory);
    report.verify = VerifyReport::of(proved);
    report.model.before.latency_ms = Some(proved.latency.before_ms);
    report.model.after.latency_ms = Some(proved.latency.after_ms);
    report.seconds.insert("verify".to_owned(), proved.seconds);
    report.notes.extend(proved.doubts.iter().map(ToString::to_string));
}
