//! The layers of a network before and after a rewrite: what its picture shows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::graph::constant_tensor;
use crate::onnx::attributes::{Attributes, subgraphs};
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto};

/// A layer of the network: a node with a stored weight, before and after the rewrite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NodeReport {
    /// Name of the node, or of its first output.
    pub name: String,
    /// Operator of the node.
    pub op: String,
    /// Width and weight of the original layer.
    pub before: LayerSize,
    /// Width and weight in the rewritten model; `None` if the layer is gone.
    pub after: Option<LayerSize>,
    /// Rank, if the layer was split into layers of low rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
}

/// Width and weight of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LayerSize {
    /// Number of outputs: channels or neurons.
    pub width: usize,
    /// Elements of the weight.
    pub params: u64,
}

/// Layers of `original` in the order of its graph, each beside the one of `rewritten` that computes the same value.
pub(super) fn network(original: &ModelProto, rewritten: &ModelProto) -> Vec<NodeReport> {
    let mut after = BTreeMap::new();
    for (node, size) in layers(rewritten) {
        after.entry(output(node)).or_insert(size);
    }
    let layers = layers(original).into_iter();
    let report = |(node, before): (&NodeProto, LayerSize)| {
        let output = output(node);
        let name = if node.name().is_empty() { output } else { node.name() };
        let (name, op) = (name.to_owned(), node.op_type().to_owned());
        NodeReport { name, op, before, after: after.get(output).copied(), rank: None }
    };
    layers.map(report).collect()
}

/// The first output that a node has.
fn output(node: &NodeProto) -> &str {
    node.output.iter().map(String::as_str).find(|name| !name.is_empty()).unwrap_or_default()
}

/// The nodes with a stored weight, bodies of control flow included.
fn layers(model: &ModelProto) -> Vec<(&NodeProto, LayerSize)> {
    let mut found = Vec::new();
    if let Some(graph) = &model.graph {
        collect(graph, &BTreeMap::new(), &mut found);
    }
    found
}

fn collect<'m>(
    graph: &'m GraphProto,
    outer: &BTreeMap<&'m str, Vec<usize>>,
    found: &mut Vec<(&'m NodeProto, LayerSize)>,
) {
    let mut shapes = outer.clone();
    let sizes = |dims: &[i64]| dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect::<Vec<usize>>();
    shapes.extend(graph.initializer.iter().map(|tensor| (tensor.name(), sizes(&tensor.dims))));
    for node in &graph.node {
        let stored = |slot: usize| node.input.get(slot).and_then(|name| shapes.get(name.as_str()));
        let made = match node.op_type() {
            "Constant" => constant_tensor(node).map(|tensor| sizes(&tensor.dims)),
            // What quantizes, converts or renames a stored weight leaves its shape.
            "DequantizeLinear" | "QuantizeLinear" | "Cast" | "Identity" => stored(0).cloned(),
            "Transpose" => stored(0).map(|shape| transposed(node, shape)),
            _ => None,
        };
        if let Some(size) = size(node, stored) {
            found.push((node, size));
        }
        if let (Some(shape), Some(output)) = (made, node.output.first()) {
            shapes.insert(output, shape);
        }
        for (_, body) in subgraphs(node) {
            collect(body, &shapes, found);
        }
    }
}

fn transposed(node: &NodeProto, shape: &[usize]) -> Vec<usize> {
    let order = Attributes::of(node).ints("perm").ok().flatten();
    let reversed = || shape.iter().rev().copied().collect();
    let picked =
        |order: &[i64]| order.iter().filter_map(|&axis| shape.get(usize::try_from(axis).ok()?).copied()).collect();
    order.map_or_else(reversed, picked)
}

