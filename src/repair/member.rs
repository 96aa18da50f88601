//! A layer of the original and its pruned counterpart: the inputs of both, and the result that the pruned one should
//! have.

use std::ops::Range;

use ndarray::{Array1, Array2};

use super::attention::{Block, Blocks};
use super::skip::{Skip, skip};
use super::write::{self, BiasPlace};
use crate::analysis::Subject;
use crate::axes::Selection;
use crate::calibrate::stages::Stages;
use crate::calibrate::{Columns, Layer, Lines, Recorded, Row, Sampler, Visit};
use crate::error::{Error, Result};
use crate::graph::View;

/// A layer of the original and its pruned counterpart.
pub(super) struct Member {
    pub(super) original: Layer,
    pub(super) pruned: Layer,
    /// Channels of the original's result that the pruned layer still makes.
    pub(super) kept: Vec<usize>,
    /// One matrix for each convolution group.
    pub(super) weights: Vec<Array2<f64>>,
    /// Whether these are the original's, as far as they are kept: they are others in a basis or a split.
    pub(super) is_plain: bool,
    pub(super) bias: Array1<f64>,
    pub(super) place: BiasPlace,
    /// The sum after it, in the original and in the pruned model.
    skips: Option<(Skip, Skip)>,
    /// The attention before it, if that lost heads or their dimensions.
    pub(super) block: Option<Block>,
    /// The basis that its results are in, if it is not the original's.
    pub(super) basis: Option<Blocks>,
    /// Every node that multiplies with its weight, in both models.
    pub(super) uses: Vec<(Layer, Layer)>,
    /// Channels of the original's data in the place of its own, where what a node reads depends on another node with the same
    /// weight: then it is fitted to the original's data, which no weight changes.
    pub(super) taught: Option<Vec<usize>>,
}

/// Rows of what a member should make, for the channels of all its groups.
pub(super) struct Targets<'t> {
    result: Lines<'t>,
    /// The other branch of the sum, as it was and as it is, where it changed.
    skip: Option<(Lines<'t>, Lines<'t>, &'t Skip)>,
}

