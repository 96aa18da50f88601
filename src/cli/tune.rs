//! `paredown tune`: train a model's weights on its own graph, prove the result, write the file.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::job::Common;
use super::training::Training;
use crate::analysis::Analysis;
use crate::axes::Selection;
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::plan::CostModel;
use crate::report::Report;
use crate::train::{Duration, Guidance, tune};

/// Trains the weights of a model, on labels or towards another model's outputs; nothing else in the file changes
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Passes over the samples [default: 30, unless --minutes is given]
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    epochs: Option<usize>,
    /// Time to train; the result depends on the machine
    #[arg(long, value_name = "M")]
    minutes: Option<f64>,
    /// The model whose outputs are to be reached, such as the original of a pruned one
    #[arg(long, value_name = "FILE")]
    teacher: Option<PathBuf>,
    /// Leave the labels of the data alone: only the teacher is followed
    #[arg(long)]
    no_labels: bool,
    #[command(flatten)]
    training: Training,
    /// Train only tensors that match (* and ? match anything); may be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Leave tensors alone that match; may be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let dims = args.common.dims()?;
    let duration = match (args.epochs, args.minutes) {
        (_, Some(minutes)) => Duration::Minutes(minutes),
        (epochs, None) => Duration::Epochs(epochs.unwrap_or(30)),
    };
    let mut options = args.training.options(duration, args.common.seed)?;
    (options.include, options.exclude) = (args.include.clone(), args.exclude.clone());
    let job = args.common.open(None, args.teacher.as_deref(), "analysing")?;
    let data = job.calibration().ok_or_else(|| Error::usage("training needs samples: give some with --data"))?;
    let teacher = args.teacher.as_deref().map(Model::load).transpose()?;
    let guidance = Guidance {
        labels: data.has_labels() && !args.no_labels,
        teacher: teacher.as_ref().map(|teacher| &teacher.proto),
    };
    if !guidance.labels && guidance.teacher.is_none() {
        let unused = data.warnings().iter().find(|warning| warning.starts_with("labels "));
        let why = unused.map(|warning| format!(" ({warning})")).unwrap_or_default();
        return Err(Error::usage(format!(
            "there is nothing to learn from{why}: give data with labels, or --teacher ORIGINAL"
        )));
    }
    let analysis = job.located(Analysis::new(&job.model, &dims, &BTreeSet::new()))?;
    let cost = CostModel::new(analysis.subject()).cost(&Selection::all());
    let mut report = Report::new(&analysis, &[], &Selection::all(), cost, cost);
    options.progress = job.progress();
    let (tuned, training) = job.located(tune(&job.model.proto, data, guidance, &options))?;
    let tuned = job.model.with_proto(tuned);
    report.model.after.bytes = tuned.file_bytes();
    report.model.after.nodes = analysis.graph.nodes.len();
    report.training.push(training);
    report.notes.extend(data.warnings().iter().cloned());
    let comparison = job.comparison(&analysis, &tuned, &[], &dims);
    job.prove(&mut report, |report| comparison.prove(report))?;
    job.finish(&tuned, None, report)
}
