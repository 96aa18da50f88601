//! States of stacked recurrent layers, taken apart.
//!
//! PyTorch keeps the states of all layers of a stack in one tensor, which would tie the widths of the layers to each other.
//! Initial states that are zero are left out: they are zero by default. A final state that is picked out of the tensor is read
//! where it is made:
//!
//! ```text
//! s = Concat(h1, h2, axis 0)   y = Gather(s, 1, axis 0)     is     y = Gather(h2, 0, axis 0)
//! ```

use std::collections::BTreeSet;

use crate::graph::{Editor, Graph, NodeId, Source, ValueId};
use crate::onnx::attributes::{Attributes, position};
use crate::onnx::proto::{GraphProto, ModelProto, TensorProto};
use crate::onnx::tensor::{TensorView, from_i64};
use crate::onnx::traits::{MOVES, RECURRENT};

/// Operands that are states before the first step: h, and c of an `LSTM`.
const STATES: [usize; 2] = [5, 6];

/// `model` without initial states that are zero whatever it is fed, its final states read one by one, and how many of both
/// there were; `None` if there are none.
pub(crate) fn unstacked(model: &ModelProto, graph: &Graph) -> Option<(ModelProto, usize)> {
    let is_recurrent = |id: &NodeId| graph.node(*id).traits().has(RECURRENT) && graph.node(*id).domain.is_empty();
    let operators: Vec<NodeId> = graph.order.iter().copied().filter(is_recurrent).collect();
    if operators.is_empty() {
        return None;
    }
    let zeros = zeros(model, graph);
    let mut editor = Editor::new(model.clone(), graph).ok()?;
    let mut count = 0;
    for id in operators {
        for slot in STATES {
            let state = graph.node(id).inputs.get(slot).copied().flatten();
            if state.is_some_and(|state| zeros.contains(&state)) {
                editor.redirect(id, slot, String::new()).ok()?;
                count += 1;
            }
        }
        let inputs = &mut editor.node_mut(id).ok()?.input;
        while inputs.last().is_some_and(String::is_empty) {
            inputs.pop();
        }
    }
    for (id, state, index) in picked(model, graph) {
        editor.redirect(id, 0, graph.at(state).name.clone()).ok()?;
        let index = editor.add("state_index", index);
        editor.redirect(id, 1, index).ok()?;
        count += 1;
    }
    (count > 0).then(|| (editor.finish_flat(), count))
}

/// `Gather` nodes that pick one final state out of several, with the value that holds it and its index there.
fn picked(model: &ModelProto, graph: &Graph) -> Vec<(NodeId, ValueId, TensorProto)> {
    let Some(proto) = &model.graph else { return Vec::new() };
    let first_axis = |id: NodeId, default: Option<i64>| {
        let axis = proto.node.get(id.0).and_then(|node| Attributes::of(node).int("axis").ok());
        axis.map(|axis| axis.or(default)).is_some_and(|axis| matches!(axis, Some(0 | -3)))
    };
    let standard = |id: NodeId, op: &str| graph.node(id).op == op && graph.node(id).domain.is_empty();
    let find = |id: NodeId| {
        let &[Some(data), Some(index)] = graph.node(id).inputs.as_slice() else { return None };
        let stack = graph.producer(data).filter(|&stack| standard(stack, "Concat") && first_axis(stack, None))?;
        let index = graph.place(index).filter(|_| !graph.is_overridable(index))?.read(proto)?;
        let view = TensorView::new(&index).ok()?;
        let &[wanted] = view.to_i64().ok()?.as_slice() else { return None };
        let parts: Vec<(ValueId, usize)> =
            graph.node(stack).inputs.iter().map(|part| final_state(proto, graph, (*part)?)).collect::<Option<_>>()?;
        let mut at = position(wanted, parts.iter().map(|(_, directions)| directions).sum())?;
        for (part, directions) in parts {
            if at < directions {
                let index = from_i64("", view.dims(), &[i64::try_from(at).ok()?]).ok()?;
                return Some((id, part, index));
            }
            at -= directions;
        }
        None
    };
    let gathers = graph.order.iter().copied().filter(|&id| standard(id, "Gather") && first_axis(id, Some(0)));
    gathers.filter_map(find).collect()
}

/// A value that is the state after the last step of a recurrent operator, and the operator's number of directions.
fn final_state(proto: &GraphProto, graph: &Graph, value: ValueId) -> Option<(ValueId, usize)> {
    let Source::Node(id, slot) = graph.at(value).source else { return None };
    let (node, attributes) = (graph.node(id), Attributes::of(proto.node.get(id.0)?));
    let is_first_axis = attributes.int_or("layout", 0).ok()? == 0;
    let is_state = node.traits().has(RECURRENT) && node.domain.is_empty() && slot > 0 && is_first_axis;
    let is_double = attributes.string("direction").ok()? == Some("bidirectional");
    is_state.then_some((value, 1 + usize::from(is_double)))
}

