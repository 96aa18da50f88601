//! Several removals from one model: scores and prices are measured once.

use std::collections::BTreeSet;

use super::checkpoint::job_name;
use super::options::{PruneOptions, Target};
use super::pricing::Pricing;
use super::steps::{Finish, Job, Samples, pricing};
use super::survey::Survey;
use crate::analysis::Analysis;
use crate::calibrate::Calibration;
use crate::calibrate::data::Dataset;
use crate::error::Result;
use crate::jobs::clock::Clock;
use crate::jobs::outcome::{Evidence, Outcome};
use crate::jobs::setting::{Opened, to_fit};
use crate::onnx::Model;

/// A model that is pruned to several targets.
pub(crate) struct Series<'m> {
    model: &'m Model,
    options: PruneOptions,
    opened: Opened,
    /// What is scored and repaired on.
    fitted: Option<Dataset>,
    survey: Survey<'m>,
    pricing: std::result::Result<Pricing, String>,
}

impl<'m> Series<'m> {
    /// Surveys `model`. The target of `options` is one of those that follow.
    ///
    /// # Errors
    /// As [`prune`](super::prune), before anything is chosen.
    pub(crate) fn new(model: &'m Model, options: &PruneOptions) -> Result<Self> {
        options.check()?;
        let opened = options.setting.open(model)?;
        options.setting.progress.enter("analysing")?;
        let fitted = opened.data.as_ref().map(|data| to_fit(data, options.retrain.is_some()));
        let calibration = fitted.as_ref().map(|data| Calibration::new(data, options.setting.seed));
        let survey = Survey::new(model, options, calibration, None)?;
        let samples = Samples { all: opened.data.as_ref(), fitted: fitted.as_ref() };
        let pricing = pricing(model, options, samples, &survey);
        Ok(Self { model, options: options.clone(), opened, fitted, survey, pricing })
    }

    /// A name for the model, the samples and the options, which differs if one of them does.
    pub(crate) fn name(&self) -> String {
        job_name(self.model, &self.options, self.opened.data.as_ref())
    }

    /// Prunes the model to one target.
    ///
    /// # Errors
    /// As [`prune`](super::prune).
    pub(crate) fn prune(&self, target: &Target) -> Result<Outcome> {
        let options = PruneOptions { target: target.clone(), ..self.options.clone() };
        let samples = Samples { all: self.opened.data.as_ref(), fitted: self.fitted.as_ref() };
        let mut clock = Clock::start(&options.setting.progress);
        let job = Job::new(self.model, &options, samples, (&self.survey, &self.pricing, None))?;
        let done = job.run(&mut clock)?;
        let Finish { selection, plan, model, report } = job.finish(done, clock);
        let thaw: BTreeSet<String> = options.thaw.iter().cloned().collect();
        let analysis = Analysis::new(self.model, &options.setting.dims, &thaw)?.into_owned();
        let groups = Some(self.survey.groups.clone());
        let evidence = Evidence { analysis, groups, selection, thaw: options.thaw.clone() };
        Ok(Outcome { model, plan, report, evidence, setting: options.setting.clone(), samples: self.opened.again() })
    }
}
