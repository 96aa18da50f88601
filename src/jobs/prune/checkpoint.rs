//! Finished steps on disk, so that an interrupted job resumes and produces the same file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::options::PruneOptions;
use crate::calibrate::data::Dataset;
use crate::error::{Error, Result};
use crate::jobs::setting::Setting;
use crate::latency::RuntimeOptions;
use crate::onnx::{Model, SaveOptions};
use crate::plan::Plan;
use crate::report::{RepairReport, TuningReport};
use crate::runtime::Limits;
use crate::texts::{file_hash, hexadecimal, write_text};

/// A directory of finished steps of one job.
#[derive(Debug)]
pub(super) struct Checkpoints {
    folder: PathBuf,
    job: String,
}

/// A finished step.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Which job this is a step of.
    job: String,
    step: usize,
    /// SHA-256 of the step's model file.
    model: String,
    plan: Plan,
    repaired: Vec<RepairReport>,
    training: Vec<TuningReport>,
}

/// What a finished step left.
pub(super) struct Finished {
    pub(super) step: usize,
    pub(super) model: Model,
    pub(super) plan: Plan,
    pub(super) repaired: Vec<RepairReport>,
    pub(super) training: Vec<TuningReport>,
}

impl Checkpoints {
    /// The directory `folder`, which is made, for this model, data and options.
    ///
    /// # Errors
    /// [`Output`](crate::ErrorKind::Output) if it cannot be made.
    pub(super) fn open(folder: &Path, model: &Model, options: &PruneOptions, data: &Dataset) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::output(e.to_string()).in_file(folder).caused_by(e))?;
        Ok(Self { folder: folder.to_owned(), job: job_name(model, options, Some(data)) })
    }

    fn paths(&self, step: usize) -> (PathBuf, PathBuf) {
        (self.folder.join(format!("step-{step}.onnx")), self.folder.join(format!("step-{step}.json")))
    }

    /// The last finished step, if there is one. An unfinished one, which lacks its record, is done again.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if the directory holds steps of another job or a damaged one.
    pub(super) fn last(&self, steps: usize) -> Result<Option<Finished>> {
        for step in (1..=steps).rev() {
            let (model, record) = self.paths(step);
            if !record.exists() {
                continue;
            }
            let damaged = |e: String| Error::input(format!("is no finished step: {e}")).in_file(&record);
            let text = std::fs::read_to_string(&record).map_err(|e| damaged(e.to_string()))?;
            let read: Record = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
            if read.job != self.job {
                let message = "is a step of another job (another model, data, options, processor or version); use another directory";
                return Err(Error::input(message).in_file(&record));
            }
            if file_hash(&model)? != read.model {
                let message = format!("does not match {}; delete both to repeat step {step}", record.display());
                return Err(Error::input(message).in_file(&model));
            }
            let Record { step, plan, repaired, training, .. } = read;
            return Ok(Some(Finished { step, model: Model::load(&model)?, plan, repaired, training }));
        }
        Ok(None)
    }

    /// Keeps a finished step: first the model, then the record that says that it is whole.
    ///
    /// # Errors
    /// [`Output`](crate::ErrorKind::Output) if it cannot be written.
    pub(super) fn keep(&self, finished: &Finished) -> Result<()> {
        let (model, path) = self.paths(finished.step);
        finished.model.save(&model, &SaveOptions { external_data: false, force: true })?;
        let record = Record {
            job: self.job.clone(),
            step: finished.step,
            model: file_hash(&model)?,
            plan: finished.plan.clone(),
            repaired: finished.repaired.clone(),
            training: finished.training.clone(),
        };
        let text = serde_json::to_string_pretty(&record)
            .map_err(|e| Error::output(e.to_string()).in_file(&path).caused_by(e))?;
        write_text(&path, &text)
    }
}

/// A name for a model, options and samples, which differs if one of them does.
pub(in crate::jobs) fn job_name(model: &Model, options: &PruneOptions, data: Option<&Dataset>) -> String {
    let mut hasher = Sha256::new();
    hasher.update(prost::Message::encode_to_vec(&model.proto));
    // Where it is kept, who listens, how much memory there is and where latency is measured make no difference to the result.
    let (dims, seed, limits) = (options.setting.dims.clone(), options.setting.seed, Limits::new(0));
    let setting = Setting { dims, limits, seed, ..Setting::default() };
    let mut told = PruneOptions { checkpoints: None, runtimes: RuntimeOptions::default(), setting, ..options.clone() };
    if let Some(retrain) = &mut told.retrain {
        retrain.progress = Default::default();
    }
    let hash = data.map(Dataset::hash).unwrap_or_default();
    hasher.update(format!("{told:?} {hash} {}", env!("CARGO_PKG_VERSION")));
    hexadecimal(&hasher.finalize()[..16])
}
