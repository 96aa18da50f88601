//! `ablation`: how much the model's outputs really change when a unit is masked: `‖y − y_masked‖² / ‖y‖²` on up to 64
//! samples. One run for each unit: for small models, and to judge the other criteria.

use std::collections::BTreeMap;

use super::Context;
use crate::axes::Selection;
use crate::error::Result;
use crate::plan::Group;
use crate::rewrite::masked;
use crate::runtime::{NamedTensor, RunOptions, Runnable};

/// Samples that each unit is judged on.
const SAMPLES: usize = 64;

pub(super) fn ablation(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    let data = context.calibration()?;
    let batches: Vec<Vec<NamedTensor>> = data
        .data
        .batches_of(0..SAMPLES, SAMPLES)
        .map(|batch| batch.map(|batch| batch.inputs))
        .collect::<Result<_>>()?;
    let original = outputs(&Runnable::new(context.subject.model, &RunOptions::default())?, &batches)?;
    let score = |group: &Group| (0..group.size).map(|unit| change(context, group, unit, &batches, &original)).collect();
    context.groups.iter().map(|group| score(group)).collect()
}

fn change(
    context: &Context<'_, '_>,
    group: &Group,
    unit: usize,
    batches: &[Vec<NamedTensor>],
    original: &[f32],
) -> Result<f64> {
    let mut selection = Selection::all();
    selection.keep(group.factor, (0..group.size).map(|i| i != unit).collect());
    let model = masked(context.subject, &selection)?;
    let found = outputs(&Runnable::new(&model, &RunOptions::default())?, batches)?;
    let mut sums = (0.0, 0.0);
    for (&a, &b) in original.iter().zip(&found) {
        let (a, b) = (f64::from(a), f64::from(b));
        sums.0 += if a == b { 0.0 } else { (a - b) * (a - b) };
        sums.1 += if a.is_finite() { a * a } else { 0.0 };
    }
    Ok(sums.0 / f64::max(sums.1, f64::MIN_POSITIVE))
}

/// All float outputs of all batches, one after the other.
fn outputs(runnable: &Runnable, batches: &[Vec<NamedTensor>]) -> Result<Vec<f32>> {
    let mut all: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for batch in batches {
        for (name, tensor) in runnable.run(batch)? {
            if tensor.is_float() {
                all.entry(name).or_default().extend(tensor.to_vec::<f32>()?);
            }
        }
    }
    Ok(all.into_values().flatten().collect())
}
