//! `l1`, `l2`: norm of the unit's slices of all contraction weights, of its producers and of its consumers
//! (Li et al. 2017, "Pruning Filters for Efficient `ConvNets`").
//!
//! A batch normalization after a producer is folded in: what counts is `γ/σ · W`, so that a unit with a zero scale
//! weighs nothing. A factor that no weight consumes (query–key width) is scored by the product of its producers.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::Context;
use crate::analysis::Subject;
use crate::axes::{Expr, FactorId};
use crate::error::Result;
use crate::graph::{NodeId, ValueId};
use crate::onnx::tensor::{ElementType, TensorView};
use crate::plan::Group;

pub(super) fn l1(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    unit_sums(context.subject, context.groups, |_| |_, w: Element| w.folded.abs())
}

pub(super) fn l2(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    let mut scores = unit_sums(context.subject, context.groups, |_| |_, w: Element| w.folded * w.folded)?;
    scores.iter_mut().flatten().for_each(|score| *score = score.sqrt());
    Ok(scores)
}

/// A weight of a contraction: its tensor, its axes, and which axis makes results.
struct Weight {
    value: ValueId,
    axes: Vec<Expr>,
    out: usize,
    node: NodeId,
}

/// An element of a weight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element {
    /// As it is stored.
    pub(super) stored: f64,
    /// With the batch normalization after it folded in.
    pub(super) folded: f64,
}

/// Sum over each unit's slices of all contraction weights: `measure` gives, for the name of a stored tensor, the figure of
/// the element at a position of it.
pub(super) fn unit_sums<M: Fn(usize, Element) -> f64>(
    subject: Subject<'_>,
    groups: &[&Group],
    measure: impl Fn(&str) -> M + Sync,
) -> Result<Vec<Vec<f64>>> {
    let weights = weights(subject);
    let of_weight = |weight: &Weight| axis_sums(subject, weight, measure(&subject.graph.at(weight.value).name));
    let marginals: Vec<Vec<Vec<f64>>> = weights.par_iter().map(of_weight).collect::<Result<_>>()?;
    let slot: BTreeMap<FactorId, usize> = groups.iter().enumerate().map(|(i, g)| (g.factor, i)).collect();
    let mut scores: Vec<Vec<f64>> = groups.iter().map(|g| vec![0.0; g.size]).collect();
    for (weight, sums) in weights.iter().zip(marginals) {
        for (expr, sums) in weight.axes.iter().zip(sums) {
            for factor in expr.factors() {
                let Some(&index) = slot.get(&factor) else { continue };
                let Some(positions) = subject.network.solution.positions_of(expr, factor) else { continue };
                for (unit, sum) in positions.into_iter().zip(&sums) {
                    if let Some(score) = unit.and_then(|u| scores[index].get_mut(u as usize)) {
                        *score += sum;
                    }
                }
            }
        }
    }
    Ok(scores)
}

/// Weights of all contractions, each stored tensor once.
fn weights(subject: Subject<'_>) -> Vec<Weight> {
    let mut found: BTreeMap<ValueId, Weight> = BTreeMap::new();
    for &node in &subject.graph.order {
        let Some(contraction) = &subject.network.relations[node.0].contraction else { continue };
        let operands = &subject.graph.node(node).inputs;
        for (operand, value) in operands.iter().enumerate() {
            let Some(stored) = value.and_then(|v| stored_behind(subject, v)) else { continue };
            let Some(axes) = subject.network.value(stored).filter(|axes| axes.len() >= 2) else { continue };
            let linear = contraction.linear.filter(|linear| linear.weight == operand);
            let made = linear.and_then(|l| subject.network.operand(subject.graph, node, operand)?.get(l.weight_out));
            let out = made.and_then(|made| axes.iter().position(|axis| axis == made)).unwrap_or(usize::MAX);
            found.entry(stored).or_insert_with(|| Weight { value: stored, axes: axes.to_vec(), out, node });
        }
    }
    found.into_values().collect()
}

/// The stored tensor that an operand comes from, through operators that only move, convert or dequantize it.
fn stored_behind(subject: Subject<'_>, mut value: ValueId) -> Option<ValueId> {
    loop {
        if subject.constant(value).is_some() {
            return Some(value);
        }
        let node = subject.graph.node(subject.graph.producer(value)?);
        let moves = ["Identity", "Transpose", "Reshape", "Cast", "DequantizeLinear", "Unsqueeze", "Squeeze"];
        if !moves.contains(&node.op.as_str()) {
            return None;
        }
        value = node.inputs.first().copied().flatten()?;
    }
}

/// For each axis, the sum of `measure` over everything at each of its positions.
fn axis_sums(subject: Subject<'_>, weight: &Weight, measure: impl Fn(usize, Element) -> f64) -> Result<Vec<Vec<f64>>> {
    let Some(tensor) = subject.constant(weight.value) else { return Ok(Vec::new()) };
    let readable = ElementType::from_code(tensor.data_type())?.bytes().is_some();
    if !readable {
        return Ok(weight.axes.iter().map(|_| Vec::new()).collect());
    }
    let view = TensorView::new(tensor)?;
    let dims = view.dims().to_vec();
    let values = view.to_f32()?;
    let scales = folded_scales(subject, weight, dims.get(weight.out).copied().unwrap_or(0))?;
    // Rows: (outer, second) blocks, so that the two leading axes come out of one pass.
    let inner: usize = dims.iter().skip(2).product();
    let (first, second) = (dims[0], dims[1]);
    let mut sums: Vec<Vec<f64>> = dims.iter().map(|&n| vec![0.0; n]).collect();
    for (block, chunk) in values.chunks_exact(inner.max(1)).enumerate().take(first * second) {
        let (i, k) = (block / second.max(1), block % second.max(1));
        let scale = match weight.out {
            0 => scales.as_ref().map_or(1.0, |s| s[i]),
            1 => scales.as_ref().map_or(1.0, |s| s[k]),
            _ => 1.0,
        };
        let element = |(offset, &w): (usize, &f32)| {
            let stored = f64::from(w);
            measure(block * inner + offset, Element { stored, folded: stored * scale })
        };
        let sum: f64 = chunk.iter().enumerate().map(element).sum();
        sums[0][i] += sum;
        sums[1][k] += sum;
    }
    Ok(sums)
}

/// `γ/σ` of the batch normalization that alone reads the weight's result.
fn folded_scales(subject: Subject<'_>, weight: &Weight, channels: usize) -> Result<Option<Vec<f64>>> {
    let result = subject.graph.node(weight.node).outputs.first().copied().flatten();
    let reader = result.map(|value| subject.graph.at(value).uses.as_slice());
    let Some(&[(node, 0)]) = reader else { return Ok(None) };
    let view = subject.graph.node(node);
    if view.op != "BatchNormalization" || !view.domain.is_empty() {
        return Ok(None);
    }
    let parameter = |slot: usize| -> Result<Option<Vec<f64>>> {
        let value = view.inputs.get(slot).copied().flatten().map(|v| subject.graph.behind_identity(v));
        value.and_then(|v| subject.constant(v)).map(|t| TensorView::new(t)?.to_f64()).transpose()
    };
    let (Some(gamma), Some(variance)) = (parameter(1)?, parameter(4)?) else { return Ok(None) };
    let proto = &subject.proto()?.node[node.0];
    let epsilon = proto.attribute.iter().find(|a| a.name() == "epsilon").map_or(1e-5, |a| f64::from(a.f()));
    let scales: Vec<f64> = gamma.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
    Ok((scales.len() == channels).then_some(scales))
}
