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

use ndarray::Array2;
use rayon::prelude::*;

use super::consumers::{Consumer, Consumers, fallback};
use super::surgeon::Surgeon;
use super::taps::{FILTERS, Filtered, Heard};
use super::{Context, diagonal};
use crate::calibrate::{Accumulator, At, Detail, InputStatistics, Layer, Sampler, Sums, exposed, pass};
use crate::error::Result;
use crate::linalg::default_backend;
use crate::runtime::Tensor;

/// Widest matrix whose inverse Hessian is formed.
const WIDEST: usize = 6144;

/// Widest convolution that is judged on all its taps.
const ALL_TAPS: usize = 1152;

/// Rows for each input of a Hessian, and for each input of the layer where these are more.
const ROWS: (usize, usize) = (10, 5);

/// Shares of the mean variance that dampen the Hessian: of few rows for each input, and of enough.
const DAMPING: (f64, f64) = (1e-1, 1e-2);

/// Rows for each input that are enough.
const ENOUGH_ROWS: usize = 10;

/// Relative distance of consecutive scores that would be equal: the order of removal must survive.
const STEP: f64 = 1e-9;

pub(super) fn obs(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    let consumers = Consumers::new(context)?;
    let mut scores = fallback(context, &consumers.of_group)?;
    for portion in portions(&consumers, context.calibration()?.limits.sums()) {
        let used = layers_of(&consumers, &portion);
        let known = known(context, &consumers, &used)?;
        let paths: Vec<Vec<f64>> =
            portion.par_iter().map(|&group| path(context, &consumers, group, &used, &known)).collect::<Result<_>>()?;
        for (group, path) in portion.into_iter().zip(paths) {
            scores[group] = path;
        }
    }
    Ok(scores)
}

/// Groups with consumers, in portions whose covariances take no more than `most` bytes together; the data is run again for each.
fn portions(consumers: &Consumers, most: u64) -> Vec<Vec<usize>> {
    let mut portions: Vec<Vec<usize>> = Vec::new();
    let mut held = 0;
    for (group, of_group) in consumers.of_group.iter().enumerate() {
        if of_group.is_empty() {
            continue;
        }
        let bytes: usize = of_group.iter().map(|c| square(width(&consumers.layers[c.layer]))).sum();
        if portions.is_empty() || (held + bytes) as u64 > most {
            portions.push(Vec::new());
            held = 0;
        }
        held += bytes;
        if let Some(last) = portions.last_mut() {
            last.push(group);
        }
    }
    portions
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

fn layers_of(consumers: &Consumers, portion: &[usize]) -> Vec<usize> {
    let used: BTreeSet<usize> = portion.iter().flat_map(|&g| &consumers.of_group[g]).map(|c| c.layer).collect();
    used.into_iter().collect()
}

/// What is summed up about the inputs of a layer, while data comes.
enum Reader<'l> {
    Plain(Accumulator<'l>),
    Filtered { layer: &'l Layer, sampler: Sampler, groups: Vec<Filtered> },
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
    let reader = |&index: &usize| {
        let layer = &consumers.layers[index];
        let rows = (width(layer) * ROWS.0).max(layer.inputs() * ROWS.1);
        let sampler = Sampler::of_rows(layer, rows, data.data.samples(), data.seed);
        if !is_filtered(layer) {
            let detail = if width(layer) > WIDEST { Detail::Diagonal } else { Detail::Covariance };
            return Ok(Reader::Plain(Accumulator::new(layer, sampler, detail)));
        }
        let matrices = consumers.matrices(context.subject, layer)?;
        let groups =
            matrices.into_iter().map(|weight| Filtered::new(weight, (layer.taps, FILTERS), &layer.name)).collect();
        Ok(Reader::Filtered { layer, sampler, groups })
    };
    let mut readers: Vec<Reader<'_>> = used.iter().map(reader).collect::<Result<_>>()?;
    let values = used.iter().flat_map(|&index| consumers.layers[index].all_data());
    let model = exposed(context.subject.model, used.iter().map(|&index| &consumers.layers[index]))?;
    pass(&model, data, values, |found, at| {
        readers.par_iter_mut().try_for_each(|reader| match reader {
            Reader::Plain(accumulator) => accumulator.add(found, at),
            Reader::Filtered { layer, sampler, groups } => {
                layer.all_data().try_for_each(|data| add_filtered((layer, sampler, groups), found.get(data)?, at))
            }
        })
    })?;
    readers.into_par_iter().map(Reader::finish).collect()
}

impl Reader<'_> {
    fn finish(self) -> Result<Known> {
        Ok(match self {
            Self::Plain(accumulator) => Known::Plain(accumulator.finish()),
            Self::Filtered { groups, .. } => {
                Known::Filtered(groups.into_par_iter().map(Filtered::finish).collect::<Result<_>>()?)
            }
        })
    }
}

/// Adds the chosen rows of a convolution to its filtered taps.
fn add_filtered(
    (layer, sampler, groups): (&Layer, &Sampler, &mut Vec<Filtered>),
    data: &Tensor,
    at: At<'_>,
) -> Result<()> {
    let rows = sampler.choose(layer.row_count(data.shape()), at.samples, at.first, at.padding);
    let lines = layer.inputs_of(data, &rows)?;
    groups.par_iter_mut().enumerate().try_for_each(|(number, group)| {
        let mut done = 0;
        while done < rows.len() {
            let next = rows.len().min(done + group.raw().room());
            lines.write(number * layer.channels, done..next, &mut group.raw().next(next - done));
            done = next;
            if group.raw().room() == 0 {
                group.flush()?;
            }
        }
        Ok(())
    })
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
    let damping = if statistics.rows() < ENOUGH_ROWS * inputs { DAMPING.0 } else { DAMPING.1 };
    hessian.diag_mut().mapv_inplace(|d| d + damping * mean);
    let surgeon = Surgeon::new(backend, hessian.view(), weight.view(), units, name)?;
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
