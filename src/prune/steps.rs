//! The job: choose, rewrite, repair; in one step or in several.

use super::survey::Survey;
use super::{Options, Pruned, Target};
use crate::axes::{Role, Selection};
use crate::calibrate::Calibration;
use crate::calibrate::data::Dataset;
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::plan::{CostModel, Group, Plan, Quota, Request};
use crate::repair::{Method, repair};
use crate::report::{CalibrationReport, Clock, RepairReport, Report};
use crate::rewrite;
use crate::score::Criterion;

/// Chooses what goes, rewrites the model and repairs what is left.
///
/// With several steps, each is scored on the repaired result of the one before; what was chosen is always carried out and
/// repaired on the original, so that no error of a repair is carried on.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) for contradictory options, [`Input`](crate::ErrorKind::Input) for a malformed model or plan,
/// [`NothingToDo`](crate::ErrorKind::NothingToDo) if nothing can go or the budget is out of reach.
pub fn prune<'m>(model: &'m Model, options: &Options, data: Option<&Dataset>) -> Result<Pruned<'m>> {
    let mut clock = Clock::start();
    let survey = Survey::new(model, options)?;
    clock.lap("analyse");
    let data = data.map(|data| Calibration::new(data, options.seed));
    let criterion = Criterion::by_name(options.criterion.as_deref().unwrap_or(match data {
        Some(_) => "obs",
        None => "l2",
    }))?;
    let method = options.repair.unwrap_or(if data.is_some() { Method::Lstsq } else { Method::None });
    if method != Method::None && data.is_none() {
        return Err(Error::usage("--repair needs samples: give some with --data, or --data synthetic"));
    }
    let cost = CostModel::new(survey.analysis.subject());
    let mut selection = Selection::all();
    let mut current: Option<(Model, Vec<RepairReport>)> = None;
    let steps = if matches!(options.target, Target::Plan(_)) { 1 } else { options.steps.max(1) };
    for step in 1..=steps {
        selection = match &current {
            None => {
                let request = options.request(model, &cost, share(step, steps));
                survey.choose(options, criterion, &request, data)?
            }
            Some((pruned, _)) => {
                let request = step_request(options, model, &cost, (step, steps));
                let next = Survey::new(pruned, options)?;
                compose(&survey.groups, &selection, &next.groups, &next.choose(options, criterion, &request, data)?)?
            }
        };
        clock.lap("score");
        if selection.touched().next().is_none() {
            return Err(Error::nothing(
                "nothing would be removed: every group keeps all its units at this target; ask for more, or lower --min-keep and --align",
            ));
        }
        let subject = survey.analysis.subject();
        let rewritten = rewrite::prune(subject, &selection)?;
        clock.lap("rewrite");
        let (rewritten, repaired) = match data {
            Some(data) => repair(subject, &selection, rewritten, data, method)?,
            None => (rewritten, Vec::new()),
        };
        clock.lap("repair");
        current = Some((model.with_proto(rewritten), repaired));
    }
    let (rewritten, repaired) = current.ok_or_else(|| Error::usage("--steps is at least one"))?;
    let (before, after) = (cost.cost(&Selection::all()), cost.cost(&selection));
    let mut report = Report::new(&survey.analysis, &survey.groups, &selection, before, after);
    report.model.after.bytes = rewritten.file_bytes();
    report.model.after.nodes = rewritten.proto.graph.as_ref().map_or(0, |graph| graph.node.len());
    report.notes.extend(shift_note(&survey.groups, &selection));
    report.calibration = data.filter(|_| criterion.needs_data || method != Method::None).map(|calibration| {
        report.notes.extend(calibration.data.warnings().iter().cloned());
        CalibrationReport {
            samples: calibration.data.samples(),
            hash: calibration.data.hash().to_owned(),
            seed: options.seed,
            synthetic: calibration.data.is_synthetic(),
            layers: repaired,
        }
    });
    report.seconds = clock.laps;
    let plan = Plan::of(&survey.groups, &selection);
    drop(cost);
    let Survey { analysis, groups } = survey;
    Ok(Pruned { analysis, groups, selection, plan, model: rewritten, report })
}

fn share(step: usize, steps: usize) -> f64 {
    step as f64 / steps as f64
}

/// What a later step asks of the result of the step before: budgets are absolute, a ratio counts from what is left.
fn step_request(options: &Options, model: &Model, cost: &CostModel<'_>, (step, steps): (usize, usize)) -> Request {
    let request = options.request(model, cost, share(step, steps));
    match request.quota {
        Quota::Ratio(now) => {
            let Quota::Ratio(before) = options.request(model, cost, share(step - 1, steps)).quota else {
                return request;
            };
            Request { quota: Quota::Ratio(1.0 - (1.0 - now) / (1.0 - before)), ..request }
        }
        Quota::Budget(_) => request,
    }
}

/// `next`, a selection of what `done` left over, as a selection of the original. Groups are matched by name; one of
/// which a single unit is left has no group any more.
fn compose(groups: &[Group], done: &Selection, next_groups: &[Group], next: &Selection) -> Result<Selection> {
    let mut composed = Selection::all();
    for group in groups {
        let mut flags: Vec<bool> = (0..group.size).map(|unit| done.keeps(group.factor, unit)).collect();
        let left = flags.iter().filter(|&&keep| keep).count();
        if let Some(now) = next_groups.iter().find(|now| now.name == group.name) {
            if now.size != left {
                let message = format!("group '{}' cannot be followed from step to step; use --steps 1", group.name);
                return Err(Error::input(message));
            }
            let kept = flags.iter_mut().filter(|keep| **keep).enumerate();
            kept.for_each(|(unit, keep)| *keep = next.keeps(now.factor, unit));
        }
        composed.keep(group.factor, flags);
    }
    Ok(composed)
}

fn shift_note(groups: &[Group], selection: &Selection) -> Option<String> {
    let shifted: Vec<&str> = groups
        .iter()
        .filter(|group| matches!(group.role, Role::Shifts(_)) && !selection.keeps_all(group.factor))
        .map(|group| group.name.as_str())
        .collect();
    let first = shifted.first()?;
    Some(format!("{} groups shift a statistic (first: {first}); for them the removal is not exact", shifted.len()))
}
