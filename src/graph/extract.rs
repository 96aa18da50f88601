//! A part of a graph as a model of its own.

use std::collections::BTreeSet;

use super::reach::Ancestry;
use super::view::View;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};

impl View<'_> {
    /// The nodes of `part` and the tensors that they read, as a model with these inputs and outputs. Operator sets and
    /// functions are those of the whole model; sparse tensors come along.
    pub fn extract(&self, part: &Ancestry, input: Vec<ValueInfoProto>, output: Vec<ValueInfoProto>) -> ModelProto {
        let names: BTreeSet<&str> = part.values.iter().map(|&value| self.graph.at(value).name.as_str()).collect();
        let is_read = |tensor: &&TensorProto| names.contains(tensor.name());
        let nodes = part.nodes.iter().filter_map(|node| self.proto.node.get(node.0));
        let graph = GraphProto {
            name: self.proto.name.clone(),
            node: nodes.cloned().collect::<Vec<NodeProto>>(),
            initializer: self.proto.initializer.iter().filter(is_read).cloned().collect(),
            sparse_initializer: self.proto.sparse_initializer.clone(),
            input,
            output,
            ..GraphProto::default()
        };
        ModelProto {
            ir_version: self.model.ir_version,
            opset_import: self.model.opset_import.clone(),
            functions: self.model.functions.clone(),
            graph: Some(graph),
            ..ModelProto::default()
        }
    }
}
