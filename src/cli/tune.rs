//! `paredown tune`: train a model's weights on its own graph, prove the result, write the file.

use std::path::PathBuf;

use clap::Command;

use super::job::Common;
use super::training::Fitting;
use crate::error::Result;
use crate::{Model, Training, TuneOptions};

/// Trains the weights of a model on labels, or on the outputs of a teacher model; nothing else in the file changes
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    /// Number of passes over the samples [default: 30, unless --minutes is given]
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    epochs: Option<usize>,
    /// Training time in minutes, instead of --epochs; the result depends on the speed of the machine
    #[arg(long, value_name = "M")]
    minutes: Option<f64>,
    /// Teacher: the model whose outputs to reproduce, such as the original of a pruned model
    #[arg(long, value_name = "FILE")]
    teacher: Option<PathBuf>,
    /// Ignore the labels of the data and follow only the teacher
    #[arg(long)]
    no_labels: bool,
    #[command(flatten)]
    training: Fitting,
    /// Train only tensors that match this pattern (* and ? are wildcards); may be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Do not train tensors that match this pattern; may be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
}

impl Args {
    /// The options of the job, without its teacher, samples and sizes.
    pub(super) fn options(&self) -> Result<TuneOptions> {
        let training = match (self.epochs, self.minutes) {
            (_, Some(minutes)) => Training::minutes(minutes),
            (epochs, None) => Training::epochs(epochs.unwrap_or(30)),
        };
        let mut training = self.training.options(training)?;
        training.include.clone_from(&self.include);
        training.exclude.clone_from(&self.exclude);
        Ok(TuneOptions::new(training.labels(!self.no_labels)))
    }

    /// The teacher, if one was given.
    pub(super) fn teacher(&self) -> Result<Option<Model>> {
        self.teacher.as_deref().map(Model::load).transpose()
    }
}

pub(super) fn run(args: &Args, command: &Command) -> Result<()> {
    let options = args.options()?;
    let job = args.common.open(None, args.teacher.as_deref(), "analysing")?;
    let mut options = job.configure(options)?;
    options.teacher = args.teacher()?;
    job.finish(command, |model| crate::tune(model, &options))
}
