//! Training of a whole model: only its weights change.

use std::collections::BTreeSet;

use super::clock::Clock;
use super::outcome::{Evidence, Outcome};
use super::setting::{Setting, configured};
use crate::analysis::Analysis;
use crate::axes::Selection;
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::plan::{CostModel, Plan};
use crate::report::Report;
use crate::train::{self, Guidance};

/// Options of [`tune`](crate::tune).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TuneOptions {
    pub(crate) training: train::Options,
    pub(crate) teacher: Option<Model>,
    pub(crate) setting: Setting,
}

configured!(TuneOptions);

impl TuneOptions {
    /// Creates options for training with these settings, on the data's labels if there are any.
    pub fn new(training: train::Options) -> Self {
        Self { training, teacher: None, setting: Setting::default() }
    }

    /// Sets the teacher: the model whose outputs to reproduce, such as the original of a pruned model.
    pub fn teacher(mut self, teacher: Model) -> Self {
        self.teacher = Some(teacher);
        self
    }
}

/// Trains the weights of a model.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) if there are no samples, or there is nothing to learn from;
/// [`Input`](crate::ErrorKind::Input) for a malformed model, too few samples or an operator without a gradient.
pub(crate) fn tune(model: &Model, options: &TuneOptions) -> Result<Outcome> {
    let mut clock = Clock::start(&options.setting.progress);
    let (options, samples) = options.opened(model)?;
    let options = &options;
    let Setting { dims, seed, progress, .. } = &options.setting;
    let data = samples.data.as_ref();
    let data = data.ok_or_else(|| Error::usage("training needs samples: give some with `data`"))?;
    let guidance = Guidance {
        labels: data.has_labels() && options.training.labels,
        teacher: options.teacher.as_ref().map(|teacher| &teacher.proto),
    };
    if !guidance.labels && guidance.teacher.is_none() {
        let unused = data.warnings().iter().find(|warning| warning.starts_with("labels "));
        let why = unused.map(|warning| format!(" ({warning})")).unwrap_or_default();
        return Err(Error::usage(format!(
            "there is nothing to learn from{why}: give data with labels, or the original as `teacher`"
        )));
    }
    progress.enter("analysing")?;
    let analysis = Analysis::new(model, dims, &BTreeSet::new())?;
    let cost = CostModel::new(analysis.subject()).cost(&Selection::all());
    let mut report = Report::new(&analysis, &[], &Selection::all(), cost, cost);
    clock.lap("analyse")?;
    let training = train::Options { seed: *seed, progress: progress.clone(), ..options.training.clone() };
    let models = (model.proto.clone(), analysis.subject().model);
    let (trained, trained_how) = train::tune(models, data, guidance, &training)?;
    clock.lap("train")?;
    let trained = model.with_proto(trained);
    report.enter_rewritten(&model.proto, &trained);
    report.training.push(trained_how);
    report.notes.extend(data.warnings().iter().cloned());
    report.seconds = clock.laps;
    let evidence =
        Evidence { analysis: analysis.into_owned(), groups: None, selection: Selection::all(), thaw: Vec::new() };
    let plan = Plan { adjusted: true, ..Plan::empty() };
    Ok(Outcome { model: trained, plan, report, evidence, setting: options.setting.clone(), samples })
}
