//! A model with everything that is known about it, borrowed.

use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::graph::{Graph, Source, ValueId};
use crate::onnx::proto::{GraphProto, ModelProto, TensorProto};
use crate::onnx::tensor::{from_f32, from_i64};
use crate::ops::Network;

/// A model with everything that is known about it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The file's content.
    pub model: &'a ModelProto,
    /// View of its main graph.
    pub graph: &'a Graph,
    /// Shapes and small constants.
    pub facts: &'a Facts,
    /// Solved axes.
    pub network: &'a Network,
}

impl<'a> Subject<'a> {
    /// The main graph.
    ///
    /// # Errors
    /// If the file holds none.
    pub fn proto(&self) -> Result<&'a GraphProto> {
        self.model.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))
    }

    /// The tensor of an initializer or `Constant` node.
    pub fn constant(&self, value: ValueId) -> Option<&'a TensorProto> {
        let proto = self.model.graph.as_ref()?;
        match self.graph.at(value).source {
            Source::Initializer { index, .. } => proto.initializer.get(index),
            Source::Node(node, _) if self.graph.node(node).op == "Constant" => {
                proto.node.get(node.0)?.attribute.iter().find(|a| a.name() == "value")?.t.as_ref()
            }
            _ => None,
        }
    }

    /// What a `Constant` lists in an attribute of its own, as a tensor.
    pub(crate) fn listed(&self, value: ValueId) -> Option<TensorProto> {
        let Source::Node(node, _) = self.graph.at(value).source else { return None };
        let node = self.model.graph.as_ref()?.node.get(node.0).filter(|node| node.op_type() == "Constant")?;
        let (name, attribute) = (&self.graph.at(value).name, node.attribute.first()?);
        match attribute.name() {
            "value_floats" => from_f32(name, &[attribute.floats.len()], &attribute.floats).ok(),
            "value_ints" => from_i64(name, &[attribute.ints.len()], &attribute.ints).ok(),
            _ => None,
        }
    }

    /// Version of the standard operator set, 0 if none is imported.
    pub fn opset(&self) -> i64 {
        let standard = |domain: &str| matches!(domain, "" | "ai.onnx");
        self.model.opset_import.iter().find(|o| standard(o.domain())).map_or(0, |o| o.version())
    }
}
