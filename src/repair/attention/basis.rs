//! New bases of heads: found from the data, written into weights, removed from the end.
//!
//! In the basis of [`Turn`] the dimensions of every head are in order of what they do, so that any number of the last ones
//! may go. Queries and keys have a basis of their own, values and the output projection another one.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array1, Array2, Axis};
use rayon::prelude::*;

use super::super::write::{self, BiasPlace};
use super::bond::{Pair, Traced, trace_all};
use super::part::{Part, addition, put_vector, put_weights};
use super::sides::{Metric, Sides};
use super::turn::Turn;
use crate::analysis::Subject;
use crate::analysis::attention::Obstacle;
use crate::axes::{FactorId, Selection};
use crate::calibrate::{Calibration, Layer, Pair as Models, layers};
use crate::error::{Error, Result};
use crate::graph::{NodeId, View};
use crate::onnx::proto::ModelProto;

/// Bases of all heads of a model, by the factor that is their width.
#[derive(Debug, Clone, Default)]
pub struct Bases {
    widths: Vec<Basis>,
    /// Head widths that keep their basis, with the node that stands in the way.
    pub obstacles: Vec<Obstacle>,
}

/// The basis of one head width.
#[derive(Debug, Clone)]
struct Basis {
    factor: FactorId,
    /// Name of the layer that makes keys or values.
    name: String,
    /// What each dimension of all heads adds to the squared error once it is gone, as a share of the whole.
    shares: Vec<f64>,
    /// Layers whose results change, by node.
    results: BTreeMap<NodeId, Blocks>,
    /// Layers whose inputs change, by node.
    inputs: BTreeMap<NodeId, Blocks>,
    /// Which heads meet at these layers.
    traced: Traced,
}

/// A block-diagonal matrix that all channels but those of the blocks pass unchanged.
#[derive(Debug, Clone, Default)]
pub(in crate::repair) struct Blocks(Vec<(Vec<usize>, Array2<f64>)>);

impl Blocks {
    /// `rows · blocks`.
    fn after(&self, mut rows: Array2<f64>) -> Array2<f64> {
        for (channels, block) in &self.0 {
            let part = rows.select(Axis(1), channels).dot(block);
            for (column, &channel) in part.columns().into_iter().zip(channels) {
                rows.column_mut(channel).assign(&column);
            }
        }
        rows
    }

    /// The channels, with their factors, that make up a channel of the product; `None` if it is passed unchanged.
    pub(in crate::repair) fn of_channel(&self, channel: usize) -> Option<impl Iterator<Item = (usize, f64)>> {
        self.0.iter().find_map(|(channels, block)| {
            let place = channels.iter().position(|&other| other == channel)?;
            Some(channels.iter().copied().zip(block.column(place).into_iter().copied()))
        })
    }

    /// `blocks · rows`.
    fn before(&self, mut rows: Array2<f64>) -> Array2<f64> {
        for (channels, block) in &self.0 {
            let part = block.dot(&rows.select(Axis(0), channels));
            for (row, &channel) in part.rows().into_iter().zip(channels) {
                rows.row_mut(channel).assign(&row);
            }
        }
        rows
    }
}

impl Bases {
    /// Of all heads of a model: runs it on all samples once, and three times on two of them.
    ///
    /// # Errors
    /// If reading the data or running the model fails.
    pub fn find(subject: Subject<'_>, data: Calibration<'_>) -> Result<Self> {
        let mut obstacles = Vec::new();
        let traced = trace_all(subject, data, &mut obstacles)?;
        if traced.is_empty() {
            return Ok(Self { widths: Vec::new(), obstacles });
        }
        let mut sides = Sides::of(&traced);
        sides.gather(subject, data)?;
        Ok(Self { widths: Basis::all(subject, traced, sides)?, obstacles })
    }

