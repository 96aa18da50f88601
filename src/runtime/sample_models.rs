//! Small models built in code, for the tests of this crate.

use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_shape_proto, type_proto,
};

/// A node in the standard domain, named after its first output.
pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        name: Some(format!("{op}_{}", outputs.first().copied().unwrap_or_default())),
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: outputs.iter().map(|&name| name.to_owned()).collect(),
        attribute: attributes,
        ..NodeProto::default()
    }
}

/// An integer attribute.
pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        i: Some(value),
        r#type: Some(AttributeType::Int as i32),
        ..Default::default()
    }
}

/// A tensor attribute.
pub(crate) fn value(tensor: TensorProto) -> AttributeProto {
    AttributeProto {
        name: Some("value".into()),
        t: Some(tensor),
        r#type: Some(AttributeType::Tensor as i32),
        ..Default::default()
    }
}

/// A float32 initializer; element i is `at(i)`.
pub(crate) fn weight(name: &str, dims: &[i64], at: impl Fn(usize) -> f32) -> TensorProto {
    let count: i64 = dims.iter().product();
    let bytes: Vec<u8> = (0..count as usize).flat_map(|i| at(i).to_le_bytes()).collect();
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(DataType::Float as i32),
        raw_data: Some(bytes.into()),
        ..TensorProto::default()
    }
}

/// An int64 initializer, rank 0 when `dims` is empty.
pub(crate) fn integers(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(DataType::Int64 as i32),
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

/// A tensor value; a dim is a number or a symbol.
pub(crate) fn tensor_value(name: &str, element: DataType, dims: &[&str]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dim = |text: &&str| {
        let value = text.parse().map_or_else(|_| Value::DimParam((*text).to_owned()), Value::DimValue);
        Dimension { value: Some(value), ..Dimension::default() }
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(element as i32), shape: Some(shape) };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(r#type), ..ValueInfoProto::default() }
}

/// A model of opset 17.
pub(crate) fn model(
    inputs: Vec<ValueInfoProto>,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    outputs: Vec<ValueInfoProto>,
) -> ModelProto {
    let graph = GraphProto {
        name: Some("sample".into()),
        input: inputs,
        node: nodes,
        initializer: initializers,
        output: outputs,
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { domain: Some(String::new()), version: Some(17) };
    ModelProto { ir_version: Some(8), opset_import: vec![opset], graph: Some(graph), ..ModelProto::default() }
}

/// A weight that looks random and is not.
pub(crate) fn wavy(i: usize) -> f32 {
    (i as f32 * 1.7 + 0.3).sin()
}

/// `x [n, 3] → Gemm 4 → Relu → Gemm 2 → y`, dynamic batch.
pub(crate) fn mlp() -> ModelProto {
    model(
        vec![tensor_value("x", DataType::Float, &["n", "3"])],
        vec![
            node("Gemm", &["x", "w1", "b1"], &["h"], vec![int("transB", 1)]),
            node("Relu", &["h"], &["r"], vec![]),
            node("Gemm", &["r", "w2", "b2"], &["y"], vec![int("transB", 1)]),
        ],
        vec![
            weight("w1", &[4, 3], wavy),
            weight("b1", &[4], wavy),
            weight("w2", &[2, 4], wavy),
            weight("b2", &[2], wavy),
        ],
        vec![tensor_value("y", DataType::Float, &["n", "2"])],
    )
}

/// `x [n, 2, 4, 4] → Conv 3×3 to 5 → Relu → Reshape [Shape(x)[0], -1] → Gemm 3 → y`, the shape computed at run time.
pub(crate) fn conv_reshape() -> ModelProto {
    model(
        vec![tensor_value("x", DataType::Float, &["n", "2", "4", "4"])],
        vec![
            node("Conv", &["x", "k"], &["c"], vec![]),
            node("Relu", &["c"], &["r"], vec![]),
            node("Shape", &["x"], &["s"], vec![]),
            node("Gather", &["s", "zero"], &["batch"], vec![int("axis", 0)]),
            node("Unsqueeze", &["batch", "axes"], &["batch1"], vec![]),
            node("Concat", &["batch1", "rest"], &["shape"], vec![int("axis", 0)]),
            node("Reshape", &["r", "shape"], &["f"], vec![]),
            node("Gemm", &["f", "w"], &["y"], vec![]),
        ],
        vec![
            weight("k", &[5, 2, 3, 3], wavy),
            weight("w", &[20, 3], wavy),
            integers("zero", &[], &[0]),
            integers("axes", &[1], &[0]),
            integers("rest", &[1], &[-1]),
        ],
        vec![tensor_value("y", DataType::Float, &["n", "3"])],
    )
}

/// `ids [n, length] → Gather of a 10×4 table · mask [n, length, 1] → y`.
pub(crate) fn embedding() -> ModelProto {
    model(
        vec![
            tensor_value("ids", DataType::Int64, &["n", "length"]),
            tensor_value("mask", DataType::Float, &["n", "length", "1"]),
        ],
        vec![
            node("Cast", &["ids"], &["ids32"], vec![int("to", DataType::Int32 as i64)]),
            node("Gather", &["table", "ids32"], &["e"], vec![]),
            node("Mul", &["e", "mask"], &["y"], vec![]),
        ],
        vec![weight("table", &[10, 4], wavy)],
        vec![tensor_value("y", DataType::Float, &["n", "length", "4"])],
    )
}
