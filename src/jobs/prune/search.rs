//! `max_drop`: the largest reduction whose result is still faithful enough, found by halving.

use std::time::Instant;

use super::judge::Judge;
use super::options::{HALVINGS, PruneOptions, Target};
use super::pruned::Pruned;
use super::series::Series;
use super::steps::Finish;
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::certificate::Certificate;
use crate::jobs::clock::Clock;
use crate::jobs::setting::Opened;
use crate::onnx::Model;
use crate::plan::Remaining;
use crate::report::{BoundReport, SearchReport, TrialReport, percent};
use crate::verify::Pairs;

/// Shares of the multiply–accumulates that differ by less are taken for one.
const NEAR: f64 = 1e-3;

/// Searches the smallest model (in multiply–accumulates) that loses no more than `allowed`.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) if there is nothing to judge by, [`Nothing`](ErrorKind::Nothing) if even the smallest removal
/// loses too much, and what pruning returns.
pub(super) fn search<'m>(
    model: &'m Model,
    options: &PruneOptions,
    opened: &Opened,
    allowed: f64,
) -> Result<Pruned<'m>> {
    if options.checkpoints.is_some() {
        return Err(Error::usage("`max_drop` tries many removals and saves no checkpoints"));
    }
    let (judge, calibration) = Judge::new(model, &options.setting, opened)?;
    if let (Some(confidence), Some(samples)) = (options.confidence, judge.samples()) {
        enough(samples, confidence, allowed)?;
    }
    let series = Series::new(model, options, calibration.as_ref(), None)?;
    let mut finished = halve(&judge, (allowed, options.confidence), |share| {
        let options = PruneOptions { target: Target::Macs(Remaining::Share(share)), ..options.clone() };
        series.carry_out(&options, Clock::start(&options.setting.progress))
    })?;
    if finished.report.search.as_ref().is_some_and(|search| search.bound.is_some()) {
        finished.model = Certificate::of(&finished.plan, &finished.report).attached(model, &finished.model);
    }
    Ok(finished.of(series.survey))
}

/// The smallest result of `reduce` that loses no more than is allowed (at this confidence, if one is given), by halving the
/// share of the multiply–accumulates that it is given.
///
/// # Errors
/// [`Nothing`](ErrorKind::Nothing) if even the smallest reduction loses too much; those of `reduce` of other kinds.
pub(in crate::jobs) fn halve(
    judge: &Judge<'_>,
    (allowed, confidence): (f64, Option<f64>),
    mut reduce: impl FnMut(f64) -> Result<Finish>,
) -> Result<Finish> {
    let started = Instant::now();
    let mut trials: Vec<TrialReport> = Vec::new();
    let mut best = None;
    let (mut low, mut high) = (0.0, 1.0);
    let mut judged = 0;
    while judged < HALVINGS && high - low > NEAR {
        let share = f64::midpoint(low, high);
        let finished = match reduce(share) {
            Ok(finished) => finished,
            Err(error) if error.kind() == ErrorKind::Nothing => {
                trials.push(TrialReport { macs: share, ..TrialReport::default() });
                low = share;
                continue;
            }
            Err(error) => return Err(error),
        };
        judged += 1;
        let found = judge.loss(&finished.model)?;
        let bound = found.bound(confidence, HALVINGS)?;
        let at_most = bound.map(|bound| bound.at_most);
        let fits = at_most.unwrap_or(found.share) <= allowed;
        trials.push(TrialReport { macs: share, lost: Some(found.share), at_most, fits });
        if fits {
            // What remains may be less than was allowed; every share between the two gives this result again.
            let figures = &finished.report.model;
            let remains = figures.after.macs as f64 / figures.before.macs.max(1) as f64;
            (high, best) = (remains.min(share), Some((finished, found, bound)));
        } else {
            low = share;
        }
    }
    let Some((mut finished, found, bound)) = best else {
        let tried: Vec<String> = trials.iter().map(ToString::to_string).collect();
        return Err(Error::nothing(format!(
            "even the smallest removal loses more than {}; shares of the MACs that were tried: {}",
            percent(allowed),
            tried.join(" · ")
        )));
    };
    finished.report.search = Some(SearchReport {
        allowed,
        figure: found.figure.to_owned(),
        lost: found.share,
        bound,
        samples: judge.samples(),
        trials,
    });
    finished.report.metric = found.metric;
    // The other candidates, and the judgement of all of them.
    let of_the_best: f64 = finished.report.seconds.values().sum();
    let search = (started.elapsed().as_secs_f64() - of_the_best).max(0.0);
    finished.report.seconds.insert("search".to_owned(), search);
    Ok(finished)
}

/// Refuses samples that could not show so small a loss even if all their answers stayed.
fn enough(samples: usize, confidence: f64, allowed: f64) -> Result<()> {
    let none = Pairs { samples, lost: 0, gained: None };
    let error = BoundReport::error(confidence, HALVINGS);
    if none.at_most(error) <= allowed {
        return Ok(());
    }
    let needed = none.needed(allowed, error).map_or_else(|| "more".to_owned(), |needed| format!("at least {needed}"));
    Err(Error::input(format!(
        "{samples} held-out samples, a fifth of `data`, cannot show a loss of {} at {} %, even if no answer changes: \
         {needed} held-out samples are needed",
        percent(allowed),
        100.0 * confidence
    )))
}
