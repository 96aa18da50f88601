//! Which heads meet: queries with keys, values with the layer that reads them mixed, as channels of their layers.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::Array1;

use super::part::Part;
use super::trace::{self, Head, Label, Probe, Reading};
use crate::analysis::Subject;
use crate::analysis::attention::{HeadWidth, Obstacle, Port, head_widths};
use crate::axes::FactorId;
use crate::calibrate::{Calibration, Layer, layers};
use crate::error::Result;
use crate::graph::NodeId;
use crate::runtime::Tensor;

/// Samples that the way from projections to attention is traced with.
const TRACED: usize = 2;

/// Heads that share one basis: channels of the side that C is taken of, and of each side that it meets, by dimension.
#[derive(Debug, Clone)]
pub(super) struct Bond {
    pub(super) first: Vec<usize>,
    pub(super) others: Vec<Vec<usize>>,
}

/// Keys and queries, or values and the layer that reads them mixed.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    /// Keys, or values.
    pub(super) first: Layer,
    /// Queries, or the reader.
    pub(super) other: Layer,
    pub(super) is_scores: bool,
    pub(super) bonds: Vec<Bond>,
    /// What is added to queries on their way, for each channel of their layer.
    pub(super) added: Array1<f64>,
}

/// A head width with its layers.
#[derive(Debug, Clone)]
pub(super) struct Traced {
    pub(super) factor: FactorId,
    pub(super) pairs: Vec<Pair>,
}

impl Pair {
    /// Layers whose results are heads.
    pub(super) fn projections(&self) -> impl Iterator<Item = &Layer> {
        [&self.first].into_iter().chain(self.is_scores.then_some(&self.other))
    }
}

/// Follows every head width from its projections to where they meet.
pub(super) fn trace_all(
    subject: Subject<'_>,
    data: Calibration<'_>,
    obstacles: &mut Vec<Obstacle>,
) -> Result<Vec<Traced>> {
    let all = layers(subject)?;
    let mut candidates = Vec::new();
    for width in head_widths(subject) {
        match width.and_then(|width| Candidate::new(subject, &all, width)) {
            Ok(candidate) => candidates.push(candidate),
            Err(obstacle) => obstacles.push(obstacle),
        }
    }
    let Some(batch) = data.data.batches_of(0..TRACED, TRACED).next().filter(|_| !candidates.is_empty()) else {
        return Ok(Vec::new());
    };
    let probes: BTreeMap<String, Probe> = candidates.iter().flat_map(|c| c.probes.clone()).collect();
    let probes: Vec<Probe> = probes.into_values().collect();
    let taps: BTreeSet<String> = candidates.iter().flat_map(|c| c.taps.iter().cloned()).collect();
    let runs = trace::run(subject, &probes, &taps, &batch?.inputs)?;
    let mut traced = Vec::new();
    for candidate in candidates {
        match candidate.trace(subject, &runs)? {
            Ok(width) => traced.push(width),
            Err(obstacle) => obstacles.push(obstacle),
        }
    }
    Ok(traced)
}

/// A head width whose layers can have new weights.
struct Candidate {
    width: HeadWidth,
    layers: BTreeMap<NodeId, Layer>,
    probes: Vec<(String, Probe)>,
    taps: Vec<String>,
}

/// Heads as one side sees them: channels by dimension.
type Heads = BTreeMap<Head, Vec<usize>>;

impl Candidate {
    fn new(subject: Subject<'_>, all: &[Layer], width: HeadWidth) -> std::result::Result<Self, Obstacle> {
        let mut candidate =
            Self { width: width.clone(), layers: BTreeMap::new(), probes: Vec::new(), taps: Vec::new() };
        for port in width.ports() {
            candidate.add_layer(subject, all, port.layer)?;
            let layer = &candidate.layers[&port.layer];
            let (result, axis, outputs) = (layer.result.clone(), layer.linear.result_axis, layer.outputs);
            let rank = subject.graph.value(&result).and_then(|value| subject.facts.rank(value));
            let mut dims = vec![1; rank.unwrap_or(axis + 1)];
            if let Some(size) = dims.get_mut(axis) {
                *size = outputs;
            }
            candidate.probes.push((result.clone(), Probe { value: result, dims }));
            candidate.taps.push(candidate.operand(subject, port.node, port.slot)?);
        }
        if let Some(mix) = width.mix {
            candidate.add_layer(subject, all, mix.output)?;
            let layer = &candidate.layers[&mix.output];
            candidate.taps.push(layer.data.clone());
            let shared = candidate.shared(subject, mix.output, |layer| layer.linear.weight_in);
            let axes = trace::axes_of(subject, mix.result);
            let labels = trace::labels(subject, axes, width.factor, &shared);
            let (numbers, labels) = labels.ok_or_else(|| candidate.obstacle(subject, mix.output, "is dynamic"))?;
            let mut dims = vec![1; axes.len()];
            numbers.iter().zip(&labels).for_each(|(&number, labels)| dims[number] = labels.len());
            let value = subject.graph.at(mix.result).name.clone();
            candidate.probes.push((value.clone(), Probe { value, dims }));
        }
        Ok(candidate)
    }

