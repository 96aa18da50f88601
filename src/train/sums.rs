//! The residual sums of a model: training may follow the original's, not only its outputs.

use std::collections::BTreeSet;

use super::parameters::trainable;
use crate::error::Result;
use crate::graph::{NodeId, ValueId, View};
use crate::onnx::declared;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{ModelProto, ValueInfoProto};
use crate::onnx::traits::READS_SHAPE;

/// Names of the values of `model` that are sums of two branches with weights, and that `original` computes too. Outputs of the
/// model are not among them.
///
/// # Errors
/// If one of the models is malformed.
pub(super) fn residual_sums(model: &ModelProto, original: &ModelProto) -> Result<Vec<String>> {
    let (view, known) = (View::of(model)?, View::of(original)?);
    let graph = &view.graph;
    let seeds = trainable(&view)?;
    let seeds = seeds.iter().filter_map(|name| graph.value(name));
    let weighed: BTreeSet<ValueId> = graph.reached_from(seeds, |node| !node.traits().has(READS_SHAPE));
    let outputs: BTreeSet<&str> = view.proto.output.iter().map(ValueInfoProto::name).collect();
    let sum = |&id: &NodeId| {
        let node = graph.node(id);
        let operands =
            node.inputs.iter().flatten().filter(|value| weighed.contains(value) && view.tensor(**value).is_none());
        let is_sum = matches!(node.op.as_str(), "Add" | "Sum") && !node.in_body && operands.count() > 1;
        let name = &graph.at(node.outputs.first().copied().flatten()?).name;
        let is_known = known.graph.value(name).is_some_and(|value| known.graph.producer(value).is_some());
        (is_sum && is_known && !outputs.contains(name.as_str())).then(|| name.clone())
    };
    Ok(graph.order.iter().filter_map(sum).collect())
}

/// `model` with further outputs of real numbers.
pub(super) fn with_outputs(model: &ModelProto, names: &[String]) -> ModelProto {
    let mut model = model.clone();
    if let Some(graph) = &mut model.graph {
        graph.output.extend(names.iter().map(|name| declared(name, DataType::Float as i32, None)));
    }
    model
}
