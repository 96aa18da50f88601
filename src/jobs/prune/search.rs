//! `--max-drop`: the largest reduction whose result is still faithful enough, found by halving.

use super::{Options, Pruned, Remaining, Target, steps};
use crate::calibrate::data::Dataset;
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::Model;
use crate::onnx::proto::ModelProto;
use crate::runtime::{RunOptions, Runnable};
use crate::verify::{Faithfulness, faithful};

/// Halvings of what remains: the result is within 1/128 of the multiplications.
const HALVINGS: usize = 7;

/// This share of the samples, the last ones, judges; the others are calibrated on.
const HELD_OUT: usize = 5;

/// Samples that run at once.
const BATCH: usize = 64;

/// Chooses what goes, rewrites the model and repairs what is left; if asked, trains it.
///
/// With several steps, each is scored on the result of the one before. Without training, what was chosen is carried out and
/// repaired on the original, so that no error of a repair is carried on; trained weights are carried on.
///
/// With [`Target::MaxDrop`], the smallest model (in multiply–accumulates) is searched that loses no more than that, on a
/// fifth of the samples that nothing else is decided on.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) for contradictory options, [`Input`](crate::ErrorKind::Input) for a malformed model or plan,
/// [`NothingToDo`](crate::ErrorKind::NothingToDo) if nothing can go, the budget is out of reach, or even the smallest removal
/// loses too much.
pub fn prune<'m>(model: &'m Model, options: &Options, data: Option<&Dataset>) -> Result<Pruned<'m>> {
    let Target::MaxDrop(allowed) = options.target else { return steps::prune(model, options, data) };
    let data = data.ok_or_else(|| Error::usage("--max-drop needs samples to judge on: give some with --data"))?;
    if options.retrain.as_ref().is_some_and(|retrain| retrain.checkpoints.is_some()) {
        return Err(Error::usage("--max-drop tries many removals and keeps no checkpoints of them"));
    }
    let (calibration, held_out) = split(data)?;
    let original = Runnable::new(&model.proto, &RunOptions::default())?;
    let mut tried = Vec::new();
    let mut best = None;
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let share = f64::midpoint(low, high);
        let options = Options { target: Target::Macs(Remaining::Share(share)), ..options.clone() };
        let pruned = match steps::prune(model, &options, Some(&calibration)) {
            Ok(pruned) => pruned,
            Err(error) if error.kind() == ErrorKind::NothingToDo => {
                tried.push(format!("{} out of reach", percent(share)));
                low = share;
                continue;
            }
            Err(error) => return Err(error),
        };
        let found = measure(&original, &pruned.model.proto, &held_out)?;
        let fits = found.share <= allowed;
        tried.push(format!(
            "{} loses {}{}",
            percent(share),
            percent(found.share),
            if fits { "" } else { " (too much)" }
        ));
        if fits {
            (high, best) = (share, Some((pruned, found)));
        } else {
            low = share;
        }
    }
    let tried = format!("of the MACs: {}", tried.join(" · "));
    let (mut pruned, found) = best.ok_or_else(|| {
        Error::nothing(format!("even the smallest removal loses more than {}; tried {tried}", percent(allowed)))
    })?;
    pruned.report.notes.push(format!(
        "loses {} of {} on {} samples that were held out (allowed: {}); {tried}",
        percent(found.share),
        found.figure,
        held_out.samples(),
        percent(allowed)
    ));
    Ok(pruned)
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
        return Err(Error::input(format!("{samples} samples are too few to hold a fifth out for --max-drop")));
    }
    Ok((data.part(0..first), data.part(first..samples)))
}

fn measure(original: &Runnable, rewritten: &ModelProto, data: &Dataset) -> Result<Loss> {
    let rewritten = Runnable::new(rewritten, &RunOptions::default())?;
    Ok(Loss::of(&faithful(original, &rewritten, data.batches(BATCH))?))
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

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}
