//! Removal of nodes and initializers whose results nobody reads.

use std::collections::BTreeSet;

use super::captures;
use crate::onnx::proto::GraphProto;

/// Removes the nodes and initializers of `candidates` (by output or initializer name) that nothing reads any
/// more, and whatever only they read, repeatedly. What was dead before the rewrite and is not reached from
/// `candidates` stays as it was. Returns the names of the removed values.
pub fn sweep_dead_nodes(graph: &mut GraphProto, candidates: &BTreeSet<String>) -> BTreeSet<String> {
    let mut uses = use_counts(graph);
    let mut suspects = candidates.clone();
    let mut removed = BTreeSet::new();
    loop {
        let mut next = BTreeSet::new();
        let mut dead_nodes = BTreeSet::new();
        for (index, node) in graph.node.iter().enumerate() {
            let outputs = || node.output.iter().filter(|name| !name.is_empty());
            let suspected = outputs().any(|name| suspects.contains(name));
            if suspected && outputs().all(|name| !uses.contains_key(name)) {
                dead_nodes.insert(index);
                next.extend(node.input.iter().filter(|name| !name.is_empty()).cloned());
                next.extend(captures(node));
                removed.extend(outputs().cloned());
            }
        }
        let mut index = 0;
        graph.node.retain(|_| {
            index += 1;
            !dead_nodes.contains(&(index - 1))
        });
        let dead_initializer = |name: &str| suspects.contains(name) && !uses.contains_key(name);
        let inputs: BTreeSet<String> = graph.input.iter().map(|input| input.name().to_owned()).collect();
        removed.extend(graph.initializer.iter().map(|t| t.name()).filter(|n| dead_initializer(n)).map(str::to_owned));
        graph.initializer.retain(|t| !dead_initializer(t.name()) || inputs.contains(t.name()));
        if dead_nodes.is_empty() {
            return removed;
        }
        uses = use_counts(graph);
        suspects = next;
    }
}

fn use_counts(graph: &GraphProto) -> std::collections::BTreeMap<String, usize> {
    let mut counts = std::collections::BTreeMap::new();
    let mut count = |name: &str| {
        if !name.is_empty() {
            *counts.entry(name.to_owned()).or_insert(0) += 1;
        }
    };
    for node in &graph.node {
        node.input.iter().for_each(|name| count(name));
        captures(node).iter().for_each(|name| count(name));
    }
    graph.output.iter().for_each(|output| count(output.name()));
    counts
}
