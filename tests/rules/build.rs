//! Models of one node from the text of an example.

use std::collections::BTreeSet;

use paredown::internals::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use paredown::internals::onnx::tensor::{from_f32, from_i64};
use paredown::internals::runtime::{NamedTensor, Tensor};

use super::examples::{Example, OPSET};
use super::support::{self, declared, of_opsets};

/// A model and inputs for it.
pub(crate) struct Built {
    pub(crate) model: ModelProto,
    pub(crate) inputs: Vec<NamedTensor>,
    /// Names of all inputs and outputs.
    pub(crate) ends: BTreeSet<String>,
}

pub(crate) fn build((op, operands, attributes, results): Example) -> Built {
    let mut graph = GraphProto { name: Some("example".into()), ..GraphProto::default() };
    let mut inputs = Vec::new();
    let mut names = Vec::new();
    for (index, text) in operands.split_whitespace().enumerate() {
        let name = format!("x{index}");
        if text == "_" {
            names.push(String::new());
            continue;
        }
        match stored(&name, text) {
            Some(tensor) => graph.initializer.push(tensor),
            None => {
                let (element, tensor) = data(text, index);
                graph.input.push(declared(&name, element, Some(tensor.shape())));
                inputs.push((name.clone(), tensor));
            }
        }
        names.push(name);
    }
    let (domain, op) = op.rsplit_once('.').unwrap_or(("", op));
    let outputs: Vec<String> = (0..results).map(|i| format!("y{i}")).collect();
    graph.output = outputs.iter().map(|name| declared(name, 1, None)).collect();
    graph.node.push(NodeProto {
        name: Some("node".into()),
        op_type: Some(op.into()),
        domain: Some(domain.into()),
        input: names,
        output: outputs.clone(),
        attribute: support::attributes(attributes),
        ..NodeProto::default()
    });
    let ends = inputs.iter().map(|(name, _)| name.clone()).chain(outputs).collect();
    Built { model: model(graph), inputs, ends }
}

pub(crate) fn model(graph: GraphProto) -> ModelProto {
    of_opsets(graph, 10, &[("", OPSET), ("ai.onnx.ml", 3), ("com.microsoft", 1)])
}

fn list(text: &str) -> Vec<i64> {
    text.split(',').filter(|n| !n.is_empty()).map(|n| n.parse().unwrap()).collect()
}

/// `[1,2]`, `[]3`, `~0.5`.
fn stored(name: &str, text: &str) -> Option<TensorProto> {
    if let Some(number) = text.strip_prefix('~') {
        return Some(from_f32(name, &[], &[number.parse().unwrap()]).unwrap());
    }
    if let Some(dims) = text.strip_prefix('w') {
        let dims: Vec<usize> = list(dims).into_iter().map(|n| usize::try_from(n).unwrap()).collect();
        let values: Vec<f32> = (0..dims.iter().product()).map(|i| real(name.len(), i)).collect();
        return Some(from_f32(name, &dims, &values).unwrap());
    }
    if let Some(number) = text.strip_prefix("[]") {
        return Some(from_i64(name, &[], &[number.parse().unwrap()]).unwrap());
    }
    let values = list(text.strip_prefix('[')?.strip_suffix(']')?);
    Some(from_i64(name, &[values.len()], &values).unwrap())
}

/// Numbers in 0.1..0.9 that are all different, so that no function is asked for a value outside its domain.
fn real(seed: usize, index: usize) -> f32 {
    let hash = (index + 1) * 7919 + (seed + 1) * 104_729;
    0.1 + 0.8 * ((hash * 2_654_435_761 % 100_003) as f32 / 100_003.0)
}

fn data(text: &str, seed: usize) -> (i32, Tensor) {
    let (kind, rest) = text.split_at(text.len() - text.trim_start_matches(char::is_alphabetic).len());
    let (dims, limit) = rest.split_once('<').unwrap_or((rest, "200"));
    let shape: Vec<usize> = list(dims).into_iter().map(|n| usize::try_from(n).unwrap()).collect();
    let count: usize = shape.iter().product();
    let limit: i64 = limit.parse().unwrap();
    let integer = |i: usize| ((i * 7 + seed * 3) as i64) % limit;
    match kind {
        "" => (1, Tensor::new(&shape, &(0..count).map(|i| real(seed, i)).collect::<Vec<f32>>()).unwrap()),
        "i" => (7, Tensor::new(&shape, &(0..count).map(integer).collect::<Vec<i64>>()).unwrap()),
        "u" => (2, Tensor::new(&shape, &(0..count).map(|i| integer(i) as u8).collect::<Vec<u8>>()).unwrap()),
        "b" => (9, Tensor::new(&shape, &(0..count).map(|i| i % 3 != 0).collect::<Vec<bool>>()).unwrap()),
        other => panic!("operand kind '{other}'"),
    }
}
