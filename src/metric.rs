//! The user's own metric: how good a model is, in a figure that only the user knows how to measure.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command::ModelCommand;
use crate::error::{Error, Result};
use crate::onnx::{Model, TemporaryFile};
use crate::progress::Progress;

/// Measures a model.
type Judge = Arc<dyn Fn(&Model, &Progress) -> Result<f64> + Send + Sync>;

/// A metric of the user, such as mAP, word error rate or recall@k.
///
/// It is measured on the original before any work is done, on every candidate of a search, and on the result. Use
/// samples for it that no decision is based on.
///
/// ```
/// use paredown::{Metric, Model, PruneOptions, prune};
///
/// let metric = Metric::new("score", |model: &Model| Ok(1.0 - model.file_bytes() as f64 / 1e12));
/// let options = PruneOptions::ratio(0.5).metric(metric);
/// let pruned = prune(&Model::load("fixtures/digits_mlp.onnx")?, &options)?.prove()?;
/// let metric = pruned.report.metric.unwrap();
/// assert!(metric.after > metric.before);
/// # Ok::<(), paredown::Error>(())
/// ```
#[derive(Clone)]
pub struct Metric {
    name: String,
    lower_is_better: bool,
    judge: Judge,
}

/// A metric of the user, measured before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MetricReport {
    /// Name of the metric, or the command that measures it.
    pub name: String,
    /// Whether a lower figure is better.
    pub lower_is_better: bool,
    /// Figure of the original.
    pub before: f64,
    /// Figure of the rewritten model.
    pub after: f64,
}

impl MetricReport {
    /// Share of the original's figure that is lost; negative if the rewritten model is better.
    pub fn lost(&self) -> f64 {
        lost((self.before, self.after), self.lower_is_better)
    }
}

impl Metric {
    /// A metric that `judge` measures. Higher is better, unless [`lower_is_better`](Self::lower_is_better) says
    /// otherwise. A figure that is infinite or not a number ends the job with an error.
    pub fn new(name: impl Into<String>, judge: impl Fn(&Model) -> Result<f64> + Send + Sync + 'static) -> Self {
        Self { name: name.into(), lower_is_better: false, judge: Arc::new(move |model, _| judge(model)) }
    }

    /// A metric that a shell command measures: `{model}` in it stands for the path of the model, and the last number
    /// that it prints is the figure. A command that takes longer than `timeout` is ended.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) if the command does not say where the model goes.
    pub fn command(line: &str, timeout: Option<Duration>) -> Result<Self> {
        let command = ModelCommand::new(line, timeout)?;
        let judge =
            move |model: &Model, progress: &Progress| command.number(TemporaryFile::of(model)?.path(), progress);
        Ok(Self { name: line.to_owned(), lower_is_better: false, judge: Arc::new(judge) })
    }

    /// Sets whether a lower figure is better, as of an error rate; off by default.
    #[must_use]
    pub fn lower_is_better(mut self, lower: bool) -> Self {
        self.lower_is_better = lower;
        self
    }

    /// Measures `model`.
    ///
    /// # Errors
    /// What the metric returns; [`Input`](crate::ErrorKind::Input) if its figure is infinite or not a number.
    pub(crate) fn of(&self, model: &Model, progress: &Progress) -> Result<f64> {
        progress.enter("measuring the metric")?;
        let figure = (self.judge)(model, progress)?;
        if figure.is_finite() {
            return Ok(figure);
        }
        Err(Error::input(format!("the metric '{}' gives {figure}, which cannot be compared", self.name)))
    }

    /// What is reported for these figures of the original and the rewritten model.
    pub(crate) fn report(&self, before: f64, after: f64) -> MetricReport {
        MetricReport { name: self.name.clone(), lower_is_better: self.lower_is_better, before, after }
    }
}

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metric")
            .field("name", &self.name)
            .field("lower_is_better", &self.lower_is_better)
            .finish_non_exhaustive()
    }
}

/// The share of the figure before that is lost.
fn lost((before, after): (f64, f64), lower_is_better: bool) -> f64 {
    let worse = if lower_is_better { after - before } else { before - after };
    if worse == 0.0 { 0.0 } else { worse / before.abs() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        Model::from_proto(crate::runtime::sample_models::mlp())
    }

    #[test]
    fn a_loss_is_a_share_of_the_figure_before() {
        let metric = Metric::new("F1", |_| Ok(0.8));
        assert!((metric.report(0.8, 0.76).lost() - 0.05).abs() < 1e-12);
        assert!((metric.report(-2.0, -2.5).lost() - 0.25).abs() < 1e-12);
        let error_rate = metric.lower_is_better(true);
        assert!((error_rate.report(4.0, 5.0).lost() - 0.25).abs() < 1e-12);
        assert_eq!(error_rate.report(0.0, 0.0).lost(), 0.0);
        assert_eq!(error_rate.report(0.0, 0.1).lost(), f64::INFINITY);
    }

    #[test]
    fn a_figure_that_cannot_be_compared_is_an_error() {
        for figure in [f64::NAN, f64::INFINITY] {
            let error = Metric::new("F1", move |_| Ok(figure)).of(&model(), &Progress::default()).unwrap_err();
            assert!(error.to_string().contains("'F1'"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_command_judges_the_file() {
        let metric = Metric::command("wc -c < {model}", None).unwrap();
        let bytes = model().file_bytes() as f64;
        assert_eq!(metric.of(&model(), &Progress::default()).unwrap(), bytes);
    }
}
