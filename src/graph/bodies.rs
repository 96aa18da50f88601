//! Bodies of `If`, `Loop` and `Scan` as part of the graph around them.
//!
//! For the analysis the nodes of a body stand in front of the operator that runs them, so that one network covers all.
//! What enters a body is the result of an [`ENTRY`] node, what leaves it is a further operand of the operator; both ends
//! freeze their axes, and whatever is between them is pruned as elsewhere. [`nested`] puts the nodes back.
//!
//! ```text
//! Loop(n, cond, h; body: (i, c, s) → (c, Gemm(s, w)))
//!     i = Entry()  c = Entry()  s = Entry(h)  t = Gemm(s, w)  Loop(n, cond, h, c, t; body: (i, c, s) → (c, t))
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::onnx::attributes::subgraphs;
use crate::onnx::domain::is_standard;
use crate::onnx::opset_of;
use crate::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, attribute_proto,
};

/// Domain of the operators that stand for the ends of bodies. No file is ever written with them.
pub const DOMAIN: &str = "paredown.body";

/// Operator that makes an input of a body.
pub const ENTRY: &str = "Entry";

/// Attribute of an entry: what it hands in.
pub const KIND: &str = "kind";
/// The number of the iteration, an integer.
pub const COUNTER: i64 = 0;
/// Whether to go on, a truth value.
pub const CONDITION: i64 = 1;
/// A value of the shape of the operand.
pub const CARRIED: i64 = 2;
/// The operand without axis [`AXIS`].
pub const SLICE: i64 = 3;
/// Attribute of an entry: the axis that is scanned.
pub const AXIS: &str = "axis";

/// Attribute of an operator with hoisted bodies: how many operands the file gives it.
pub const ARITY: &str = "paredown.arity";

/// Attribute of a hoisted `If`: the number of the body that every run of the given samples takes.
pub const TAKEN: &str = "paredown.taken";

/// Metadata of a hoisted node: the attribute and the operator, by its first result, whose body it belongs to.
const PLACE: &str = "paredown.place";

/// Whether a graph has an `If`, in a body or not.
pub(crate) fn has_branches(graph: &GraphProto) -> bool {
    let is_branching = |node: &NodeProto| node.op_type() == "If" || subgraphs(node).any(|(_, body)| has_branches(body));
    graph.node.iter().any(is_branching)
}

/// The model with its bodies hoisted; `None` if there are none. One whose form is not understood stays as it is.
pub fn hoisted(model: &ModelProto) -> Option<ModelProto> {
    let graph = model.graph.as_ref()?;
    let opset = opset_of(model, "")?;
    if !graph.node.iter().any(|node| is_understood(node, opset)) {
        return None;
    }
    let mut names = BTreeSet::new();
    own_names(graph, &mut names);
    let mut hoist = Hoist { opset, names, nodes: Vec::new(), tensors: Vec::new() };
    graph.node.iter().for_each(|node| hoist.node(node.clone(), None));
    let Hoist { nodes, mut tensors, .. } = hoist;
    tensors.splice(0..0, graph.initializer.iter().cloned());
    let graph = GraphProto { node: nodes, initializer: tensors, ..graph.clone() };
    Some(ModelProto { graph: Some(graph), ..model.clone() })
}

/// The model with hoisted nodes back in their bodies.
pub fn nested(model: &ModelProto) -> Cow<'_, ModelProto> {
    let Some(graph) = model.graph.as_ref().filter(|graph| graph.node.iter().any(|node| node.domain() == DOMAIN)) else {
        return Cow::Borrowed(model);
    };
    let mut places: BTreeMap<Option<String>, Vec<NodeProto>> = BTreeMap::new();
    for node in &graph.node {
        places.entry(place_of(node)).or_default().push(node.clone());
    }
    let mut tensors: BTreeMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name(), t)).collect();
    let nodes = nest(None, &mut places, &mut tensors);
    let left: Vec<TensorProto> = graph.initializer.iter().filter(|t| tensors.contains_key(t.name())).cloned().collect();
    let graph = GraphProto { node: nodes, initializer: left, ..graph.clone() };
    Cow::Owned(ModelProto { graph: Some(graph), ..model.clone() })
}

/// Whether a node is a hoisted `If`.
pub fn is_decision(node: &NodeProto) -> bool {
    node.domain() == DOMAIN && node.op_type() == "If"
}

/// Says that a hoisted `If` always takes the branch for this `condition`.
pub fn take(node: &mut NodeProto, condition: bool) {
    let name = if condition { "then_branch" } else { "else_branch" };
    let taken = bodies_of(node).position(|(attribute, _)| attribute == name);
    if let Some(taken) = taken.and_then(|taken| i64::try_from(taken).ok()) {
        node.attribute.push(int_attribute(TAKEN, taken));
    }
}

