//! The one editor of a graph: collects what is to change, and gives a new model in one piece.
//!
//! Node numbers stay those of the graph that was read: new nodes are collected beside the node that they stand before,
//! after or in the place of. [`Editor::finish`] puts everything in, removes what lost its last reader, and puts hoisted
//! bodies back.

use std::collections::{BTreeMap, BTreeSet};

use super::bodies::{join_body, nested, rename};
use super::sweep::sweep_dead_nodes;
use super::{Graph, NodeId, ValueId};
use crate::error::{Error, Result};
use crate::onnx::attributes::{subgraphs, subgraphs_mut};
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use crate::onnx::tensor::vector_i64;

/// Names that are taken, those of subgraphs included; gives new ones.
#[derive(Debug, Clone, Default)]
pub struct Names {
    values: BTreeSet<String>,
    nodes: BTreeSet<String>,
}

impl Names {
    /// The names in `graph`.
    pub fn of(graph: &GraphProto) -> Self {
        let mut names = Self::default();
        names.add(graph);
        names
    }

    fn add(&mut self, graph: &GraphProto) {
        self.values.extend(graph.initializer.iter().map(|tensor| tensor.name().to_owned()));
        self.values.extend(graph.input.iter().chain(&graph.output).map(|info| info.name().to_owned()));
        let sparse = graph.sparse_initializer.iter().filter_map(|sparse| sparse.values.as_ref());
        self.values.extend(sparse.map(|tensor| tensor.name().to_owned()));
        for node in &graph.node {
            self.values.extend(node.input.iter().chain(&node.output).cloned());
            self.nodes.insert(node.name().to_owned());
            subgraphs(node).for_each(|(_, graph)| self.add(graph));
        }
    }

    /// A name that no value has: `stem`, or `stem_2` and so on.
    pub fn value(&mut self, stem: &str) -> String {
        unique(&mut self.values, stem)
    }

    /// A name that no node has.
    pub fn node(&mut self, stem: &str) -> String {
        unique(&mut self.nodes, stem)
    }
}

fn unique(taken: &mut BTreeSet<String>, stem: &str) -> String {
    let mut name = stem.to_owned();
    let mut number = 1;
    while !taken.insert(name.clone()) {
        number += 1;
        name = format!("{stem}_{number}");
    }
    name
}

/// A node of the standard domain that reads `inputs`, without results and name.
pub fn operator(op: &str, inputs: impl IntoIterator<Item = String>) -> NodeProto {
    NodeProto { op_type: Some(op.to_owned()), input: inputs.into_iter().collect(), ..NodeProto::default() }
}

/// Lets operand `slot` of a node be `name`; returns what it was.
pub(crate) fn set_operand(node: &mut NodeProto, slot: usize, name: String) -> String {
    while node.input.len() <= slot {
        node.input.push(String::new());
    }
    node.input.get_mut(slot).map(|operand| std::mem::replace(operand, name)).unwrap_or_default()
}

/// A rewrite in the making.
#[derive(Debug)]
pub struct Editor<'g> {
    graph: &'g Graph,
    /// The model without its main graph.
    model: ModelProto,
    proto: GraphProto,
    names: Names,
    beside: BTreeMap<NodeId, Beside>,
    added: Vec<TensorProto>,
    aliases: BTreeMap<String, String>,
    orphans: BTreeSet<String>,
}

/// New nodes beside one of the old graph.
#[derive(Debug, Default)]
struct Beside {
    before: Vec<NodeProto>,
    instead: Option<Vec<NodeProto>>,
    after: Vec<NodeProto>,
}

impl<'g> Editor<'g> {
    /// An editor of `model`, of whose main graph `graph` is the view.
    ///
    /// # Errors
    /// If the model holds no graph.
    pub fn new(mut model: ModelProto, graph: &'g Graph) -> Result<Self> {
        let proto = model.graph.take().ok_or_else(|| Error::input("the file holds no graph"))?;
        Ok(Self {
            graph,
            names: Names::of(&proto),
            model,
            proto,
            beside: BTreeMap::new(),
            added: Vec::new(),
            aliases: BTreeMap::new(),
            orphans: BTreeSet::new(),
        })
    }

