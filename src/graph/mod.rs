//! A `petgraph` view of a `GraphProto`: nodes are operators, edges are values.

pub mod bodies;
mod edit;
mod extract;
mod inline;
mod reach;
mod stored;
mod sweep;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use petgraph::algo::toposort;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::error::{Error, Result};
use crate::onnx::domain::canonical;
use crate::onnx::proto::{GraphProto, NodeProto};
use crate::onnx::traits::{self, Traits};

use bodies::{Places, Run};

pub(crate) use edit::set_operand;
pub use edit::{Editor, Names, operator};
pub use inline::{Functions, Inlined, inlined, shadowing_function};
pub use reach::Ancestry;
pub(crate) use reach::holds_throughout;
pub use stored::Place;
pub(crate) use stored::constant_tensor;
pub use sweep::sweep_dead_nodes;
pub use view::View;

/// A node of the graph: its position in `GraphProto::node`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// A value of the graph: an input, an initializer, or the output of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub usize);

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Graph input, by position.
    Input(usize),
    /// Initializer, by position; `overridable` if it is a graph input too.
    Initializer {
        /// Position in `GraphProto::initializer`.
        index: usize,
        /// Whether a caller may replace it (an input of the same name, IR version 4 or later).
        overridable: bool,
    },
    /// Sparse initializer, by position.
    Sparse(usize),
    /// Output `slot` of a node.
    Node(NodeId, usize),
}

/// A value and its uses.
#[derive(Debug, Clone)]
pub struct Value {
    /// Name in the file.
    pub name: String,
    /// Where it comes from.
    pub source: Source,
    /// Nodes that read it, with the operand's position.
    pub uses: Vec<(NodeId, usize)>,
    /// Nodes whose subgraphs read it.
    pub captured_by: Vec<NodeId>,
    /// Whether it is a graph output.
    pub is_output: bool,
}

/// An operator of the graph.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name in the file, else that of its first output, else operator and position.
    pub name: String,
    /// Operator type.
    pub op: String,
    /// Operator domain, empty for `ai.onnx`.
    pub domain: String,
    /// Operands; `None` is one left out.
    pub inputs: Vec<Option<ValueId>>,
    /// Values that its subgraphs read from outside.
    pub captures: Vec<ValueId>,
    /// Results; `None` is one left out.
    pub outputs: Vec<Option<ValueId>>,
    /// Whether it stands in a body of `If`, `Loop` or `Scan`; see [`bodies`].
    pub in_body: bool,
    /// Whether the samples run it.
    pub run: Run,
}

/// The view. It holds positions into the `GraphProto`, not references.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Nodes, by [`NodeId`].
    pub nodes: Vec<Node>,
    /// Values, by [`ValueId`].
    pub values: Vec<Value>,
    /// Nodes in an order in which every value is made before it is read.
    pub order: Vec<NodeId>,
    /// The values that are graph outputs, as the file lists them.
    pub outputs: Vec<ValueId>,
    names: BTreeMap<String, ValueId>,
}

impl Node {
    /// Whether the result is the operand.
    pub fn is_identity(&self) -> bool {
        self.op == "Identity" && self.domain.is_empty()
    }

    /// What is known of its operator.
    pub fn traits(&self) -> Traits {
        traits::of(&self.domain, &self.op)
    }

    /// Whether the result is a tensor that the node holds.
    pub fn is_constant(&self) -> bool {
        self.op == "Constant" && self.domain.is_empty()
    }

    /// Its operands, then what its subgraphs capture.
    pub fn reads(&self) -> impl Iterator<Item = ValueId> {
        self.inputs.iter().flatten().chain(&self.captures).copied()
    }
}

