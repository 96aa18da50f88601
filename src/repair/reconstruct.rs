//! `lstsq` and `bias`: layer after layer, inputs from the repaired model, targets from the original.

use std::collections::BTreeSet;

use ndarray::{Array1, Array2, Axis};
use rayon::prelude::*;

use super::Method;
use super::attention::{At, Block, Gathered};
use super::skip::{Skip, skip};
use super::solve::{Evidence, RIDGES};
use super::stages::{Order, stages};
use super::write::{self, BiasPlace};
use crate::analysis::Subject;
use crate::axes::Selection;
use crate::calibrate::data::Batch;
use crate::calibrate::{
    Activations, Buffered, Calibration, Held, Layer, Padding, Row, Sampler, Stream, floats, in_turn, layers, run_both,
    samples_of, stored,
};
use crate::error::{Error, Result};
use crate::graph::{NodeId, Source};
use crate::linalg::default_backend;
use crate::onnx::proto::{GraphProto, ModelProto};
use crate::report::RepairReport;
use crate::runtime::Tensor;

/// Every so-manieth sample (or row, where samples are few) is held out.
pub(super) const HELD_OUT: usize = 10;

/// Samples from which on whole samples are held out.
pub(super) const MANY_SAMPLES: usize = 20;

/// A layer of the original and what is left of it.
struct Member {
    original: Layer,
    pruned: Layer,
    /// Channels of the original's result that the pruned layer still makes.
    kept: Vec<usize>,
    weights: Vec<Array2<f64>>,
    bias: Array1<f64>,
    place: BiasPlace,
    /// The sum behind it, in the original and in the pruned model.
    skips: Option<(Skip, Skip)>,
    /// The attention in front of it, if that lost heads or their dimensions.
    block: Option<Block>,
}

/// Evidence about a stage: one collector for each matrix of each member, and for each member what the attention in front
/// of it reads and should make.
struct Gathering<'m> {
    collectors: Vec<Collector<'m>>,
    attention: Vec<Option<Gathered>>,
}

/// Evidence for one matrix of a member.
struct Collector<'m> {
    member: &'m Member,
    matrix: usize,
    sampler: Sampler,
    by_sample: bool,
    train: Sink,
    held_out: Sink,
}

/// Rows on their way to evidence.
enum Sink {
    Sums(Box<Buffered>),
    Rows(Vec<f64>, Vec<f64>),
}

/// What became of a matrix: weights, bias, errors on held-out rows before and after, and the targets' spread.
struct Solved {
    weights: Array2<f64>,
    bias: Array1<f64>,
    before: f64,
    after: f64,
    spread: f64,
    rows: usize,
}

pub(super) fn reconstruct(
    subject: Subject<'_>,
    selection: &Selection,
    model: &mut ModelProto,
    data: Calibration<'_>,
    method: Method,
) -> Result<Vec<RepairReport>> {
    let all = layers(subject)?;
    let nodes: Vec<NodeId> = all.iter().map(|layer| layer.node).collect();
    let (mut original, mut repaired) = (Stream::default(), Stream::default());
    let mut reports = Vec::new();
    let order = stages(subject, selection, &nodes);
    let unread = order.behind.iter().filter(|node| !nodes.contains(node));
    reports.extend(
        unread.filter_map(|&node| Some(left_alone(&subject.graph.node(node).name, why_unread(subject, node)?))),
    );
    for (number, stage) in order.stages.iter().enumerate() {
        let mut members = Vec::new();
        for layer in all.iter().filter(|layer| stage.contains(&layer.node)) {
            match member(subject, selection, model, layer, (&order, number))? {
                Ok(member) => members.push(member),
                Err(why) => reports.push(left_alone(&layer.name, why)),
            }
        }
        if members.is_empty() {
            continue;
        }
        if method == Method::Lstsq {
            let graph = model.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
            members.iter_mut().try_for_each(|member| member.find_attention(graph, &all))?;
        }
        let gathering = collect(subject, model, data, &members, (&mut original, &mut repaired))?;
        let solved: Vec<Solved> =
            gathering.collectors.into_par_iter().map(|collector| collector.solve(method)).collect::<Result<_>>()?;
        let mut solved = solved.into_iter();
        for (member, attention) in members.iter().zip(gathering.attention) {
            let matrices: Vec<Solved> = solved.by_ref().take(member.pruned.groups).collect();
            let report = write_back(model, member, &matrices, method)?;
            reports.push(match attention {
                Some(attention) => refit(model, member, attention, report)?,
                None => report,
            });
        }
    }
    Ok(reports)
}

/// A layer behind a removal that keeps its weights, and why.
fn left_alone(name: &str, why: impl Into<String>) -> RepairReport {
    RepairReport { name: name.to_owned(), reason: Some(why.into()), ..RepairReport::default() }
}

