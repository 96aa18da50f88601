//! Finds attention in a graph: `softmax(α q kᵀ + b) v` in front of a layer, q, k and v being results of layers.
//!
//! Names play no part, and the search is generous: what it finds counts only once the block, computed from its parts,
//! gives the activations that the model gives (see [`Gathered`](super::gather::Gathered)).

use std::collections::BTreeSet;

use super::super::write::stored;
use crate::calibrate::Layer;
use crate::error::Result;
use crate::graph::{Node, NodeId, ValueId, View};

/// Operators between two parts of a block that are walked through; a guard against absurd graphs.
const DEEPEST: usize = 24;

/// The layers and values of one attention block.
#[derive(Debug, Clone)]
pub(in crate::repair) struct Block {
    pub(super) query: Layer,
    pub(super) key: Layer,
    pub(super) value: Layer,
    /// The value `α q kᵀ`.
    pub(super) scores: String,
    /// The value that the softmax is taken of.
    pub(super) logits: String,
}

impl Block {
    /// Values that the block is computed from.
    pub(in crate::repair) fn reads(&self) -> [&String; 3] {
        [&self.query.data, &self.key.data, &self.value.data]
    }

    /// Values inside the block that say what it adds to its scores, and what it makes of them.
    pub(in crate::repair) fn taps(&self) -> [&String; 2] {
        [&self.scores, &self.logits]
    }

    /// The block in front of `output`, a layer of `view`; `layers` are those of the graph that was analysed.
    pub(in crate::repair) fn find(view: &View<'_>, layers: &[Layer], output: &Layer) -> Result<Option<Self>> {
        let walk = Walk { view };
        let Some(parts) = view.graph.value(&output.data).and_then(|data| walk.parts(data)) else { return Ok(None) };
        let name = |value: ValueId| &view.graph.at(value).name;
        let layer = |result: ValueId| -> Result<Option<Layer>> {
            let layer = layers.iter().find(|layer| layer.result == *name(result));
            let Some(layer) = layer.map(|layer| layer.found_in(view)).transpose()?.flatten() else { return Ok(None) };
            let readers = view.graph.value(&layer.weight).map_or(0, |weight| view.graph.at(weight).uses.len());
            let is_plain = layer.groups == 1 && layer.taps == 1 && layer.linear.data == 0;
            Ok((is_plain && readers == 1).then_some(layer))
        };
        let (query, key, value) = (layer(parts.query)?, layer(parts.key)?, layer(parts.value)?);
        let (Some(query), Some(key), Some(value)) = (query, key, value) else { return Ok(None) };
        let are_distinct = query.result != key.result && key.result != value.result && value.result != query.result;
        let fits = query.outputs == key.outputs && value.outputs == output.inputs() && output.groups == 1;
        let (scores, logits) = (name(parts.scores).clone(), name(parts.logits).clone());
        Ok((are_distinct && fits).then_some(Self { query, key, value, scores, logits }))
    }
}

/// Results of the layers, and values between them.
struct Parts {
    query: ValueId,
    key: ValueId,
    value: ValueId,
    scores: ValueId,
    logits: ValueId,
}

struct Walk<'v> {
    view: &'v View<'v>,
}

impl<'v> Walk<'v> {
    fn parts(&self, data: ValueId) -> Option<Parts> {
        let mixed = self.behind_layout(data)?;
        let [weights, values] = self.product(mixed)?;
        let logits = self.softmax(weights, DEEPEST)?.inputs.first().copied().flatten()?;
        let scores = self.scores(logits, DEEPEST)?;
        let [queries, keys] = self.product(self.behind_scaling(scores)?)?;
        Some(Parts {
            query: self.layer(queries, DEEPEST)?,
            key: self.layer(keys, DEEPEST)?,
            value: self.layer(values, DEEPEST)?,
            scores,
            logits,
        })
    }