    /// Sums up what the bases of a model are found from, and keeps it in the statistics of the samples. Returns the factors that
    /// will have one.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub(crate) fn gather(subject: Subject<'_>, data: Calibration<'_>) -> Result<BTreeSet<FactorId>> {
        let traced = trace_all(subject, data, &mut Vec::new())?;
        Sides::of(&traced).gather(subject, data)?;
        Ok(traced.iter().map(|traced| traced.factor).collect())
    }

    /// The factors that have a basis, with what each of their indices adds to the squared error of scores and mixed values
    /// once it is gone, as a share of the whole; large to small.
    pub fn shares(&self) -> BTreeMap<FactorId, &[f64]> {
        self.widths.iter().map(|basis| (basis.factor, basis.shares.as_slice())).collect()
    }

    /// Name of the layer that makes the keys or values of a factor that has a basis.
    pub fn name(&self, factor: FactorId) -> Option<&str> {
        self.widths.iter().find(|basis| basis.factor == factor).map(|basis| basis.name.as_str())
    }

    /// Leaves only the bases of these factors.
    pub fn retain(&mut self, keep: impl Fn(FactorId) -> bool) {
        self.widths.retain(|basis| keep(basis.factor));
    }

    /// Writes the bases into `model`, which is `subject` with only `selection` left: of every factor that loses something, or
    /// of all, if nothing is lost at all.
    ///
    /// # Errors
    /// If a weight cannot be read or written.
    pub fn write(&self, subject: Subject<'_>, selection: &Selection, model: &mut ModelProto) -> Result<()> {
        let written = self.written(selection);
        let nodes: BTreeSet<NodeId> =
            written.flat_map(|basis| basis.results.keys().chain(basis.inputs.keys())).copied().collect();
        for layer in layers_of(subject, &nodes)? {
            self.write_layer(subject, selection, &layer, model)?;
        }
        Ok(())
    }

    /// Whether the indices of a factor are dimensions of a new basis under `selection`.
    pub fn is_written(&self, factor: FactorId, selection: &Selection) -> bool {
        self.written(selection).any(|basis| basis.factor == factor)
    }

    fn written<'b>(&'b self, selection: &'b Selection) -> impl Iterator<Item = &'b Basis> {
        let everything = selection.touched().next().is_none();
        self.widths.iter().filter(move |basis| everything || !selection.keeps_all(basis.factor))
    }

    /// The basis that the results of a layer are in, as a matrix after those of the original; `None` if they are as they were.
    pub(in crate::repair) fn of_results(&self, node: NodeId, selection: &Selection) -> Option<Blocks> {
        joined(self.written(selection).filter_map(|basis| basis.results.get(&node)))
    }

    /// Whether the inputs of a layer are in a new basis.
    pub(in crate::repair) fn has_inputs(&self, node: NodeId, selection: &Selection) -> bool {
        self.written(selection).any(|basis| basis.inputs.contains_key(&node))
    }

    /// Finds the bases of heads again that a stage of repair projects: by what the original makes of the inputs that its
    /// projections have in the repaired `model` now. Their layers are written anew. Heads of which some projection is repaired
    /// at another stage, or has other inputs than in the original, keep the basis that they have.
    ///
    /// # Errors
    /// If reading the data, running a model or writing a weight fails.
    pub(in crate::repair) fn renew(
        &mut self,
        subject: Subject<'_>,
        (selection, stage): (&Selection, &[NodeId]),
        model: &mut ModelProto,
        (data, models): (Calibration<'_>, &Models<'_>),
    ) -> Result<()> {
        let factors: BTreeSet<FactorId> = self.written(selection).map(|basis| basis.factor).collect();
        let is_due =
            |basis: &Basis| factors.contains(&basis.factor) && basis.results.keys().all(|node| stage.contains(node));
        let due: Vec<Traced> = self.widths.iter().filter(|basis| is_due(basis)).map(|b| b.traced.clone()).collect();
        let layers = due.iter().flat_map(|traced| &traced.pairs).flat_map(Pair::projections);
        // The value that feeds a projection, by its name in the original; in the repaired model it may have another one.
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        let view = View::of(model)?;
        for layer in layers {
            let Some(found) = layer.found_in(&view)?.filter(|found| found.inputs() == layer.inputs()) else {
                return Ok(());
            };
            names.insert(layer.data.clone(), found.data);
        }
        if due.is_empty() {
            return Ok(());
        }
        let mut sides = Sides::of(&due);
        let wanted = sides.values();
        models
            .original_on_changed((subject.model, &wanted), (model, &names), |found, at| sides.add(found, data, at))?;
        if let Some(team) = data.team {
            let name = due.first().and_then(|traced| traced.pairs.first()).map_or("", |pair| &pair.first.name);
            sides.share(team, &format!("heads/{name}"))?;
        }
        for basis in Basis::all(subject, due, sides)? {
            if let Some(old) = self.widths.iter_mut().find(|old| old.factor == basis.factor) {
                *old = basis;
            }
        }
        let is_new = |basis: &&Basis| is_due(basis);
        let nodes: BTreeSet<NodeId> =
            self.widths.iter().filter(is_new).flat_map(|b| b.results.keys().chain(b.inputs.keys())).copied().collect();
        for layer in layers_of(subject, &nodes)? {
            self.write_layer(subject, selection, &layer, model)?;
        }
        Ok(())
    }

    fn write_layer(
        &self,
        subject: Subject<'_>,
        selection: &Selection,
        layer: &Layer,
        model: &mut ModelProto,
    ) -> Result<()> {
        let missing = || Error::input("an attention layer no longer exists").at_node(layer.name.as_str());
        let view = View::of(model)?;
        let pruned = layer.found_in(&view)?.ok_or_else(missing)?;
        let Part { mut weights, own, added } = Part::of(subject, layer)?.ok_or_else(missing)?;
        let mut biases = ndarray::stack![Axis(0), own, added];
        let results = self.of_results(layer.node, selection);
        if let Some(blocks) = &results {
            (weights, biases) = (blocks.after(weights), blocks.after(biases));
        }
        if let Some(blocks) = joined(self.written(selection).filter_map(|basis| basis.inputs.get(&layer.node))) {
            weights = blocks.before(weights);
        }
        let axes = subject.network.operand(subject.graph, layer.node, layer.linear.weight).unwrap_or_default();
        let kept = |axis: usize, size: usize| {
            let kept = axes.get(axis).and_then(|axis| subject.network.solution.kept(axis, selection));
            kept.unwrap_or_else(|| (0..size).collect::<Vec<_>>())
        };
        let rows = kept(layer.linear.weight_in, layer.inputs());
        let columns = kept(layer.linear.weight_out, layer.outputs);
        if rows.len() != pruned.inputs() || columns.len() != pruned.outputs {
            return Err(missing());
        }
        let weights = weights.select(Axis(0), &rows).select(Axis(1), &columns);
        let biases = biases.select(Axis(1), &columns);
        let (place, _) = write::bias(&view, &pruned, columns.len())?;
        if results.is_none() || biases.iter().all(|&bias| bias == 0.0) {
            return put_weights(model, &pruned, &weights);
        }
        let (node, slot, values, held) = match place {
            BiasPlace::Operand { slot, scale } => {
                let node = view.maker(&pruned.result).map(|(node, _)| node);
                (node, slot, biases.row(0).to_owned() / scale, Array1::zeros(columns.len()))
            }
            BiasPlace::Addition { node, slot } => {
                (Some(node), slot, biases.row(1).to_owned(), addition(&view, &place, columns.len())?)
            }
            BiasPlace::Missing | BiasPlace::Computed => return put_weights(model, &pruned, &weights),
        };
        let value = node.and_then(|node| view.operand(node, slot));
        let name = value.map(|value| view.graph.at(value).name.clone()).unwrap_or_default();
        let original = subject.graph.value(&name).map(|value| subject.graph.at(value));
        let is_private = original.is_none_or(|value| value.captured_by.is_empty() && !value.is_output);
        if is_private && put_vector(model, &name, &values)? {
            return put_weights(model, &pruned, &weights);
        }
        // Others read the vector too. What is written is added to what an addition holds.
        let bias = match place {
            BiasPlace::Operand { scale, .. } => values * scale,
            _ => values - held,
        };
        write::replace(model, &pruned, Some(&[weights]), &bias)
    }
}

