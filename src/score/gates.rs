//! Slopes of the loss by gates: a factor m of ones for each sample and unit, in front of every contraction that the unit
//! enters. One backward pass gives the slopes of all samples and units, and counts producers and consumers once.
//!
//! With labels the loss is cross-entropy of classes, or the squared error of real values. Without, it is the distance of the outputs to themselves, perturbed: `Σ ε y` with
//! seeded signs ε, whose squared slope is on average that of the outputs. It does not vanish on a network that fits its
//! data.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Context, magnitude};
use crate::axes::FactorId;
use crate::calibrate::data::{Batch, Labels};
use crate::error::{Error, Result};
use crate::train::{Gate, Program, Tensor, Wanted, label_loss};

/// Samples that slopes are averaged over.
pub(super) const SAMPLES: usize = 256;

/// Samples that run at once.
const BATCH: usize = 32;

/// A place where units of some groups are gated.
struct Place {
    gate: Gate,
    /// For each group that passes here: its number, and the unit at each position of the axis.
    units: Vec<(usize, Vec<Option<u32>>)>,
}

/// Batches of at most `size` samples, up to [`SAMPLES`], with the number of their first sample.
pub(super) fn batches(context: &Context<'_, '_>, size: usize) -> Result<Vec<(usize, Batch)>> {
    let data = context.calibration()?.data;
    let mut first = 0;
    let mut numbered = Vec::new();
    for batch in data.batches_of(0..SAMPLES.min(data.samples()), size) {
        let batch = batch?;
        let rows = batch.samples();
        numbered.push((first, batch));
        first += rows;
    }
    Ok(numbered)
}

/// Mean over samples of `fold(∂L/∂m)` for every unit of every group; groups that pass no gate are scored by `l2`.
pub(super) fn mean_of_slopes(context: &Context<'_, '_>, fold: fn(f64) -> f64) -> Result<Vec<Vec<f64>>> {
    let places = places(context);
    let gates: Vec<Gate> = places.iter().map(|place| place.gate).collect();
    let mut scores: Vec<Vec<f64>> = context.groups.iter().map(|group| vec![0.0; group.size]).collect();
    if !gates.is_empty() {
        let program: Program = Program::new(context.subject.model, Wanted::Gates(&gates))?;
        let mut count = 0;
        for (first, batch) in batches(context, BATCH)? {
            let samples = batch.samples();
            let run = program.run(&batch.inputs, samples)?;
            let gradients = objective(context, &run.outputs, batch.labels.as_ref(), first)?.backward()?;
            let mut slopes: Vec<Vec<f64>> = context.groups.iter().map(|g| vec![0.0; g.size * samples]).collect();
            for (place, gate) in places.iter().zip(&run.gates) {
                let Some(gradient) = gradients.of(gate) else { continue };
                place.add(gradient, samples, &mut slopes);
            }
            for (scores, slopes) in scores.iter_mut().zip(slopes) {
                let each = scores.len();
                slopes.iter().enumerate().for_each(|(index, &slope)| scores[index % each] += fold(slope));
            }
            count += samples;
        }
        scores.iter_mut().flatten().for_each(|score| *score /= count.max(1) as f64);
    }
    let gated = |group: usize| places.iter().any(|place| place.units.iter().any(|(number, _)| *number == group));
    if (0..scores.len()).any(|group| !gated(group)) {
        let norms = magnitude::l2(context)?;
        let ungated = norms.into_iter().enumerate().filter(|(group, _)| !gated(*group));
        ungated.for_each(|(group, norms)| scores[group] = norms);
    }
    Ok(scores)
}

impl Place {
    /// Adds the slopes of this place's gate (samples × positions) to those of its units (samples × units).
    fn add(&self, gradient: &[f32], samples: usize, slopes: &mut [Vec<f64>]) {
        for (group, units) in &self.units {
            let each = slopes[*group].len() / samples.max(1);
            for (index, &slope) in gradient.iter().enumerate() {
                let (sample, position) = (index / units.len().max(1), index % units.len().max(1));
                let unit = units[position].map(|unit| unit as usize).filter(|&unit| unit < each);
                if let Some(slot) = unit.and_then(|unit| slopes[*group].get_mut(sample * each + unit)) {
                    *slot += f64::from(slope);
                }
            }
        }
    }
}

/// Where units of the groups enter a contraction with the data.
fn places(context: &Context<'_, '_>) -> Vec<Place> {
    let subject = context.subject;
    let number = |factor: FactorId| context.groups.iter().position(|group| group.factor == factor);
    let mut places = Vec::new();
    for &node in &subject.graph.order {
        for &(operand, axis) in &subject.network.relations[node.0].masks {
            let value = subject.graph.node(node).inputs.get(operand).copied().flatten();
            if value.is_none_or(|value| subject.constant(value).is_some()) {
                continue;
            }
            let axes = subject.network.operand(subject.graph, node, operand);
            let Some(expr) = axes.and_then(|axes| axes.get(axis)) else { continue };
            let units: Vec<(usize, Vec<Option<u32>>)> = expr
                .factors()
                .into_iter()
                .filter_map(|factor| {
                    let positions = subject.network.solution.positions_of(expr, factor)?;
                    Some((number(factor)?, positions))
                })
                .collect();
            if !units.is_empty() {
                places.push(Place { gate: Gate { node, operand, axis }, units });
            }
        }
    }
    places
}

/// The sum over samples of the loss that slopes are taken of; `first` is the number of the first sample.
pub(super) fn objective(
    context: &Context<'_, '_>,
    outputs: &[(String, Tensor)],
    labels: Option<&Labels>,
    first: usize,
) -> Result<Tensor> {
    if let Some(labels) = labels {
        return label_loss(context.subject.graph, outputs, labels)?.scaled(labels.len() as f64);
    }
    let mut sum: Option<Tensor> = None;
    for (number, (_, y)) in outputs.iter().enumerate() {
        let mut random = ChaCha8Rng::seed_from_u64(context.seed ^ ((number as u64) << 48) ^ first as u64);
        let signs: Vec<f32> = (0..y.len()).map(|_| if random.random::<bool>() { 1.0 } else { -1.0 }).collect();
        let signs = Tensor::new(y.dims(), signs)?;
        let squares = y.data().iter().map(|&y| f64::from(y) * f64::from(y)).sum::<f64>();
        let size = (squares / y.len().max(1) as f64).sqrt().max(f64::from(f32::MIN_POSITIVE));
        let part = y.times(&signs)?.sum()?.scaled(1.0 / size)?;
        sum = Some(match sum {
            Some(sum) => sum.plus(&part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| Error::input("the model has no output whose slope could be taken"))
}
