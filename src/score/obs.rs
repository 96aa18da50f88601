//! `obs`: what a unit's removal costs once the other units compensate for it as well as they can (Hassibi & Stork
//! 1993, "Second Order Derivatives for Network Pruning"; in blocks and on layers' outputs: Frantar & Alistarh 2022,
//! "Optimal Brain Compression").
//!
//! With `H = C + λI`, λ = 1e-2 · mean diag C, a unit costs `½ tr(W_uᵀ ([H⁻¹]_uu)⁻¹ W_u) / tr(W₀ᵀ C W₀)`, summed over the
//! consumers of its group: a share of their outputs' variance. Units go greedily, cheapest first, W and H⁻¹ following
//! each removal; the score is the path's running maximum. A matrix of more than 6144 inputs (a Gram of 300 MB) is
//! judged by `obd` instead.

use ndarray::Array2;
use rayon::prelude::*;

use super::consumers::{Consumer, Consumers, fallback};
use super::surgeon::Surgeon;
use super::{Context, diagonal};
use crate::calibrate::{Detail, InputStatistics, Layer, Sums, input_statistics};
use crate::error::Result;
use crate::linalg::default_backend;

/// Widest matrix whose inverse Hessian is formed.
const WIDEST: usize = 6144;

/// Share of the mean variance that dampens the Hessian.
const DAMPING: f64 = 1e-2;

/// Bytes of covariances that are held at once; the data is run again for each such portion of the groups.
const HELD_BYTES: usize = 1 << 30;

/// Relative distance of consecutive scores that would be equal: the order of removal must survive.
const STEP: f64 = 1e-9;

pub(super) fn obs(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    let consumers = Consumers::new(context)?;
    let mut scores = fallback(context, &consumers.of_group)?;
    for portion in portions(&consumers) {
        let used = layers_of(&consumers, &portion);
        let statistics = statistics(context, &consumers, &used)?;
        let paths: Vec<Vec<f64>> = portion
            .par_iter()
            .map(|&group| path(context, &consumers, group, &used, &statistics))
            .collect::<Result<_>>()?;
        for (group, path) in portion.into_iter().zip(paths) {
            scores[group] = path;
        }
    }
    Ok(scores)
}

/// Groups with consumers, in portions whose covariances fit in memory.
fn portions(consumers: &Consumers) -> Vec<Vec<usize>> {
    let mut portions: Vec<Vec<usize>> = Vec::new();
    let mut held = 0;
    for (group, of_group) in consumers.of_group.iter().enumerate() {
        if of_group.is_empty() {
            continue;
        }
        let bytes: usize = of_group.iter().map(|c| square(consumers.layers[c.layer].inputs())).sum();
        if portions.is_empty() || held + bytes > HELD_BYTES {
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

fn square(inputs: usize) -> usize {
    if inputs > WIDEST { 0 } else { inputs * inputs * size_of::<f64>() }
}

fn layers_of(consumers: &Consumers, portion: &[usize]) -> Vec<usize> {
    let mut used: Vec<usize> = portion.iter().flat_map(|&g| &consumers.of_group[g]).map(|c| c.layer).collect();
    used.sort_unstable();
    used.dedup();
    used
}

/// Statistics of the layers `used`, in that order; wide ones without covariance.
fn statistics(context: &Context<'_, '_>, consumers: &Consumers, used: &[usize]) -> Result<Vec<InputStatistics>> {
    let of = |wide: bool, detail: Detail| -> Result<Vec<(usize, InputStatistics)>> {
        let chosen: Vec<usize> =
            used.iter().copied().filter(|&i| (consumers.layers[i].inputs() > WIDEST) == wide).collect();
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        let layers: Vec<Layer> = chosen.iter().map(|&i| consumers.layers[i].clone()).collect();
        let statistics = input_statistics(context.subject, context.calibration()?, &layers, detail)?;
        Ok(chosen.into_iter().zip(statistics).collect())
    };
    let mut all = of(false, Detail::Covariance)?;
    all.extend(of(true, Detail::Diagonal)?);
    all.sort_by_key(|(layer, _)| *layer);
    Ok(all.into_iter().map(|(_, statistics)| statistics).collect())
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
    statistics: &[InputStatistics],
) -> Result<Vec<f64>> {
    let mut judges = Vec::new();
    for consumer in &consumers.of_group[group] {
        let Ok(position) = used.binary_search(&consumer.layer) else { continue };
        let weight = consumers.weight(context.subject, consumer)?;
        let name = &consumers.layers[consumer.layer].name;
        judges.extend(judge(&statistics[position][consumer.matrix], &weight, consumer, name)?);
    }
    Ok(greedy(&mut judges, context.groups[group].size))
}

#[allow(clippy::cast_precision_loss)]
fn judge(statistics: &Sums, weight: &Array2<f64>, consumer: &Consumer, name: &str) -> Result<Option<Judge<'static>>> {
    if statistics.detail() == Detail::Diagonal {
        let shares = diagonal::obd_shares(statistics, weight);
        let cost = |rows: &Vec<usize>| rows.iter().map(|&row| shares[row]).sum();
        return Ok(Some(Judge::Fixed(consumer.units.iter().map(cost).collect())));
    }
    let covariance = statistics.covariance();
    let backend = default_backend();
    let variance = (&backend.matmul(covariance.view(), weight.view()) * weight).sum();
    let mean = covariance.diag().sum() / covariance.nrows().max(1) as f64;
    // A constant input needs no unit: its mean goes into the bias.
    if !(variance > 0.0 && mean > 0.0) {
        return Ok(None);
    }
    let mut hessian = covariance;
    hessian.diag_mut().mapv_inplace(|d| d + DAMPING * mean);
    let surgeon = Surgeon::new(backend, hessian.view(), weight.view(), consumer.units.clone(), name)?;
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
