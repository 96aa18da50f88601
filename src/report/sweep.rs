//! The report of a sweep: one model at several sizes.

use serde::{Deserialize, Serialize};

use super::{MetricReport, ModelFigures, Report};
use crate::latency::RuntimeLatency;
use crate::verify::VerifyReport;

/// Version of the JSON report of a sweep.
const VERSION: u32 = 1;

/// The report of a sweep: one model at several sizes, and which of them are worth a choice.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SweepReport {
    /// Version of this structure.
    pub version: u32,
    /// Which model, samples and options this is a sweep of: a sweep goes on only where they are the same.
    pub job: String,
    /// File name of the original; `None` if it came from memory.
    pub file: Option<String>,
    /// The figure that budgets count: `macs`, `params` or `size`.
    pub counted: String,
    /// The figure of quality that points are compared by: `your metric`, `accuracy`, `R²`, `top-1 agreement` or `cosine
    /// similarity`; `None` before the first point.
    pub quality: Option<String>,
    /// Figures of the original.
    pub before: ModelFigures,
    /// The quality of the original; `None` if the original itself is the measure.
    pub quality_before: Option<f64>,
    /// The budgets, in the order in which they were asked for.
    pub points: Vec<SweepPoint>,
    /// Commands that repeat the sweep.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

/// One budget of a sweep.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SweepPoint {
    /// The budget, which is also the stem of the point's files: `macs-65`.
    pub name: String,
    /// SHA-256 of the model file; `None` if there is none.
    pub hash: Option<String>,
    /// Figures of the result.
    pub after: ModelFigures,
    /// The quality of the result, as [`SweepReport::quality`] names it.
    pub quality: Option<f64>,
    /// Share of the figure of quality that is lost, or its difference in points where it is a share itself.
    pub lost: Option<f64>,
    /// Proofs and measurements.
    pub verify: VerifyReport,
    /// The user's own metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<MetricReport>,
    /// Latency in runtimes other than tract.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub latencies: Vec<RuntimeLatency>,
    /// Whether no other point is at least as small and loses as little.
    pub on_front: bool,
    /// Why there is no model for this budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl SweepPoint {
    /// The point of a budget whose job ended in `report`; its file has this hash.
    pub(crate) fn of(name: String, hash: String, report: &Report) -> (Self, Quality) {
        let quality = Quality::of(report);
        let point = Self {
            name,
            hash: Some(hash),
            after: report.model.after,
            quality: quality.after,
            lost: quality.lost,
            verify: report.verify.clone(),
            metric: report.metric.clone(),
            latencies: report.latencies.clone(),
            on_front: false,
            reason: None,
        };
        (point, quality)
    }

    /// The point of a budget that no model meets.
    pub(crate) fn without_model(name: String, reason: String) -> Self {
        Self { name, reason: Some(reason), ..Self::default() }
    }
}

/// How good a result is, in the figure that says most about it.
pub(crate) struct Quality {
    /// Name of the figure.
    pub(crate) name: &'static str,
    pub(crate) before: Option<f64>,
    after: Option<f64>,
    lost: Option<f64>,
}

impl Quality {
    /// The user's metric, else accuracy or R² on labels, else the agreement with the original.
    fn of(report: &Report) -> Self {
        let verify = &report.verify;
        let figure = |name, before: Option<f64>, after: Option<f64>| {
            let lost = Some(before.unwrap_or(1.0)).zip(after).map(|(before, after)| before - after);
            Self { name, before, after, lost }
        };
        if let Some(metric) = &report.metric {
            let (before, after) = (Some(metric.before), Some(metric.after));
            return Self { name: "your metric", before, after, lost: Some(metric.lost()) };
        }
        match (verify.accuracy.before, verify.accuracy.after, verify.r2, verify.top1_agreement) {
            (Some(before), Some(after), ..) => figure("accuracy", Some(before), Some(after)),
            (_, _, Some((before, after)), _) => figure("R²", Some(before), Some(after)),
            (.., Some(agreement)) => figure("top-1 agreement", None, Some(agreement)),
            _ => figure("cosine similarity", None, verify.cosine),
        }
    }
}

impl SweepReport {
    /// The report of a sweep that has no points yet.
    pub(crate) fn new(job: String, counted: &str, file: Option<String>) -> Self {
        Self {
            version: VERSION,
            job,
            file,
            counted: counted.to_owned(),
            quality: None,
            before: ModelFigures::default(),
            quality_before: None,
            points: Vec::new(),
            commands: Vec::new(),
        }
    }

    /// The figure that budgets count, of a model.
    pub(crate) fn cost(&self, figures: &ModelFigures) -> u64 {
        match self.counted.as_str() {
            "params" => figures.params,
            "size" => figures.bytes,
            _ => figures.macs,
        }
    }

    /// Marks the points that no other point beats: smaller or equal, no greater loss, and better in one of them. Among
    /// equals, the first is marked.
    pub(crate) fn mark_front(&mut self) {
        let places: Vec<Option<(u64, f64)>> = self.points.iter().map(|point| self.place(point)).collect();
        let is_beaten = |at: usize, (cost, lost): (u64, f64)| {
            places.iter().enumerate().any(|(other, place)| {
                place.is_some_and(|(c, l)| c <= cost && l <= lost && ((c, l) != (cost, lost) || other < at))
            })
        };
        let marks: Vec<bool> =
            places.iter().enumerate().map(|(at, place)| place.is_some_and(|place| !is_beaten(at, place))).collect();
        self.points.iter_mut().zip(marks).for_each(|(point, mark)| point.on_front = mark);
    }

    /// Cost and loss of a point that has both.
    fn place(&self, point: &SweepPoint) -> Option<(u64, f64)> {
        point.hash.as_ref()?;
        Some((self.cost(&point.after), point.lost.filter(|lost| !lost.is_nan())?))
    }

    /// Formats the report as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(macs: u64, lost: f64) -> SweepPoint {
        SweepPoint {
            hash: Some(String::new()),
            lost: Some(lost),
            after: ModelFigures { macs, ..ModelFigures::default() },
            ..SweepPoint::default()
        }
    }

    #[test]
    fn the_front_is_what_nothing_beats() {
        let mut report = SweepReport::new(String::new(), "macs", None);
        let missing = SweepPoint::without_model("macs-1".to_owned(), "out of reach".to_owned());
        report.points =
            vec![point(80, 0.0), point(70, 0.02), point(60, 0.01), point(50, f64::NAN), missing, point(60, 0.01)];
        report.mark_front();
        let marks: Vec<bool> = report.points.iter().map(|point| point.on_front).collect();
        assert_eq!(marks, [true, false, true, false, false, false]);
    }
}
