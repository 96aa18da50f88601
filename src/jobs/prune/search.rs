//! `max_drop`: the largest reduction whose result is still faithful enough, found by halving.

use super::options::{PruneOptions, Target};
use super::pruned::Pruned;
use super::steps::{Job, Samples, pricing};
use super::survey::Survey;
use crate::calibrate::Calibration;
use crate::calibrate::data::Dataset;
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::clock::Clock;
use crate::jobs::setting::to_fit;
use crate::onnx::Model;
use crate::onnx::proto::ModelProto;
use crate::plan::Remaining;
use crate::report::{SearchReport, TrialReport, percent};
use crate::runtime::{Limits, RunOptions, Runnable};
use crate::verify::{Faithfulness, faithful};

/// Halvings of what remains: the result is within 1/128 of the multiplications.
const HALVINGS: usize = 7;

/// This share of the samples, the last ones, judges; the others are calibrated on.
const HELD_OUT: usize = 5;

/// Searches the smallest model (in multiply–accumulates) that loses no more than `allowed`.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) if there are no samples, [`Nothing`](ErrorKind::Nothing) if even the smallest removal
/// loses too much, and what pruning returns.
pub(super) fn search<'m>(
    model: &'m Model,
    options: &PruneOptions,
    data: Option<&Dataset>,
    allowed: f64,
) -> Result<Pruned<'m>> {
    let data = data.ok_or_else(|| Error::usage("`max_drop` needs samples to judge on: give some with `data`"))?;
    if options.checkpoints.is_some() {
        return Err(Error::usage("`max_drop` tries many removals and saves no checkpoints"));
    }
    let (calibration, held_out) = split(data)?;
    let original = Runnable::new(&model.proto, &RunOptions::default())?;
    // Scores and prices are measured once; budgets are tried on them.
    let fitted = to_fit(&calibration, options.retrain.is_some());
    let survey = Survey::new(model, options, Some(Calibration::new(&fitted, options.setting.seed)))?;
    let samples = Samples { all: Some(&calibration), fitted: Some(&fitted) };
    let pricing = pricing(model, options, samples, &survey);
    let mut trials: Vec<TrialReport> = Vec::new();
    let mut best = None;
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let share = f64::midpoint(low, high);
        let options = PruneOptions { target: Target::Macs(Remaining::Share(share)), ..options.clone() };
        let job = Job::new(model, &options, samples, (&survey, &pricing))?;
        let mut clock = Clock::start(&options.setting.progress);
        let done = match job.run(&mut clock) {
            Ok(done) => done,
            Err(error) if error.kind() == ErrorKind::Nothing => {
                trials.push(TrialReport { macs: share, ..TrialReport::default() });
                low = share;
                continue;
            }
            Err(error) => return Err(error),
        };
        let found = measure(&original, &done.model.proto, &held_out, options.setting.limits)?;
        let fits = found.share <= allowed;
        trials.push(TrialReport { macs: share, lost: Some(found.share), fits });
        if fits {
            (high, best) = (share, Some((job.finish(done, clock), found)));
        } else {
            low = share;
        }
    }
    let Some((mut finished, found)) = best else {
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
        samples: held_out.samples(),
        trials,
    });
    Ok(finished.of(survey))
}

/// What is lost, and of which figure.
struct Loss {
    share: f64,
    figure: &'static str,
}

/// Samples to calibrate on and samples to judge on.
fn split(data: &Dataset) -> Result<(Dataset, Dataset)> {
    let samples = data.samples();
    let first = samples - samples / HELD_OUT;
    if first == samples {
        return Err(Error::input(format!("{samples} samples are too few to hold out a fifth for `max_drop`")));
    }
    Ok((data.part(0..first), data.part(first..samples)))
}

fn measure(original: &Runnable, rewritten: &ModelProto, data: &Dataset, limits: Limits) -> Result<Loss> {
    let rewritten = Runnable::new(rewritten, &RunOptions::default())?;
    Ok(Loss::of(&faithful(original, &rewritten, data, limits)?))
}

impl Loss {
    /// Accuracy or R² where there are labels, else agreement of the largest class, else the cosine of the outputs.
    fn of(found: &Faithfulness) -> Self {
        if let Some((before, after)) = found.r2 {
            return Self { share: before - after, figure: "R²" };
        }
        match (found.accuracy.before, found.accuracy.after, found.top1_agreement) {
            (Some(before), Some(after), _) => Self { share: before - after, figure: "accuracy" },
            (_, _, Some(agreement)) => Self { share: 1.0 - agreement, figure: "top-1 agreement" },
            _ => Self { share: 1.0 - found.cosine, figure: "cosine similarity" },
        }
    }
}
