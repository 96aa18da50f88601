//! Nodes that a runtime computes as one.

use std::collections::{BTreeMap, BTreeSet};

use crate::analysis::Subject;
use crate::graph::{Graph, NodeId, ValueId, bodies};
use crate::onnx::tensor::ElementType;
use crate::onnx::traits::RECURRENT;
use crate::ops::constant_values;

/// Contractions that take the nodes after them along.
const FUSES: &[&str] = &["Conv", "ConvTranspose", "Gemm"];

/// Activations that are computed in the same pass.
const ACTIVATIONS: &[&str] = &["Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Tanh"];

/// Operators with a constant operand that are folded into the weights.
const FOLDED: &[&str] = &["Add", "BatchNormalization", "Div", "Mul", "Sub"];

/// Operators that copy nothing.
const VIEWS: &[&str] = &["Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"];

/// Neighbouring nodes that a runtime computes as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    /// The nodes, in graph order.
    pub(crate) nodes: Vec<NodeId>,
    /// Values that are computed elsewhere.
    pub(crate) reads: Vec<ValueId>,
    /// Values that are used elsewhere.
    pub(crate) makes: Vec<ValueId>,
}

/// The units of a model, in graph order: each contraction with what is fused into it, and all other nodes between the same
/// contractions that are connected. Nodes that run subgraphs or stand in one, and those that only see values in another shape
/// belong to none.
pub(crate) fn units(subject: Subject<'_>) -> Vec<Unit> {
    let constants = constant_values(subject.graph);
    let mut walk =
        Walk { subject, constants: &constants, depth: BTreeMap::new(), home: BTreeMap::new(), sets: Vec::new() };
    for &id in &subject.graph.order {
        walk.visit(id);
    }
    let sets = walk.sets.into_iter().filter(|set| !set.is_empty());
    sets.filter_map(|set| unit(subject, &constants, set)).collect()
}

struct Walk<'a> {
    subject: Subject<'a>,
    constants: &'a BTreeSet<ValueId>,
    /// Most contractions on a way to a value.
    depth: BTreeMap<ValueId, usize>,
    /// The set of each node that is not a contraction with what is fused into it, and its depth.
    home: BTreeMap<NodeId, (usize, usize)>,
    sets: Vec<BTreeSet<NodeId>>,
}

impl Walk<'_> {
    fn visit(&mut self, id: NodeId) {
        let graph = self.subject.graph;
        let node = graph.node(id);
        let made = node.outputs.iter().flatten();
        if made.clone().all(|value| self.constants.contains(value) || self.depth.contains_key(value)) {
            return;
        }
        let depth = node.reads().filter_map(|value| self.depth.get(&value)).copied().max().unwrap_or(0);
        if node.in_body || node.domain == bodies::DOMAIN || !node.captures.is_empty() {
            self.depth.extend(made.map(|&value| (value, depth + 1)));
            return;
        }
        if self.contracts(id) {
            let set = fused(graph, self.constants, id);
            for &id in &set {
                self.depth.extend(graph.node(id).outputs.iter().flatten().map(|&value| (value, depth + 1)));
            }
            self.sets.push(set);
            return;
        }
        let mut set = BTreeSet::from([id]);
        let place = self.sets.len();
        for value in node.reads() {
            let Some(&(home, at)) = graph.producer(value).and_then(|maker| self.home.get(&maker)) else { continue };
            if at == depth {
                set.append(&mut std::mem::take(&mut self.sets[home]));
            }
        }
        self.home.extend(set.iter().map(|&id| (id, (place, depth))));
        self.sets.push(set);
        self.depth.extend(made.map(|&value| (value, depth)));
    }

    fn contracts(&self, id: NodeId) -> bool {
        let relation = self.subject.network.relations.get(id.0);
        let contraction = relation.and_then(|relation| relation.contraction.as_ref());
        let node = self.subject.graph.node(id);
        contraction.is_some_and(|contraction| !contraction.macs.is_empty())
            || node.traits().has(RECURRENT)
            || FUSES.contains(&node.op.as_str())
            || node.op == "MatMul"
    }
}