    /// Declarations and stored tensors, to be changed in place. Nodes and tensors keep their positions.
    pub fn proto_mut(&mut self) -> &mut GraphProto {
        &mut self.proto
    }

    /// A node, to be changed in place.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn node_mut(&mut self, id: NodeId) -> Result<&mut NodeProto> {
        self.proto.node.get_mut(id.0).ok_or_else(|| Error::input("a node is missing"))
    }

    /// A value name that is not taken, derived from `stem`.
    pub fn fresh(&mut self, stem: &str) -> String {
        self.names.value(stem)
    }

    /// A node name that is not taken, derived from `stem`.
    pub fn fresh_node(&mut self, stem: &str) -> String {
        self.names.node(stem)
    }

    /// Adds an initializer under a new name, and returns the name.
    pub fn add(&mut self, stem: &str, mut tensor: TensorProto) -> String {
        let name = self.fresh(stem);
        tensor.name = Some(name.clone());
        self.added.push(tensor);
        name
    }

    /// Adds an initializer whose name is a new one already.
    pub fn push(&mut self, tensor: TensorProto) {
        self.added.push(tensor);
    }

    /// Adds a list of integers.
    pub fn add_ints(&mut self, stem: &str, values: &[i64]) -> String {
        self.add(stem, vector_i64("", values))
    }

    /// Stores a tensor in the place of the node that computes it.
    pub fn store(&mut self, maker: NodeId, tensor: TensorProto) {
        self.added.push(tensor);
        self.replace(maker, Vec::new());
    }

    /// Puts a new node in front of `node`. Node and result get one new name, which is returned.
    pub fn wire(&mut self, node: NodeId, new: NodeProto, stem: &str) -> String {
        let name = self.fresh(stem);
        let (own, output) = (Some(name.clone()), vec![name.clone()]);
        self.beside.entry(node).or_default().before.push(NodeProto { name: own, output, ..new });
        name
    }

    /// Puts a new node after `node`.
    pub fn insert_after(&mut self, node: NodeId, new: NodeProto) {
        self.beside.entry(node).or_default().after.push(new);
    }

    /// Puts new nodes in the place of `node`, whose operands may have lost their last reader.
    pub fn replace(&mut self, node: NodeId, new: Vec<NodeProto>) {
        let graph = self.graph;
        graph.node(node).reads().for_each(|value| self.forget(graph.at(value).name.clone()));
        let is_left = |name: &String| new.iter().any(|node| node.output.contains(name));
        let gone = graph.node(node).outputs.iter().flatten().map(|&value| &graph.at(value).name);
        let gone: BTreeSet<&String> = gone.filter(|name| !is_left(name)).collect();
        self.proto.value_info.retain(|info| info.name.as_ref().is_none_or(|name| !gone.contains(name)));
        self.beside.entry(node).or_default().instead = Some(new);
    }

    /// Lets whatever reads `value` read `same`, new nodes as well. No node may make `value` any more.
    pub fn alias(&mut self, value: String, same: String) {
        self.aliases.insert(value, same);
    }

    /// What a value is once all aliases are followed.
    fn root<'n>(&'n self, name: &'n str) -> &'n str {
        let mut name = name;
        while let Some(next) = self.aliases.get(name) {
            name = next;
        }
        name
    }

    /// Lets operand `slot` of `node` read `name` instead.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn redirect(&mut self, node: NodeId, slot: usize, name: String) -> Result<()> {
        let old = set_operand(self.node_mut(node)?, slot, name);
        self.forget(old);
        Ok(())
    }

    /// Lets every node and subgraph that reads `value` read `name` instead. A graph output stays what it is.
    ///
    /// # Errors
    /// If a node is missing.
    pub fn redirect_readers(&mut self, value: ValueId, name: &str) -> Result<()> {
        let at = self.graph.at(value);
        for &(node, slot) in &at.uses {
            set_operand(self.node_mut(node)?, slot, name.to_owned());
        }
        let names = BTreeMap::from([(at.name.clone(), name.to_owned())]);
        for &node in &at.captured_by {
            subgraphs_mut(self.node_mut(node)?).for_each(|body| rename(body, &names));
        }
        Ok(())
    }

    /// Says that a value may have lost its last reader.
    pub fn forget(&mut self, name: String) {
        if !name.is_empty() {
            self.orphans.insert(name);
        }
    }

    /// The model with all changes: new nodes and tensors in, what nobody reads any more out, bodies in their operators.
    pub fn finish(self) -> ModelProto {
        nested(&self.finish_flat()).into_owned()
    }

    /// As [`finish`](Self::finish), with hoisted bodies left where they are.
    pub fn finish_flat(self) -> ModelProto {
        let aliases: BTreeMap<String, String> =
            self.aliases.keys().map(|name| (name.clone(), self.root(name).to_owned())).collect();
        let Self { mut model, mut proto, mut added, beside, orphans, .. } = self;
        if model.ir_version() < 4 && !added.is_empty() {
            // Before IR version 4 every initializer is an input too; the new ones are not.
            let initialized: BTreeSet<&str> = proto.initializer.iter().map(TensorProto::name).collect();
            proto.input.retain(|input| !initialized.contains(input.name()));
            model.ir_version = Some(4);
        }
        proto.initializer.append(&mut added);
        proto.node = spliced(std::mem::take(&mut proto.node), beside);
        if !aliases.is_empty() {
            rename(&mut proto, &aliases);
        }
        let removed = sweep_dead_nodes(&mut proto, &orphans);
        proto.value_info.retain(|info| !removed.contains(info.name()));
        proto.quantization_annotation.retain(|annotation| !removed.contains(annotation.tensor_name()));
        model.graph = Some(proto);
        model
    }
}

