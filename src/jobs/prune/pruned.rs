//! What pruning comes to, before it is proved.

use super::options::PruneOptions;
use super::survey::Survey;
use crate::axes::Selection;
use crate::jobs::outcome::{Evidence, Outcome};
use crate::jobs::setting::Opened;
use crate::onnx::Model;
use crate::plan::Plan;
use crate::report::Report;

/// A pruned model, and what it was made from.
pub(super) struct Pruned<'m> {
    pub(super) survey: Survey<'m>,
    pub(super) selection: Selection,
    pub(super) plan: Plan,
    pub(super) model: Model,
    pub(super) report: Report,
}

impl Pruned<'_> {
    /// What the job returns; `samples` are those that it was done on.
    pub(super) fn into_outcome(self, options: &PruneOptions, samples: Opened) -> Outcome {
        let Self { survey, selection, plan, model, report } = self;
        let (analysis, groups) = (survey.analysis.into_owned(), Some(survey.groups));
        let evidence = Evidence { analysis, groups, selection, thaw: options.thaw.clone() };
        Outcome { model, plan, report, evidence, setting: options.setting.clone(), samples }
    }
}
