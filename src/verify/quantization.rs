//! Quantized models: what they compute without the rounding of their activations, and how far apart two of them are in
//! quantization steps.
//!
//! `QuantizeLinear` rounds: two sums of the same products in another order differ by 10⁻⁷ and may end up a whole step
//! apart, and every layer after that sees another input. So a removal is held to float accuracy with the activation
//! quantizers taken out, and with them in place it is measured where the two models first part: there a step is
//! rounding, more is not.

use std::collections::BTreeSet;

use super::kept::Kept;
use crate::graph::{Graph, Node, Source, ValueId, View};
use crate::onnx::proto::ModelProto;
use crate::runtime::{NamedTensor, Runnable};
use crate::{Error, Result};

/// How far apart the quantized values of two models are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Steps {
    /// Most steps at the first quantizer, in graph order, at which the models part; 0 if they never do.
    pub first: u64,
    /// Result of that quantizer.
    pub parting: Option<String>,
    /// Most steps at any quantizer.
    pub worst: u64,
}

impl Steps {
    /// What rounding explains where every earlier quantizer gave the same values.
    pub const TOLERANCE: u64 = 1;
}

/// Results of the quantizers of computed values, in graph order.
///
/// # Errors
/// If the graph is malformed.
pub fn quantized_activations(model: &ModelProto) -> Result<Vec<String>> {
    let graph = View::of(model)?.graph;
    let computed = computed(&graph);
    let quantizers = graph.nodes.iter().filter(|node| quantizes(node, &computed));
    let results = quantizers.filter_map(|node| node.outputs.first().copied().flatten());
    Ok(results.map(|value| graph.at(value).name.clone()).collect())
}

/// `model` without the quantization of computed values: their quantizers, and the dequantizers after them, hand on what
/// they are given. Stored values stay quantized.
///
/// # Errors
/// If the graph is malformed.
pub fn without_activation_quantizers(model: &ModelProto) -> Result<ModelProto> {
    let graph = View::of(model)?.graph;
    let computed = computed(&graph);
    let quantizers = graph.nodes.iter().filter(|node| quantizes(node, &computed));
    let quantized = quantizers.flat_map(|node| node.outputs.iter().copied().flatten());
    let open = graph.reached_from(quantized, |node| !is_operator(node, "DequantizeLinear"));
    let dequantizes = |node: &Node| {
        let data = node.inputs.first().copied().flatten();
        is_operator(node, "DequantizeLinear") && data.is_some_and(|data| open.contains(&data))
    };
    let mut model = model.clone();
    let Some(proto) = model.graph.as_mut() else { return Ok(model) };
    for (node, proto) in graph.nodes.iter().zip(&mut proto.node) {
        if quantizes(node, &computed) || dequantizes(node) {
            proto.op_type = Some("Identity".to_owned());
            proto.domain = None;
            proto.attribute.clear();
            proto.input.truncate(1);
        }
    }
    proto.value_info.clear(); // it declares integers
    Ok(model)
}

fn is_operator(node: &Node, op: &str) -> bool {
    // ONNX Runtime writes the same operators in its own domain for element types that the standard lacked.
    node.op == op && matches!(node.domain.as_str(), "" | "com.microsoft")
}

fn quantizes(node: &Node, computed: &BTreeSet<ValueId>) -> bool {
    let data = node.inputs.first().copied().flatten();
    is_operator(node, "QuantizeLinear") && data.is_some_and(|data| computed.contains(&data))
}

/// Values that depend on a graph input.
fn computed(graph: &Graph) -> BTreeSet<ValueId> {
    let values = (0..graph.values.len()).map(ValueId);
    let inputs = values.filter(|&value| matches!(graph.at(value).source, Source::Input(_)));
    graph.reached_from(inputs, |_| true)
}

/// Compares the quantized values of `masked` and `pruned`, which both return them as taps (see
/// [`quantized_activations`]); `kept` says which positions of the masked ones are left in the pruned ones.
///
/// # Errors
/// What running the models returns; [`ErrorKind::Proof`](crate::ErrorKind::Proof) when a value has another shape.
pub fn steps(
    masked: &Runnable,
    pruned: &Runnable,
    batches: &[Vec<NamedTensor>],
    taps: &[String],
    kept: &Kept,
) -> Result<Steps> {
    let mut apart = vec![0_u64; taps.len()];
    for batch in batches {
        let (whole, rest) = rayon::join(|| masked.run(batch), || pruned.run(&kept.of(batch)?));
        let (whole, rest) = (kept.of(&whole?)?, rest?);
        for (tap, most) in taps.iter().zip(&mut apart) {
            let find = |values: &[NamedTensor]| values.iter().find(|(name, _)| name == tap).map(|(_, t)| t.clone());
            let (Some(a), Some(b)) = (find(&whole), find(&rest)) else {
                return Err(Error::proof(format!("quantized value '{tap}' no longer exists")));
            };
            if a.shape() != b.shape() {
                let message = format!("quantized value '{tap}' has shape {:?}, not {:?}", b.shape(), a.shape());
                return Err(Error::proof(message));
            }
            let (a, b) = (a.to_vec::<i64>()?, b.to_vec::<i64>()?);
            *most = a.iter().zip(&b).map(|(a, b)| a.abs_diff(*b)).fold(*most, u64::max);
        }
    }
    let parting = apart.iter().position(|&most| most > 0);
    Ok(Steps {
        first: parting.map_or(0, |at| apart[at]),
        parting: parting.map(|at| taps[at].clone()),
        worst: apart.iter().copied().fold(0, u64::max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::GraphProto;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::onnx::tensor::{from_f32, from_i64};
    use crate::runtime::sample_models::{node, tensor_value, weight};

    fn quantized() -> GraphProto {
        GraphProto {
            input: vec![tensor_value("x", DataType::Float, &["n", "3"])],
            initializer: vec![
                weight("w", &[3, 3], |_| 0.5),
                from_f32("s", &[], &[0.1]).unwrap(),
                from_i64("k", &[1], &[0]).unwrap(),
            ],
            node: vec![
                node("QuantizeLinear", &["w", "s"], &["wq"], vec![]),
                node("DequantizeLinear", &["wq", "s"], &["wd"], vec![]),
                node("QuantizeLinear", &["x", "s"], &["xq"], vec![]),
                node("Transpose", &["xq"], &["xt"], vec![]),
                node("DequantizeLinear", &["xt", "s"], &["xd"], vec![]),
                node("MatMul", &["wd", "xd"], &["y"], vec![]),
            ],
            ..GraphProto::default()
        }
    }

    #[test]
    fn stored_values_stay_quantized() {
        let model = ModelProto { graph: Some(quantized()), ..ModelProto::default() };
        assert_eq!(quantized_activations(&model).unwrap(), ["xq"]);
        let plain = without_activation_quantizers(&model).unwrap().graph.unwrap();
        let ops: Vec<&str> = plain.node.iter().map(|node| node.op_type()).collect();
        assert_eq!(ops, ["QuantizeLinear", "DequantizeLinear", "Identity", "Transpose", "Identity", "MatMul"]);
    }
}