/// Why a node, if it has weights, is none of the layers that can be read.
fn why_unread(subject: Subject<'_>, id: NodeId) -> Option<String> {
    let node = subject.graph.node(id);
    let contraction = subject.network.relations[id.0].contraction.as_ref()?;
    let Some(linear) = contraction.linear else {
        let stored = node.inputs.iter().flatten().any(|&value| subject.constant(value).is_some());
        return stored.then(|| format!("weights of {} are not repaired", node.op));
    };
    let weight = node.inputs.get(linear.weight).copied().flatten()?;
    Some(match subject.graph.at(weight).source {
        Source::Node(maker, _) if subject.constant(weight).is_none() => {
            format!("its weight is computed by {}: only stored weights are repaired", subject.graph.node(maker).op)
        }
        _ => "its weight or its window is of a kind that is not repaired".to_owned(),
    })
}

/// What is left of a layer, or why nothing can be repaired about it.
fn member(
    subject: Subject<'_>,
    selection: &Selection,
    model: &ModelProto,
    layer: &Layer,
    when: (&Order, usize),
) -> Result<std::result::Result<Member, &'static str>> {
    let graph = model.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
    let Some(pruned) = layer.found_in(graph)? else { return Ok(Err("it is gone, or its weight is computed now")) };
    let readers = graph.node.iter().flat_map(|node| &node.input).filter(|input| **input == pruned.weight);
    if readers.count() != 1 {
        return Ok(Err("other nodes read its weight too"));
    }
    let Some(tensor) = stored(graph, &pruned.weight) else { return Ok(Err("its weight is not stored")) };
    let result = subject.graph.value(&layer.result).and_then(|value| subject.network.value(value));
    let axis = result.and_then(|axes| axes.get(layer.linear.result_axis));
    let Some(axis) = axis else { return Ok(Err("the shape of its result is not known")) };
    let width = layer.groups * layer.outputs;
    let kept = subject.network.solution.kept(axis, selection).unwrap_or_else(|| (0..width).collect());
    if kept.len() != pruned.groups * pruned.outputs {
        return Ok(Err("its channels cannot be followed"));
    }
    let weights = pruned.matrices(tensor)?;
    let (place, bias) = write::bias(model, &pruned, kept.len())?;
    let skips = skips(subject, (graph, &pruned, kept.len()), (layer, width), when)?;
    Ok(Ok(Member { original: layer.clone(), pruned, kept, weights, bias, place, skips, block: None }))
}

/// The sum behind the layer in both models, if its other branch is final already.
fn skips(
    subject: Subject<'_>,
    (graph, pruned, kept): (&GraphProto, &Layer, usize),
    (layer, width): (&Layer, usize),
    (order, stage): (&Order, usize),
) -> Result<Option<(Skip, Skip)>> {
    let Some(original) = skip(subject.proto()?, layer, width)? else { return Ok(None) };
    let is_final = subject.graph.value(&original.value).is_some_and(|value| order.is_changed_before(value, stage));
    let repaired = if is_final { skip(graph, pruned, kept)? } else { None };
    Ok(repaired.map(|repaired| (original, repaired)))
}

/// Runs both models over all data, as far as the members need, and lets them start behind it next time.
fn collect<'m>(
    subject: Subject<'_>,
    model: &ModelProto,
    data: Calibration<'_>,
    members: &'m [Member],
    (original, repaired): (&mut Stream, &mut Stream),
) -> Result<Gathering<'m>> {
    let names = |names: fn(&Member) -> Vec<&String>| -> Vec<String> {
        let all: BTreeSet<&String> = members.iter().flat_map(names).collect();
        all.into_iter().cloned().collect()
    };
    let reads = names(|m| m.reads().chain(m.skips.iter().map(|(_, skip)| &skip.value)).collect());
    let mut inputs = names(|m| [&m.pruned.data].into_iter().chain(m.block.iter().flat_map(Block::taps)).collect());
    inputs.extend(reads.iter().cloned());
    let targets =
        names(|m| [&m.original.result].into_iter().chain(m.skips.iter().map(|(skip, _)| &skip.value)).collect());
    let sources = original.segment(subject.model, &names(|m| vec![&m.original.data]), &targets)?;
    let images = repaired.segment(model, &reads, &inputs)?;
    let mut collectors: Vec<Collector<'m>> = Vec::new();
    let mut attention: Vec<Option<Gathered>> = members.iter().map(|m| m.block.clone().map(Gathered::new)).collect();
    let mut held = Held::default();
    let mut first = 0;
    let pair = [(&*original, &sources), (&*repaired, &images)];
    let run = |index: usize, batch: &Batch| run_both(pair, index, &batch.inputs);
    in_turn(data.data.batches(data.batch), run, |batch, (targets, found)| {
        let samples = samples_of(&batch.inputs);
        if collectors.is_empty() {
            collectors = new_collectors(members, data, &found, samples)?;
        }
        let padding = Padding::of(&batch.inputs);
        let at = At { samples, first, total: data.data.samples(), padding: padding.as_ref() };
        collectors.par_iter_mut().try_for_each(|c| c.add(&found, &targets, at))?;
        for (member, gathered) in members.iter().zip(&mut attention) {
            if let Some(gathered) = gathered {
                gathered.add(&member.pruned, &found, at, |rows| member.targets((&found, &targets), 0, rows))?;
            }
        }
        first += samples;
        held.add([targets.frontier, found.frontier]);
        Ok(())
    })?;
    held.advance([(original, &sources), (repaired, &images)]);
    Ok(Gathering { collectors, attention })
}

