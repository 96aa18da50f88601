//! How much the network's output changes when one layer alone is split: what its error weighs in a budget.

use rayon::prelude::*;

use crate::calibrate::data::Dataset;
use crate::error::Result;
use crate::onnx::proto::ModelProto;
use crate::runtime::{NamedTensor, RunOptions, Runnable};

/// Samples that the effect is measured on.
const SAMPLES: usize = 96;

/// Samples that run at once.
const BATCH: usize = 32;

/// Inputs from the middle of the data, where batches of every kind are.
///
/// # Errors
/// If the data cannot be read.
pub(super) fn middle(data: &Dataset) -> Result<Vec<Vec<NamedTensor>>> {
    let count = data.samples();
    let start = (count / 2).saturating_sub(SAMPLES / 2);
    data.batches_of(start..count.min(start + SAMPLES), BATCH).map(|batch| Ok(batch?.inputs)).collect()
}

/// Σ over float outputs of ‖Δy‖² / ‖y‖², for each of the models that `write` makes.
///
/// # Errors
/// If a model cannot be made or run.
pub(super) fn effects(
    original: &ModelProto,
    count: usize,
    write: impl Fn(usize) -> Result<ModelProto> + Sync,
    batches: &[Vec<NamedTensor>],
) -> Result<Vec<f64>> {
    let outputs = run(original, batches)?;
    (0..count).into_par_iter().map(|index| distance(&outputs, &run(&write(index)?, batches)?)).collect()
}

fn run(model: &ModelProto, batches: &[Vec<NamedTensor>]) -> Result<Vec<Vec<NamedTensor>>> {
    let runnable = Runnable::new(model, &RunOptions::default())?;
    batches.iter().map(|inputs| runnable.run(inputs)).collect()
}

fn distance(original: &[Vec<NamedTensor>], changed: &[Vec<NamedTensor>]) -> Result<f64> {
    let outputs = original.first().map_or(0, Vec::len);
    let mut sum = 0.0;
    for index in 0..outputs {
        let (mut delta, mut energy) = (0.0, 0.0);
        for (before, after) in original.iter().zip(changed) {
            let (Some((_, y)), Some((_, other))) = (before.get(index), after.get(index)) else { continue };
            if !y.is_float() {
                continue;
            }
            for (a, b) in y.to_vec::<f64>()?.into_iter().zip(other.to_vec::<f64>()?) {
                if a.is_finite() {
                    delta += (a - b) * (a - b);
                    energy += a * a;
                }
            }
        }
        if energy > 0.0 {
            sum += delta / energy;
        }
    }
    Ok(sum)
}