/// The operands of a hoisted `If` that its results are, where one branch is always taken.
pub fn taken_operands(node: &NodeProto) -> Option<std::ops::Range<usize>> {
    let taken = usize::try_from(int(node, TAKEN)?).ok()?;
    operands_of_branch(node, taken)
}

/// The operands that branch `number` of a hoisted `If` leaves.
pub fn operands_of_branch(node: &NodeProto, number: usize) -> Option<std::ops::Range<usize>> {
    let mut start = int(node, ARITY).and_then(|arity| usize::try_from(arity).ok())?;
    for (index, (_, body)) in bodies_of(node).enumerate() {
        if index == number {
            return Some(start..start + body.output.len());
        }
        start += body.output.len();
    }
    None
}

fn bodies_of(node: &NodeProto) -> impl Iterator<Item = (&str, &GraphProto)> {
    node.attribute.iter().filter_map(|attribute| Some((attribute.name(), attribute.g.as_ref()?)))
}

/// Whether the samples run a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Whenever the model runs: it stands in the main graph, or in branches that are always taken.
    Always,
    /// That is not known: it stands in a body.
    Perhaps,
    /// It stands in a branch that no sample takes.
    Never,
}

/// Where the nodes of a hoisted model are run.
#[derive(Debug, Default)]
pub struct Places {
    /// The place that each place stands in; `None` is the main graph.
    around: BTreeMap<String, Option<String>>,
    taken: BTreeSet<String>,
    left_out: BTreeSet<String>,
}

impl Places {
    /// The places of the main graph of a hoisted model.
    pub fn of(graph: &GraphProto) -> Self {
        let mut places = Self::default();
        for node in graph.node.iter().filter(|node| node.domain() == DOMAIN) {
            let taken = int(node, TAKEN);
            for (number, (attribute, _)) in (0..).zip(bodies_of(node)) {
                let place = place(attribute, node);
                match taken {
                    Some(taken) if taken == number => drop(places.taken.insert(place.clone())),
                    Some(_) => drop(places.left_out.insert(place.clone())),
                    None => {}
                }
                places.around.insert(place, place_of(node));
            }
        }
        places
    }

    /// The place and those around it, from the inside.
    fn chain(&self, place: Option<String>) -> Vec<String> {
        let mut chain: Vec<String> = Vec::new();
        let mut next = place;
        while let Some(place) = next.filter(|place| !chain.contains(place)) {
            next = self.around.get(&place).cloned().flatten();
            chain.push(place);
        }
        chain
    }

    /// Whether the samples run a node.
    pub fn run_of(&self, node: &NodeProto) -> Run {
        let chain = self.chain(place_of(node));
        if chain.iter().any(|place| self.left_out.contains(place)) {
            Run::Never
        } else if chain.iter().all(|place| self.taken.contains(place)) {
            Run::Always
        } else {
            Run::Perhaps
        }
    }
}

/// Whether a model has branches that are always taken.
pub fn is_decided(model: &ModelProto) -> bool {
    model.graph.iter().flat_map(|graph| &graph.node).any(|node| int(node, TAKEN).is_some())
}

/// The model as the given samples run it: a branch that is always taken in the place of its `If`.
pub fn decided(model: &ModelProto) -> Cow<'_, ModelProto> {
    let Some(graph) = model.graph.as_ref().filter(|_| is_decided(model)) else {
        return nested(model);
    };
    let places = Places::of(graph);
    let mut nodes = Vec::with_capacity(graph.node.len());
    for node in graph.node.iter().filter(|node| places.run_of(node) != Run::Never) {
        let place = places.chain(place_of(node)).into_iter().find(|place| !places.taken.contains(place));
        let copies = match taken_operands(node) {
            Some(operands) => copies(node, operands),
            None => vec![node.clone()],
        };
        for mut node in copies {
            node.metadata_props.retain(|entry| entry.key() != PLACE);
            node.metadata_props.extend(place.as_deref().map(placed));
            nodes.push(node);
        }
    }
    let graph = GraphProto { node: nodes, ..graph.clone() };
    Cow::Owned(nested(&ModelProto { graph: Some(graph), ..model.clone() }).into_owned())
}

/// The results of an `If` as copies of what a branch leaves.
fn copies(node: &NodeProto, operands: std::ops::Range<usize>) -> Vec<NodeProto> {
    let left = node.input.get(operands).unwrap_or_default();
    let pairs = node.output.iter().zip(left).filter(|(result, _)| !result.is_empty());
    let copy = |(result, left): (&String, &String)| NodeProto {
        name: Some(result.clone()),
        op_type: Some("Identity".to_owned()),
        input: vec![left.clone()],
        output: vec![result.clone()],
        ..NodeProto::default()
    };
    pairs.map(copy).collect()
}