/// A contraction, and the nodes after it that are computed in the same pass.
fn fused(graph: &Graph, constants: &BTreeSet<ValueId>, head: NodeId) -> BTreeSet<NodeId> {
    let mut set = BTreeSet::from([head]);
    let mut last = head;
    while FUSES.contains(&graph.node(head).op.as_str()) {
        let Some(value) = graph.node(last).outputs.first().copied().flatten() else { break };
        let Some((reader, _)) = graph.sole_reader(value) else { break };
        let node = graph.node(reader);
        let by_constants = || node.reads().all(|operand| operand == value || constants.contains(&operand));
        let is_one_pass = ACTIVATIONS.contains(&node.op.as_str()) || FOLDED.contains(&node.op.as_str());
        if node.in_body || !node.domain.is_empty() || !is_one_pass || !by_constants() {
            break;
        }
        set.insert(reader);
        last = reader;
    }
    set
}

fn unit(subject: Subject<'_>, constants: &BTreeSet<ValueId>, set: BTreeSet<NodeId>) -> Option<Unit> {
    let graph = subject.graph;
    if set.iter().all(|&id| VIEWS.contains(&graph.node(id).op.as_str())) {
        return None;
    }
    let made: BTreeSet<ValueId> = set.iter().flat_map(|&id| graph.node(id).outputs.iter().flatten()).copied().collect();
    let mut reads = Vec::new();
    for value in set.iter().flat_map(|&id| graph.node(id).reads()) {
        if !made.contains(&value) && !constants.contains(&value) && !reads.contains(&value) {
            reads.push(value);
        }
    }
    let leaves = |value: &ValueId| {
        let at = graph.at(*value);
        at.is_output || !at.captured_by.is_empty() || at.uses.iter().any(|(reader, _)| !set.contains(reader))
    };
    let makes: Vec<ValueId> = made.into_iter().filter(leaves).collect();
    let is_float = |value: &ValueId| {
        let element = subject.facts.at(*value).element.and_then(|code| ElementType::from_code(code).ok());
        element.is_some_and(ElementType::is_float)
    };
    // Arithmetic on shapes takes no time that sizes would change.
    makes.iter().any(is_float).then(|| Unit { nodes: set.into_iter().collect(), reads, makes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Analysis;
    use crate::onnx::Model;

    fn ops(fixture: &str) -> Vec<Vec<String>> {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(fixture);
        let model = Model::load(&file).unwrap();
        let analysis = Analysis::new(&model, &Default::default(), &Default::default()).unwrap();
        let subject = analysis.subject();
        let name = |unit: Unit| unit.nodes.iter().map(|&id| subject.graph.node(id).op.clone()).collect();
        units(subject).into_iter().map(name).collect()
    }

    #[test]
    fn a_convolution_takes_its_activation_along_and_an_addition_stands_alone() {
        let units = ops("digits_resnet.onnx");
        assert!(units.iter().any(|unit| unit[0] == "Conv" && unit.last().unwrap() == "Relu"), "{units:?}");
        assert!(units.iter().any(|unit| unit[0] == "Add" && unit.last().unwrap() == "Relu"), "{units:?}");
        assert!(units.iter().all(|unit| unit.iter().filter(|op| *op == "Conv").count() <= 1), "{units:?}");
    }

    #[test]
    fn what_stands_between_two_products_is_one_unit() {
        let units = ops("digits_vit.onnx");
        assert!(units.iter().any(|unit| unit.len() == 1 && unit[0] == "MatMul"), "{units:?}");
        assert!(units.iter().any(|unit| unit.contains(&"Softmax".to_owned())), "{units:?}");
        assert!(units.iter().all(|unit| unit.iter().filter(|op| *op == "MatMul").count() <= 1), "{units:?}");
    }
}
