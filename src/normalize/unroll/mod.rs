//! Loops, branches and sequences of tensors that constants decide, as plain nodes.
//!
//! The axis algebra and tract know tensors only. An exporter that splits at positions which it does not see writes a loop
//! that inserts slices into a sequence; one that squeezes an axis whose size it does not see writes a branch. Where the number
//! of iterations, the condition, the sizes and the positions are constants:
//!
//! ```text
//! l = Loop(2, true, SequenceEmpty(); body: (i, c, s) → (c, SequenceInsert(s, Slice(x, i))))   y = SequenceAt(l, 1)
//!     s = SequenceEmpty()  a = Slice(x, 0)  t = SequenceInsert(s, a)  b = Slice(x, 1)  l = SequenceInsert(t, b)   y = b
//! ```
//!
//! after which nothing reads `s`, `t` and `l` any more. A call takes one step: what happens inside is known of the plain
//! nodes only, so that the model is analysed once more.

mod control;
mod regions;
mod sequences;

use std::collections::BTreeMap;

use crate::axes::BINDINGS;
use crate::facts::Facts;
use crate::graph::{Editor, Graph, Node, ValueId, holds_throughout, operator};
use crate::onnx::attributes::position;
use crate::onnx::domain::is_standard;
use crate::onnx::opset_of;
use crate::onnx::proto::{ModelProto, NodeProto, TensorProto};
use crate::onnx::traits::{self, COMPUTES, MAKES_SEQUENCE, PICKS, READS_SEQUENCE, READS_SHAPE, Traits};

/// Iterations of a loop that is unrolled, and tensors of a sequence, at most.
const MOST_ITEMS: i64 = 256;

/// Nodes that a model may grow into.
const MOST_NODES: usize = 1 << 16;

/// Operators that make or read sequences of tensors.
const SEQUENCES: Traits = MAKES_SEQUENCE.and(READS_SEQUENCE);

/// Whether a model has branches, sequences or written positions in its main graph.
pub(crate) fn may_unroll(model: &ModelProto) -> bool {
    let nodes = model.graph.iter().flat_map(|graph| &graph.node);
    nodes.into_iter().any(|node| traits::of_node(node).has_any(SEQUENCES) || is_one_of(node, &["If", "ScatterND"]))
}

/// One step towards a model without branches and sequences: loops that carry sequences unrolled, branches that are always
/// taken put in place, readers of known sequences replaced. `None` if nothing is left that can be.
pub(crate) fn unrolled(model: &ModelProto, graph: &Graph, facts: &Facts) -> Option<ModelProto> {
    let proto = model.graph.as_ref()?;
    let opset = opset_of(model, "")?;
    let editor = Editor::new(model.clone(), graph).ok()?;
    let (held, new) = (BTreeMap::new(), Vec::new());
    let mut unroller = Unroller { graph, facts, opset, editor, held, new };
    let (mut changed, mut count) = (false, proto.node.len());
    for &id in &graph.order {
        let node = proto.node.get(id.0)?;
        let is_replaced = unroller.visit(node).is_some();
        let new = std::mem::take(&mut unroller.new);
        if is_replaced {
            changed = true;
            count += new.len();
            new.iter().flat_map(|node| &node.output).for_each(|name| unroller.editor.forget(name.clone()));
            unroller.editor.replace(id, new);
        }
        if count > MOST_NODES {
            return None;
        }
    }
    let sequences: Vec<String> = unroller.held.into_keys().collect();
    sequences.into_iter().for_each(|name| unroller.editor.forget(name));
    changed.then(|| unroller.editor.finish_flat())
}

fn is_one_of(node: &NodeProto, operators: &[&str]) -> bool {
    is_standard(node) && operators.contains(&node.op_type())
}

struct Unroller<'a> {
    graph: &'a Graph,
    facts: &'a Facts,
    opset: i64,
    editor: Editor<'a>,
    /// What each sequence holds; `None` for one of which that is not known.
    held: BTreeMap<String, Option<Vec<String>>>,
    /// Nodes in the place of the one that is being visited.
    new: Vec<NodeProto>,
}