/// Hoists the bodies of `model` and marks the branches that are always taken as in `like`, which it was made from.
pub fn hoisted_like(model: ModelProto, like: &ModelProto) -> ModelProto {
    let marks: BTreeMap<&str, i64> = like
        .graph
        .iter()
        .flat_map(|graph| &graph.node)
        .filter_map(|node| Some((node.output.first()?.as_str(), int(node, TAKEN)?)))
        .collect();
    if marks.is_empty() {
        return model;
    }
    let mut model = hoisted(&model).unwrap_or(model);
    for node in model.graph.iter_mut().flat_map(|graph| &mut graph.node).filter(|node| is_decision(node)) {
        let mark = node.output.first().and_then(|name| marks.get(name.as_str()));
        node.attribute.extend(mark.map(|&taken| int_attribute(TAKEN, taken)));
    }
    model
}

/// Marks `new`, a node that is put beside `node` or in its place, as part of the same body.
pub fn join_body(new: &mut NodeProto, node: &NodeProto) {
    if is_hoisted(new) {
        return;
    }
    new.metadata_props.extend(node.metadata_props.iter().filter(|entry| entry.key() == PLACE).cloned());
}

/// Whether a node was hoisted out of a body.
pub fn is_hoisted(node: &NodeProto) -> bool {
    place_of(node).is_some()
}

fn place_of(node: &NodeProto) -> Option<String> {
    node.metadata_props.iter().find(|entry| entry.key() == PLACE).map(|entry| entry.value().to_owned())
}

/// The metadata of a node that stands in `place`.
fn placed(place: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(PLACE.to_owned()), value: Some(place.to_owned()) }
}

fn place(attribute: &str, node: &NodeProto) -> String {
    format!("{attribute} {}", node.output.iter().find(|name| !name.is_empty()).map_or("", String::as_str))
}

fn is_understood(node: &NodeProto, opset: i64) -> bool {
    let known = match node.op_type() {
        "If" => true,
        "Loop" => node.input.len() >= 2,
        // Before opset 9 a Scan had sequence lengths and a batch axis.
        "Scan" => opset >= 9,
        _ => false,
    };
    let bodies = || node.attribute.iter().flat_map(|attribute| &attribute.g);
    known
        && is_standard(node)
        && node.output.iter().any(|name| !name.is_empty())
        && bodies().all(|body| body.sparse_initializer.is_empty() && entries(node, body).is_some())
}

/// What enters a body, one for each of its inputs; `None` if operands and inputs do not fit.
fn entries(node: &NodeProto, body: &GraphProto) -> Option<Vec<(i64, Option<usize>, i64)>> {
    let count = body.input.len();
    let carried = |operand: usize| (CARRIED, Some(operand), 0);
    let entries: Vec<(i64, Option<usize>, i64)> = match node.op_type() {
        "If" => Vec::new(),
        "Loop" => {
            let ends = [(COUNTER, None, 0), (CONDITION, None, 0)];
            ends.into_iter().chain((2..node.input.len()).map(carried)).collect()
        }
        _ => {
            let scanned = usize::try_from(int(node, "num_scan_inputs")?).ok()?;
            let states = node.input.len().checked_sub(scanned)?;
            let axes = node.attribute.iter().find(|a| a.name() == "scan_input_axes");
            let axis = |number: usize| axes.map_or(Some(0), |a| a.ints.get(number).copied());
            let slices = (0..scanned).map(|number| Some((SLICE, Some(states + number), axis(number)?)));
            (0..states).map(carried).map(Some).chain(slices).collect::<Option<_>>()?
        }
    };
    (entries.len() == count).then_some(entries)
}

fn int(node: &NodeProto, name: &str) -> Option<i64> {
    node.attribute.iter().find(|a| a.name() == name).map(AttributeProto::i)
}

fn int_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(attribute_proto::AttributeType::Int as i32),
        i: Some(value),
        ..AttributeProto::default()
    }
}

/// Names that a graph itself defines.
fn own_names(graph: &GraphProto, names: &mut BTreeSet<String>) {
    names.extend(graph.input.iter().map(|value| value.name().to_owned()));
    names.extend(graph.initializer.iter().map(|tensor| tensor.name().to_owned()));
    names.extend(graph.node.iter().flat_map(|node| node.output.iter().cloned()));
}

struct Hoist {
    opset: i64,
    /// Names that are taken.
    names: BTreeSet<String>,
    nodes: Vec<NodeProto>,
    tensors: Vec<TensorProto>,
}