fn new_collectors<'m>(
    members: &'m [Member],
    data: Calibration<'_>,
    found: &Activations,
    samples: usize,
) -> Result<Vec<Collector<'m>>> {
    let total = data.data.samples();
    let mut collectors = Vec::new();
    for member in members {
        let sampler = Sampler::new(&member.pruned, total, data.seed);
        let rows = member.pruned.row_count(found.get(&member.pruned.data)?.shape());
        let expected = sampler.choose(rows, samples, 0, None).len().div_ceil(samples.max(1)) * total;
        let (k, n) = (member.pruned.inputs(), member.pruned.outputs);
        let sink = || {
            if expected < k { Sink::Rows(Vec::new(), Vec::new()) } else { Sink::Sums(Box::new(Buffered::new(k, n))) }
        };
        for matrix in 0..member.pruned.groups {
            let by_sample = total >= MANY_SAMPLES;
            collectors.push(Collector { member, matrix, sampler, by_sample, train: sink(), held_out: sink() });
        }
    }
    Ok(collectors)
}

impl Member {
    /// Looks for attention in front of the layer, if it lost inputs.
    fn find_attention(&mut self, graph: &GraphProto, all: &[Layer]) -> Result<()> {
        if self.pruned.inputs() < self.original.inputs() {
            self.block = Block::find(graph, all, &self.pruned)?;
        }
        Ok(())
    }

    /// Values of the repaired model that are final before this stage.
    fn reads(&self) -> impl Iterator<Item = &String> {
        let own = self.block.is_none().then_some(&self.pruned.data);
        own.into_iter().chain(self.block.iter().flat_map(Block::reads))
    }

    /// What a matrix should make of these rows.
    fn targets(&self, (found, targets): (&Activations, &Activations), matrix: usize, rows: &[Row]) -> Result<Vec<f64>> {
        let n = self.pruned.outputs;
        let y = targets.get(&self.original.result)?;
        let mut wanted = Vec::with_capacity(rows.len() * n);
        self.original.result_rows(y, &floats(y)?, &self.kept[matrix * n..(matrix + 1) * n], rows, &mut wanted)?;
        if let Some((before, after)) = &self.skips {
            let (r, changed) = (targets.get(&before.value)?, found.get(&after.value)?);
            self.put_back((r, changed), matrix, rows, &mut wanted)?;
        }
        Ok(wanted)
    }

    /// Adds to the rows of y what the other branch of the sum lost; see [`skip`](super::skip).
    fn put_back(&self, (r, changed): (&Tensor, &Tensor), matrix: usize, rows: &[Row], y: &mut [f64]) -> Result<()> {
        let Some((_, skip)) = &self.skips else { return Ok(()) };
        let n = self.pruned.outputs;
        let columns: Vec<usize> = (matrix * n..(matrix + 1) * n).collect();
        let same_rank = r.shape().len() == changed.shape().len();
        let axis = self.original.linear.result_axis;
        let fits = same_rank && r.shape().get(axis) == Some(&(self.original.groups * self.original.outputs));
        if !fits || changed.shape().get(axis) != Some(&self.kept.len()) || changed.shape()[0] != r.shape()[0] {
            return Ok(());
        }
        let (mut old, mut new) = (Vec::new(), Vec::new());
        self.original.result_rows(r, &floats(r)?, &self.kept[matrix * n..(matrix + 1) * n], rows, &mut old)?;
        self.pruned.result_rows(changed, &floats(changed)?, &columns, rows, &mut new)?;
        for (index, slot) in y.iter_mut().enumerate() {
            let slope = skip.slope[matrix * n + index % n];
            if slope != 0.0 {
                *slot += (old[index] - new[index]) / slope;
            }
        }
        Ok(())
    }
}

