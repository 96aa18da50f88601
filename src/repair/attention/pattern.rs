//! Finds attention in a graph: `softmax(α q kᵀ + b) v` in front of a layer, q, k and v being results of layers.
//!
//! Names play no part, and the search is generous: what it finds counts only once the block, computed from its parts,
//! gives the activations that the model gives (see [`Gathered`](super::gather::Gathered)).

use super::super::write::stored_behind_identity;
use crate::calibrate::{Layer, stored};
use crate::error::Result;
use crate::onnx::proto::{GraphProto, NodeProto};

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

    /// The block in front of `output`, a layer of `graph`; `layers` are those of the graph that was analysed.
    pub(in crate::repair) fn find(graph: &GraphProto, layers: &[Layer], output: &Layer) -> Result<Option<Self>> {
        let walk = Walk { graph };
        let Some(parts) = walk.parts(&output.data) else { return Ok(None) };
        let layer = |result: &str| -> Result<Option<Layer>> {
            let layer = layers.iter().find(|layer| layer.result == result);
            let Some(layer) = layer.map(|layer| layer.found_in(graph)).transpose()?.flatten() else { return Ok(None) };
            let readers = graph.node.iter().flat_map(|node| &node.input).filter(|input| **input == layer.weight);
            let is_plain = layer.groups == 1 && layer.taps == 1 && layer.linear.data == 0;
            Ok((is_plain && readers.count() == 1).then_some(layer))
        };
        let (query, key, value) = (layer(&parts.query)?, layer(&parts.key)?, layer(&parts.value)?);
        let (Some(query), Some(key), Some(value)) = (query, key, value) else { return Ok(None) };
        let are_distinct = query.result != key.result && key.result != value.result && value.result != query.result;
        let fits = query.outputs == key.outputs && value.outputs == output.inputs() && output.groups == 1;
        let block = Self { query, key, value, scores: parts.scores, logits: parts.logits };
        Ok((are_distinct && fits).then_some(block))
    }
}

/// Results of the layers, and values between them.
struct Parts {
    query: String,
    key: String,
    value: String,
    scores: String,
    logits: String,
}

struct Walk<'g> {
    graph: &'g GraphProto,
}

impl<'g> Walk<'g> {
    fn parts(&self, data: &str) -> Option<Parts> {
        let mixed = self.behind_layout(data)?;
        let [weights, values] = self.product(mixed)?;
        let logits = self.softmax(weights, DEEPEST)?.input.first()?;
        let scores = self.scores(logits, DEEPEST)?;
        let [queries, keys] = self.product(self.behind_scaling(scores)?)?;
        Some(Parts {
            query: self.layer(queries, DEEPEST)?.to_owned(),
            key: self.layer(keys, DEEPEST)?.to_owned(),
            value: self.layer(values, DEEPEST)?.to_owned(),
            scores: scores.to_owned(),
            logits: logits.clone(),
        })
    }

    fn maker(&self, name: &str) -> Option<&'g NodeProto> {
        self.graph.node.iter().find(|node| node.output.first().is_some_and(|output| output == name))
    }

    /// Both operands of a product of two computed values.
    fn product(&self, node: &'g NodeProto) -> Option<[&'g str; 2]> {
        let [a, b] = node.input.as_slice() else { return None };
        let computed = |name: &str| stored(self.graph, name).is_none();
        (node.op_type() == "MatMul" && computed(a) && computed(b)).then_some([a.as_str(), b.as_str()])
    }

    /// What makes `name`, reshapes and permutations aside.
    fn behind_layout(&self, name: &str) -> Option<&'g NodeProto> {
        let mut node = self.maker(name)?;
        for _ in 0..DEEPEST {
            if !is_layout(node.op_type()) {
                return Some(node);
            }
            node = self.maker(node.input.first()?)?;
        }
        None
    }

    /// The product that `scores` is a multiple of.
    fn behind_scaling(&self, scores: &str) -> Option<&'g NodeProto> {
        let mut node = self.maker(scores)?;
        for _ in 0..DEEPEST {
            if self.product(node).is_some() {
                return Some(node);
            }
            let scaled = |name: &&String| self.scores(name, DEEPEST).is_some();
            node = self.maker(node.input.iter().find(scaled)?)?;
        }
        None
    }

    /// The softmax that makes `name`, or from which it is masked.
    fn softmax(&self, name: &str, depth: usize) -> Option<&'g NodeProto> {
        let node = self.maker(name)?;
        match node.op_type() {
            "Softmax" => Some(node),
            "Identity" | "Cast" | "Dropout" | "Where" if depth > 0 => {
                node.input.iter().find_map(|input| self.softmax(input, depth - 1))
            }
            _ => None,
        }
    }

    /// The multiple of `q kᵀ` that `name` is, or that `name` is after a mask or a bias was added.
    fn scores(&self, name: &'g str, depth: usize) -> Option<&'g str> {
        let depth = depth.checked_sub(1)?;
        let node = self.maker(name)?;
        if self.product(node).is_some() {
            return Some(name);
        }
        let inner = node.input.iter().find_map(|input| Some((input, self.scores(input, depth)?)));
        let (input, inner) = inner?;
        match node.op_type() {
            "Mul" | "Div" | "Cast" | "Identity" if input == inner => Some(name),
            "Add" | "Sub" | "Where" | "Cast" | "Identity" => Some(inner),
            _ => None,
        }
    }

    /// The result of the layer that `name` is, up to a bias, a factor and the order of axes.
    fn layer(&self, name: &str, depth: usize) -> Option<&'g str> {
        let depth = depth.checked_sub(1)?;
        let node = self.maker(name)?;
        let is_output = self.graph.output.iter().any(|output| output.name() == name);
        let reads = |node: &&NodeProto| node.op_type() != "Shape" && node.input.iter().any(|input| input == name);
        if is_output || self.graph.node.iter().filter(reads).count() != 1 {
            return None;
        }
        match node.op_type() {
            "MatMul" | "Gemm" => node.output.first().map(String::as_str),
            op if is_layout(op) => self.layer(node.input.first()?, depth),
            "Add" => {
                let is_bias = |name: &&String| stored_behind_identity(self.graph, name).is_some();
                let mut computed = node.input.iter().filter(|name| !is_bias(name));
                let (Some(data), None) = (computed.next(), computed.next()) else { return None };
                self.layer(data, depth)
            }
            "Mul" | "Div" => node.input.iter().find_map(|input| self.layer(input, depth)),
            _ => None,
        }
    }
}

fn is_layout(op: &str) -> bool {
    matches!(op, "Reshape" | "Transpose" | "Identity" | "Squeeze" | "Unsqueeze" | "Flatten" | "Dropout")
}
