//! The layers that contract the units of a group.

use ndarray::{Array1, Array2};

use super::{Context, magnitude};
use crate::analysis::Subject;
use crate::axes::Expr;
use crate::calibrate::{Detail, Layer, Sums, input_statistics, readers};
use crate::error::Result;
use crate::plan::Group;

/// A matrix (of a layer, or of one convolution group of it) and the rows that each unit owns.
#[derive(Debug, Clone)]
pub(crate) struct Consumer {
    /// Position in the list of layers.
    pub(crate) layer: usize,
    /// Convolution group.
    pub(crate) matrix: usize,
    /// Rows of each unit, ascending.
    pub(crate) units: Vec<Vec<usize>>,
}

/// The layers of a model, and the consumers of each group.
pub(crate) struct Consumers {
    pub(crate) layers: Vec<Layer>,
    pub(crate) of_group: Vec<Vec<Consumer>>,
}

impl Consumers {
    pub(crate) fn new(context: &Context<'_, '_>) -> Result<Self> {
        let layers = readers(context.subject)?;
        let of_group = context.groups.iter().map(|group| consumers(context.subject, &layers, group)).collect();
        Ok(Self { layers, of_group })
    }

    /// Weights of a consumer, K×N.
    pub(crate) fn weight(&self, subject: Subject<'_>, consumer: &Consumer) -> Result<Array2<f64>> {
        Ok(self.matrices(subject, &self.layers[consumer.layer])?.swap_remove(consumer.matrix))
    }

    /// Weights of a layer, K×N for each convolution group.
    pub(super) fn matrices(&self, subject: Subject<'_>, layer: &Layer) -> Result<Vec<Array2<f64>>> {
        layer.stored_matrices(|name| subject.constant(subject.graph.value(name)?))
    }

    /// Scores every group with consumers by the sum of what `score` gives for its rows, the others by `l2`.
    pub(super) fn sum(
        &self,
        context: &Context<'_, '_>,
        score: impl Fn(&Sums, &Array2<f64>) -> Array1<f64>,
    ) -> Result<Vec<Vec<f64>>> {
        let mut used: Vec<usize> = self.of_group.iter().flatten().map(|c| c.layer).collect();
        used.sort_unstable();
        used.dedup();
        let chosen: Vec<Layer> = used.iter().map(|&i| self.layers[i].clone()).collect();
        let statistics = input_statistics(context.subject, context.calibration()?, &chosen, Detail::Diagonal)?;
        let mut scores = fallback(context, &self.of_group)?;
        for (scores, consumers) in scores.iter_mut().zip(&self.of_group) {
            for consumer in consumers {
                let weight = self.weight(context.subject, consumer)?;
                let Some(position) = used.iter().position(|&i| i == consumer.layer) else { continue };
                let of_rows = score(&statistics[position][consumer.matrix], &weight);
                for (slot, rows) in scores.iter_mut().zip(&consumer.units) {
                    *slot += rows.iter().map(|&row| of_rows[row]).sum::<f64>();
                }
            }
        }
        Ok(scores)
    }
}

/// Zeros for groups with consumers, norms of weights for the others.
pub(super) fn fallback(context: &Context<'_, '_>, of_group: &[Vec<Consumer>]) -> Result<Vec<Vec<f64>>> {
    let norms = if of_group.iter().any(Vec::is_empty) { magnitude::l2(context)? } else { Vec::new() };
    let scores = context.groups.iter().zip(of_group).enumerate().map(|(index, (group, consumers))| {
        let norms = norms.get(index).filter(|_| consumers.is_empty());
        norms.cloned().unwrap_or_else(|| vec![0.0; group.size])
    });
    Ok(scores.collect())
}

fn consumers(subject: Subject<'_>, layers: &[Layer], group: &Group) -> Vec<Consumer> {
    let mut found = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let Some(positions) = units_of_inputs(subject, layer, group) else { continue };
        for matrix in 0..layer.groups {
            // A transposed convolution lists the channels of all its groups.
            let first = if positions.len() == layer.channels { 0 } else { matrix * layer.channels };
            let mut units = vec![Vec::new(); group.size];
            for channel in 0..layer.channels {
                let unit = positions.get(first + channel).copied().flatten().map(|u| u as usize);
                if let Some(rows) = unit.and_then(|u| units.get_mut(u)) {
                    rows.extend(channel * layer.taps..(channel + 1) * layer.taps);
                }
            }
            // A unit that owns a whole matrix takes its results with it.
            let whole = units.iter().any(|rows| rows.len() == layer.inputs());
            if !whole && units.iter().any(|rows| !rows.is_empty()) {
                found.push(Consumer { layer: index, matrix, units });
            }
        }
    }
    found
}

/// The unit of the group that each input channel is, by the axis of the weight that is contracted; `None` if it is none of
/// them.
fn units_of_inputs(subject: Subject<'_>, layer: &Layer, group: &Group) -> Option<Vec<Option<u32>>> {
    let positions = |expr: &Expr| {
        let is_of_group = expr.mentions(group.factor);
        if is_of_group { subject.network.solution.positions_of(expr, group.factor) } else { None }
    };
    let Some(steps) = &layer.steps else {
        let axes = subject.network.operand(subject.graph, layer.node, layer.linear.weight)?;
        return positions(axes.get(layer.linear.weight_in)?);
    };
    let mut units = Vec::new();
    for (expr, width) in steps.row_axes(subject, layer.node)? {
        units.extend(positions(expr).unwrap_or_else(|| vec![None; width]));
    }
    Some(units)
}