    /// Checks that a layer is a plain product whose weight nobody else reads.
    fn add_layer(&mut self, subject: Subject<'_>, all: &[Layer], node: NodeId) -> std::result::Result<(), Obstacle> {
        let fail = |why: &str| Obstacle {
            factor: self.width.factor,
            node: subject.graph.node(node).name.clone(),
            why: why.to_owned(),
        };
        let layer = all.iter().find(|layer| layer.node == node);
        let layer = layer.ok_or_else(|| fail("has a weight that is computed, or no weight of floats"))?;
        if layer.groups != 1 || layer.taps != 1 {
            return Err(fail("is a convolution in groups or with a window"));
        }
        let weight = subject.graph.value(&layer.weight).map(|value| subject.graph.at(value));
        if weight.is_none_or(|value| value.uses.len() != 1 || !value.captured_by.is_empty()) {
            return Err(fail("shares its weight with other nodes"));
        }
        self.layers.insert(node, layer.clone());
        Ok(())
    }

    fn operand(&self, subject: Subject<'_>, node: NodeId, slot: usize) -> std::result::Result<String, Obstacle> {
        let value = subject.graph.node(node).inputs.get(slot).copied().flatten();
        let value = value.ok_or_else(|| self.obstacle(subject, node, "lacks an operand"))?;
        Ok(subject.graph.at(value).name.clone())
    }

    fn obstacle(&self, subject: Subject<'_>, node: NodeId, why: &str) -> Obstacle {
        Obstacle { factor: self.width.factor, node: subject.graph.node(node).name.clone(), why: why.to_owned() }
    }

    /// The factors of one axis of a layer's weight.
    fn shared(&self, subject: Subject<'_>, node: NodeId, axis: fn(&Layer) -> usize) -> BTreeSet<FactorId> {
        let layer = &self.layers[&node];
        let axes = subject.network.operand(subject.graph, node, layer.linear.weight).unwrap_or_default();
        axes.get(axis(layer)).map(|axis| axis.factors().into_iter().collect()).unwrap_or_default()
    }

    /// Heads of both sides of scores and of mixed values, if all that lies between only moves them.
    fn trace(
        self,
        subject: Subject<'_>,
        runs: &[BTreeMap<String, Tensor>; 3],
    ) -> Result<std::result::Result<Traced, Obstacle>> {
        let mut pairs = Vec::new();
        if let Some(scores) = self.width.scores {
            let (key, query) =
                (self.projected(subject, runs, scores.key)?, self.projected(subject, runs, scores.query)?);
            let ((keys, _), (queries, added)) = match (key, query) {
                (Ok(key), Ok(query)) => (key, query),
                (Err(why), _) => return Ok(Err(self.obstacle(subject, scores.key.layer, why))),
                (_, Err(why)) => return Ok(Err(self.obstacle(subject, scores.query.layer, why))),
            };
            let bonds = bonds(&keys, &queries);
            let Some(bonds) = bonds else {
                return Ok(Err(self.obstacle(subject, scores.key.node, "pairs heads in a way that is not followed")));
            };
            let layer = |port: Port| self.layers[&port.layer].clone();
            let (first, other) = (layer(scores.key), layer(scores.query));
            pairs.push(Pair { first, other, is_scores: true, bonds, added });
        }
        if let Some(mix) = self.width.mix {
            let (values, mixed) = (self.projected(subject, runs, mix.value)?, self.mixed(subject, runs)?);
            let ((values, _), mixed) = match (values, mixed) {
                (Ok(values), Ok(mixed)) => (values, mixed),
                (Err(why), _) => return Ok(Err(self.obstacle(subject, mix.value.layer, why))),
                (_, Err(why)) => return Ok(Err(self.obstacle(subject, mix.output, why))),
            };
            let Some(bonds) = bonds(&values, &mixed) else {
                return Ok(Err(self.obstacle(subject, mix.value.node, "mixes heads in a way that is not followed")));
            };
            let (first, other) = (self.layers[&mix.value.layer].clone(), self.layers[&mix.output].clone());
            let added = Array1::zeros(other.inputs());
            pairs.push(Pair { first, other, is_scores: false, bonds, added });
        }
        Ok(Ok(Traced { factor: self.width.factor, pairs }))
    }

