//! Quantized models: what they compute without the rounding of their activations, and how far apart two of them are in
//! quantization steps.
//!
//! `QuantizeLinear` rounds: two sums of the same products in another order differ by 10⁻⁷ and may end up a whole step
//! apart, and every layer after that sees another input. So a removal is held to float accuracy with the activation
//! quantizers taken out, and with them in place it is measured where the two models first part: there a step is
//! rounding, more is not.

use std::collections::BTreeSet;

use super::kept::Kept;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto};
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
pub fn quantized_activations(graph: &GraphProto) -> Vec<String> {
    let computed = computed_values(graph);
    let quantizers = graph.node.iter().filter(|node| quantizes(node, &computed));
    quantizers.filter_map(|node| node.output.first().cloned()).collect()
}

/// `model` without the quantization of computed values: their quantizers, and the dequantizers behind them, hand on what
/// they are given. Stored values stay quantized.
pub fn without_activation_quantizers(model: &ModelProto) -> ModelProto {
    let mut model = model.clone();
    let Some(graph) = model.graph.as_mut() else { return model };
    let computed: BTreeSet<String> = computed_values(graph).into_iter().map(str::to_owned).collect();
    let computed: BTreeSet<&str> = computed.iter().map(String::as_str).collect();
    let mut open: BTreeSet<String> = BTreeSet::new();
    for node in &mut graph.node {
        let behind = node.input.first().is_some_and(|name| open.contains(name));
        if quantizes(node, &computed) || (is_standard(node, "DequantizeLinear") && behind) {
            if node.op_type() == "QuantizeLinear" {
                open.extend(node.output.iter().cloned());
            }
            node.op_type = Some("Identity".to_owned());
            node.domain = None;
            node.attribute.clear();
            node.input.truncate(1);
        } else if node.input.iter().any(|name| open.contains(name)) {
            open.extend(node.output.iter().cloned());
        }
    }
    graph.value_info.clear(); // it declares integers
    model
}

fn is_standard(node: &NodeProto, op: &str) -> bool {
    // ONNX Runtime writes the same operators in its own domain for element types that the standard lacked.
    node.op_type() == op && matches!(node.domain(), "" | "ai.onnx" | "com.microsoft")
}

fn quantizes(node: &NodeProto, computed: &BTreeSet<&str>) -> bool {
    is_standard(node, "QuantizeLinear") && node.input.first().is_some_and(|name| computed.contains(name.as_str()))
}

/// Names of the values that depend on a graph input.
fn computed_values(graph: &GraphProto) -> BTreeSet<&str> {
    let stored: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    let mut computed: BTreeSet<&str> =
        graph.input.iter().map(|input| input.name()).filter(|name| !stored.contains(name)).collect();
    for node in &graph.node {
        if node.input.iter().any(|name| computed.contains(name.as_str())) {
            computed.extend(node.output.iter().map(String::as_str));
        }
    }
    computed
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
                return Err(Error::proof(format!("quantized value '{tap}' is gone")));
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
        let graph = quantized();
        assert_eq!(quantized_activations(&graph), ["xq"]);
        let model = ModelProto { graph: Some(graph), ..ModelProto::default() };
        let plain = without_activation_quantizers(&model).graph.unwrap();
        let ops: Vec<&str> = plain.node.iter().map(|node| node.op_type()).collect();
        assert_eq!(ops, ["QuantizeLinear", "DequantizeLinear", "Identity", "Transpose", "Identity", "MatMul"]);
    }
}