fn layers_of(subject: Subject<'_>, nodes: &BTreeSet<NodeId>) -> Result<Vec<Layer>> {
    Ok(layers(subject)?.into_iter().filter(|layer| nodes.contains(&layer.node)).collect())
}

/// Blocks of several widths at one layer: of queries, keys and values that are packed.
fn joined<'b>(all: impl Iterator<Item = &'b Blocks>) -> Option<Blocks> {
    let blocks: Vec<_> = all.flat_map(|blocks| blocks.0.iter().cloned()).collect();
    (!blocks.is_empty()).then_some(Blocks(blocks))
}

impl Basis {
    /// The bases of these widths, of which `sides` were gathered.
    fn all(subject: Subject<'_>, traced: Vec<Traced>, sides: Sides) -> Result<Vec<Self>> {
        let metrics = sides.metrics(subject, &traced)?;
        let width = |traced: &Traced| subject.network.solution.size(traced.factor);
        traced
            .into_iter()
            .zip(metrics)
            .map(|(traced, m)| (width(&traced), traced, m))
            .map(|(n, traced, m)| Self::of(traced, &m, n))
            .collect()
    }

    fn of(traced: Traced, metrics: &[Vec<Metric>], width: usize) -> Result<Self> {
        let name = traced.pairs.first().map(|pair| pair.first.name.clone()).unwrap_or_default();
        let (factor, shares) = (traced.factor, vec![0.0; width]);
        let (results, inputs) = (BTreeMap::new(), BTreeMap::new());
        let mut basis = Self { factor, name, shares, results, inputs, traced };
        let pairs = basis.traced.pairs.clone();
        for (pair, metrics) in pairs.iter().zip(metrics) {
            let turn = |(covariance, met): &Metric| Turn::of(covariance, met, &pair.first.name);
            let turns: Vec<Turn> = metrics.par_iter().map(turn).collect::<Result<_>>()?;
            let whole: f64 = turns.iter().map(|turn| turn.squares.sum()).sum();
            for (bond, turn) in pair.bonds.iter().zip(&turns) {
                for (share, square) in basis.shares.iter_mut().zip(&turn.squares) {
                    *share += square / whole.max(f64::MIN_POSITIVE);
                }
                let keys = basis.results.entry(pair.first.node).or_default();
                keys.0.push((bond.first.clone(), turn.forward.clone()));
                for other in &bond.others {
                    if pair.is_scores {
                        let queries = basis.results.entry(pair.other.node).or_default();
                        queries.0.push((other.clone(), turn.back.t().to_owned()));
                    } else {
                        let reader = basis.inputs.entry(pair.other.node).or_default();
                        reader.0.push((other.clone(), turn.back.clone()));
                    }
                }
            }
        }
        Ok(basis)
    }
}