    /// Heads as an operand of attention reads them from a projection, and what is added to each channel on the way.
    fn projected(
        &self,
        subject: Subject<'_>,
        runs: &[BTreeMap<String, Tensor>; 3],
        port: Port,
    ) -> Result<std::result::Result<(Heads, Array1<f64>), &'static str>> {
        let layer = &self.layers[&port.layer];
        let shared = self.shared(subject, port.layer, |layer| layer.linear.weight_out);
        let Some(value) = subject.graph.node(port.node).inputs.get(port.slot).copied().flatten() else {
            return Ok(Err("is read at another shape"));
        };
        let axes = subject.network.operand(subject.graph, port.node, port.slot).unwrap_or_default();
        let Some((numbers, labels)) = trace::labels(subject, axes, self.width.factor, &shared) else {
            return Ok(Err("has a dynamic number of heads"));
        };
        let name = &subject.graph.at(value).name;
        let reading = match tapped(runs, name)? {
            Some(runs) => trace::read(runs, &numbers, layer.outputs)?,
            None => Err("is not computed"),
        };
        let reading = match reading {
            Ok(reading) => reading,
            Err(why) => return Ok(Err(why)),
        };
        let labels = trace::combined(&labels);
        let Some(heads) = heads(&labels, &reading, subject.network.solution.size(self.width.factor)) else {
            return Ok(Err("is read in an order that is not followed"));
        };
        let Some(part) = Part::of(subject, layer)? else { return Ok(Err("has a bias that is computed")) };
        let size = part.added.iter().fold(1.0_f64, |m, b| m.max(b.abs()));
        let is_bias = |(&channel, added): (&usize, &f64)| (added - part.added[channel]).abs() <= 1e-3 * size;
        if !reading.numbers.iter().zip(&reading.added).all(is_bias) {
            return Ok(Err("has something other than a bias added to its results"));
        }
        Ok(Ok((heads, part.added)))
    }

    /// Inputs of the layer that reads mixed values, by head and dimension.
    fn mixed(
        &self,
        subject: Subject<'_>,
        runs: &[BTreeMap<String, Tensor>; 3],
    ) -> Result<std::result::Result<Heads, &'static str>> {
        let Some(mix) = self.width.mix else { return Ok(Err("mixes nothing")) };
        let layer = &self.layers[&mix.output];
        let shared = self.shared(subject, mix.output, |layer| layer.linear.weight_in);
        let axes = trace::axes_of(subject, mix.result);
        let Some((_, labels)) = trace::labels(subject, axes, self.width.factor, &shared) else {
            return Ok(Err("has a dynamic number of heads"));
        };
        let labels = trace::combined(&labels);
        let reading = match tapped(runs, &layer.data)? {
            Some(runs) => trace::read(runs, &[layer.linear.data_axis], labels.len())?,
            None => Err("is not computed"),
        };
        let reading = match reading {
            Ok(reading) => reading,
            Err(why) => return Ok(Err(why)),
        };
        if reading.added.iter().any(|added| added.abs() > 1e-3) {
            return Ok(Err("has something added to its inputs"));
        }
        // The layer's inputs are the positions, what they carry are the numbers.
        let inputs = Reading { numbers: (0..reading.numbers.len()).collect(), added: reading.added };
        let labels: Vec<Label> = reading.numbers.iter().map(|&number| labels[number].clone()).collect();
        let size = subject.network.solution.size(self.width.factor);
        Ok(heads(&labels, &inputs, size).ok_or("reads mixed values in an order that is not followed"))
    }
}

fn tapped<'r>(runs: &'r [BTreeMap<String, Tensor>; 3], name: &str) -> Result<Option<trace::Runs<'r>>> {
    let [a, b, c] = runs.each_ref().map(|run| run.get(name));
    Ok(match (a, b, c) {
        (Some(a), Some(b), Some(c)) => Some([a, b, c]),
        _ => None,
    })
}

/// Channels of every head, by dimension; `None` if a dimension is missing or there twice.
fn heads(labels: &[Label], reading: &Reading, width: usize) -> Option<Heads> {
    let mut heads: BTreeMap<Head, Vec<Option<usize>>> = BTreeMap::new();
    for (label, &channel) in labels.iter().zip(&reading.numbers) {
        let slot = heads.entry(label.head.clone()).or_insert_with(|| vec![None; width]).get_mut(label.dim?)?;
        if slot.is_some_and(|known| known != channel) {
            return None;
        }
        *slot = Some(channel);
    }
    heads.into_iter().map(|(head, channels)| Some((head, channels.into_iter().collect::<Option<_>>()?))).collect()
}

/// Heads of one side with those of the other side that they meet; `None` if a channel is in two.
fn bonds(first: &Heads, others: &Heads) -> Option<Vec<Bond>> {
    let agrees = |a: &Head, b: &Head| a.iter().all(|(f, i)| b.iter().all(|(g, j)| f != g || i == j));
    let mut bonds: BTreeMap<&Vec<usize>, BTreeSet<&Vec<usize>>> = BTreeMap::new();
    for (head, channels) in first {
        let met = others.iter().filter(|(other, _)| agrees(head, other)).map(|(_, channels)| channels);
        bonds.entry(channels).or_default().extend(met);
    }
    let (mut left, mut right) = (BTreeSet::new(), BTreeSet::new());
    for (first, others) in &bonds {
        let is_new =
            first.iter().all(|&c| left.insert(c)) && others.iter().copied().flatten().all(|&c| right.insert(c));
        if !is_new || others.is_empty() {
            return None;
        }
    }
    let bond = |(first, others): (&Vec<usize>, BTreeSet<&Vec<usize>>)| Bond {
        first: first.clone(),
        others: others.into_iter().cloned().collect(),
    };
    Some(bonds.into_iter().map(bond).collect())
}