    /// The node whose first result is `value`.
    fn maker(&self, value: ValueId) -> Option<&'v Node> {
        let node = self.view.graph.node(self.view.graph.producer(value)?);
        (node.outputs.first() == Some(&Some(value))).then_some(node)
    }

    /// Both operands of a product of two computed values.
    fn product(&self, node: &Node) -> Option<[ValueId; 2]> {
        let &[Some(a), Some(b)] = node.inputs.as_slice() else { return None };
        let computed = |value: ValueId| self.view.tensor(value).is_none();
        (node.op == "MatMul" && computed(a) && computed(b)).then_some([a, b])
    }

    /// What makes `value`, reshapes and permutations aside.
    fn behind_layout(&self, value: ValueId) -> Option<&'v Node> {
        let mut node = self.maker(value)?;
        for _ in 0..DEEPEST {
            if !is_layout(&node.op) {
                return Some(node);
            }
            node = self.maker(node.inputs.first().copied().flatten()?)?;
        }
        None
    }

    /// The product that `scores` is a multiple of.
    fn behind_scaling(&self, scores: ValueId) -> Option<&'v Node> {
        let mut node = self.maker(scores)?;
        for _ in 0..DEEPEST {
            if self.product(node).is_some() {
                return Some(node);
            }
            let scaled = |value: &ValueId| self.scores(*value, DEEPEST).is_some();
            node = self.maker(node.inputs.iter().copied().flatten().find(scaled)?)?;
        }
        None
    }

    /// The softmax that makes `value`, or from which it is masked.
    fn softmax(&self, value: ValueId, depth: usize) -> Option<&'v Node> {
        let node = self.maker(value)?;
        match node.op.as_str() {
            "Softmax" => Some(node),
            "Identity" | "Cast" | "Dropout" | "Where" if depth > 0 => {
                node.inputs.iter().flatten().find_map(|&input| self.softmax(input, depth - 1))
            }
            _ => None,
        }
    }

    /// The multiple of `q kᵀ` that `value` is, or that `value` is after a mask or a bias was added.
    fn scores(&self, value: ValueId, depth: usize) -> Option<ValueId> {
        let depth = depth.checked_sub(1)?;
        let node = self.maker(value)?;
        if self.product(node).is_some() {
            return Some(value);
        }
        let inner = node.inputs.iter().flatten().find_map(|&input| Some((input, self.scores(input, depth)?)));
        let (input, inner) = inner?;
        match node.op.as_str() {
            "Mul" | "Div" | "Cast" | "Identity" if input == inner => Some(value),
            "Add" | "Sub" | "Where" | "Cast" | "Identity" => Some(inner),
            _ => None,
        }
    }

    /// The result of the layer that `value` is, up to a bias, a factor and the order of axes.
    fn layer(&self, value: ValueId, depth: usize) -> Option<ValueId> {
        let depth = depth.checked_sub(1)?;
        let node = self.maker(value)?;
        let at = self.view.graph.at(value);
        let readers: BTreeSet<NodeId> = at.uses.iter().map(|(reader, _)| *reader).collect();
        let readers = readers.into_iter().filter(|&reader| self.view.graph.node(reader).op != "Shape");
        if at.is_output || !at.captured_by.is_empty() || readers.count() != 1 {
            return None;
        }
        match node.op.as_str() {
            "MatMul" | "Gemm" => Some(value),
            op if is_layout(op) => self.layer(node.inputs.first().copied().flatten()?, depth),
            "Add" => {
                let is_bias = |value: &ValueId| stored(self.view, *value).is_some();
                let mut computed = node.inputs.iter().copied().flatten().filter(|value| !is_bias(value));
                let (Some(data), None) = (computed.next(), computed.next()) else { return None };
                self.layer(data, depth)
            }
            "Mul" | "Div" => node.inputs.iter().flatten().find_map(|&input| self.layer(input, depth)),
            _ => None,
        }
    }
}

fn is_layout(op: &str) -> bool {
    matches!(op, "Reshape" | "Transpose" | "Identity" | "Squeeze" | "Unsqueeze" | "Flatten" | "Dropout")
}
