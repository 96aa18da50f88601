//! Branches that every sample takes.
//!
//! A model for two sample rates is an `If` over an input that says which. Where the samples are all of one rate, one branch
//! is all that they run: it is scored, repaired and measured as the main graph is, and the other one stays as it is. In
//! memory the `If` is marked; the file keeps both branches.

use std::collections::{BTreeMap, BTreeSet};

use crate::axes::BINDINGS;
use crate::error::{Error, Result};
use crate::facts::{Facts, sample_sizes};
use crate::graph::{Graph, NodeId, bodies};
use crate::onnx::proto::ModelProto;
use crate::ops::RuleShapes;
use crate::runtime::inputs::DimSizes;

/// A hoisted model whose decided branches are marked.
pub(super) struct Marked {
    pub(super) model: ModelProto,
    /// How many `If`s are marked.
    pub(super) count: usize,
    /// The open axes that decide some of them, by their size in all samples.
    pub(super) deciding: BTreeSet<String>,
}

/// Marks the `If`s of a hoisted model for which all samples, of which `dims` tells, have the same condition. `None` if there
/// are none.
///
/// # Errors
/// If the model holds no graph, or an input or an initializer is malformed.
pub(super) fn marked(model: &ModelProto, dims: &DimSizes) -> Result<Option<Marked>> {
    let proto = model.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
    let is_seen = !dims.values.is_empty() || !dims.typical.is_empty() || !dims.samples.is_empty();
    let varies = dims.typical.keys().any(|name| !dims.alike.contains(name));
    if !is_seen || varies || !proto.node.iter().any(bodies::is_decision) {
        return Ok(None);
    }
    let graph = Graph::new(proto, model.ir_version())?;
    let mut deciding: BTreeSet<String> = dims.alike.iter().chain(dims.named.keys()).cloned().collect();
    let conditions = conditions(model, &graph, (dims, &deciding))?;
    if conditions.is_empty() {
        return Ok(None);
    }
    for name in deciding.clone() {
        deciding.remove(&name);
        if self::conditions(model, &graph, (dims, &deciding))? != conditions {
            deciding.insert(name);
        }
    }
    let mut model = model.clone();
    for (index, node) in model.graph.iter_mut().flat_map(|graph| &mut graph.node).enumerate() {
        if let Some(&condition) = conditions.get(&NodeId(index)) {
            bodies::take(node, condition);
        }
    }
    Ok(Some(Marked { model, count: conditions.len(), deciding }))
}

/// The conditions that are known if the axes `fixed` have the size that they have in the samples.
fn conditions(
    model: &ModelProto,
    graph: &Graph,
    (dims, fixed): (&DimSizes, &BTreeSet<String>),
) -> Result<BTreeMap<NodeId, bool>> {
    let proto = model.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
    let (candidates, _) = sample_sizes(proto, dims, fixed)?;
    let sizes = candidates.first().ok_or_else(|| Error::input("the graph has no sample sizes"))?;
    let facts = Facts::infer_with(model, graph, (sizes, &dims.values), &RuleShapes { model, graph })?;
    let condition = |id: NodeId| {
        let fact = facts.at(graph.node(id).inputs.first().copied().flatten()?);
        let &[first] = fact.ints_under(0)?.as_slice() else { return None };
        let is_same = (1..BINDINGS).all(|binding| fact.ints_under(binding).as_deref() == Some(&[first]));
        is_same.then_some(first != 0)
    };
    let decisions = (0..proto.node.len()).filter(|&index| bodies::is_decision(&proto.node[index])).map(NodeId);
    Ok(decisions.filter_map(|id| Some((id, condition(id)?))).collect())
}
