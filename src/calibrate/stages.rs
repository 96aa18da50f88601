//! The order in which layers are fitted once something changed: layers of one stage do not depend on each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::analysis::Subject;
use crate::axes::{Expr, Selection};
use crate::graph::{Graph, NodeId, ValueId};
use crate::onnx::traits::RECURRENT;

/// What a node is to the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Its results change if what it reads does.
    Follows,
    /// Its results change whatever it reads.
    Changes,
    /// A layer that later ones wait for; it is fitted itself unless nothing that it reads can have changed.
    Layer {
        /// Whether it is fitted.
        fitted: bool,
    },
}

/// When each layer is fitted, and what is final when.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    /// The fitted layers by stage: a layer's stage is the number of layers on the longest way to it.
    pub(crate) stages: Vec<Vec<NodeId>>,
    /// Number of stages that must be over before a value is final. Values that are as before have none.
    depth: BTreeMap<ValueId, usize>,
}

impl Stages {
    /// The stages of `graph`. `part` says what a node is, given the number of layers on the longest way to it; `None` where
    /// nothing that it reads changed.
    pub(crate) fn of(graph: &Graph, mut part: impl FnMut(NodeId, Option<usize>) -> Part) -> Self {
        let mut found = Self::default();
        for &id in &graph.order {
            let node = graph.node(id);
            let reached = node.reads().filter_map(|value| found.depth.get(&value).copied()).max();
            let stage = reached.unwrap_or(0);
            let after = match part(id, reached) {
                Part::Follows => reached,
                Part::Changes => Some(stage),
                Part::Layer { fitted } => {
                    if fitted {
                        if found.stages.len() <= stage {
                            found.stages.resize_with(stage + 1, Vec::new);
                        }
                        found.stages[stage].push(id);
                    }
                    Some(stage + 1)
                }
            };
            if let Some(after) = after {
                found.depth.extend(node.outputs.iter().flatten().map(|&output| (output, after)));
            }
        }
        found
    }

    /// Whether a node is fitted in `stage`.
    pub(crate) fn is_in(&self, stage: usize, node: NodeId) -> bool {
        self.stages.get(stage).is_some_and(|nodes| nodes.contains(&node))
    }

    /// Whether a value changed, and is final once `stage` begins.
    pub(crate) fn is_changed_before(&self, value: ValueId, stage: usize) -> bool {
        self.depth.get(&value).is_some_and(|&depth| depth <= stage)
    }
}

/// The order in which layers are repaired after a removal.
#[derive(Debug)]
pub(crate) struct AfterRemoval {
    /// When each layer is repaired.
    pub(crate) order: Stages,
    /// Nodes whose data changed, in graph order.
    pub(crate) changed: Vec<NodeId>,
}

/// The nodes of `candidates` whose data a removal changes, or that are `split`, by stage.
pub(crate) fn after_removal(
    subject: Subject<'_>,
    selection: &Selection,
    candidates: &[NodeId],
    split: &BTreeSet<NodeId>,
) -> AfterRemoval {
    let is_touched = |axes: &[Expr]| axes.iter().any(|axis| subject.network.solution.is_touched(axis, selection));
    let mut changed = Vec::new();
    let order = Stages::of(subject.graph, |id, reached| {
        let node = subject.graph.node(id);
        let operands = (0..node.inputs.len()).filter_map(|slot| subject.network.operand(subject.graph, id, slot));
        let data = node.inputs.first().copied().flatten().and_then(|value| subject.network.value(value));
        // A recurrent layer reads its own units too.
        let loses_states = node.traits().has(RECURRENT) && candidates.contains(&id);
        let is_narrowed = data.is_some_and(is_touched) || loses_states && operands.clone().any(is_touched);
        if reached.is_some() || is_narrowed || split.contains(&id) {
            changed.push(id);
            return if candidates.contains(&id) { Part::Layer { fitted: true } } else { Part::Changes };
        }
        let mut operands = operands;
        if operands.any(is_touched) { Part::Changes } else { Part::Follows }
    });
    AfterRemoval { order, changed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::attributes::set_graph;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::onnx::proto::{GraphProto, ModelProto, ValueInfoProto};
    use crate::runtime::sample_models::{model, node, tensor_value, wavy, weight};

    /// Four layers: `a`, `b` and `c` in a row, and `d`, which reads `b` through a branch only.
    fn layers() -> ModelProto {
        let body = GraphProto {
            node: vec![node("Relu", &["b"], &["r"], vec![])],
            output: vec![ValueInfoProto { name: Some("r".to_owned()), ..ValueInfoProto::default() }],
            ..GraphProto::default()
        };
        let mut decision = node("If", &["cond"], &["i"], vec![]);
        set_graph(&mut decision, "then_branch", body.clone());
        set_graph(&mut decision, "else_branch", body);
        let multiply = |from: &str, to: &str| node("MatMul", &[from, "w"], &[to], vec![]);
        let nodes = vec![multiply("x", "a"), multiply("a", "b"), multiply("b", "c"), decision, multiply("i", "d")];
        let inputs = vec![tensor_value("x", DataType::Float, &["n", "2"]), tensor_value("cond", DataType::Bool, &[])];
        let outputs = ["c", "d"].map(|name| tensor_value(name, DataType::Float, &["n", "2"]));
        model(inputs, nodes, vec![weight("w", &[2, 2], wavy)], outputs.to_vec())
    }

    #[test]
    fn a_layer_waits_for_what_it_reads_through_a_branch_too() {
        let graph = Graph::new(layers().graph.as_ref().unwrap(), 8).unwrap();
        let result = |name: &str| graph.value(name).unwrap();
        let node = |name: &str| graph.producer(result(name)).unwrap();
        let found = Stages::of(&graph, |id, reached| {
            let is_layer = graph.node(id).op == "MatMul";
            if is_layer { Part::Layer { fitted: reached.is_some() } } else { Part::Follows }
        });
        assert_eq!(found.stages, vec![vec![], vec![node("b")], vec![node("c"), node("d")]]);
        assert!(found.is_changed_before(result("i"), 2) && !found.is_changed_before(result("i"), 1));
        assert!(!found.is_changed_before(result("x"), 9));
    }
}
