//! Constants that a graph computes in ways that hold their axes, as stored tensors.
//!
//! Exporters turn `bias[n:2*n] = 0` into a `ScatterND` of constants, and leave the standardization of a weight (its mean and
//! deviation over its inputs) in the graph. A rule for `ScatterND` must freeze what it addresses, a statistic moves as its axis
//! shrinks; the result is a constant like any other, whose axes are free.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::graph::{Editor, Graph, Node, NodeId, ValueId};
use crate::onnx::proto::{ModelProto, TensorProto};
use crate::onnx::tensor::{ElementType, from_f64_as};
use crate::onnx::traits::{ADDRESSES, AVERAGES};
use crate::ops::{Network, constant_values};
use crate::runtime::Stream;
use crate::runtime::takes_own_statistics;

/// A model in which constants of real numbers are stored that [`ADDRESSES`] operators make of constants, or that are weights
/// made by way of [`AVERAGES`] of constants, and how many were; `None` if there are none. Of the former, values that
/// [`Facts`] does not follow, large ones, stay as they are; of the latter those that tract cannot compute.
pub(crate) fn folded(
    model: &ModelProto,
    graph: &Graph,
    facts: &Facts,
    network: &Network,
) -> Option<(ModelProto, usize)> {
    // Before IR version 4 a stored tensor is a graph input too.
    if model.ir_version() < 4 {
        return None;
    }
    let constants = constant_values(graph);
    let mut values = written(graph, facts, &constants);
    values.extend(standardized((model, graph, facts), network, &constants));
    if values.is_empty() {
        return None;
    }
    let count = values.len();
    Some((stored(model, graph, values)?, count))
}

/// What [`ADDRESSES`] operators make of constants.
fn written(graph: &Graph, facts: &Facts, constants: &BTreeSet<ValueId>) -> Vec<TensorProto> {
    let value = |node: &Node| {
        let &[Some(result)] = &node.outputs[..] else { return None };
        let at = graph.at(result);
        let fact = facts.at(result);
        let is_plain = constants.contains(&result) && !at.is_output && at.captured_by.is_empty();
        let dims: Option<Vec<usize>> = fact.extents.as_ref()?.iter().map(|extent| extent.as_fixed()).collect();
        let element = ElementType::from_code(fact.element?).ok().filter(|e| e.is_float())?;
        if is_plain { from_f64_as(&at.name, &dims?, &fact.floats()?, element).ok() } else { None }
    };
    graph.nodes.iter().filter(|node| node.traits().has(ADDRESSES)).filter_map(value).collect()
}

/// Weights that are computed from constants by way of [`AVERAGES`].
fn standardized(
    (model, graph, facts): (&ModelProto, &Graph, &Facts),
    network: &Network,
    constants: &BTreeSet<ValueId>,
) -> Vec<TensorProto> {
    let of_statistics = by_statistics(graph, constants);
    let weights = graph.nodes.iter().zip(&network.relations).filter_map(|(node, relation)| {
        let linear = relation.contraction.as_ref()?.linear?;
        let weight = node.inputs.get(linear.weight).copied().flatten()?;
        let is_plain = !graph.at(weight).is_output && graph.at(weight).captured_by.is_empty();
        (is_plain && of_statistics.contains(&weight)).then_some(weight)
    });
    let weights: BTreeSet<ValueId> = weights.collect();
    if weights.is_empty() {
        return Vec::new();
    }
    computed((model, graph, facts), &weights).unwrap_or_default()
}

/// Constants in whose making a statistic has a part.
fn by_statistics(graph: &Graph, constants: &BTreeSet<ValueId>) -> BTreeSet<ValueId> {
    let statistics = graph.nodes.iter().filter(|node| node.traits().has(AVERAGES));
    let statistics = statistics.flat_map(|node| node.outputs.iter().flatten().copied());
    let found = graph.reached_from(statistics, |_| true);
    found.intersection(constants).copied().collect()
}

/// The values of constants, by tract. It has no `BatchNormalization` by the statistics of the operand; where that is one
/// instance, as where PyTorch standardizes a weight, it is an `InstanceNormalization`.
fn computed(
    (model, graph, facts): (&ModelProto, &Graph, &Facts),
    values: &BTreeSet<ValueId>,
) -> Result<Vec<TensorProto>> {
    let mut model = model.clone();
    let makers = graph.ancestry(values.iter().copied(), |_| false).nodes;
    let protos = model.graph.iter_mut().flat_map(|graph| &mut graph.node);
    for ((_, proto), node) in (0..).map(NodeId).zip(protos).zip(&graph.nodes).filter(|((id, _), _)| makers.contains(id))
    {
        let data = node.inputs.first().copied().flatten().and_then(|data| facts.at(data).extents.as_ref());
        let is_one = data.and_then(|axes| axes.first()).is_some_and(|instances| instances.is_one());
        if is_one && takes_own_statistics(proto) {
            proto.op_type = Some("InstanceNormalization".to_owned());
            proto.input.truncate(3);
            proto.output.truncate(1);
            proto.attribute.retain(|attribute| attribute.name() == "epsilon");
        }
    }
    let names: Vec<String> = values.iter().map(|&value| graph.at(value).name.clone()).collect();
    let stream = Stream::default();
    let found = stream.run(&stream.rest(&model, &names)?, 0, &[])?;
    let stored = |(&value, name): (&ValueId, &String)| {
        let tensor = found.get(name)?;
        let element = facts.at(value).element.ok_or_else(|| Error::input("an element type is not known"))?;
        from_f64_as(name, tensor.shape(), &tensor.to_vec::<f64>()?, ElementType::from_code(element)?)
    };
    values.iter().zip(&names).map(stored).collect()
}

/// `model` in which `values` are stored, not computed.
fn stored(model: &ModelProto, graph: &Graph, values: Vec<TensorProto>) -> Option<ModelProto> {
    let mut editor = Editor::new(model.clone(), graph).ok()?;
    for tensor in values {
        editor.store(graph.producer(graph.value(tensor.name())?)?, tensor);
    }
    Some(editor.finish_flat())
}
