//! `latency`: the units that stay are chosen by predicted times, and the result is measured before it is repaired.

use super::options::{PruneOptions, Target};
use super::pruned::Pruned;
use super::series::Series;
use super::survey::Survey;
use crate::axes::Selection;
use crate::calibrate::data::Dataset;
use crate::error::{ErrorKind, Result};
use crate::graph::NodeId;
use crate::jobs::clock::Clock;
use crate::jobs::latency::{Aim, Tried};
use crate::onnx::Model;
use crate::plan::{Remaining, Timed};
use crate::report::OperatorTime;
use crate::rewrite;
use crate::times::alone::sizes;
use crate::times::table::Meter;

/// Most choices that are carried out again because the first one, whose prices were measured again, missed the budget.
const CORRECTIONS: usize = 2;

/// Prunes a model to this latency.
///
/// # Errors
/// As [`Aim::new`], and what pruning to a budget returns.
pub(super) fn prune<'m>(
    model: &'m Model,
    options: &PruneOptions,
    data: Option<&Dataset>,
    remaining: Remaining,
) -> Result<Pruned<'m>> {
    let mut clock = Clock::start(&options.setting.progress);
    let meter = Meter::open(&options.runtimes)?;
    let series = Series::new(model, options, data, Some(&meter))?;
    clock.lap("time operators")?;
    let survey = &series.survey;
    let whole = survey.cost().cost(&Selection::all()).nanos;
    let aim = Aim::new(model, &survey.analysis, &options.setting, (remaining, whole), &meter)?;
    let limited = |limit: f64| PruneOptions { target: Target::Latency(Remaining::Share(limit)), ..options.clone() };
    let attempt = |selection: Selection, limit: f64| -> Result<Tried<Selection>> {
        options.setting.progress.enter("measuring a result")?;
        let rewritten = model.with_proto(rewrite::prune(survey.analysis.subject(), &selection)?);
        let predicted = survey.cost().cost(&selection).nanos as f64 / whole.max(1) as f64;
        Ok(Tried { choice: selection, limit, predicted, measured: aim.measure(&rewritten)? })
    };
    let mut tried = aim.approach(|limit| {
        let options = limited(limit);
        let job = series.job(&options)?;
        attempt(survey.choose(&options, &job.request(1, 1), job.judges())?.selection, limit)
    })?;
    clock.lap("measure results")?;
    let mut limit = tried.last().map_or(aim.wanted, |best| best.limit);
    let carry_out = |limit: f64, clock: &mut Clock| {
        let options = limited(limit);
        series.job(&options)?.run(clock)
    };
    let mut done = carry_out(limit, &mut clock)?;
    // Prices that are measured again on the way to the budget lead to another choice.
    if tried.last().is_none_or(|best| best.choice != *done.selection()) {
        tried.push(attempt(done.selection().clone(), limit)?);
        for _ in 0..CORRECTIONS {
            let Some(best) = tried.last().filter(|best| best.measured.is_some() && !best.meets(aim.wanted)) else {
                break;
            };
            let (miss, next) = (best.miss(aim.wanted), aim.corrected(&tried));
            let again = match carry_out(next, &mut clock) {
                Ok(again) => again,
                Err(error) if error.kind() == ErrorKind::Nothing => break,
                Err(error) => return Err(error),
            };
            let found = attempt(again.selection().clone(), next)?;
            let is_better = found.miss(aim.wanted) < miss;
            // The best result is the last one.
            tried.insert(tried.len() - usize::from(!is_better), found);
            if is_better {
                (done, limit) = (again, next);
            }
        }
    }
    clock.lap("measure results")?;
    let options = limited(limit);
    let job = series.job(&options)?;
    let (mut report, notes) = aim.report(&survey.times, &tried);
    report.times = operator_times(survey, done.selection());
    let mut finished = job.finish(done, clock);
    finished.report.latency_budget = Some(report);
    finished.report.notes.extend(notes);
    drop(job);
    Ok(finished.of(series.survey))
}

/// What the operators of the original take, and with `selection` kept.
fn operator_times(survey: &Survey<'_>, selection: &Selection) -> Vec<OperatorTime> {
    let subject = survey.analysis.subject();
    let whole = Selection::all();
    let compared = |(timed, &main): (&Timed, &NodeId)| {
        let node = subject.graph.node(main);
        let at = |selection| Some(timed.surface.at(&sizes(subject, &timed.axes, selection)?));
        let (before_ms, after_ms) = (at(&whole)?, at(selection)?);
        Some(OperatorTime { node: node.name.clone(), op: node.op.clone(), before_ms, after_ms })
    };
    survey.times.timed.iter().zip(&survey.times.main).filter_map(compared).collect()
}
