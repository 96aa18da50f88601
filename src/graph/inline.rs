//! Model-local functions, replaced by what they stand for.
//!
//! A call becomes the nodes of its function: operands and results take the names that the call gives them, inner values
//! get fresh names below the call's, attributes that refer to the function's take the call's value. A function goes
//! before an operator of the same name, the standard ones included.

use std::collections::{BTreeMap, BTreeSet};

use super::edit::Names;
use crate::onnx::attributes::subgraphs;
use crate::onnx::domain::canonical;
use crate::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, attribute_proto,
};

/// Nodes that functions may grow into; nested calls double at every level.
const MOST_NODES: usize = 1 << 20;

/// What is the matter with a function that is still called although it could be inlined.
const ENDLESS: &str = "it calls itself or grows without end";

/// Domain, name and overload.
type Key = (String, String, String);

/// A model without calls of its own functions, where that is possible.
#[derive(Debug, Clone)]
pub struct Inlined {
    /// The rewritten model; functions that are still called stay in it.
    pub model: ModelProto,
    /// How many calls were replaced.
    pub calls: usize,
}

/// The functions of a model, as nodes name them.
#[derive(Debug, Default, Clone)]
pub struct Functions(BTreeMap<Key, Option<String>>);

impl Functions {
    /// The functions that `model` defines, each with the reason for which it cannot be inlined, if there is one.
    pub fn of(model: &ModelProto) -> Self {
        let imports = imports(model);
        Self(model.functions.iter().map(|f| (key_of(f), obstacle(f, &imports))).collect())
    }

    /// Whether `node` calls one, and why the call is not inlined.
    pub fn called_by(&self, node: &NodeProto) -> Option<&str> {
        let obstacle = self.0.get(&callee_of(node))?;
        Some(obstacle.as_deref().unwrap_or(ENDLESS))
    }
}

/// Replaces the calls of the model's own functions; `None` if there are none that can be replaced.
pub fn inlined(model: &ModelProto) -> Option<Inlined> {
    let imports = imports(model);
    let usable = model.functions.iter().filter(|f| obstacle(f, &imports).is_none());
    let functions: BTreeMap<Key, &FunctionProto> = usable.map(|f| (key_of(f), f)).collect();
    let graph = model.graph.as_ref()?;
    if functions.is_empty() {
        return None;
    }
    let names = Names::of(graph);
    let mut inliner = Inliner { functions, names, open: Vec::new(), nodes: 0, calls: 0 };
    let nodes = inliner.expand(graph.node.clone());
    if inliner.calls == 0 {
        return None;
    }
    let calls = inliner.calls;
    let graph = GraphProto { node: nodes, ..graph.clone() };
    let old = &model.functions;
    let mut model = ModelProto { graph: Some(graph), functions: Vec::new(), ..model.clone() };
    import_all(&mut model, inliner.functions.values().copied());
    model.functions = still_called(&model, old);
    Some(Inlined { model, calls })
}

/// Why a model cannot be read: one of its functions has the name of a standard operator, which other code would take it
/// for, and is still called.
pub fn shadowing_function(model: &ModelProto) -> Option<String> {
    let called = still_called(model, &model.functions);
    let function = called.iter().find(|function| canonical(function.domain()).is_empty())?;
    let why = obstacle(function, &imports(model)).unwrap_or_else(|| ENDLESS.to_owned());
    let name = function.name();
    Some(format!("function '{name}' takes the place of the standard operator and cannot be inlined: {why}"))
}

fn key_of(function: &FunctionProto) -> Key {
    (canonical(function.domain()).to_owned(), function.name().to_owned(), function.overload().to_owned())
}

fn callee_of(node: &NodeProto) -> Key {
    (canonical(node.domain()).to_owned(), node.op_type().to_owned(), node.overload().to_owned())
}

fn imports(model: &ModelProto) -> BTreeMap<String, i64> {
    model.opset_import.iter().map(|set| (canonical(set.domain()).to_owned(), set.version())).collect()
}

/// Why a function cannot be inlined: it is written for another version of an operator set.
fn obstacle(function: &FunctionProto, imports: &BTreeMap<String, i64>) -> Option<String> {
    let used: BTreeSet<&str> = function.node.iter().map(|node| canonical(node.domain())).collect();
    function.opset_import.iter().find_map(|set| {
        let domain = canonical(set.domain());
        let version = *imports.get(domain)?;
        (used.contains(domain) && version != set.version()).then(|| {
            let domain = if domain.is_empty() { "ai.onnx" } else { domain };
            format!("it is written for version {} of {domain}, the model for {version}", set.version())
        })
    })
}

fn import_all<'f>(model: &mut ModelProto, functions: impl Iterator<Item = &'f FunctionProto>) {
    for set in functions.flat_map(|function| &function.opset_import) {
        let known = model.opset_import.iter().any(|known| canonical(known.domain()) == canonical(set.domain()));
        if !known {
            let (domain, version) = (set.domain.clone(), set.version);
            model.opset_import.push(OperatorSetIdProto { domain, version });
        }
    }
}

/// The functions of the old model that some node of the new one, or one of these functions, calls.
fn still_called(model: &ModelProto, functions: &[FunctionProto]) -> Vec<FunctionProto> {
    let mut called = BTreeSet::new();
    let mut pending: Vec<&NodeProto> = model.graph.iter().flat_map(|graph| &graph.node).collect();
    while let Some(node) = pending.pop() {
        pending.extend(subgraphs(node).flat_map(|(_, graph)| &graph.node));
        let key = callee_of(node);
        if let Some(function) = functions.iter().find(|f| key_of(f) == key)
            && called.insert(key)
        {
            pending.extend(&function.node);
        }
    }
    functions.iter().filter(|function| called.contains(&key_of(function))).cloned().collect()
}