impl Member {
    /// What is left of a layer, or why nothing can be repaired about it.
    pub(super) fn new(
        subject: Subject<'_>,
        selection: &Selection,
        (before, view): (&View<'_>, &View<'_>),
        layer: &Layer,
        when: (&Stages, usize),
    ) -> Result<std::result::Result<Self, &'static str>> {
        let Some(pruned) = layer.found_in(view)? else {
            return Ok(Err("it no longer exists, or its weight is now computed"));
        };
        let Some(weight) = view.graph.value(&pruned.weight) else { return Ok(Err("its weight is not stored")) };
        let mut uses = Vec::new();
        for at in layer.uses() {
            let Some(pruned) = at.found_in(view)? else { return Ok(Err("a node with its weight no longer exists")) };
            uses.push((at, pruned));
        }
        let is_shared = uses.len() > 1;
        let own = |(_, at): &(Layer, Layer)| at.weight == pruned.weight;
        if view.graph.at(weight).uses.len() != uses.len() || !uses.iter().all(own) {
            return Ok(Err("nodes of another kind read its weight too"));
        }
        let Some(tensor) = view.tensor(weight) else { return Ok(Err("its weight is not stored")) };
        let result = subject.graph.value(&layer.result).and_then(|value| subject.network.value(value));
        let axis = result.and_then(|axes| axes.get(layer.linear.result_axis));
        let Some(axis) = axis else { return Ok(Err("the shape of its result is not known")) };
        let width = layer.groups * layer.outputs;
        let kept = subject.network.solution.kept(axis, selection).unwrap_or_else(|| (0..width).collect());
        if kept.len() != pruned.groups * pruned.outputs || kept.iter().any(|&channel| channel >= width) {
            return Ok(Err("its channels cannot be followed"));
        }
        let weights = pruned.matrices(tensor)?;
        let (place, bias) = write::bias(view, &pruned, kept.len())?;
        let mut others = uses.iter().map(|(_, at)| write::bias(view, at, kept.len()));
        let is_same = |other: Result<(BiasPlace, Array1<f64>)>| other.map(|(at, b)| at.is_like(&place) && b == bias);
        if is_shared && !others.try_fold(true, |all, other| Ok::<bool, Error>(all && is_same(other)?))? {
            return Ok(Err("the nodes that share its weight have different biases"));
        }
        let taught = if uses.iter().all(|(at, _)| when.0.is_in(when.1, at.node)) {
            None
        } else {
            match kept_inputs(subject, selection, layer) {
                Some(inputs) if layer.taps == 1 && inputs.len() == pruned.inputs() && pruned.groups == 1 => {
                    Some(inputs)
                }
                _ => return Ok(Err("nodes that share its weight depend on each other")),
            }
        };
        let skips =
            if is_shared { None } else { skips(subject, (before, view), (&pruned, kept.len()), (layer, width), when)? };
        let (original, is_plain, block, basis) = (layer.clone(), true, None, None);
        Ok(Ok(Self { original, pruned, kept, weights, is_plain, bias, place, skips, block, basis, uses, taught }))
    }

    /// Looks for attention before the layer, if it lost inputs.
    pub(super) fn find_attention(&mut self, view: &View<'_>, all: &[Layer]) -> Result<()> {
        if self.pruned.inputs() < self.original.inputs() && self.uses.len() == 1 {
            self.block = Block::find(view, all, &self.pruned)?;
        }
        Ok(())
    }

    /// Values of the original that it is held against.
    pub(super) fn references(&self) -> impl Iterator<Item = &String> {
        let data = self.uses.iter().map(|(original, _)| &original.data).filter(|_| self.taught.is_some());
        let results = self.uses.iter().map(|(original, _)| &original.result);
        results.chain(self.skips.iter().map(|(before, _)| &before.value)).chain(data)
    }

    /// Whether `recorded` holds all rows of the original that it is fitted to, as `sampler` chooses them.
    pub(super) fn is_recorded(&self, recorded: &Recorded, sampler: &Sampler) -> bool {
        let axis = self.original.linear.result_axis;
        // A block is fitted to whole samples.
        self.block.is_none()
            && self.taught.is_none()
            && self.references().all(|value| recorded.covers(value, axis, sampler))
    }

    /// Whether a small change of its result would leave nothing to repair: it lost no input, and has nothing to put back.
    pub(super) fn may_be_untouched(&self) -> bool {
        self.pruned.inputs() == self.original.inputs()
            && self.pruned.groups == self.original.groups
            && self.skips.is_none()
            && self.block.is_none()
            && self.uses.len() == 1
    }

    /// Values of the repaired model that are final before this stage.
    pub(super) fn final_values(&self) -> impl Iterator<Item = &String> {
        let is_final = self.block.is_none() && self.taught.is_none();
        let own = self.uses.iter().map(|(_, pruned)| &pruned.data).filter(move |_| is_final);
        let skip = self.skips.iter().map(|(_, after)| &after.value);
        own.chain(self.block.iter().flat_map(Block::reads)).chain(skip)
    }

    /// Values of the repaired model that it is fitted on.
    pub(super) fn values(&self) -> impl Iterator<Item = &String> {
        let own = self.uses.iter().map(|(_, pruned)| &pruned.data).filter(|_| self.taught.is_none());
        own.chain(self.block.iter().flat_map(Block::taps))
    }

    /// Rows of the original's weight that a removal keeps; `None` if they cannot be followed.
    pub(super) fn kept_inputs(&self, subject: Subject<'_>, selection: &Selection) -> Option<Vec<usize>> {
        let (channels, taps) = (kept_inputs(subject, selection, &self.original)?, self.original.taps);
        Some(channels.into_iter().flat_map(|channel| channel * taps..(channel + 1) * taps).collect())
    }

    /// Outputs of group `matrix` among those of all groups.
    pub(super) fn outputs(&self, matrix: usize) -> Range<usize> {
        matrix * self.pruned.outputs..(matrix + 1) * self.pruned.outputs
    }

    /// What it should make of these rows at node number `at` with its weight.
    pub(super) fn targets<'t>(&'t self, visit: Visit<'t>, at: usize, rows: &[Row]) -> Result<Targets<'t>> {
        let result = self.uses.get(at).map_or(&self.original.result, |(original, _)| &original.result);
        let axis = self.original.linear.result_axis;
        let shape = visit.shape_of_original(result, axis)?;
        let result = visit.rows_of_original(result, axis, rows).map_err(|e| e.at_node(self.original.name.as_str()))?;
        if self.kept.iter().any(|&channel| channel >= result.channels()) {
            let problem = format!("its result has {} channels, not those that its weight makes", result.channels());
            return Err(Error::input(problem).at_node(self.original.name.as_str()));
        }
        let Some((before, after)) = &self.skips else { return Ok(Targets { result, skip: None }) };
        let (was, is) = (visit.shape_of_original(&before.value, axis)?, visit.changed.get(&after.value)?);
        // A branch that is broadcast has no row for each row of the result.
        let fits = was == shape
            && was.len() == is.shape().len()
            && was.first() == is.shape().first()
            && is.shape().get(axis) == Some(&self.kept.len());
        let skip = if fits {
            let was = visit.rows_of_original(&before.value, axis, rows)?;
            Some((was, self.pruned.results_of(is, rows)?, after))
        } else {
            None
        };
        Ok(Targets { result, skip })
    }

    /// Writes some rows of what group `matrix` should make.
    pub(super) fn write_targets(
        &self,
        targets: &Targets<'_>,
        matrix: usize,
        rows: Range<usize>,
        into: &mut Columns<'_>,
    ) {
        let outputs = self.outputs(matrix);
        targets.result.write_channels(&self.kept[outputs.clone()], rows.clone(), into);
        for (column, &channel) in self.kept[outputs.clone()].iter().enumerate() {
            let Some(parts) = self.basis.as_ref().and_then(|basis| basis.of_channel(channel)) else { continue };
            let column = into.column(column);
            column.fill(0.0);
            parts.for_each(|(channel, factor)| targets.result.add(channel, rows.clone(), factor, column));
        }
        let Some((was, is, skip)) = &targets.skip else { return };
        // What the other branch of the sum lost; see `skip`.
        for (column, output) in outputs.enumerate() {
            let slope = skip.slope[output];
            if slope != 0.0 {
                was.add(self.kept[output], rows.clone(), 1.0 / slope, into.column(column));
                is.add(output, rows.clone(), -1.0 / slope, into.column(column));
            }
        }
    }

    /// What its only matrix should make of these rows, row after row.
    pub(super) fn target_rows(&self, visit: Visit<'_>, rows: &[Row]) -> Result<Vec<f64>> {
        let width = self.pruned.outputs;
        let targets = self.targets(visit, 0, rows)?;
        let mut values = vec![0.0; width * rows.len()];
        self.write_targets(&targets, 0, 0..rows.len(), &mut Columns::over(&mut values, width));
        let row = |number: usize| values.iter().skip(number).step_by(rows.len().max(1)).map(|&value| f64::from(value));
        Ok((0..rows.len()).flat_map(row).collect())
    }
}

/// Input channels of the layer's weight that a removal keeps.
fn kept_inputs(subject: Subject<'_>, selection: &Selection, layer: &Layer) -> Option<Vec<usize>> {
    let axes = subject.network.operand(subject.graph, layer.node, layer.linear.weight)?;
    let kept = subject.network.solution.kept(axes.get(layer.linear.weight_in)?, selection);
    Some(kept.unwrap_or_else(|| (0..layer.channels).collect()))
}

/// The sum after the layer in both models, if its other branch is final already.
fn skips(
    subject: Subject<'_>,
    (before, after): (&View<'_>, &View<'_>),
    (pruned, kept): (&Layer, usize),
    (layer, width): (&Layer, usize),
    (order, stage): (&Stages, usize),
) -> Result<Option<(Skip, Skip)>> {
    let Some(original) = skip(before, layer, width)? else { return Ok(None) };
    let is_final = subject.graph.value(&original.value).is_some_and(|value| order.is_changed_before(value, stage));
    let repaired = if is_final { skip(after, pruned, kept)? } else { None };
    Ok(repaired.map(|repaired| (original, repaired)))
}
