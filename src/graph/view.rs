//! A model together with the view of its main graph.

use super::{Graph, NodeId, ValueId};
use crate::error::{Error, Result};
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto};

/// A model together with the view of its main graph.
#[derive(Debug)]
pub struct View<'m> {
    /// The model.
    pub model: &'m ModelProto,
    /// Its main graph.
    pub proto: &'m GraphProto,
    /// The view of that.
    pub graph: Graph,
}

impl<'m> View<'m> {
    /// Builds the view of `model`.
    ///
    /// # Errors
    /// If the model holds no graph, and as [`Graph::new`].
    pub fn of(model: &'m ModelProto) -> Result<Self> {
        let proto = model.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
        Ok(Self { model, proto, graph: Graph::new(proto, model.ir_version())? })
    }

    /// The node that makes the value called `name`.
    pub fn maker(&self, name: &str) -> Option<(NodeId, &'m NodeProto)> {
        let id = self.graph.producer(self.graph.value(name)?)?;
        Some((id, self.proto.node.get(id.0)?))
    }

    /// Operand `slot` of a node.
    pub fn operand(&self, node: NodeId, slot: usize) -> Option<ValueId> {
        self.graph.node(node).inputs.get(slot).copied().flatten()
    }

    /// The tensor that a value is, if it is stored as one.
    pub fn tensor(&self, value: ValueId) -> Option<&'m TensorProto> {
        self.graph.place(value)?.tensor(self.proto)
    }
}
