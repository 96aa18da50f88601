//! Activations of a model, stage by stage, without running its beginning again for every stage.
//!
//! The values that cross from what has been run to what has not (the *frontier*) are held for all samples, if they fit
//! in memory; the next stage starts there. Where they do not fit, it starts from the last frontier that did.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, ErrorKind, Result};
use crate::graph::bodies::decided;
use crate::graph::{Graph, Node, Source, ValueId, View};
use crate::onnx::declared;
use crate::onnx::proto::{ModelProto, ValueInfoProto};
use crate::runtime::turns::Found;
use crate::runtime::{NamedTensor, RunOptions, Runnable, Tensor};

/// Values of a frontier, held for every batch.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    names: BTreeSet<String>,
    batches: Vec<Vec<NamedTensor>>,
}

impl Checkpoint {
    fn of(&self, batch: usize) -> &[NamedTensor] {
        self.batches.get(batch).map_or(&[], Vec::as_slice)
    }
}

/// How far a model has been run; a clone shares what is held.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    reached: BTreeSet<String>,
    checkpoint: Checkpoint,
}

/// The part of a model between a checkpoint and the wanted values.
#[derive(Debug)]
pub struct Segment {
    runnable: Option<Runnable>,
    /// Values that the frontier needs.
    frontier: Vec<String>,
    /// Whether it takes inputs of the model, not only values of the checkpoint.
    reads_samples: bool,
}

impl Segment {
    /// Whether a run needs the samples themselves.
    pub fn reads_samples(&self) -> bool {
        self.reads_samples
    }
}

/// What a segment gives for one batch.
#[derive(Debug, Clone, Default)]
pub struct Activations {
    values: BTreeMap<String, Tensor>,
    /// The frontier's values.
    pub frontier: Vec<NamedTensor>,
}

impl Activations {
    /// Some values.
    #[cfg(test)]
    pub(crate) fn of(values: impl IntoIterator<Item = NamedTensor>) -> Self {
        Self { values: values.into_iter().collect(), frontier: Vec::new() }
    }

    /// The value called `name`.
    ///
    /// # Errors
    /// If it was not among the wanted ones.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.values.get(name).ok_or_else(|| Error::input(format!("value '{name}' was not computed")))
    }
}

impl Found for Activations {
    fn bytes(&self) -> u64 {
        self.values.values().map(|tensor| tensor.as_bytes().len() as u64).sum()
    }
}

impl Stream {
    /// From the last checkpoint to `wanted`. What `reads` needs is complete then: the frontier lies after it.
    ///
    /// # Errors
    /// If the model holds no graph or tract cannot take the segment.
    pub fn segment(&mut self, model: &ModelProto, reads: &[String], wanted: &[String]) -> Result<Segment> {
        let model = &*decided(model);
        let view = View::of(model)?;
        let graph = &view.graph;
        let done = graph.ancestry(reads.iter().filter_map(|name| graph.value(name)), |_| false);
        let siblings = done.nodes.iter().flat_map(|&node| graph.node(node).outputs.iter().flatten());
        self.reached.extend(done.values.iter().chain(siblings).map(|&value| graph.at(value).name.clone()));
        let frontier = self.frontier(graph);
        let mut outputs: BTreeSet<String> = wanted.iter().cloned().collect();
        outputs.extend(frontier.iter().cloned());
        let outputs: Vec<String> = outputs.into_iter().collect();
        if outputs.is_empty() {
            return Ok(Segment { runnable: None, frontier, reads_samples: false });
        }
        let (runnable, reads_samples) = self.runnable(&view, &outputs, &[])?;
        Ok(Segment { runnable: Some(runnable), frontier, reads_samples })
    }

    /// From the last checkpoint to `wanted`, nothing of which is held. The model may be another one from there on.
    ///
    /// # Errors
    /// As [`segment`](Self::segment).
    pub fn rest(&self, model: &ModelProto, wanted: &[String]) -> Result<Segment> {
        self.rest_from(model, wanted, &[])
    }

    /// As [`rest`](Self::rest), with values `fed` in place of computed; they show the types.
    ///
    /// # Errors
    /// As [`segment`](Self::segment).
    pub fn rest_from(&self, model: &ModelProto, wanted: &[String], fed: &[NamedTensor]) -> Result<Segment> {
        let model = &*decided(model);
        let (runnable, reads_samples) = self.runnable(&View::of(model)?, wanted, fed)?;
        Ok(Segment { runnable: Some(runnable), frontier: Vec::new(), reads_samples })
    }

