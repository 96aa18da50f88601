//! Models run in a wider float type than they declare.
//!
//! tract has no bfloat16 at all, and float16 arithmetic would drown an exactness check in rounding. So the copy that
//! runs may have every half-precision type replaced by float32, or every float type by float64: weights and constants keep
//! their values exactly.

use half::{bf16, f16};

use crate::onnx::attributes::set_tensor;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto};
use crate::onnx::tensor::{ElementType, TensorView, from_f32, from_f64_as};

/// The float types that a model runs in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precision {
    /// Those that it declares; float32 for bfloat16.
    Declared,
    /// float32 at least.
    #[default]
    Single,
    /// float64.
    Double,
}

/// The element type that runs in place of `code`.
pub(super) fn promoted_type(code: i32, precision: Precision) -> i32 {
    let is_half =
        code == DataType::Bfloat16 as i32 || (precision != Precision::Declared && code == DataType::Float16 as i32);
    match precision {
        Precision::Double if is_half || code == DataType::Float as i32 => DataType::Double as i32,
        _ if is_half => DataType::Float as i32,
        _ => code,
    }
}

/// Replaces float types in the attributes of `node` and in its subgraphs.
pub(super) fn promote_node(node: &mut NodeProto, precision: Precision) {
    if precision == Precision::Double {
        tensor_of_floats(node);
    }
    for attribute in &mut node.attribute {
        promote_attribute(attribute, precision);
    }
}

/// Gives a `Constant` that lists floats a tensor in their place.
fn tensor_of_floats(node: &mut NodeProto) {
    if node.op_type() != "Constant" {
        return;
    }
    let listed = node.attribute.iter().find_map(|attribute| match attribute.name() {
        "value_float" => from_f32("", &[], &[attribute.f()]).ok(),
        "value_floats" => from_f32("", &[attribute.floats.len()], &attribute.floats).ok(),
        _ => None,
    });
    if let Some(tensor) = listed {
        node.attribute.clear();
        set_tensor(node, "value", tensor);
    }
}

fn promote_attribute(attribute: &mut AttributeProto, precision: Precision) {
    if matches!(attribute.name(), "to" | "dtype" | "stash_type") {
        attribute.i =
            attribute.i.map(|code| i32::try_from(code).map_or(code, |code| promoted_type(code, precision).into()));
    }
    for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
        promote_tensor(tensor, precision);
    }
    for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
        promote_graph(graph, precision);
    }
}

fn promote_graph(graph: &mut GraphProto, precision: Precision) {
    graph.value_info.clear();
    graph.node.iter_mut().for_each(|node| promote_node(node, precision));
    graph.initializer.iter_mut().for_each(|tensor| promote_tensor(tensor, precision));
    graph.input.iter_mut().chain(&mut graph.output).for_each(|value| promote_value(value, precision));
}

fn promote_value(value: &mut ValueInfoProto, precision: Precision) {
    if let Some(type_proto::Value::TensorType(tensor)) = value.r#type.as_mut().and_then(|t| t.value.as_mut()) {
        tensor.elem_type = tensor.elem_type.map(|code| promoted_type(code, precision));
    }
}

fn promote_tensor(tensor: &mut TensorProto, precision: Precision) {
    let code = tensor.data_type();
    let promoted = promoted_type(code, precision);
    if promoted == code {
        return;
    }
    if promoted == DataType::Double as i32 {
        let wide = TensorView::new(tensor)
            .and_then(|view| from_f64_as(view.name(), view.dims(), &view.to_f64()?, ElementType::Double));
        // A malformed tensor is refused by whoever reads it.
        if let Ok(wide) = wide {
            *tensor = wide;
        }
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
