//! Nodes that are made for tract. Each is called like its result.

use crate::onnx::attributes::{set_int, set_tensor};
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{NodeProto, TensorProto};

/// A node without attributes.
pub(super) fn plain(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: Some(output.to_owned()),
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

pub(super) fn cast(operand: &str, to: DataType, result: &str) -> NodeProto {
    let mut node = plain("Cast", &[operand], result);
    set_int(&mut node, "to", to as i64);
    node
}

/// A `Constant`.
pub(super) fn stored(value: TensorProto, result: &str) -> NodeProto {
    let mut node = plain("Constant", &[], result);
    set_tensor(&mut node, "value", value);
    node
}