impl Collector<'_> {
    fn add(&mut self, found: &Activations, targets: &Activations, at: At<'_>) -> Result<()> {
        let layer = &self.member.pruned;
        let x = found.get(&layer.data)?;
        let rows = self.sampler.choose(layer.row_count(x.shape()), at.samples, at.first, at.padding);
        let is_held_out = |row: &Row| (if self.by_sample { row.sample } else { row.index }) % HELD_OUT == HELD_OUT - 1;
        let (held_out, train): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(is_held_out);
        let values = floats(x)?;
        for (rows, sink) in [(train, &mut self.train), (held_out, &mut self.held_out)] {
            let mut x_rows = Vec::new();
            layer.input_rows(x, &values, self.matrix, &rows, &mut x_rows)?;
            sink.push(x_rows, self.member.targets((found, targets), self.matrix, &rows)?);
        }
        Ok(())
    }

    fn solve(self, method: Method) -> Result<Solved> {
        let backend = default_backend();
        let (k, n) = (self.member.pruned.inputs(), self.member.pruned.outputs);
        let (train, held_out) = (self.train.finish(k, n)?, self.held_out.finish(k, n)?);
        let w0 = &self.member.weights[self.matrix];
        let b0 = self.member.bias.slice(ndarray::s![self.matrix * n..(self.matrix + 1) * n]).to_owned();
        let before = held_out.error(backend, w0, &b0);
        let mut best = Solved {
            weights: w0.clone(),
            bias: b0,
            before,
            after: before,
            spread: held_out.spread(),
            rows: train.rows(),
        };
        if train.rows() == 0 || held_out.rows() == 0 {
            return Ok(best);
        }
        let mut try_out = |weights: Array2<f64>| {
            let bias = if self.member.place == BiasPlace::Computed { best.bias.clone() } else { train.bias(&weights) };
            let after = held_out.error(backend, &weights, &bias);
            if after < best.after {
                best = Solved { weights, bias, after, ..best };
            }
        };
        try_out(w0.clone());
        if method == Method::Lstsq && self.member.place != BiasPlace::Computed {
            train.weights(backend, w0, &RIDGES, &self.member.pruned.name)?.into_iter().for_each(try_out);
        }
        Ok(best)
    }
}

impl Sink {
    fn push(&mut self, x: Vec<f64>, y: Vec<f64>) {
        match self {
            Self::Sums(buffered) => buffered.push(default_backend(), &x, &y),
            Self::Rows(all_x, all_y) => {
                all_x.extend(x);
                all_y.extend(y);
            }
        }
    }

    fn finish(self, k: usize, n: usize) -> Result<Evidence> {
        let misfit = |_| Error::input("rows of activations are incomplete");
        Ok(match self {
            Self::Sums(buffered) => Evidence::Sums(buffered.finish(default_backend())),
            Self::Rows(x, y) => {
                let rows = x.len() / k.max(1);
                let x = Array2::from_shape_vec((rows, k), x).map_err(misfit)?;
                Evidence::Rows(x, Array2::from_shape_vec((rows, n), y).map_err(misfit)?)
            }
        })
    }
}

fn write_back(model: &mut ModelProto, member: &Member, solved: &[Solved], method: Method) -> Result<RepairReport> {
    let sum = |f: fn(&Solved) -> f64| solved.iter().fold(0.0, |sum, solved| sum + f(solved));
    let (before, after, spread) = (sum(|s| s.before), sum(|s| s.after), sum(|s| s.spread).max(f64::MIN_POSITIVE));
    let rows = solved.iter().map(|s| s.rows).max().unwrap_or(0);
    let reason = if rows == 0 {
        Some("too few samples to repair and to check".to_owned())
    } else if after < before {
        None
    } else {
        Some("repair would not help on held-out data: the weights stay".to_owned())
    };
    let inputs = member.pruned.inputs();
    let is_short = reason.is_none() && rows < inputs;
    if after < before {
        let weights: Vec<Array2<f64>> = solved.iter().map(|s| s.weights.clone()).collect();
        let biases: Vec<_> = solved.iter().map(|s| s.bias.view()).collect();
        let bias = ndarray::concatenate(Axis(0), &biases).map_err(|e| Error::input(e.to_string()))?;
        let weights = (method == Method::Lstsq).then_some(&weights[..]);
        write::replace(model, &member.pruned, weights, (&member.place, &bias))?;
    }
    Ok(RepairReport {
        name: member.original.name.clone(),
        before: Some(before / spread),
        after: Some(after / spread),
        reason,
        warning: is_short.then(|| format!("{rows} rows of data for {inputs} inputs: more samples would help")),
        with: Vec::new(),
    })
}

/// Fits the attention in front of a member too; the report says which layers that changed.
fn refit(model: &mut ModelProto, member: &Member, attention: Gathered, report: RepairReport) -> Result<RepairReport> {
    Ok(match attention.refit(model, &member.pruned)? {
        Some(refit) => RepairReport { after: Some(refit.after), reason: None, with: refit.layers, ..report },
        None => report,
    })
}
