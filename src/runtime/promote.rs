//! Half-precision models, run in float32.
//!
//! tract has no bfloat16 at all, and float16 arithmetic would drown an exactness check in rounding. So the copy that
//! runs may have every half-precision type replaced by float32: weights and constants keep their values exactly.

use half::{bf16, f16};

use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto};

/// The element type that runs in place of `code`: float32 for bfloat16, and for float16 if `halves` are promoted.
pub(super) fn promoted_type(code: i32, halves: bool) -> i32 {
    let is_half = code == DataType::Bfloat16 as i32 || (halves && code == DataType::Float16 as i32);
    if is_half { DataType::Float as i32 } else { code }
}

/// Replaces half-precision types in the attributes of `node` and in its subgraphs.
pub(super) fn promote_node(node: &mut NodeProto, halves: bool) {
    for attribute in &mut node.attribute {
        promote_attribute(attribute, halves);
    }
}

fn promote_attribute(attribute: &mut AttributeProto, halves: bool) {
    if matches!(attribute.name(), "to" | "dtype" | "stash_type") {
        attribute.i =
            attribute.i.map(|code| i32::try_from(code).map_or(code, |code| promoted_type(code, halves).into()));
    }
    for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
        promote_tensor(tensor, halves);
    }
    for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
        promote_graph(graph, halves);
    }
}

fn promote_graph(graph: &mut GraphProto, halves: bool) {
    graph.value_info.clear();
    graph.node.iter_mut().for_each(|node| promote_node(node, halves));
    graph.initializer.iter_mut().for_each(|tensor| promote_tensor(tensor, halves));
    graph.input.iter_mut().chain(&mut graph.output).for_each(|value| promote_value(value, halves));
}

fn promote_value(value: &mut ValueInfoProto, halves: bool) {
    if let Some(type_proto::Value::TensorType(tensor)) = value.r#type.as_mut().and_then(|t| t.value.as_mut()) {
        tensor.elem_type = tensor.elem_type.map(|code| promoted_type(code, halves));
    }
}

fn promote_tensor(tensor: &mut TensorProto, halves: bool) {
    let code = tensor.data_type();
    if promoted_type(code, halves) == code {
        return;
    }
    let values: Vec<f32> = half_values(tensor);
    tensor.data_type = Some(DataType::Float as i32);
    tensor.int32_data.clear();
    tensor.raw_data = Some(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into());
}

/// The elements of a float16 or bfloat16 tensor; empty for other types.
pub(super) fn half_values(tensor: &TensorProto) -> Vec<f32> {
    let to_f32: fn(u16) -> f32 = match DataType::try_from(tensor.data_type()) {
        Ok(DataType::Float16) => |bits| f16::from_bits(bits).to_f32(),
        Ok(DataType::Bfloat16) => |bits| bf16::from_bits(bits).to_f32(),
        _ => return Vec::new(),
    };
    if tensor.raw_data().is_empty() {
        tensor.int32_data.iter().map(|&word| to_f32(low_half(word))).collect()
    } else {
        tensor.raw_data().chunks_exact(2).map(|pair| to_f32(u16::from_le_bytes([pair[0], pair[1]]))).collect()
    }
}

/// The 16-bit pattern that ONNX keeps in the low half of an `int32_data` word.
pub(super) fn low_half(word: i32) -> u16 {
    let [low, high, ..] = word.to_le_bytes();
    u16::from_le_bytes([low, high])
}