/// Width and weight of a layer; `None` if the node multiplies with no stored weight.
fn size<'s>(node: &NodeProto, stored: impl Fn(usize) -> Option<&'s Vec<usize>>) -> Option<LayerSize> {
    let int = |name: &str, default: i64| Attributes::of(node).int_or(name, default).unwrap_or(default);
    let groups = || usize::try_from(int("group", 1)).unwrap_or(1);
    let weight = |slot: usize| stored(slot).filter(|shape| shape.len() > 1);
    let (shape, width) = match node.op_type() {
        "Conv" => weight(1).map(|shape| (shape, shape[0]))?,
        "ConvTranspose" => weight(1).map(|shape| (shape, shape[1] * groups()))?,
        "QLinearConv" => weight(3).map(|shape| (shape, shape[0]))?,
        "Gemm" => weight(1).map(|shape| (shape, shape[usize::from(int("transB", 0) == 0)]))?,
        "MatMul" | "MatMulInteger" | "QLinearMatMul" => {
            let right = if node.op_type() == "QLinearMatMul" { 3 } else { 1 };
            let of_right = weight(right).map(|shape| (shape, shape[shape.len() - 1]));
            of_right.or_else(|| weight(0).map(|shape| (shape, shape[shape.len() - 2])))?
        }
        "LSTM" | "GRU" | "RNN" => {
            let recurrent = weight(2).filter(|shape| shape.len() == 3)?;
            weight(1).map(|shape| (shape, recurrent[0] * recurrent[2]))?
        }
        "Gather" => weight(0).filter(|_| int("axis", 0) == 0).map(|shape| (shape, shape[shape.len() - 1]))?,
        "Attention" => weight(1).map(|shape| (shape, shape[shape.len() - 1]))?,
        _ => return None,
    };
    Some(LayerSize { width, params: shape.iter().map(|&size| size as u64).product() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::attributes::{set_int, set_ints};
    use crate::onnx::proto::TensorProto;

    fn node(op: &str, input: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(format!("{op} of {output}")),
            input: input.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            ..NodeProto::default()
        }
    }

    fn model(nodes: Vec<NodeProto>, weights: &[(&str, &[i64])]) -> ModelProto {
        let tensor = |&(name, dims): &(&str, &[i64])| TensorProto {
            name: Some(name.to_owned()),
            dims: dims.to_vec(),
            ..TensorProto::default()
        };
        let initializer = weights.iter().map(tensor).collect();
        ModelProto {
            graph: Some(GraphProto { node: nodes, initializer, ..GraphProto::default() }),
            ..ModelProto::default()
        }
    }

    #[test]
    fn widths_are_those_of_the_outputs() {
        let mut gemm = node("Gemm", &["x", "g"], "a");
        set_int(&mut gemm, "transB", 1);
        let mut turned = node("Transpose", &["m"], "mt");
        set_ints(&mut turned, "perm", &[1, 0]);
        let nodes = || {
            vec![
                gemm.clone(),
                node("DequantizeLinear", &["q", "scale"], "dq"),
                node("Conv", &["a", "dq"], "b"),
                turned.clone(),
                node("MatMul", &["b", "mt"], "c"),
                node("MatMul", &["b", "c"], "d"),
                node("GRU", &["d", "w", "r"], "e"),
            ]
        };
        let weights: [(&str, &[i64]); 6] = [
            ("g", &[5, 3]),
            ("q", &[8, 5, 3, 3]),
            ("scale", &[]),
            ("m", &[7, 8]),
            ("w", &[2, 12, 7]),
            ("r", &[2, 12, 4]),
        ];
        let mut half = weights;
        half[0].1 = &[4, 3];
        half[1].1 = &[8, 4, 3, 3];
        let found = network(&model(nodes(), &weights), &model(nodes()[..3].to_vec(), &half));
        let widths: Vec<_> = found.iter().map(|layer| (layer.name.as_str(), layer.before.width)).collect();
        assert_eq!(widths, [("Gemm of a", 5), ("Conv of b", 8), ("MatMul of c", 7), ("GRU of e", 8)]);
        assert_eq!(found[0].after, Some(LayerSize { width: 4, params: 12 }));
        assert_eq!(found[1].after, Some(LayerSize { width: 8, params: 8 * 4 * 9 }));
        assert_eq!((found[0].before.params, found[2].after), (15, None));
    }
}