impl Unroller<'_> {
    /// Collects what stands in the place of a node; `None` if the node stays.
    fn visit(&mut self, node: &NodeProto) -> Option<()> {
        let done = match node.op_type() {
            _ if !is_standard(node) => None,
            "Loop" => self.unroll(node),
            "If" => self.decide(node),
            "SplitToSequence" => self.split(node),
            "ScatterND" => self.write_region(node),
            _ if traits::of_node(node).has(READS_SEQUENCE) => self.read(node),
            _ => None,
        };
        if done.is_some() {
            return done;
        }
        let facts = traits::of_node(node);
        if facts.has(MAKES_SEQUENCE) || self.reads_sequence(node) && !facts.has(READS_SEQUENCE) {
            let held = if node.op_type() == "Identity" { self.operand(node, 0) } else { self.make(node) };
            node.output.iter().for_each(|name| drop(self.held.insert(name.clone(), held.clone())));
        }
        None
    }

    fn reads_sequence(&self, node: &NodeProto) -> bool {
        node.input.iter().any(|name| self.held.contains_key(name))
    }

    /// What operand `slot` holds, a sequence.
    fn operand(&self, node: &NodeProto, slot: usize) -> Option<Vec<String>> {
        self.held.get(node.input.get(slot)?)?.clone()
    }

    /// The integers of operand `slot`, a constant.
    fn ints(&self, node: &NodeProto, slot: usize) -> Option<Vec<i64>> {
        self.constant_ints(self.graph.value(node.input.get(slot)?)?)
    }

    fn constant_ints(&self, value: ValueId) -> Option<Vec<i64>> {
        if self.is_certain(value) { self.facts.at(value).ints() } else { None }
    }

    /// Whether a value follows sizes without a case distinction: what holds at all sample sizes holds at all sizes. Of a tensor
    /// whose size is asked for, Slices alone are looked at: other sizes are taken to follow those of the inputs.
    fn is_arithmetic(&self, value: ValueId) -> bool {
        holds_throughout((value, false), |(value, is_sized)| {
            let Some(id) = self.graph.producer(value) else { return Some(Vec::new()) };
            let node = self.graph.node(id);
            let op = node.op.as_str();
            let is_known = node.traits().has_any(PICKS.and(COMPUTES));
            if !(is_sized || is_known) || op == "Slice" && !self.leaves_a_margin(node) {
                return None;
            }
            let is_case = op == "Where" && !is_sized;
            if is_case && !self.is_never(node.inputs.first().copied().flatten()) {
                return None;
            }
            let is_sized = is_sized || node.traits().has(READS_SHAPE);
            let sized = |values: &[Option<ValueId>]| values.iter().flatten().map(|&value| (value, is_sized)).collect();
            Some(if is_case {
                sized(node.inputs.get(2..).unwrap_or_default())
            } else {
                node.reads().map(|value| (value, is_sized)).collect()
            })
        })
    }

    /// Whether a Slice leaves out the same positions at the ends, whatever the size: an end that is a number is beyond short
    /// axes and within long ones, and so is a start that counts from behind.
    fn leaves_a_margin(&self, node: &Node) -> bool {
        let fact = |slot: usize| node.inputs.get(slot).copied().flatten().map(|value| self.facts.at(value));
        let ints = |slot: usize| fact(slot).and_then(|fact| fact.ints());
        let extents = fact(0).and_then(|fact| fact.extents.as_ref());
        let (Some(extents), Some(starts), Some(ends)) = (extents, ints(1), ints(2)) else { return false };
        let or = |slot: usize, default: Vec<i64>| if fact(slot).is_some() { ints(slot) } else { Some(default) };
        let (axes, steps) = (or(3, (0..).take(ends.len()).collect()), or(4, vec![1; ends.len()]));
        let (Some(axes), Some(steps)) = (axes, steps) else { return false };
        let is_fixed = |axis: i64| {
            let extent = position(axis, extents.len()).and_then(|axis| extents.get(axis));
            extent.is_some_and(|extent| extent.as_fixed().is_some())
        };
        let count = ends.len();
        let is_margin = |i: usize| {
            let goes_to_an_end = ends[i] < 0 || ends[i] >= i64::from(i32::MAX);
            starts[i] >= 0 && goes_to_an_end && steps[i] == 1 || is_fixed(axes[i])
        };
        [&starts, &axes, &steps].iter().all(|list| list.len() == count) && (0..count).all(is_margin)
    }

    /// Whether a condition asks for sizes below zero.
    fn is_never(&self, condition: Option<ValueId>) -> bool {
        let maker = |value: ValueId| self.graph.producer(value).map(|id| self.graph.node(id));
        let Some(node) = condition.and_then(maker).filter(|node| node.op == "Equal") else { return false };
        let is_size = |value: &&ValueId| maker(**value).is_some_and(|node| node.op == "Shape");
        let (sizes, others): (Vec<&ValueId>, Vec<&ValueId>) = node.inputs.iter().flatten().partition(is_size);
        let is_negative = |value: &&ValueId| self.facts.at(**value).ints().is_some_and(|v| v.iter().all(|&n| n < 0));
        sizes.len() == 1 && others.len() == 1 && others.iter().all(is_negative)
    }

    /// Whether a value is the same for all sizes of dynamic axes, not just for those of the samples: `n == 1` may be false for
    /// every sample.
    fn is_certain(&self, value: ValueId) -> bool {
        holds_throughout(value, |value| {
            let fact = self.facts.at(value);
            let same = (1..BINDINGS).all(|b| fact.constant(b).is_some() && fact.constant(b) == fact.constant(0));
            let maker = self.graph.producer(value).map(|id| self.graph.node(id));
            let read = || {
                maker.filter(|node| !node.traits().has(PICKS)).map(|node| node.reads().collect()).unwrap_or_default()
            };
            same.then(read)
        })
    }

    /// A name that nothing has yet, below that of `node`.
    fn fresh(&mut self, node: &NodeProto, stem: &str) -> String {
        let first = node.output.iter().find(|name| !name.is_empty()).map_or("", String::as_str);
        let owner = if node.name().is_empty() { first } else { node.name() };
        self.editor.fresh(&format!("{owner}/{stem}"))
    }

    /// `value` is `same` from now on; a graph output keeps its name and becomes a copy.
    fn becomes(&mut self, value: &str, same: String) {
        let is_output = self.graph.value(value).is_some_and(|id| self.graph.at(id).is_output);
        if is_output {
            let (name, output) = (Some(value.to_owned()), vec![value.to_owned()]);
            self.new.push(NodeProto { name, output, ..operator("Identity", [same]) });
        } else {
            self.editor.alias(value.to_owned(), same);
        }
    }

    /// Adds an initializer, which goes again if nothing reads it.
    fn store(&mut self, tensor: TensorProto) {
        self.editor.forget(tensor.name().to_owned());
        self.editor.push(tensor);
    }
}
