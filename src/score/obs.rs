//! `obs`: what a unit's removal costs once the other units compensate for it as well as they can (Hassibi & Stork
//! 1993, "Second Order Derivatives for Network Pruning"; in blocks and on layers' outputs: Frantar & Alistarh 2022,
//! "Optimal Brain Compression").
//!
//! With `H = C + λI`, λ a share of mean diag C, a unit costs `½ tr(W_uᵀ ([H⁻¹]_uu)⁻¹ W_u) / tr(W₀ᵀ C W₀)`, summed over the
//! consumers of its group: a share of their outputs' variance. λ is a hundredth, or a tenth where rows are fewer than ten an
//! input. Units go greedily, cheapest first, W and H⁻¹ following each removal; the score is the path's running maximum.
//!
//! A convolution of more than 1152 inputs is judged on two filtered taps a channel ([`taps`](super::taps)). A matrix of more
//! than 6144 inputs (a Gram of 300 MB) is judged by `obd` instead.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use ndarray::Array2;
use rayon::prelude::*;

use super::consumers::{Consumer, Consumers, fallback};
use super::surgeon::Surgeon;
use super::taps::{FILTERS, Filtered, Heard};
use super::{Context, diagonal};
use crate::calibrate::{
    ALL_TAPS, Accumulator, Activations, At, Calibration, Detail, Division, InputStatistics, Kept, Layer, Sampler,
    Stats, Sums, WIDEST, exposed, pass, pass_over, rows_of,
};
use crate::error::Result;
use crate::linalg::{default_backend, growing};
use crate::runtime::Limits;

/// Rows for each filtered tap of a Hessian, and for each input of the layer where these are more.
const ROWS: (usize, usize) = (10, 5);

/// Copies of a layer's covariance that are alive in surgery: the Hessian, its inverse, the products of weights, and one on the way.
const IN_SURGERY: usize = 4;

/// The kind of the records on filtered taps.
const TAPS: &str = "taps";

/// Relative distance of consecutive scores that would be equal: the order of removal must survive.
const STEP: f64 = 1e-9;

/// Gathers the sums that the scores need, and keeps them.
///
/// # Errors
/// If reading the data or running the model fails, or the sums cannot be written.
pub(super) fn gather(context: &Context<'_, '_>) -> Result<()> {
    let consumers = Consumers::new(context)?;
    portions(&consumers, context.calibration()?.limits)
        .iter()
        .try_for_each(|portion| known(context, &consumers, &layers_of(&consumers, portion)).map(drop))
}

pub(super) fn obs(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    let consumers = Consumers::new(context)?;
    let mut scores = fallback(context, &consumers.of_group)?;
    let limits = context.calibration()?.limits;
    let squares = |&group: &usize| squares(&consumers, group);
    for portion in portions(&consumers, limits) {
        let used = layers_of(&consumers, &portion);
        let known = known(context, &consumers, &used)?;
        for portion in limits.solved_at_once(portion, |group| IN_SURGERY * squares(group)) {
            let path = |&group: &usize| path(context, &consumers, group, &used, &known);
            let paths: Vec<Vec<f64>> = portion.par_iter().map(path).collect::<Result<_>>()?;
            for (group, path) in portion.into_iter().zip(paths) {
                scores[group] = path;
            }
            limits.relieve();
        }
    }
    Ok(scores)
}

/// Groups with consumers, in portions whose covariances fit in memory together; the data is run again for each.
fn portions(consumers: &Consumers, limits: Limits) -> Vec<Vec<usize>> {
    let read = (0..consumers.of_group.len()).filter(|&group| !consumers.of_group[group].is_empty());
    limits.portions(read, |_, &group| squares(consumers, group))
}

/// Bytes of the covariances of the layers that read a group.
fn squares(consumers: &Consumers, group: usize) -> usize {
    consumers.of_group[group].iter().map(|consumer| square(width(&consumers.layers[consumer.layer]))).sum()
}

fn square(width: usize) -> usize {
    if width > WIDEST { 0 } else { width * width * size_of::<f64>() }
}

fn is_filtered(layer: &Layer) -> bool {
    layer.inputs() > ALL_TAPS && layer.taps > FILTERS
}

/// Rows of a layer's Hessian.
fn width(layer: &Layer) -> usize {
    if is_filtered(layer) { layer.channels * FILTERS } else { layer.inputs() }
}

