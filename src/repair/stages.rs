//! The order of repair: layers of one stage do not depend on each other.

use std::collections::BTreeMap;

use crate::analysis::Subject;
use crate::axes::{Expr, Selection};
use crate::graph::{NodeId, ValueId};

/// When each node is repaired, and what is final when.
pub(super) struct Order {
    /// Nodes by stage.
    pub(super) stages: Vec<Vec<NodeId>>,
    /// Number of stages that must be over before a value is final; `None` if it is as in the original.
    depth: BTreeMap<ValueId, Option<usize>>,
    /// Nodes whose data changed, in graph order.
    pub(super) behind: Vec<NodeId>,
}

impl Order {
    /// Whether a value changed, and is final once `stage` begins.
    pub(super) fn is_changed_before(&self, value: ValueId, stage: usize) -> bool {
        self.depth.get(&value).copied().flatten().is_some_and(|depth| depth <= stage)
    }
}

/// The nodes of `candidates` behind a removal, by stage: a node comes after all candidates that its input is computed from.
pub(super) fn stages(subject: Subject<'_>, selection: &Selection, candidates: &[NodeId]) -> Order {
    let mut depth: BTreeMap<ValueId, Option<usize>> = BTreeMap::new();
    let mut found: Vec<Vec<NodeId>> = Vec::new();
    let mut all_behind = Vec::new();
    for &id in &subject.graph.order {
        let node = subject.graph.node(id);
        // `None` is not affected, `Some(n)` is affected, with n repaired layers on the longest way here.
        let reached = node.inputs.iter().flatten().filter_map(|value| depth.get(value).copied().flatten()).max();
        let operands = 0..node.inputs.len();
        let touched = operands
            .filter_map(|slot| subject.network.operand(subject.graph, id, slot))
            .any(|axes| is_touched(subject, axes, selection));
        let data_touched = node.inputs.first().copied().flatten().and_then(|value| subject.network.value(value));
        let behind = reached.is_some() || data_touched.is_some_and(|axes| is_touched(subject, axes, selection));
        if behind {
            all_behind.push(id);
        }
        let mut after = if behind || touched { Some(reached.unwrap_or(0)) } else { None };
        if behind && candidates.contains(&id) {
            let stage = reached.unwrap_or(0);
            if found.len() <= stage {
                found.resize_with(stage + 1, Vec::new);
            }
            found[stage].push(id);
            after = Some(stage + 1);
        }
        for &output in node.outputs.iter().flatten() {
            depth.insert(output, after);
        }
    }
    Order { stages: found, depth, behind: all_behind }
}

fn is_touched(subject: Subject<'_>, axes: &[Expr], selection: &Selection) -> bool {
    axes.iter().any(|axis| subject.network.solution.is_touched(axis, selection))
}