impl Hoist {
    fn node(&mut self, mut node: NodeProto, within: Option<&str>) {
        if is_understood(&node, self.opset) {
            let arity = node.input.len();
            for index in 0..node.attribute.len() {
                let Some(mut body) = node.attribute[index].g.take() else { continue };
                let place = place(node.attribute[index].name(), &node);
                self.body(&node, &mut body, &place);
                node.input.extend(body.output.iter().map(|output| output.name().to_owned()));
                node.attribute[index].g = Some(body);
            }
            node.attribute.push(int_attribute(ARITY, i64::try_from(arity).unwrap_or(0)));
            node.domain = Some(DOMAIN.to_owned());
        }
        self.push(node, within);
    }

    fn push(&mut self, mut node: NodeProto, within: Option<&str>) {
        node.metadata_props.extend(within.map(placed));
        self.nodes.push(node);
    }

    /// Takes the nodes and tensors out of a body; the tensors leave their names.
    fn body(&mut self, node: &NodeProto, body: &mut GraphProto, place: &str) {
        self.make_unique(body, place);
        for ((kind, operand, axis), input) in entries(node, body).unwrap_or_default().into_iter().zip(&body.input) {
            let entry = NodeProto {
                name: Some(input.name().to_owned()),
                op_type: Some(ENTRY.to_owned()),
                domain: Some(DOMAIN.to_owned()),
                input: operand.and_then(|slot| node.input.get(slot)).cloned().into_iter().collect(),
                output: vec![input.name().to_owned()],
                attribute: vec![int_attribute(KIND, kind), int_attribute(AXIS, axis)],
                ..NodeProto::default()
            };
            self.push(entry, Some(place));
        }
        for tensor in &mut body.initializer {
            let name = TensorProto { name: tensor.name.clone(), ..TensorProto::default() };
            self.tensors.push(std::mem::replace(tensor, name));
        }
        body.value_info.clear();
        for node in std::mem::take(&mut body.node) {
            self.node(node, Some(place));
        }
    }

    /// Renames what a body defines where another graph has the name already.
    fn make_unique(&mut self, body: &mut GraphProto, place: &str) {
        let mut own = BTreeSet::new();
        own_names(body, &mut own);
        let mut renamed = BTreeMap::new();
        for name in own.into_iter().filter(|name| !name.is_empty()) {
            let mut unique = name.clone();
            let mut number = 1;
            while !self.names.insert(unique.clone()) {
                unique = format!("{place}/{name} {number}");
                number += 1;
            }
            if unique != name {
                renamed.insert(name, unique);
            }
        }
        if !renamed.is_empty() {
            rename(body, &renamed);
        }
    }
}

/// Gives the values of a graph other names, wherever its own nodes and those of its bodies mean them.
pub(crate) fn rename(graph: &mut GraphProto, names: &BTreeMap<String, String>) {
    let outer = |name: &mut String| {
        if let Some(new) = names.get(name) {
            name.clone_from(new);
        }
    };
    graph.input.iter_mut().chain(&mut graph.output).filter_map(|value| value.name.as_mut()).for_each(outer);
    graph.initializer.iter_mut().filter_map(|tensor| tensor.name.as_mut()).for_each(outer);
    for node in &mut graph.node {
        node.input.iter_mut().chain(&mut node.output).for_each(outer);
        for body in node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)) {
            let mut own = BTreeSet::new();
            own_names(body, &mut own);
            let visible = names.iter().filter(|(name, _)| !own.contains(*name));
            let visible: BTreeMap<String, String> = visible.map(|(a, b)| (a.clone(), b.clone())).collect();
            rename(body, &visible);
        }
    }
}

/// The nodes of one place, bodies put back into them.
fn nest(
    place_name: Option<String>,
    places: &mut BTreeMap<Option<String>, Vec<NodeProto>>,
    tensors: &mut BTreeMap<&str, &TensorProto>,
) -> Vec<NodeProto> {
    let mut nodes = places.remove(&place_name).unwrap_or_default();
    nodes.retain(|node| node.domain() != DOMAIN || node.op_type() != ENTRY);
    for node in &mut nodes {
        node.metadata_props.retain(|entry| entry.key() != PLACE);
        if node.domain() != DOMAIN {
            continue;
        }
        let arity = int(node, ARITY).and_then(|arity| usize::try_from(arity).ok()).unwrap_or(0);
        node.input.truncate(arity);
        node.attribute.retain(|attribute| attribute.name() != ARITY && attribute.name() != TAKEN);
        node.domain = None;
        let mut attributes = std::mem::take(&mut node.attribute);
        for attribute in &mut attributes {
            let Some(body) = attribute.g.as_mut() else { continue };
            let inner = place(attribute.name.as_deref().unwrap_or_default(), node);
            body.node = nest(Some(inner), places, tensors);
            body.initializer =
                body.initializer.iter().filter_map(|tensor| tensors.remove(tensor.name()).cloned()).collect();
        }
        node.attribute = attributes;
    }
    nodes
}
