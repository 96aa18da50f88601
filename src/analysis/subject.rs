//! A model with everything that is known about it, borrowed.

use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::graph::{Graph, ValueId};
use crate::onnx::opset_of;
use crate::onnx::proto::{GraphProto, ModelProto, TensorProto};
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
        self.graph.place(value)?.tensor(self.model.graph.as_ref()?)
    }

    /// Version of the standard operator set, 0 if none is imported.
    pub fn opset(&self) -> i64 {
        opset_of(self.model, "").unwrap_or(0)
    }
}