/// Values of which every element is zero: stored ones, those that `ConstantOfShape` makes, and what moves their elements.
fn zeros(model: &ModelProto, graph: &Graph) -> BTreeSet<ValueId> {
    let is_stored_zero = |value: ValueId| {
        let tensor = graph.place(value).filter(|_| !graph.is_overridable(value)).zip(model.graph.as_ref());
        tensor.and_then(|(place, proto)| place.tensor(proto)).is_some_and(is_zero)
    };
    let mut found = BTreeSet::new();
    for &id in &graph.order {
        let node = graph.node(id);
        let is_zero = |value: &Option<ValueId>| value.is_some_and(|v| found.contains(&v) || is_stored_zero(v));
        let makes_zeros = match (node.domain.as_str(), node.op.as_str()) {
            ("", "ConstantOfShape") => fills_with_zeros(model, id),
            ("", "Concat") => node.inputs.iter().all(is_zero),
            _ => node.traits().has(MOVES) && node.inputs.first().is_some_and(is_zero),
        };
        if makes_zeros {
            found.extend(node.outputs.iter().flatten());
        }
    }
    let states = graph.nodes.iter().filter(|node| node.traits().has(RECURRENT));
    let states = states.flat_map(|node| STATES.iter().filter_map(|&slot| node.inputs.get(slot).copied().flatten()));
    found.extend(states.filter(|&state| is_stored_zero(state)));
    found
}

fn fills_with_zeros(model: &ModelProto, id: NodeId) -> bool {
    let node = model.graph.as_ref().and_then(|graph| graph.node.get(id.0));
    node.is_some_and(|node| match Attributes::of(node).tensor("value") {
        Ok(Some(value)) => is_zero(value),
        Ok(None) => true,
        Err(_) => false,
    })
}

/// Whether a tensor of floats is zero throughout.
fn is_zero(tensor: &TensorProto) -> bool {
    let values = TensorView::new(tensor).and_then(|view| view.to_f64());
    values.is_ok_and(|values| values.iter().all(|&value| value == 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::sample_models::{attribute, int, integers, model, node, tensor_value, wavy, weight};

    /// Two layers that read slices of one tensor of zeros, and one that is fed its state.
    #[test]
    fn zeros_go_and_what_is_fed_stays() {
        let nodes = vec![
            node("ConstantOfShape", &["shape"], &["zeros"], vec![]),
            node("Split", &["zeros"], &["h1", "h2"], vec![]),
            node("RNN", &["x", "w", "r", "", "", "h1"], &["y"], vec![]),
            node("RNN", &["x", "w", "r", "b", "", "h2"], &["z"], vec![]),
            node("RNN", &["x", "w", "r", "", "", "h"], &["v"], vec![]),
        ];
        let mut tensors =
            vec![weight("w", &[1, 3, 2], wavy), weight("r", &[1, 3, 3], wavy), weight("b", &[1, 6], wavy)];
        tensors.push(integers("shape", &[3], &[2, 5, 3]));
        let inputs = vec![
            tensor_value("x", DataType::Float, &["7", "5", "2"]),
            tensor_value("h", DataType::Float, &["1", "5", "3"]),
        ];
        let outputs = ["y", "z", "v"].map(|name| tensor_value(name, DataType::Float, &["7", "1", "5", "3"]));
        let proto = model(inputs, nodes, tensors, outputs.to_vec());
        let graph = Graph::new(proto.graph.as_ref().unwrap(), 8).unwrap();
        let (changed, count) = unstacked(&proto, &graph).unwrap();
        let operands: Vec<Vec<String>> = changed.graph.unwrap().node.into_iter().map(|node| node.input).collect();
        assert_eq!(count, 2);
        assert_eq!(operands, [vec!["x", "w", "r"], vec!["x", "w", "r", "b"], vec!["x", "w", "r", "", "", "h"]]);
    }

    /// The last state of two layers, of which the second has two directions.
    #[test]
    fn a_final_state_is_read_where_it_is_made() {
        let directions = vec![attribute("direction=bidirectional")];
        let nodes = vec![
            node("RNN", &["x", "w", "r"], &["", "h1"], vec![]),
            node("RNN", &["x", "w2", "r2"], &["", "h2"], directions),
            node("Concat", &["h1", "h2"], &["all"], vec![int("axis", 0)]),
            node("Gather", &["all", "last"], &["y"], vec![int("axis", 0)]),
        ];
        let mut tensors = vec![weight("w", &[1, 3, 2], wavy), weight("r", &[1, 3, 3], wavy)];
        tensors.extend([weight("w2", &[2, 3, 2], wavy), weight("r2", &[2, 3, 3], wavy)]);
        tensors.push(integers("last", &[], &[-1]));
        let input = tensor_value("x", DataType::Float, &["7", "5", "2"]);
        let proto = model(vec![input], nodes, tensors, vec![tensor_value("y", DataType::Float, &["5", "3"])]);
        let graph = Graph::new(proto.graph.as_ref().unwrap(), 8).unwrap();
        let (changed, count) = unstacked(&proto, &graph).unwrap();
        let changed = changed.graph.unwrap();
        assert_eq!((count, changed.node.len()), (1, 2));
        assert_eq!(changed.node[1].input[0], "h2");
        let index = changed.initializer.iter().find(|tensor| tensor.name() == changed.node[1].input[1]).unwrap();
        assert_eq!(TensorView::new(index).unwrap().to_i64().unwrap(), [1]);
    }
}