/// Chooses the rows of a layer's Hessian.
fn sampler(layer: &Layer, data: Calibration<'_>) -> Sampler {
    let (samples, seed) = (data.data.samples(), data.seed);
    if !is_filtered(layer) {
        return Sampler::widest(layer, samples, seed);
    }
    Sampler::of_rows(layer, (width(layer) * ROWS.0).max(layer.inputs() * ROWS.1), samples, seed)
}

fn layers_of(consumers: &Consumers, portion: &[usize]) -> Vec<usize> {
    let used: BTreeSet<usize> = portion.iter().flat_map(|&g| &consumers.of_group[g]).map(|c| c.layer).collect();
    used.into_iter().collect()
}

/// What is summed up about the inputs of a layer, while data comes.
enum Reader<'l> {
    Plain(Accumulator<'l>),
    Filtered { layer: &'l Layer, sampler: Sampler, division: Division, groups: Vec<Filtered> },
}

/// What is known of the inputs of a layer.
enum Known {
    Plain(InputStatistics),
    /// For each convolution group; `None` without a row.
    Filtered(Vec<Option<Heard>>),
}

/// Statistics of the layers `used`, in that order.
fn known(context: &Context<'_, '_>, consumers: &Consumers, used: &[usize]) -> Result<Vec<Known>> {
    let data = context.calibration()?;
    let kept = Kept::of(context.subject, data);
    let mut done: Vec<Option<Known>> = Vec::with_capacity(used.len());
    let mut readers: Vec<Reader<'_>> = Vec::new();
    for &index in used {
        let layer = &consumers.layers[index];
        let sampler = sampler(layer, data);
        let reader = Reader::new(context, consumers, layer, (sampler, data))?;
        let found = kept.as_ref().map(|kept| reader.recall(kept)).transpose()?.flatten();
        if found.is_none() {
            readers.push(reader);
        }
        done.push(found);
    }
    let is_first = data.data.stats().and_then(Stats::leaves).is_none_or(|leaves| leaves.start == 0);
    if !is_first {
        let mut filtered: Vec<&mut Reader<'_>> =
            readers.iter_mut().filter(|reader| matches!(reader, Reader::Filtered { .. })).collect();
        let layers: Vec<&Layer> = filtered.iter().map(|reader| reader.layer()).collect();
        if !layers.is_empty() {
            let samples = Division::of(data.data).samples(&(0..1));
            let model = exposed(context.subject.model, layers.iter().copied())?;
            pass_over(&model, (data, samples), layers.into_iter().flat_map(Layer::all_data), |found, at| {
                filtered.par_iter_mut().try_for_each(|reader| reader.add(found, at))
            })?;
            filtered.into_par_iter().try_for_each(|reader| reader.forget_rows())?;
        }
    }
    if !readers.is_empty() {
        let layers: Vec<&Layer> = readers.iter().map(Reader::layer).collect();
        let model = exposed(context.subject.model, layers.iter().copied())?;
        let mut recording = context.recording.map(|recording| recording.lock().unwrap_or_else(PoisonError::into_inner));
        let mut recording = recording.as_deref_mut().filter(|recording| !recording.is_done());
        let beside: Vec<String> = recording.iter().flat_map(|recording| recording.values().cloned()).collect();
        pass(&model, data, layers.into_iter().flat_map(Layer::all_data).chain(&beside), |found, at| {
            readers.par_iter_mut().try_for_each(|reader| reader.add(found, at))?;
            recording.as_mut().map_or(Ok(()), |recording| recording.add(found, at))
        })?;
    }
    let finished: Vec<Known> =
        readers.into_par_iter().map(|reader| reader.finish(kept.as_ref())).collect::<Result<_>>()?;
    done.iter_mut().filter(|known| known.is_none()).zip(finished).for_each(|(slot, known)| *slot = Some(known));
    let done: Vec<Known> = done.into_iter().flatten().collect();
    if let Some(recording) = context.recording {
        let mut recording = recording.lock().unwrap_or_else(PoisonError::into_inner);
        for (&index, known) in used.iter().zip(&done) {
            if let Known::Plain(sums) = known {
                recording.keep(&consumers.layers[index], sums);
            }
        }
    }
    Ok(done)
}

impl<'l> Reader<'l> {
    fn new(
        context: &Context<'_, '_>,
        consumers: &Consumers,
        layer: &'l Layer,
        (sampler, data): (Sampler, Calibration<'_>),
    ) -> Result<Self> {
        if !is_filtered(layer) {
            let detail = if width(layer) > WIDEST { Detail::Diagonal } else { Detail::Covariance };
            return Ok(Self::Plain(Accumulator::new(layer, sampler, detail, data)));
        }
        let matrices = consumers.matrices(context.subject, layer)?;
        let is_apart = data.is_apart();
        let group = |weight| Filtered::new(weight, (layer.taps, FILTERS), &layer.name, is_apart);
        let groups = matrices.into_iter().map(group).collect();
        Ok(Self::Filtered { layer, sampler, division: Division::of(data.data), groups })
    }

    fn layer(&self) -> &'l Layer {
        match self {
            Self::Plain(accumulator) => accumulator.layer(),
            Self::Filtered { layer, .. } => layer,
        }
    }

    /// What an earlier pass found.
    fn recall(&self, kept: &Kept<'_>) -> Result<Option<Known>> {
        match self {
            Self::Plain(accumulator) => {
                let (layer, sampler) = (accumulator.layer(), accumulator.sampler());
                let detail = if width(layer) > WIDEST { Detail::Diagonal } else { Detail::Covariance };
                Ok(kept.sums_of(layer, sampler, detail)?.map(Known::Plain))
            }
            Self::Filtered { layer, sampler, .. } => kept.get((TAPS, layer, *sampler), |record| {
                let mut matrices = record.into_iter();
                let sizes = (layer.channels, layer.outputs);
                let groups = (0..layer.groups).map(|_| Heard::from_record(&mut matrices, sizes));
                groups.map(|heard| heard.map(Some)).collect::<Option<_>>().map(Known::Filtered)
            }),
        }
    }

    /// Adds the chosen rows of some samples, at every node of the layer.
    fn add(&mut self, found: &Activations, at: At<'_>) -> Result<()> {
        let (layer, sampler, division, groups) = match self {
            Self::Plain(accumulator) => return accumulator.add(found, at),
            Self::Filtered { layer, sampler, division, groups } => (layer, sampler, division, groups),
        };
        let sources = rows_of((layer, *sampler), found, at)?;
        let runs = division.order(&sources);
        groups.par_iter_mut().enumerate().try_for_each(|(number, group)| {
            for (leaf, source, run) in &runs {
                let lines = &sources[*source].1;
                group.enter(*leaf)?;
                let mut done = run.start;
                while done < run.end {
                    let next = run.end.min(done + group.raw().room());
                    lines.write(number * layer.channels, done..next, &mut group.raw().next(next - done));
                    done = next;
                    if group.raw().room() == 0 {
                        group.flush()?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Finds the filters by the first portion of the samples, as a machine does that sums up all portions.
    fn forget_rows(&mut self) -> Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Filtered { groups, .. } => groups.par_iter_mut().try_for_each(Filtered::forget_rows),
        }
    }

    fn finish(self, kept: Option<&Kept<'_>>) -> Result<Known> {
        match self {
            Self::Plain(accumulator) => accumulator.finish(kept).map(Known::Plain),
            Self::Filtered { layer, sampler, groups, .. } => {
                let groups: Vec<Vec<(usize, Heard)>> =
                    groups.into_par_iter().map(Filtered::finish).collect::<Result<_>>()?;
                // All groups have the same rows.
                let portions = groups.first().map_or(0, Vec::len);
                for number in 0..portions {
                    let of_groups: Vec<&(usize, Heard)> = groups.iter().filter_map(|group| group.get(number)).collect();
                    if let (Some(kept), Some((leaf, _))) = (kept, of_groups.first()) {
                        let record = of_groups.iter().flat_map(|(_, heard)| heard.to_record()).collect();
                        kept.put((TAPS, layer, sampler), *leaf, &record)?;
                    }
                }
                let last = groups.into_iter().map(|group| group.into_iter().next_back().map(|(_, heard)| heard));
                Ok(Known::Filtered(last.collect()))
            }
        }
    }
}

/// One consumer on the path: surgery on it, or scores that stay as they are.
enum Judge<'a> {
    Surgery { surgeon: Box<Surgeon<'a>>, variance: f64 },
    Fixed(Vec<f64>),
}

fn path(
    context: &Context<'_, '_>,
    consumers: &Consumers,
    group: usize,
    used: &[usize],
    known: &[Known],
) -> Result<Vec<f64>> {
    let mut judges = Vec::new();
    for consumer in &consumers.of_group[group] {
        let Ok(position) = used.binary_search(&consumer.layer) else { continue };
        let layer = &consumers.layers[consumer.layer];
        judges.extend(match &known[position] {
            Known::Plain(statistics) => {
                let weight = consumers.weight(context.subject, consumer)?;
                judge(&statistics[consumer.matrix], &weight, consumer.units.clone(), &layer.name)?
            }
            Known::Filtered(groups) => match &groups[consumer.matrix] {
                Some(heard) => judge(&heard.sums, &heard.weight, filtered_units(consumer, layer.taps), &layer.name)?,
                None => None,
            },
        });
    }
    Ok(greedy(&mut judges, context.groups[group].size))
}

/// The rows of each unit among filtered taps: a unit owns whole channels.
fn filtered_units(consumer: &Consumer, taps: usize) -> Vec<Vec<usize>> {
    let channels =
        |rows: &Vec<usize>| rows.iter().step_by(taps.max(1)).map(|row| row / taps.max(1)).collect::<Vec<_>>();
    let rows = |channel: usize| channel * FILTERS..(channel + 1) * FILTERS;
    consumer.units.iter().map(|unit| channels(unit).into_iter().flat_map(rows).collect()).collect()
}

#[allow(clippy::cast_precision_loss)]
fn judge(
    statistics: &Sums,
    weight: &Array2<f64>,
    units: Vec<Vec<usize>>,
    name: &str,
) -> Result<Option<Judge<'static>>> {
    if statistics.detail() == Detail::Diagonal {
        let shares = diagonal::obd_shares(statistics, weight);
        let cost = |rows: &Vec<usize>| rows.iter().map(|&row| shares[row]).sum();
        return Ok(Some(Judge::Fixed(units.iter().map(cost).collect())));
    }
    let mut hessian = statistics.covariance();
    let backend = default_backend();
    let variance = (&backend.matmul(hessian.view(), weight.view()) * weight).sum();
    let inputs = hessian.nrows();
    let mean = hessian.diag().sum() / inputs.max(1) as f64;
    // A constant input needs no unit: its mean goes into the bias.
    if !(variance > 0.0 && mean > 0.0) {
        return Ok(None);
    }
    let mut added = 0.0;
    let (surgeon, _) = growing(statistics.damping() * mean, |lambda| {
        hessian.diag_mut().mapv_inplace(|d| d + (lambda - added));
        added = lambda;
        Surgeon::new(backend, hessian.view(), weight.view(), units.clone(), name)
    })?;
    Ok(Some(Judge::Surgery { surgeon: Box::new(surgeon), variance }))
}

/// Removes all units, cheapest first; the running maximum of what they cost.
fn greedy(judges: &mut [Judge<'_>], size: usize) -> Vec<f64> {
    let mut scores = vec![0.0; size];
    let mut left: Vec<usize> = (0..size).collect();
    let mut floor = 0.0_f64;
    while !left.is_empty() {
        let costs: Vec<f64> = left.par_iter().map(|&unit| judges.iter().map(|judge| judge.cost(unit)).sum()).collect();
        let Some(cheapest) = (0..left.len()).min_by(|&a, &b| costs[a].total_cmp(&costs[b])) else { break };
        let unit = left.remove(cheapest);
        floor = (floor * (1.0 + STEP)).max(costs[cheapest]).max(f64::MIN_POSITIVE / STEP);
        scores[unit] = floor;
        for judge in judges.iter_mut() {
            if let Judge::Surgery { surgeon, .. } = judge {
                surgeon.remove(unit);
            }
        }
    }
    scores
}

impl Judge<'_> {
    fn cost(&self, unit: usize) -> f64 {
        match self {
            Judge::Surgery { surgeon, variance } => surgeon.saliency(unit) / variance,
            Judge::Fixed(costs) => costs.get(unit).copied().unwrap_or(0.0),
        }
    }
}
