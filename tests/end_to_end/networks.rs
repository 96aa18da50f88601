//! Small networks built in code.

use paredown::internals::onnx::proto::tensor_proto::DataType;
use paredown::internals::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use paredown::internals::onnx::tensor;

use crate::support::{self, of_opsets};
pub(crate) use crate::support::{int, ints, tensor_value as typed_value};

/// A node named `op_output`, in the standard domain.
pub(crate) fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    support::node(op, inputs, &[output], Vec::new())
}

/// A node of a domain that nobody knows.
pub(crate) fn foreign(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto { domain: Some("com.example".to_owned()), ..node(op, inputs, output) }
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
    of_opsets(graph, 8, &[("", 17), ("com.example", 1)])
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