    /// The part of a model from the checkpoint to `outputs`, and whether it takes inputs of the model.
    fn runnable(&self, view: &View<'_>, outputs: &[String], fed: &[NamedTensor]) -> Result<(Runnable, bool)> {
        let graph = &view.graph;
        let is_known = |name: &str| self.checkpoint.names.contains(name) || is_among(name, fed);
        let is_held = |value: ValueId| is_known(&graph.at(value).name);
        let part = graph.ancestry(outputs.iter().filter_map(|name| graph.value(name)), is_held);
        let is_used = |name: &str| graph.value(name).is_some_and(|value| part.values.contains(&value));
        // What a node of the segment makes anew, next to something else that is not held, is not fed.
        let is_made = |name: &str| {
            let maker = graph.value(name).and_then(|value| graph.producer(value));
            maker.is_some_and(|node| part.nodes.contains(&node))
        };
        let held = self.checkpoint.of(0).iter().filter(|(name, _)| !is_among(name, fed)).chain(fed);
        let held = held.filter(|(name, _)| is_used(name) && !is_made(name));
        let mut inputs = held.map(|(name, tensor)| input(name, tensor)).collect::<Result<Vec<_>>>()?;
        let is_fed = |input: &&ValueInfoProto| is_used(input.name()) && !is_known(input.name());
        let held = inputs.len();
        inputs.extend(view.proto.input.iter().filter(is_fed).cloned());
        let reads_samples = inputs.len() > held;
        let segment = view.extract(&part, inputs, Vec::new());
        Ok((Runnable::new(&segment, &RunOptions::with_taps(outputs.iter().cloned()))?, reads_samples))
    }

    /// Values among those reached, computed from graph inputs, that other nodes still read.
    fn frontier(&self, graph: &Graph) -> Vec<String> {
        let inputs = (0..graph.values.len()).map(ValueId);
        let inputs = inputs.filter(|&value| matches!(graph.at(value).source, Source::Input(_)));
        let variable = graph.reached_from(inputs, |_| true);
        let name = |value: ValueId| &graph.at(value).name;
        let is_done = |node: &Node| node.outputs.iter().flatten().any(|&output| self.reached.contains(name(output)));
        let crosses = |value: &ValueId| {
            graph.producer(*value).is_some() && variable.contains(value) && self.reached.contains(name(*value))
        };
        let read = graph.nodes.iter().filter(|node| !is_done(node)).flat_map(Node::reads).filter(crosses);
        let crossing: BTreeSet<&String> = read.map(name).collect();
        crossing.into_iter().cloned().collect()
    }

    /// Runs a segment on batch number `batch`, whose inputs are `inputs`.
    ///
    /// # Errors
    /// If tract fails.
    pub fn run(&self, segment: &Segment, batch: usize, inputs: &[NamedTensor]) -> Result<Activations> {
        self.run_from(segment, batch, inputs, &[])
    }

    /// Runs a segment of [`rest_from`](Self::rest_from).
    ///
    /// # Errors
    /// If tract fails.
    pub fn run_from(
        &self,
        segment: &Segment,
        batch: usize,
        inputs: &[NamedTensor],
        fed: &[NamedTensor],
    ) -> Result<Activations> {
        let held = self.checkpoint.of(batch).iter().filter(|(name, _)| !is_among(name, fed));
        let mut feed: Vec<NamedTensor> = held.chain(fed).cloned().collect();
        let is_known = |name: &str| self.checkpoint.names.contains(name) || is_among(name, fed);
        feed.extend(inputs.iter().filter(|(name, _)| !is_known(name)).cloned());
        let outputs = match &segment.runnable {
            Some(runnable) => runnable.run(&feed).map_err(of_samples)?,
            None => Vec::new(),
        };
        let values: BTreeMap<String, Tensor> = outputs.into_iter().collect();
        let frontier = segment.frontier.iter().filter_map(|name| Some((name.clone(), values.get(name)?.clone())));
        let frontier = frontier.collect();
        Ok(Activations { values, frontier })
    }

    /// Whether a value is computed from nothing after the frontier.
    pub fn has_reached(&self, name: &str) -> bool {
        self.reached.contains(name)
    }

    /// Starts from these frontiers, one for each batch, from now on.
    fn advance(&mut self, segment: &Segment, batches: Vec<Vec<NamedTensor>>) {
        self.checkpoint = Checkpoint { names: segment.frontier.iter().cloned().collect(), batches };
    }
}

