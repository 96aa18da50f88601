//! Copies of stored tensors, read where they are stored.
//!
//! PyTorch stores weights that are equal, or that layers share, once, and gives every further layer an `Identity` of it. To
//! repair, to factorize and to count such a layer, its weight must be the stored tensor itself.

use std::collections::BTreeMap;

use crate::graph::{Editor, Graph, ValueId};
use crate::onnx::proto::ModelProto;

/// `model`, of which `graph` is the view, with every reader of an `Identity` of a stored tensor reading the tensor; `None` if
/// there is no such reader.
pub(crate) fn without_copies(model: &ModelProto, graph: &Graph) -> Option<ModelProto> {
    let mut stored: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for &id in &graph.order {
        let node = graph.node(id);
        if node.op != "Identity" || !node.domain.is_empty() {
            continue;
        }
        let (&[Some(input)], &[Some(copy)]) = (node.inputs.as_slice(), node.outputs.as_slice()) else { continue };
        let is_stored = graph.place(input).is_some() && !graph.is_overridable(input);
        if let Some(tensor) = stored.get(&input).copied().or(is_stored.then_some(input)) {
            stored.insert(copy, tensor);
        }
    }
    let is_read = |copy: &ValueId| !graph.at(*copy).uses.is_empty() || !graph.at(*copy).captured_by.is_empty();
    if !stored.keys().any(is_read) {
        return None;
    }
    let mut editor = Editor::new(model.clone(), graph).ok()?;
    for (&copy, &tensor) in &stored {
        editor.redirect_readers(copy, &graph.at(tensor).name).ok()?;
        editor.forget(graph.at(copy).name.clone());
    }
    Some(editor.finish_flat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::sample_models::{model, node, tensor_value, wavy, weight};

    fn changed(proto: &ModelProto) -> Option<Vec<(String, Vec<String>)>> {
        let graph = Graph::new(proto.graph.as_ref().unwrap(), 8).unwrap();
        let graph = without_copies(proto, &graph)?.graph.unwrap();
        Some(graph.node.into_iter().map(|node| (node.op_type().to_owned(), node.input)).collect())
    }

    /// A transformer whose layers share their weights: all but the first read a copy, and none of these was repaired.
    #[test]
    fn readers_of_a_copy_read_the_tensor() {
        let ends = |name: &str| tensor_value(name, DataType::Float, &["n", "3"]);
        let nodes = vec![
            node("Identity", &["w"], &["w2"], vec![]),
            node("Identity", &["w2"], &["w3"], vec![]),
            node("MatMul", &["x", "w"], &["a"], vec![]),
            node("MatMul", &["a", "w2"], &["b"], vec![]),
            node("MatMul", &["b", "w3"], &["c"], vec![]),
            node("Identity", &["c"], &["y"], vec![]),
        ];
        let mut proto = model(vec![ends("x")], nodes, vec![weight("w", &[3, 3], wavy)], vec![ends("y")]);
        let read = |op: &str, inputs: &[&str]| (op.to_owned(), inputs.iter().map(|&name| name.to_owned()).collect());
        let all = ["x", "a", "b"].map(|x| read("MatMul", &[x, "w"]));
        assert_eq!(changed(&proto).unwrap(), [&all[..], &[read("Identity", &["c"])]].concat());

        // A copy that is a result stays, and one of a weight that a caller may replace is not a copy of what is stored.
        let graph = proto.graph.as_mut().unwrap();
        graph.output.push(ends("w3"));
        assert_eq!(changed(&proto).unwrap().len(), 6 - 1);
        proto.graph.as_mut().unwrap().input.push(ends("w"));
        assert!(changed(&proto).is_none());
    }
}
