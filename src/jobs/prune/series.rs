//! Several removals from one model: it is analysed once, and scores and prices are measured once.

use std::sync::OnceLock;

use super::options::PruneOptions;
use super::pricing::Pricing;
use super::steps::{Finish, Job, Samples, method};
use super::survey::Survey;
use crate::calibrate::data::Dataset;
use crate::error::Result;
use crate::jobs::clock::Clock;
use crate::jobs::setting::to_fit;
use crate::onnx::Model;
use crate::plan::{Quota, Scope};
use crate::times::table::Meter;

/// A model that is pruned to one target or to several.
pub(in crate::jobs) struct Series<'m, 'd> {
    model: &'m Model,
    /// What training learns from and is judged on.
    data: Option<&'d Dataset>,
    /// What is scored and repaired on.
    fitted: Option<Dataset>,
    /// What times operators, for a latency budget.
    meter: Option<&'d Meter>,
    pub(in crate::jobs) survey: Survey<'m>,
    /// The measured prices of groups, or why they cannot be measured.
    pricing: OnceLock<std::result::Result<Pricing, String>>,
}

impl<'m, 'd> Series<'m, 'd> {
    /// Surveys `model`.
    ///
    /// # Errors
    /// As [`prune`](super::prune), before anything is chosen.
    pub(in crate::jobs) fn new(
        model: &'m Model,
        options: &PruneOptions,
        data: Option<&'d Dataset>,
        meter: Option<&'d Meter>,
    ) -> Result<Self> {
        options.setting.progress.enter("analysing")?;
        // What training is judged on, scores and repair must not see.
        let fitted = data.map(|data| to_fit(data, options.retrain.is_some()));
        let survey = Survey::new(model, options, fitted.as_ref(), meter)?;
        Ok(Self { model, data, fitted, meter, survey, pricing: OnceLock::new() })
    }

    /// The job of pruning the model to the target of `options`, which are otherwise those of the survey.
    ///
    /// # Errors
    /// As [`Job::new`].
    pub(in crate::jobs) fn job<'s>(&'s self, options: &'s PruneOptions) -> Result<Job<'s, 'm>> {
        let samples = Samples { all: self.data, fitted: self.fitted.as_ref() };
        let pricing = self.pricing.get_or_init(|| self.pricing(options, samples));
        Job::new(self.model, options, samples, (&self.survey, pricing, self.meter))
    }

    /// Prunes the model to the target of `options`.
    ///
    /// # Errors
    /// As [`prune`](super::prune).
    pub(in crate::jobs) fn carry_out(&self, options: &PruneOptions, mut clock: Clock) -> Result<Finish> {
        // Whatever was tried before, the same target gives the same model.
        self.survey.keep_factors(None);
        let job = self.job(options)?;
        let done = job.run(&mut clock)?;
        Ok(job.finish(done, clock))
    }

    fn pricing(&self, options: &PruneOptions, samples: Samples<'_>) -> std::result::Result<Pricing, String> {
        let request = options.request(self.model, &self.survey.cost(), 1.0);
        if !matches!((request.quota, request.scope), (Quota::Budget(_), Scope::Global)) {
            return Err("no budget is shared".to_owned());
        }
        let calibrated = |data| self.survey.calibrated(data, &options.setting);
        let data = samples.fitted.map(calibrated).transpose().map_err(|error| error.to_string())?;
        Pricing::new(self.survey.analysis.subject(), data, (options.effort, method(options, samples)))
    }
}
