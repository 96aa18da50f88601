//! What a search judges its candidates by.

use crate::calibrate::data::Dataset;
use crate::error::{Error, Result};
use crate::jobs::setting::{Opened, Setting};
use crate::metric::MetricReport;
use crate::onnx::Model;
use crate::report::BoundReport;
use crate::runtime::{Limits, RunOptions, Runnable};
use crate::verify::{Faithfulness, Pairs, faithful};

/// Every fifth sample judges; the others are calibrated on.
const HELD_OUT: usize = 5;

/// Name of the user's metric.
const METRIC: &str = "your metric";

/// Measures what a candidate loses.
pub(in crate::jobs) enum Judge<'s> {
    /// The user's own metric.
    Metric(&'s Setting, &'s Opened),
    /// Samples that nothing else is decided on, and what the original makes of them.
    Samples {
        /// The original.
        original: Box<Runnable>,
        /// The samples.
        held_out: Box<Dataset>,
        /// Memory to run them in.
        limits: Limits,
    },
}

/// What is lost, and of which figure.
pub(super) struct Loss {
    pub(super) share: f64,
    pub(super) figure: &'static str,
    /// Answers sample by sample, if they are classes.
    pub(super) pairs: Option<Pairs>,
    /// Figures of the user's own metric.
    pub(super) metric: Option<MetricReport>,
}

impl<'s> Judge<'s> {
    /// The judge of candidates for `model`, and the samples that are left to calibrate on.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) if there is nothing to judge by, [`Input`](crate::ErrorKind::Input) if there are
    /// too few samples, and what tract returns for the original.
    pub(in crate::jobs) fn new(
        model: &Model,
        setting: &'s Setting,
        samples: &'s Opened,
    ) -> Result<(Self, Option<Dataset>)> {
        let data = samples.data.as_ref();
        if let Some(before) = samples.metric {
            if before == 0.0 {
                return Err(Error::input("the metric of the original is 0, so no share of it can be lost"));
            }
            return Ok((Self::Metric(setting, samples), data.map(|data| data.part(0..data.samples()))));
        }
        let data = data.ok_or_else(|| {
            Error::usage("`max_drop` needs samples to judge on: give `data`, or a metric of your own")
        })?;
        let [others, held_out] = data.split(HELD_OUT);
        if others.samples() == 0 || held_out.samples() == 0 {
            let samples = data.samples();
            return Err(Error::input(format!("{samples} samples are too few to hold out a fifth for `max_drop`")));
        }
        let original = Box::new(Runnable::new(&model.proto, &RunOptions::default())?);
        Ok((Self::Samples { original, held_out: Box::new(held_out), limits: setting.limits }, Some(others)))
    }

    /// Number of samples that judge, if they are known.
    pub(super) fn samples(&self) -> Option<usize> {
        match self {
            Self::Metric(..) => None,
            Self::Samples { held_out, .. } => Some(held_out.samples()),
        }
    }

    /// What `candidate` loses.
    ///
    /// # Errors
    /// What the metric returns, or tract.
    pub(super) fn loss(&self, candidate: &Model) -> Result<Loss> {
        match self {
            Self::Metric(setting, samples) => {
                let metric = setting.judge(samples, candidate)?;
                let share = metric.as_ref().map_or(f64::INFINITY, MetricReport::lost);
                Ok(Loss { share, figure: METRIC, pairs: None, metric })
            }
            Self::Samples { original, held_out, limits } => {
                let candidate = Runnable::new(&candidate.proto, &RunOptions::default())?;
                Ok(Loss::of(&faithful(original, &candidate, held_out, *limits)?))
            }
        }
    }
}

impl Loss {
    /// What is lost at most with this confidence, where one of `candidates` is chosen by it.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) if the figure is not one of single samples.
    pub(super) fn bound(&self, confidence: Option<f64>, candidates: usize) -> Result<Option<BoundReport>> {
        let Some(confidence) = confidence else { return Ok(None) };
        let pairs = self.pairs.ok_or_else(|| {
            let figure = self.figure;
            Error::usage(format!("`confidence` needs classes, sample by sample: the loss here is one of {figure}"))
        })?;
        Ok(Some(BoundReport::new(confidence, pairs, candidates)))
    }

    /// Accuracy or R² where there are labels, else agreement of the largest class, else the cosine of the outputs.
    fn of(found: &Faithfulness) -> Self {
        let (share, figure) = match (found.r2, found.accuracy.before, found.accuracy.after, found.top1_agreement) {
            (Some((before, after)), ..) => (before - after, "R²"),
            (_, Some(before), Some(after), _) => (before - after, "accuracy"),
            (.., Some(agreement)) => (1.0 - agreement, "top-1 agreement"),
            _ => (1.0 - found.cosine, "cosine similarity"),
        };
        let pairs = found.pairs.filter(|_| found.r2.is_none());
        Self { share, figure, pairs, metric: None }
    }
}