impl Graph {
    /// Builds the view. `ir_version` decides whether initializers that are inputs can be overridden.
    ///
    /// # Errors
    /// If a value is defined twice or never, or nodes depend on each other in a cycle.
    pub fn new(proto: &GraphProto, ir_version: i64) -> Result<Self> {
        let (nodes, values, order, outputs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut graph = Self { nodes, values, order, outputs, names: BTreeMap::new() };
        graph.add_sources(proto, ir_version)?;
        let places = Places::of(proto);
        for (index, node) in proto.node.iter().enumerate() {
            graph.add_node(index, node, &places)?;
        }
        for (index, node) in proto.node.iter().enumerate() {
            graph.wire(NodeId(index), node)?;
        }
        for output in &proto.output {
            let Some(value) = graph.value(output.name()) else {
                return Err(Error::input(format!("graph output '{}' is made by no node", output.name())));
            };
            graph.values[value.0].is_output = true;
            graph.outputs.push(value);
        }
        graph.order = graph.topological_order()?;
        Ok(graph)
    }

    /// The value called `name`.
    pub fn value(&self, name: &str) -> Option<ValueId> {
        self.names.get(name).copied()
    }

    /// What is known about a value.
    pub fn at(&self, value: ValueId) -> &Value {
        &self.values[value.0]
    }

    /// What is known about a node.
    pub fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node.0]
    }

    /// The node that makes a value.
    pub fn producer(&self, value: ValueId) -> Option<NodeId> {
        match self.at(value).source {
            Source::Node(node, _) => Some(node),
            _ => None,
        }
    }

    /// The node and operand that alone read a value; `None` if others do, a subgraph captures it or it is a graph output.
    pub fn sole_reader(&self, value: ValueId) -> Option<(NodeId, usize)> {
        let at = self.at(value);
        match at.uses.as_slice() {
            &[reader] if !at.is_output && at.captured_by.is_empty() => Some(reader),
            _ => None,
        }
    }

    /// The value at the start of a chain of `Identity` nodes.
    pub fn behind_identity(&self, mut value: ValueId) -> ValueId {
        while let Some(node) = self.producer(value) {
            let node = self.node(node);
            match node.inputs.first() {
                Some(Some(input)) if node.is_identity() => value = *input,
                _ => break,
            }
        }
        value
    }

    fn define(&mut self, name: &str, source: Source) -> Result<()> {
        let id = ValueId(self.values.len());
        if self.names.insert(name.to_owned(), id).is_some() {
            return Err(Error::input(format!("value '{name}' is defined twice; a graph is in single assignment form")));
        }
        let (name, uses, captured_by) = (name.to_owned(), Vec::new(), Vec::new());
        self.values.push(Value { name, source, uses, captured_by, is_output: false });
        Ok(())
    }

    fn add_sources(&mut self, proto: &GraphProto, ir_version: i64) -> Result<()> {
        let inputs: BTreeSet<&str> = proto.input.iter().map(|input| input.name()).collect();
        for (index, tensor) in proto.initializer.iter().enumerate() {
            let overridable = ir_version >= 4 && inputs.contains(tensor.name());
            self.define(tensor.name(), Source::Initializer { index, overridable })?;
        }
        for (index, sparse) in proto.sparse_initializer.iter().enumerate() {
            let name = sparse.values.as_ref().map_or("", |values| values.name());
            self.define(name, Source::Sparse(index))?;
        }
        let mut seen = BTreeSet::new();
        for (index, input) in proto.input.iter().enumerate() {
            let initialized = self.names.contains_key(input.name());
            if !seen.insert(input.name()) || !initialized {
                self.define(input.name(), Source::Input(index))?;
            }
        }
        Ok(())
    }

    fn add_node(&mut self, index: usize, proto: &NodeProto, places: &Places) -> Result<()> {
        let first_output = proto.output.iter().find(|name| !name.is_empty());
        let name = match (proto.name(), first_output) {
            ("", Some(output)) => output.clone(),
            ("", None) => format!("{}#{index}", proto.op_type()),
            (name, _) => name.to_owned(),
        };
        let mut outputs = Vec::with_capacity(proto.output.len());
        for (slot, output) in proto.output.iter().enumerate() {
            if output.is_empty() {
                outputs.push(None);
                continue;
            }
            outputs.push(Some(ValueId(self.values.len())));
            self.define(output, Source::Node(NodeId(index), slot)).map_err(|e| e.at_node(name.as_str()))?;
        }
        let domain = canonical(proto.domain());
        let (op, domain) = (proto.op_type().to_owned(), domain.to_owned());
        let (in_body, run) = (bodies::is_hoisted(proto), places.run_of(proto));
        let (inputs, captures) = (Vec::new(), Vec::new());
        self.nodes.push(Node { name, op, domain, inputs, captures, outputs, in_body, run });
        Ok(())
    }

    fn wire(&mut self, id: NodeId, proto: &NodeProto) -> Result<()> {
        let mut inputs = Vec::with_capacity(proto.input.len());
        for (slot, input) in proto.input.iter().enumerate() {
            if input.is_empty() {
                inputs.push(None);
                continue;
            }
            let Some(value) = self.value(input) else {
                let message = format!("reads '{input}', which no input, initializer or node defines");
                return Err(Error::input(message).at_node(self.node(id).name.as_str()));
            };
            self.values[value.0].uses.push((id, slot));
            inputs.push(Some(value));
        }
        self.nodes[id.0].inputs = inputs;
        for name in captures(proto) {
            if let Some(value) = self.value(&name) {
                self.values[value.0].captured_by.push(id);
                self.nodes[id.0].captures.push(value);
            }
        }
        Ok(())
    }

    fn topological_order(&self) -> Result<Vec<NodeId>> {
        let mut edges: Vec<(usize, usize)> = Vec::new();
        for value in &self.values {
            if let Source::Node(from, _) = value.source {
                edges.extend(value.uses.iter().map(|(to, _)| (from.0, to.0)));
                edges.extend(value.captured_by.iter().map(|to| (from.0, to.0)));
            }
        }
        if edges.iter().all(|(from, to)| from < to) {
            return Ok((0..self.nodes.len()).map(NodeId).collect());
        }
        let mut dependencies = DiGraph::<(), ()>::new();
        for _ in &self.nodes {
            dependencies.add_node(());
        }
        for (from, to) in edges {
            dependencies.add_edge(NodeIndex::new(from), NodeIndex::new(to), ());
        }
        match toposort(&dependencies, None) {
            Ok(order) => Ok(order.into_iter().map(|index| NodeId(index.index())).collect()),
            Err(cycle) => {
                let node = self.node(NodeId(cycle.node_id().index()));
                Err(Error::input("depends on its own output; the graph has a cycle").at_node(node.name.as_str()))
            }
        }
    }
}

/// Names that the subgraphs of a node read from outside.
pub fn captures(node: &NodeProto) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for attribute in &node.attribute {
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            free_names(graph, &mut found);
        }
    }
    found
}

fn free_names(graph: &GraphProto, found: &mut BTreeSet<String>) {
    let mut inside = BTreeSet::new();
    let mut defined: BTreeSet<&str> = graph.input.iter().map(|value| value.name()).collect();
    defined.extend(graph.initializer.iter().map(|tensor| tensor.name()));
    for node in &graph.node {
        inside.extend(captures(node));
        inside.extend(node.input.iter().filter(|name| !name.is_empty()).cloned());
        defined.extend(node.output.iter().map(String::as_str));
    }
    inside.extend(graph.output.iter().map(|value| value.name().to_owned()));
    found.extend(inside.into_iter().filter(|name| !defined.contains(name.as_str())));
}