struct Inliner<'m> {
    functions: BTreeMap<Key, &'m FunctionProto>,
    names: Names,
    /// The functions that are being expanded, outermost first.
    open: Vec<Key>,
    nodes: usize,
    calls: usize,
}

/// What inner names are called outside.
type Renamed = BTreeMap<String, String>;

impl Inliner<'_> {
    fn expand(&mut self, nodes: Vec<NodeProto>) -> Vec<NodeProto> {
        let mut expanded = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            for attribute in &mut node.attribute {
                for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    graph.node = self.expand(std::mem::take(&mut graph.node));
                }
            }
            let key = callee_of(&node);
            match self.functions.get(&key).copied() {
                Some(function) if !self.open.contains(&key) && self.nodes + function.node.len() <= MOST_NODES => {
                    self.open.push(key);
                    expanded.extend(self.call(function, &node));
                    self.open.pop();
                }
                _ => expanded.push(node),
            }
        }
        expanded
    }

    /// The nodes that stand for one call.
    fn call(&mut self, function: &FunctionProto, call: &NodeProto) -> Vec<NodeProto> {
        self.calls += 1;
        self.nodes += function.node.len();
        let first = call.output.iter().find(|name| !name.is_empty());
        let stem = if call.name().is_empty() { first.map_or("call", String::as_str) } else { call.name() };
        let given = call.input.iter().map(String::as_str).chain(std::iter::repeat(""));
        let mut names: Renamed =
            function.input.iter().zip(given).map(|(inner, outer)| (inner.clone(), outer.to_owned())).collect();
        let mut copies = Vec::new();
        for (inner, outer) in function.output.iter().zip(&call.output).filter(|(_, outer)| !outer.is_empty()) {
            if names.contains_key(inner) {
                copies.push((inner.clone(), outer.clone()));
            } else {
                names.insert(inner.clone(), outer.clone());
            }
        }
        let mut nodes = function.node.clone();
        let attributes = Attributes { call, function };
        nodes.iter_mut().for_each(|node| attributes.resolve(node));
        self.rename(&mut nodes, &mut names, stem);
        nodes.extend(copies.into_iter().map(|(inner, outer)| NodeProto {
            name: Some(outer.clone()),
            op_type: Some("Identity".to_owned()),
            input: vec![names.get(&inner).cloned().unwrap_or_default()],
            output: vec![outer],
            ..NodeProto::default()
        }));
        self.expand(nodes)
    }

    fn rename(&mut self, nodes: &mut [NodeProto], names: &mut Renamed, stem: &str) {
        for output in nodes.iter().flat_map(|node| &node.output) {
            self.define(output, names, stem);
        }
        for node in nodes {
            if let Some(name) = node.name.as_mut().filter(|name| !name.is_empty()) {
                *name = format!("{stem}/{name}");
            }
            for name in node.input.iter_mut().chain(&mut node.output) {
                if let Some(outer) = names.get(name) {
                    name.clone_from(outer);
                }
            }
            for graph in node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)) {
                self.rename_graph(graph, &mut names.clone(), stem);
            }
        }
    }

    fn rename_graph(&mut self, graph: &mut GraphProto, names: &mut Renamed, stem: &str) {
        let inputs = graph.input.iter().map(|value| value.name().to_owned());
        let tensors = graph.initializer.iter().map(|tensor| tensor.name().to_owned());
        for name in inputs.chain(tensors).collect::<Vec<_>>() {
            names.remove(&name);
            self.define(&name, names, stem);
        }
        for output in graph.node.iter().flat_map(|node| &node.output) {
            names.remove(output);
        }
        self.rename(&mut graph.node, names, stem);
        let outer = |name: &mut Option<String>| {
            if let Some(outer) = name.as_ref().and_then(|inner| names.get(inner)) {
                *name = Some(outer.clone());
            }
        };
        graph.initializer.iter_mut().for_each(|tensor| outer(&mut tensor.name));
        let values = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
        values.for_each(|value| outer(&mut value.name));
    }

    /// Gives an inner value a fresh name, unless it has one.
    fn define(&mut self, inner: &str, names: &mut Renamed, stem: &str) {
        if inner.is_empty() || names.contains_key(inner) {
            return;
        }
        names.insert(inner.to_owned(), self.names.value(&format!("{stem}/{inner}")));
    }
}

/// What the attributes of a function are at one call.
struct Attributes<'a> {
    call: &'a NodeProto,
    function: &'a FunctionProto,
}

impl Attributes<'_> {
    /// Replaces references to the function's attributes by their values; one without a value is left out.
    fn resolve(&self, node: &mut NodeProto) {
        let attributes = std::mem::take(&mut node.attribute);
        node.attribute = attributes.into_iter().filter_map(|attribute| self.value(attribute)).collect();
        for graph in node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)) {
            graph.node.iter_mut().for_each(|node| self.resolve(node));
        }
    }

    fn value(&self, attribute: AttributeProto) -> Option<AttributeProto> {
        let wanted = attribute.ref_attr_name();
        if wanted.is_empty() {
            return Some(attribute);
        }
        let mut known = self.call.attribute.iter().chain(&self.function.attribute_proto);
        let value = known.find(|value| value.name() == wanted)?;
        let r#type = value.r#type.or(attribute.r#type).or(Some(attribute_proto::AttributeType::Undefined as i32));
        Some(AttributeProto { name: attribute.name.clone(), r#type, ref_attr_name: None, ..value.clone() })
    }
}