fn is_among(name: &str, tensors: &[NamedTensor]) -> bool {
    tensors.iter().any(|(other, _)| other == name)
}

/// A model that runs, but not on these samples: token numbers beyond a table, for instance.
fn of_samples(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Runtime => Error::input(format!("the model does not run on the samples: {error}; check the data")),
        _ => error,
    }
}

/// Runs two segments on batch number `index`, side by side.
///
/// # Errors
/// If tract fails.
pub(crate) fn run_both(
    pair: [(&Stream, &Segment); 2],
    index: usize,
    inputs: &[NamedTensor],
) -> Result<(Activations, Activations)> {
    let [first, second] = pair.map(|(stream, segment)| move || stream.run(segment, index, inputs));
    let (first, second) = rayon::join(first, second);
    Ok((first?, second?))
}

/// Frontiers of `N` streams on their way to the next stage, as long as all of them fit in memory.
#[derive(Debug)]
pub struct Held<const N: usize> {
    frontiers: [Vec<Vec<NamedTensor>>; N],
    bytes: u64,
    most: u64,
}

impl<const N: usize> Held<N> {
    /// Nothing yet, and never more than this many bytes.
    pub fn within(bytes: u64) -> Self {
        let frontiers = std::array::from_fn(|_| Vec::new());
        Self { frontiers, bytes: 0, most: bytes }
    }

    /// Adds the frontiers of the next batch.
    pub fn add(&mut self, batch: [Vec<NamedTensor>; N]) {
        self.bytes += batch.iter().map(Found::bytes).sum::<u64>();
        for (frontiers, frontier) in self.frontiers.iter_mut().zip(batch) {
            if self.bytes <= self.most {
                frontiers.push(frontier);
            } else {
                *frontiers = Vec::new();
            }
        }
    }

    /// The streams that ran start from here, if everything fitted. Returns how many bytes are held by that.
    pub fn advance(self, streams: [(&mut Stream, Option<&Segment>); N]) -> u64 {
        if self.bytes > self.most {
            return 0;
        }
        for ((stream, segment), frontiers) in streams.into_iter().zip(self.frontiers) {
            if let Some(segment) = segment {
                stream.advance(segment, frontiers);
            }
        }
        self.bytes
    }
}

fn input(name: &str, tensor: &Tensor) -> Result<ValueInfoProto> {
    let code = match tensor.type_name().as_str() {
        "F32" => 1,
        "U8" => 2,
        "I8" => 3,
        "U16" => 4,
        "I16" => 5,
        "I32" => 6,
        "I64" => 7,
        "Bool" => 9,
        "F16" => 10,
        "F64" => 11,
        "U32" => 12,
        "U64" => 13,
        other => return Err(Error::input(format!("value '{name}' is of type {other}, which cannot be fed"))),
    };
    Ok(declared(name, code, None))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::onnx::Model;
    use crate::runtime::inputs::DimSizes;
    use crate::runtime::probes::probe_batches;

    #[test]
    fn a_segment_behind_a_frontier_does_not_read_the_samples() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/digits_mlp.onnx");
        let model = Model::load(path).unwrap().proto;
        let graph = model.graph.clone().unwrap();
        let batches = probe_batches(&graph, &DimSizes::default(), 4, 1).unwrap();
        let linear: Vec<_> = graph.node.iter().filter(|node| node.op_type() == "Gemm").collect();
        let output = vec![graph.output[0].name().to_owned()];
        let mut stream = Stream::default();
        let whole = stream.rest(&model, &output).unwrap();
        let segment = stream.segment(&model, &linear[1].input, &[]).unwrap();
        assert!(whole.reads_samples() && segment.reads_samples());
        let mut held = Held::within(u64::MAX);
        for (index, inputs) in batches.iter().enumerate() {
            held.add([stream.run(&segment, index, inputs).unwrap().frontier]);
        }
        assert!(held.advance([(&mut stream, Some(&segment))]) > 0);
        let rest = stream.rest(&model, &output).unwrap();
        assert!(!rest.reads_samples());
        for (index, inputs) in batches.iter().enumerate() {
            let expected = Stream::default().run(&whole, index, inputs).unwrap();
            let found = stream.run(&rest, index, &[]).unwrap();
            let [expected, found] =
                [expected, found].map(|found| found.get(&output[0]).unwrap().to_vec::<f32>().unwrap());
            assert!(expected.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-4), "{expected:?} {found:?}");
        }
    }
}
