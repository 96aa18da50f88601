//! Compression: one budget, shared by all means.
//!
//! Widths of groups and ranks of layers have prices in the same currency: what the network's output loses on held-out samples.
//! So one allocation chooses among them. Each means alone is a special case of it; what was chosen is carried out, measured and
//! compared with these, and the best of them is the result.

mod candidates;
mod finish;
mod latency;
mod options;

use std::collections::BTreeMap;

use super::clock::Clock;
use super::outcome::{Evidence, Outcome};
use super::prune::judge::Judge;
use super::prune::search::halve;
use super::prune::steps::{Finish, Job};
use super::prune::survey::{Choice, Survey};
use super::prune::{Series, Target};
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::plan::{Plan, Remaining};
use crate::times::table::Meter;
use candidates::{Bench, Candidate};
use finish::finish;

pub use options::{CompressOptions, Means};

/// Chooses what to remove and what to split, rewrites the model and repairs it.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) for contradictory options or without samples, [`Input`](crate::ErrorKind::Input) for a
/// malformed model or plan, [`Nothing`](crate::ErrorKind::Nothing) if nothing can be done or the budget is out of reach.
pub(crate) fn compress(model: &Model, options: &CompressOptions) -> Result<Outcome> {
    options.check()?;
    let (options, opened) = options.opened(model)?;
    let options = &options;
    let mut clock = Clock::start(&options.setting.progress);
    let search = match options.target {
        Target::MaxDrop(_) => Some(Judge::new(model, &options.setting, &opened)?),
        _ => None,
    };
    let calibration = search.as_ref().and_then(|(_, calibration)| calibration.as_ref());
    let data = calibration.or(opened.data.as_ref());
    if data.is_none() && !matches!(options.target, Target::Plan(_)) {
        return Err(Error::usage(
            "`compress` weighs its means by what they cost on samples: give some with `data`; synthetic ones are enough",
        ));
    }
    let target = match &options.target {
        Target::Plan(plan) => Target::Plan(Plan { ranks: BTreeMap::new(), ..plan.clone() }),
        target => target.clone(),
    };
    let pruning = options.pruning(target).with_those_of_plan();
    let is_timed = matches!(options.target, Target::Latency(_));
    let meter = is_timed.then(|| Meter::open(&options.runtimes)).transpose()?;
    let series = Series::new(model, &pruning, data, meter.as_ref())?;
    clock.lap("analyse")?;
    let finished = match (&options.target, &search, &meter) {
        (Target::Plan(plan), ..) => {
            let job = series.job(&pruning)?;
            finish(&job, options, planned(&job, plan)?, clock)?
        }
        (Target::Latency(remaining), _, Some(meter)) => {
            latency::within((model, &series), options, (*remaining, meter), clock)?
        }
        (Target::MaxDrop(allowed), Some((judge, _)), _) => halve(judge, (*allowed, None), |share| {
            let options = CompressOptions { target: Target::Macs(Remaining::Share(share)), ..options.clone() };
            let pruning = options.pruning(options.target.clone());
            best(&series.job(&pruning)?, &options, Clock::start(&options.setting.progress))
        })?,
        _ => best(&series.job(&pruning)?, options, clock)?,
    };
    let Survey { analysis, groups, .. } = series.survey;
    let Finish { selection, plan, model, report } = finished;
    let thaw = pruning.thaw.clone();
    drop(search);
    opened.kept(Ok(()))?;
    let groups = (!plan.groups.is_empty()).then_some(groups);
    let evidence = Evidence { analysis: analysis.into_owned(), groups, selection, thaw };
    Ok(Outcome { model, plan, report, evidence, setting: options.setting.clone(), samples: opened })
}

/// The best of what may be done under a budget, carried out.
fn best(job: &Job<'_, '_>, options: &CompressOptions, mut clock: Clock) -> Result<Finish> {
    let (chosen, tried) = Bench::new(job, options, None)?.best(&mut clock)?;
    let mut finished = finish(job, options, chosen, clock)?;
    finished.report.candidates = tried;
    Ok(finished)
}

/// What a plan says.
fn planned(job: &Job<'_, '_>, plan: &Plan) -> Result<Candidate> {
    if plan.groups.is_empty() && plan.ranks.is_empty() {
        return Err(Error::nothing("the plan is empty: it names no groups and no ranks"));
    }
    let choice = if plan.groups.is_empty() { Choice::default() } else { job.chosen()? };
    Ok(Candidate { choice, ranks: plan.ranks.clone(), ..Candidate::default() })
}
