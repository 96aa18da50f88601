//! Element type, shape and small constant value of every value of a graph.
//!
//! The rules are tract's, one operator at a time: a node gets the facts of its operands and tells those of its
//! results. Sizes are concrete, once under each [sample binding](crate::axes::BINDINGS) of the dynamic
//! dimensions, so shape arithmetic is plain integers and a size that differs between bindings is dynamic.
//! Weights stay where they are: tract sees their shapes only. What tract cannot infer falls back to the rule
//! table, then to `value_info`, then to what readers ask of it; what remains unknown is reported, and later freezes
//! what it touches.

mod bindings;
mod bodies;
mod fact;
mod fallback;
mod infer;
mod known;
mod operators;

use std::collections::BTreeMap;

use crate::axes::BINDINGS;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::onnx::proto::ModelProto;
use crate::runtime::inputs::declared_inputs;

pub use bindings::{Binding, sample_sizes};
pub use fact::{Fact, Facts, Shapes};

impl Facts {
    /// Infers the facts of every value of `graph`, the view of the main graph of `model`, at `sizes` of its dynamic
    /// dimensions.
    ///
    /// # Errors
    /// If an input or an initializer is malformed.
    pub fn infer(model: &ModelProto, graph: &Graph, sizes: &[Binding; BINDINGS], rules: &dyn Shapes) -> Result<Self> {
        Self::infer_with(model, graph, (sizes, &BTreeMap::new()), rules)
    }

    /// As [`infer`](Self::infer), with the elements of some inputs of integers known.
    ///
    /// # Errors
    /// As [`infer`](Self::infer).
    pub fn infer_with(
        model: &ModelProto,
        graph: &Graph,
        known: (&[Binding; BINDINGS], &BTreeMap<String, Vec<i64>>),
        rules: &dyn Shapes,
    ) -> Result<Self> {
        let proto = model.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
        infer::infer(model, proto, graph, &declared_inputs(proto)?, known, rules)
    }
}
