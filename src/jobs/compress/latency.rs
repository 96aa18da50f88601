//! `latency`: every means is tried at the predicted time; the result of the best one is measured, and its limit corrected.

use super::candidates::Bench;
use super::finish::finish;
use super::options::CompressOptions;
use crate::axes::Selection;
use crate::error::{Error, Result};
use crate::jobs::clock::Clock;
use crate::jobs::latency::{Aim, Tried};
use crate::jobs::prune::steps::Finish;
use crate::jobs::prune::{Series, Target};
use crate::onnx::Model;
use crate::plan::Remaining;
use crate::report::CandidateReport;
use crate::times::table::Meter;

/// Compresses a model to this latency.
///
/// # Errors
/// As [`Aim::new`], and what compressing to a budget returns.
pub(super) fn within(
    (model, series): (&Model, &Series<'_, '_>),
    options: &CompressOptions,
    (remaining, meter): (Remaining, &Meter),
    mut clock: Clock,
) -> Result<Finish> {
    let survey = &series.survey;
    let whole = survey.cost().cost(&Selection::all()).nanos;
    let aim = Aim::new(model, &survey.analysis, &options.setting, (remaining, whole), meter)?;
    let limited = |limit: f64| CompressOptions { target: Target::Latency(Remaining::Share(limit)), ..options.clone() };
    // What all means lost, and which was best: the corrections keep to that one.
    let mut compared: Option<Vec<CandidateReport>> = None;
    let tried = aim.approach(|limit| {
        let options = limited(limit);
        let pruning = options.pruning(options.target.clone());
        let job = series.job(&pruning)?;
        let best = compared.iter().flatten().find(|means| means.is_chosen).map(|means| means.means.as_str());
        let (choice, all) = Bench::new(&job, &options, best)?.best(&mut clock)?;
        compared.get_or_insert(all);
        options.setting.progress.enter("measuring a result")?;
        let measured = aim.measure(&model.with_proto(choice.model.clone()))?;
        clock.lap("measure results")?;
        Ok(Tried { predicted: choice.nanos as f64 / whole.max(1) as f64, choice, limit, measured })
    })?;
    let (report, notes) = aim.report(&survey.times, &tried);
    let best = tried.into_iter().last().ok_or_else(|| Error::nothing("no result was measured"))?;
    let options = limited(best.limit);
    let pruning = options.pruning(options.target.clone());
    let mut finished = finish(&series.job(&pruning)?, &options, best.choice, clock)?;
    finished.report.candidates = compared.unwrap_or_default();
    finished.report.latency_budget = Some(report);
    finished.report.notes.extend(notes);
    Ok(finished)
}
