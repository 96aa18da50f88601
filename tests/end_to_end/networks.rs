//! Small networks built in code.

use paredown::internals::onnx::proto::attribute_proto::AttributeType;
use paredown::internals::onnx::proto::tensor_proto::DataType;
use paredown::internals::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use paredown::internals::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};
use paredown::internals::onnx::tensor;

/// A node named `op_output`, in the standard domain.
pub(crate) fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: Some(format!("{op}_{output}")),
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

/// A node of a domain that nobody knows.
pub(crate) fn foreign(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto { domain: Some("com.example".to_owned()), ..node(op, inputs, output) }
}

pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        i: Some(value),
        r#type: Some(AttributeType::Int.into()),
        ..AttributeProto::default()
    }
}

pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        ints: values.to_vec(),
        r#type: Some(AttributeType::Ints.into()),
        ..AttributeProto::default()
    }
}

/// A weight that looks random and is not; `seed` tells weights apart.
pub(crate) fn weight(name: &str, dims: &[usize]) -> TensorProto {
    let seed = name.bytes().map(f32::from).sum::<f32>();
    let values: Vec<f32> =
        (0..dims.iter().product()).map(|i| (i as f32 * 1.7 + seed * 0.37 + 0.3).sin() * 0.5).collect();
    tensor::from_f32(name, dims, &values).unwrap()
}

/// A float32 value; a dim is a number or a symbol.
pub(crate) fn value(name: &str, dims: &[&str]) -> ValueInfoProto {
    typed_value(name, DataType::Float, dims)
}

pub(crate) fn typed_value(name: &str, element: DataType, dims: &[&str]) -> ValueInfoProto {
    let dim = |text: &&str| {
        let value =
            text.parse().map_or_else(|_| dimension::Value::DimParam((*text).to_owned()), dimension::Value::DimValue);
        Dimension { value: Some(value), ..Dimension::default() }
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(element.into()), shape: Some(shape) };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(r#type), ..ValueInfoProto::default() }
}

/// A model of opset 17 that also imports `com.example`.
pub(crate) fn model(
    input: ValueInfoProto,
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    output: ValueInfoProto,
) -> ModelProto {
    let graph = GraphProto {
        name: Some("network".to_owned()),
        input: vec![input],
        node,
        initializer,
        output: vec![output],
        ..GraphProto::default()
    };
    let opset = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset("", 17), opset("com.example", 1)],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// `x [n, 6] → Gemm 12 → Relu → Gemm 4 → y`.
pub(crate) fn mlp() -> ModelProto {
    model(
        value("x", &["n", "6"]),
        vec![node("Gemm", &["x", "w1", "b1"], "h"), node("Relu", &["h"], "r"), node("Gemm", &["r", "w2", "b2"], "y")],
        vec![weight("w1", &[6, 12]), weight("b1", &[12]), weight("w2", &[12, 4]), weight("b2", &[4])],
        value("y", &["n", "4"]),
    )
}

/// The graph of a model.
pub(crate) fn graph(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}
