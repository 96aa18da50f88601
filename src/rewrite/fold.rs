//! Constants that a graph computes by writing to positions, as stored tensors.
//!
//! Exporters turn `bias[n:2*n] = 0` into a `ScatterND` of constants. A rule for `ScatterND` must freeze what it addresses;
//! the result is a small constant like any other, whose axes are free.

use std::collections::BTreeSet;

use crate::facts::Facts;
use crate::graph::{Graph, Node, sweep_dead_nodes};
use crate::onnx::proto::{ModelProto, TensorProto};
use crate::onnx::tensor::{ElementType, from_f64_as};
use crate::ops::constant_values;

/// Operators of the standard domain that address positions.
const ADDRESSING: &[&str] = &[
    "Compress",
    "CumSum",
    "EyeLike",
    "GatherElements",
    "GatherND",
    "OneHot",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "Trilu",
];

/// A model in which constants of real numbers that [`ADDRESSING`] operators make of constants are stored, and how many
/// were; `None` if there are none. Values that [`Facts`] does not follow, large ones, stay as they are.
pub(crate) fn folded(model: &ModelProto, graph: &Graph, facts: &Facts) -> Option<(ModelProto, usize)> {
    let candidates: Vec<&Node> = graph.nodes.iter().filter(|node| addresses(node)).collect();
    // Before IR version 4 a stored tensor is a graph input too.
    if candidates.is_empty() || model.ir_version() < 4 {
        return None;
    }
    let constants = constant_values(graph);
    let value = |node: &Node| {
        let &[Some(result)] = &node.outputs[..] else { return None };
        let at = graph.at(result);
        let fact = facts.at(result);
        let is_plain = constants.contains(&result) && !at.is_output && at.captured_by.is_empty();
        let dims: Option<Vec<usize>> = fact.extents.as_ref()?.iter().map(|extent| extent.as_fixed()).collect();
        let element = ElementType::from_code(fact.element?).ok().filter(|e| e.is_float())?;
        if is_plain { from_f64_as(&at.name, &dims?, &fact.floats()?, element).ok() } else { None }
    };
    let values: Vec<TensorProto> = candidates.into_iter().filter_map(value).collect();
    if values.is_empty() {
        return None;
    }
    let mut model = model.clone();
    let proto = model.graph.as_mut()?;
    let names: BTreeSet<&str> = values.iter().map(|tensor| tensor.name()).collect();
    let mut orphans = BTreeSet::new();
    proto.node.retain(|node| {
        let stored = node.output.first().is_some_and(|name| names.contains(name.as_str()));
        if stored {
            orphans.extend(node.input.iter().cloned());
        }
        !stored
    });
    let count = values.len();
    proto.value_info.retain(|info| !names.contains(info.name()));
    proto.initializer.extend(values);
    let removed = sweep_dead_nodes(proto, &orphans);
    proto.value_info.retain(|info| !removed.contains(info.name()));
    Some((model, count))
}

fn addresses(node: &Node) -> bool {
    node.domain.is_empty() && ADDRESSING.contains(&node.op.as_str())
}
