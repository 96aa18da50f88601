//! Everything that is known about a model before anything is decided.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::facts::{DimSizes, Facts};
use crate::graph::Graph;
use crate::onnx::Model;
use crate::ops::Network;
use crate::rewrite::Subject;
use crate::runtime::on_deep_stack;

/// A model's graph, facts and solved axes.
#[derive(Debug)]
pub struct Analysis<'m> {
    /// The model.
    pub model: &'m Model,
    /// View of its main graph.
    pub graph: Graph,
    /// Shapes and small constants.
    pub facts: Facts,
    /// Solved axes.
    pub network: Network,
}

impl<'m> Analysis<'m> {
    /// Analyses a model. `dims` fixes dynamic dimensions by name; `thaw` names graph inputs and outputs whose axes may
    /// be pruned.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if the graph is malformed.
    pub fn new(model: &'m Model, dims: &DimSizes, thaw: &BTreeSet<String>) -> Result<Self> {
        on_deep_stack(|| {
            let proto = model.proto.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
            let graph = Graph::new(proto, model.proto.ir_version())?;
            let (facts, network) = Network::analyse(&model.proto, &graph, dims, thaw)?;
            Ok(Self { model, graph, facts, network })
        })
    }

    /// The model as the other modules see it.
    pub fn subject(&self) -> Subject<'_> {
        Subject { model: &self.model.proto, graph: &self.graph, facts: &self.facts, network: &self.network }
    }
}