/// The old nodes with the new ones beside them, or in their place: those of a node of a body belong to the body.
fn spliced(old: Vec<NodeProto>, mut beside: BTreeMap<NodeId, Beside>) -> Vec<NodeProto> {
    if beside.is_empty() {
        return old;
    }
    let mut nodes = Vec::with_capacity(old.len() + beside.len());
    for (index, node) in old.into_iter().enumerate() {
        let Beside { mut before, mut instead, mut after } = beside.remove(&NodeId(index)).unwrap_or_default();
        let new = before.iter_mut().chain(instead.iter_mut().flatten()).chain(&mut after);
        new.for_each(|new| join_body(new, &node));
        nodes.append(&mut before);
        match instead {
            Some(instead) => nodes.extend(instead),
            None => nodes.push(node),
        }
        nodes.append(&mut after);
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::attributes::set_graph;
    use crate::onnx::proto::ValueInfoProto;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::sample_models::{model, node, tensor_value, wavy, weight};

    /// `h = x + w`, `y = If(c) { Relu(h) } else { Neg(h) }`.
    fn sample() -> ModelProto {
        let branch = |op: &str, name: &str| GraphProto {
            node: vec![node(op, &["h"], &[name], vec![])],
            output: vec![ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() }],
            ..GraphProto::default()
        };
        let mut decision = node("If", &["c"], &["y"], vec![]);
        set_graph(&mut decision, "then_branch", branch("Relu", "t"));
        set_graph(&mut decision, "else_branch", branch("Neg", "e"));
        let inputs = vec![tensor_value("x", DataType::Float, &["2"]), tensor_value("c", DataType::Bool, &[])];
        let nodes = vec![node("Add", &["x", "w"], &["h"], vec![]), decision];
        model(inputs, nodes, vec![weight("w", &[2], wavy)], vec![tensor_value("y", DataType::Float, &["2"])])
    }

    fn edited(model: ModelProto, edit: impl FnOnce(&mut Editor<'_>, &Graph)) -> ModelProto {
        let graph = Graph::new(model.graph.as_ref().unwrap(), model.ir_version()).unwrap();
        let mut editor = Editor::new(model, &graph).unwrap();
        edit(&mut editor, &graph);
        editor.finish()
    }

    fn tensors(graph: &GraphProto) -> Vec<&str> {
        graph.initializer.iter().map(TensorProto::name).collect()
    }

    #[test]
    fn what_lost_its_last_reader_goes_and_new_names_avoid_those_of_branches() {
        let changed = edited(sample(), |editor, _| {
            assert_eq!([editor.fresh("t"), editor.fresh("t"), editor.fresh("new")], ["t_2", "t_3", "new"]);
            let name = editor.add("w", weight("", &[2], wavy));
            let twice = editor.wire(NodeId(0), operator("Add", [name.clone(), name]), "twice");
            editor.redirect(NodeId(0), 1, twice).unwrap();
        });
        let graph = changed.graph.unwrap();
        assert_eq!(tensors(&graph), ["w_2"]);
        let wired: Vec<(&str, &[String])> = graph.node.iter().map(|n| (n.op_type(), n.input.as_slice())).collect();
        assert_eq!(wired[0], ("Add", &["w_2".to_owned(), "w_2".to_owned()][..]));
        assert_eq!(wired[1], ("Add", &["x".to_owned(), "twice".to_owned()][..]));
    }

    #[test]
    fn readers_in_branches_follow() {
        let changed = edited(sample(), |editor, graph| {
            let [sum, bias] = [editor.fresh("sum"), editor.add("b", weight("", &[2], wavy))];
            editor.redirect_readers(graph.value("h").unwrap(), &sum).unwrap();
            let add = NodeProto { output: vec![sum], ..operator("Add", ["h".to_owned(), bias]) };
            editor.insert_after(NodeId(0), add);
        });
        let graph = changed.graph.unwrap();
        let read: Vec<&str> = subgraphs(&graph.node[2]).map(|(_, body)| body.node[0].input[0].as_str()).collect();
        assert_eq!(read, ["sum", "sum"]);
    }

    #[test]
    fn aliases_reach_new_nodes_and_follow_each_other() {
        let changed = edited(sample(), |editor, _| {
            editor.replace(
                NodeId(0),
                vec![NodeProto { output: vec!["g".to_owned()], ..operator("Neg", ["x".to_owned()]) }],
            );
            editor.alias("h".to_owned(), "f".to_owned());
            editor.alias("f".to_owned(), "g".to_owned());
        });
        let graph = changed.graph.unwrap();
        assert_eq!(tensors(&graph), [""; 0]);
        let read: Vec<&str> = subgraphs(&graph.node[1]).map(|(_, body)| body.node[0].input[0].as_str()).collect();
        assert_eq!(read, ["g", "g"]);
    }

    /// Before IR version 4 every initializer is a graph input too.
    #[test]
    fn a_new_tensor_lifts_an_old_file() {
        let mut old = sample();
        old.ir_version = Some(3);
        old.graph.as_mut().unwrap().input.push(tensor_value("w", DataType::Float, &["2"]));
        assert_eq!(edited(old.clone(), |_, _| {}), old);
        let changed = edited(old, |editor, _| {
            let name = editor.add("w", weight("", &[2], wavy));
            editor.redirect(NodeId(0), 1, name).unwrap();
        });
        assert_eq!(changed.ir_version, Some(4));
        let graph = changed.graph.unwrap();
        let inputs: Vec<&str> = graph.input.iter().map(ValueInfoProto::name).collect();
        assert_eq!((inputs, tensors(&graph)), (vec!["x", "c"], vec!["w_2"]));
    }
}
