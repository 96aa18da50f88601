//! Small graphs made by hand, solved, pruned and proved.

use std::collections::BTreeSet;

use paredown::internals::analysis::Subject;
use paredown::internals::axes::{FactorId, Role, Selection};
use paredown::internals::facts::Facts;
use paredown::internals::graph::{Graph, ValueId};
use paredown::internals::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use paredown::internals::onnx::tensor::{from_f32, from_i64};
use paredown::internals::ops::Network;
use paredown::internals::rewrite::prune;
use paredown::internals::runtime::{RunOptions, Runnable, Tensor};
use paredown::{Model, PruneOptions, Report, Result};

use super::build::model;
use super::support::{attributes, declared, dynamic, node};

/// A graph under construction: `x` of a given shape in, `y` out.
pub(crate) struct Net(pub(crate) GraphProto);

impl Net {
    pub(crate) fn new(inputs: &[(&str, i32, &[&str])]) -> Self {
        let input = inputs.iter().map(|&(name, element, dims)| dynamic(name, element, dims)).collect();
        Self(GraphProto { name: Some("net".into()), input, ..GraphProto::default() })
    }

    pub(crate) fn weight(mut self, name: &str, dims: &[usize]) -> Self {
        let count: usize = dims.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((i * 37 + name.len() * 11) % 23) as f32 / 23.0 - 0.4).collect();
        self.0.initializer.push(from_f32(name, dims, &values).unwrap());
        self
    }

    pub(crate) fn ints(mut self, name: &str, values: &[i64]) -> Self {
        self.0.initializer.push(from_i64(name, &[values.len()], values).unwrap());
        self
    }

    pub(crate) fn node(mut self, op: &str, inputs: &[&str], output: &str, settings: &str) -> Self {
        let outputs: Vec<&str> = output.split(',').collect();
        let name = Some(format!("{op}:{output}"));
        self.0.node.push(NodeProto { name, ..node(op, inputs, &outputs, attributes(settings)) });
        self
    }

    /// The model, with one float output.
    pub(crate) fn model(mut self, output: &str) -> ModelProto {
        self.0.output.push(declared(output, 1, None));
        model(self.0)
    }

    pub(crate) fn output(mut self, name: &str) -> Solved {
        self.0.output.push(declared(name, 1, None));
        Solved::new(model(self.0))
    }

    pub(crate) fn at_opset(mut self, name: &str, opset: i64) -> Solved {
        self.0.output.push(declared(name, 1, None));
        let mut model = model(self.0);
        model.opset_import[0].version = Some(opset);
        Solved::new(model)
    }
}

pub(crate) struct Solved {
    pub(crate) model: ModelProto,
    pub(crate) graph: Graph,
    pub(crate) facts: Facts,
    pub(crate) network: Network,
}

impl Solved {
    pub(crate) fn new(model: ModelProto) -> Self {
        let graph = Graph::new(model.graph.as_ref().unwrap(), 10).unwrap();
        let (facts, network) = Network::analyse(&model, &graph, &Default::default(), &BTreeSet::new()).unwrap();
        Self { model, graph, facts, network }
    }

    pub(crate) fn value(&self, name: &str) -> ValueId {
        self.graph.value(name).unwrap()
    }

    pub(crate) fn role(&self, name: &str, axis: usize) -> &Role {
        let factors = self.network.value(self.value(name)).unwrap()[axis].factors();
        &self.network.solution.factor(factors[0]).role
    }

    pub(crate) fn factors(&self, name: &str, axis: usize) -> Vec<FactorId> {
        self.network.value(self.value(name)).unwrap()[axis].factors()
    }

    pub(crate) fn reason(&self, name: &str, axis: usize) -> String {
        self.role(name, axis).reason().map_or("free".into(), |r| format!("{}: {}", r.node, r.why))
    }

    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject { model: &self.model, graph: &self.graph, facts: &self.facts, network: &self.network }
    }

    /// Removes the first index of a factor, and runs both on inputs of the given shapes.
    pub(crate) fn assert_exact(&self, factor: FactorId, inputs: &[(&str, &[usize])]) -> ModelProto {
        let size = self.network.solution.size(factor);
        let mut selection = Selection::all();
        selection.keep(factor, (0..size).map(|i| i > 0).collect());
        let pruned = prune(self.subject(), &selection).unwrap();
        let masked = paredown::internals::rewrite::masked(self.subject(), &selection).unwrap();
        let feeds: Vec<_> = inputs
            .iter()
            .map(|&(name, shape)| {
                let count: usize = shape.iter().product();
                let values: Vec<f32> = (0..count).map(|i| ((i * 17) % 29) as f32 / 29.0 - 0.5).collect();
                (name.to_owned(), Tensor::new(shape, &values).unwrap())
            })
            .collect();
        let run = |model: &ModelProto| Runnable::new(model, &RunOptions::default()).unwrap().run(&feeds).unwrap();
        for ((_, a), (_, b)) in run(&pruned).iter().zip(&run(&masked)) {
            assert_eq!(a.shape(), b.shape());
            for (a, b) in a.to_vec::<f32>().unwrap().iter().zip(b.to_vec::<f32>().unwrap()) {
                assert!((a - b).abs() < 1e-5, "{a} is not {b}");
            }
        }
        pruned
    }
}

/// The model with half of every group removed, proved as the command line does it.
pub(crate) fn halved(model: ModelProto, thaw: &[&str]) -> Result<(ModelProto, Report)> {
    let model = Model::from_proto(model);
    let options = thaw.iter().fold(PruneOptions::ratio(0.5).align(1), |options, &name| options.thaw(name));
    let outcome = paredown::prune(&model, &options)?.prove()?;
    Ok((outcome.model.proto, outcome.report))
}

/// Dims of a stored tensor.
pub(crate) fn dims(model: &ModelProto, name: &str) -> Vec<i64> {
    let tensors = model.graph.iter().flat_map(|graph| &graph.initializer);
    tensors.filter(|tensor| tensor.name() == name).flat_map(|tensor| tensor.dims.clone()).collect()
}

/// A stored tensor of an element type of one byte.
pub(crate) fn bytes(name: &str, dims: &[i64], element: i32, values: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(element),
        raw_data: Some(values.into()),
        ..TensorProto::default()
    }
}
