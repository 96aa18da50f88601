//! What tract runs in the place of a node that it has no operator for, or none in float64.

use super::nodes::{cast, plain, stored};
use super::promote::Precision;
use super::recurrent::spelled_out;
use crate::onnx::domain::canonical;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{NodeProto, TensorProto};
use crate::onnx::tensor::{ElementType, from_f32, from_f64_as};

/// An operator that tract has in float32 only.
struct Single {
    domain: &'static str,
    op: &'static str,
    /// Numbers of the operands that are floats.
    operands: &'static [usize],
    /// Numbers of the results that are floats.
    results: &'static [usize],
}

const fn single(op: &'static str, operands: &'static [usize], results: &'static [usize]) -> Single {
    Single { domain: "", op, operands, results }
}

const fn microsoft(op: &'static str, operands: &'static [usize], results: &'static [usize]) -> Single {
    Single { domain: "com.microsoft", op, operands, results }
}

/// Operators that run in float32 in a model that runs in float64.
///
/// Two models that agree in float64 give such an operator the same float32 numbers but for rare ties, so rounding still does not
/// part them as it would in float32 throughout. Only layers that sum, the recurrent ones and attention, round for themselves.
const SINGLES: &[Single] = &[
    single("Attention", &[0, 1, 2, 4, 5], &[0, 1, 2]),
    single("Erf", &[0], &[0]),
    single("GRU", &[0, 1, 2, 3, 5], &[0, 1]),
    single("Gelu", &[0], &[0]),
    single("HardSwish", &[0], &[0]),
    single("IsInf", &[0], &[]),
    single("IsNaN", &[0], &[]),
    single("LSTM", &[0, 1, 2, 3, 5, 6, 7], &[0, 1, 2]),
    single("LeakyRelu", &[0], &[0]),
    single("RNN", &[0, 1, 2, 3, 5], &[0, 1]),
    // Region and scales; before version 11, scales.
    single("Resize", &[0, 1, 2], &[0]),
    single("Round", &[0], &[0]),
    single("Swish", &[0], &[0]),
    microsoft("BiasGelu", &[0, 1], &[0]),
    microsoft("Gelu", &[0], &[0]),
    microsoft("QuickGelu", &[0], &[0]),
];

/// What tract runs in the place of a node: `Scaler` is `(x - offset) * scale`, features last. In float64, `Sigmoid` is
/// `tanh(x / 2) / 2 + 1/2`: at the end of a network that finds nothing, float32 has a handful of numbers for its results. Any
/// other operator that tract has in float32 only has its operands cast to that, and its results cast back. Recurrent layers
/// are [spelled out](spelled_out).
pub(super) fn lowered(node: NodeProto, precision: Precision) -> Vec<NodeProto> {
    if node.domain() == "ai.onnx.ml" && node.op_type() == "Scaler" {
        return scaled(node, precision);
    }
    let domain = canonical(node.domain());
    if domain.is_empty() && node.op_type() == "Sigmoid" && precision == Precision::Double {
        return sigmoid(node);
    }
    let nodes = match SINGLES.iter().find(|row| (row.domain, row.op) == (domain, node.op_type())) {
        Some(row) if precision == Precision::Double => in_single(node, row),
        _ => vec![node],
    };
    nodes.into_iter().flat_map(spelled_out).collect()
}

/// `node` between casts to float32 and back.
fn in_single(mut node: NodeProto, row: &Single) -> Vec<NodeProto> {
    let label = node.output.iter().find(|result| !result.is_empty()).cloned().unwrap_or_default();
    let is_used = |name: &&mut String| !name.is_empty();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for &number in row.operands {
        let Some(operand) = node.input.get_mut(number).filter(is_used) else { continue };
        let single = format!("{label} operand {number} in float32");
        before.push(cast(operand, DataType::Float, &single));
        *operand = single;
    }
    for &number in row.results {
        let Some(result) = node.output.get_mut(number).filter(is_used) else { continue };
        let single = format!("{label} result {number} in float32");
        let mut back = cast(&single, DataType::Double, result);
        // A node of the model may be called like its result.
        back.name = Some(format!("{label} result {number} in float64"));
        after.push(back);
        *result = single;
    }
    before.push(node);
    before.append(&mut after);
    before
}

/// Nodes that are put in the place of one, each reading the result of the one before.
struct Chain {
    nodes: Vec<NodeProto>,
    value: String,
    result: String,
}

impl Chain {
    fn new(data: &str, result: &str) -> Self {
        Self { nodes: Vec::new(), value: data.to_owned(), result: result.to_owned() }
    }

    /// Applies `op` to the last result and to a stored operand, if there is one.
    fn step(&mut self, op: &str, suffix: &str, operand: Option<TensorProto>) {
        let next = format!("{} {op} {suffix}", self.result);
        let mut inputs = vec![self.value.clone()];
        if let Some(tensor) = operand {
            let constant = format!("{next} operand");
            self.nodes.push(stored(tensor, &constant));
            inputs.push(constant);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.nodes.push(plain(op, &inputs, &next));
        self.value = next;
    }

    fn cast(&mut self, to: DataType) {
        let next = format!("{} {}", self.result, to.as_str_name());
        self.nodes.push(cast(&self.value, to, &next));
        self.value = next;
    }

    fn end(mut self) -> Vec<NodeProto> {
        self.nodes.push(plain("Identity", &[&self.value], &self.result));
        self.nodes
    }
}

fn sigmoid(node: NodeProto) -> Vec<NodeProto> {
    let (Some(data), Some(result)) = (node.input.first(), node.output.first()) else { return vec![node] };
    let mut chain = Chain::new(data, result);
    for (number, op) in ["Mul", "Tanh", "Mul", "Add"].into_iter().enumerate() {
        let half = || from_f64_as("", &[], &[0.5], ElementType::Double).ok();
        chain.step(op, &number.to_string(), if op == "Tanh" { None } else { half() });
    }
    chain.end()
}

fn scaled(node: NodeProto, precision: Precision) -> Vec<NodeProto> {
    let (Some(data), Some(result)) = (node.input.first(), node.output.first()) else { return vec![node] };
    let mut chain = Chain::new(data, result);
    chain.cast(DataType::Float);
    for (op, attribute) in [("Sub", "offset"), ("Mul", "scale")] {
        let numbers = node.attribute.iter().find(|a| a.name() == attribute).map_or(&[][..], |a| &a.floats);
        if let (false, Ok(tensor)) = (numbers.is_empty(), from_f32("", &[numbers.len()], numbers)) {
            chain.step(op, attribute, Some(tensor));
        }
    }
    if precision == Precision::Double {
        chain.cast(DataType::Double);
    }
    chain.end()
}
