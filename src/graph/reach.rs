//! What values lead to, and what they are computed from. A node reads its operands and what its subgraphs capture.

use std::collections::BTreeSet;

use super::{Graph, Node, NodeId, ValueId};

/// What some values are computed from.
#[derive(Debug, Clone, Default)]
pub struct Ancestry {
    /// The nodes that compute them.
    pub nodes: BTreeSet<NodeId>,
    /// The values, and what these nodes read.
    pub values: BTreeSet<ValueId>,
}

impl Graph {
    /// `seeds`, and the results of every node that reads one of what is found and `passes` it on.
    pub fn reached_from(
        &self,
        seeds: impl IntoIterator<Item = ValueId>,
        passes: impl Fn(&Node) -> bool,
    ) -> BTreeSet<ValueId> {
        self.forward(seeds, |node, found| node.reads().any(|value| found.contains(&value)) && passes(node))
    }

    /// `seeds`, and the results of every node that reads nothing but what is found and `passes` it on.
    pub fn made_of(
        &self,
        seeds: impl IntoIterator<Item = ValueId>,
        passes: impl Fn(&Node) -> bool,
    ) -> BTreeSet<ValueId> {
        self.forward(seeds, |node, found| node.reads().all(|value| found.contains(&value)) && passes(node))
    }

    fn forward(
        &self,
        seeds: impl IntoIterator<Item = ValueId>,
        goes_on: impl Fn(&Node, &BTreeSet<ValueId>) -> bool,
    ) -> BTreeSet<ValueId> {
        let mut found: BTreeSet<ValueId> = seeds.into_iter().collect();
        for &id in &self.order {
            let node = self.node(id);
            if goes_on(node, &found) {
                found.extend(node.outputs.iter().flatten());
            }
        }
        found
    }

    /// What `wanted` are computed from, themselves included. The walk does not go on from values that are `known`.
    pub fn ancestry(&self, wanted: impl IntoIterator<Item = ValueId>, known: impl Fn(ValueId) -> bool) -> Ancestry {
        let mut found = Ancestry::default();
        let mut pending: Vec<ValueId> = wanted.into_iter().collect();
        while let Some(value) = pending.pop() {
            if !found.values.insert(value) || known(value) {
                continue;
            }
            if let Some(maker) = self.producer(value).filter(|&maker| found.nodes.insert(maker)) {
                pending.extend(self.node(maker).reads());
            }
        }
        found
    }
}

/// Walks from `start` to wherever `step` sends it, to each place once; false as soon as `step` refuses one.
pub(crate) fn holds_throughout<S: Ord + Copy>(start: S, mut step: impl FnMut(S) -> Option<Vec<S>>) -> bool {
    let mut seen = BTreeSet::from([start]);
    let mut pending = vec![start];
    while let Some(place) = pending.pop() {
        let Some(next) = step(place) else { return false };
        pending.extend(next.into_iter().filter(|&next| seen.insert(next)));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::attributes::set_graph;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::onnx::proto::{GraphProto, ModelProto, ValueInfoProto};
    use crate::runtime::sample_models::{model, node, tensor_value, wavy, weight};

    /// `y = If(c) { Relu(h) } else { w }` with `h = x + w`: the branches capture `h` and `w`.
    fn branches() -> ModelProto {
        let branch = |op: &str, value: &str, name: &str| GraphProto {
            node: vec![node(op, &[value], &[name], vec![])],
            output: vec![ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() }],
            ..GraphProto::default()
        };
        let mut decision = node("If", &["c"], &["y"], vec![]);
        set_graph(&mut decision, "then_branch", branch("Relu", "h", "t"));
        set_graph(&mut decision, "else_branch", branch("Identity", "w", "e"));
        let inputs = vec![tensor_value("x", DataType::Float, &["2"]), tensor_value("c", DataType::Bool, &[])];
        let nodes = vec![node("Add", &["x", "w"], &["h"], vec![]), node("Neg", &["w"], &["v"], vec![]), decision];
        model(inputs, nodes, vec![weight("w", &[2], wavy)], vec![tensor_value("y", DataType::Float, &["2"])])
    }

    #[test]
    fn captures_are_read_like_operands() {
        let graph = Graph::new(branches().graph.as_ref().unwrap(), 8).unwrap();
        let value = |name: &str| graph.value(name).unwrap();
        let names = |values: &BTreeSet<ValueId>| -> Vec<&str> {
            let mut names: Vec<&str> = values.iter().map(|&value| graph.at(value).name.as_str()).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(&graph.reached_from([value("x")], |_| true)), ["h", "x", "y"]);
        assert_eq!(names(&graph.reached_from([value("x")], |node| node.op != "Add")), ["x"]);
        assert_eq!(names(&graph.made_of([value("w")], |_| true)), ["v", "w"]);
        assert_eq!(
            names(&graph.made_of([value("w"), value("c"), value("x")], |_| true)),
            ["c", "h", "v", "w", "x", "y"]
        );
        let all = graph.ancestry([value("y")], |_| false);
        assert_eq!(names(&all.values), ["c", "h", "w", "x", "y"]);
        assert_eq!(all.nodes.len(), 2);
        let near = graph.ancestry([value("y")], |at| at == value("h"));
        assert_eq!((names(&near.values), near.nodes.len()), (vec!["c", "h", "w", "y"], 1));
    }

    #[test]
    fn a_walk_ends_in_circles_and_at_refusals() {
        assert!(holds_throughout(0, |at| Some(vec![(at + 1) % 5, (at + 2) % 5])));
        assert!(!holds_throughout(0, |at| (at != 4).then(|| vec![(at + 1) % 5])));
    }
}
