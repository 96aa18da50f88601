//! Small graphs built in code: the one builder of all test crates and of the library's own tests.

#![allow(dead_code)] // each crate of tests needs a part of it

use paredown::internals::onnx::proto::tensor_proto::DataType;
use paredown::internals::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_shape_proto, type_proto,
};

/// A node of the standard domain, named after its operator and first result.
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

fn attribute_of(name: &str, kind: AttributeType, filled: AttributeProto) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind as i32), ..filled }
}

/// An integer attribute.
pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    attribute_of(name, AttributeType::Int, AttributeProto { i: Some(value), ..AttributeProto::default() })
}

/// A list of integers as an attribute.
pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    attribute_of(name, AttributeType::Ints, AttributeProto { ints: values.to_vec(), ..AttributeProto::default() })
}

/// The attribute `value` of a `Constant`.
pub(crate) fn value(tensor: TensorProto) -> AttributeProto {
    attribute_of("value", AttributeType::Tensor, AttributeProto { t: Some(tensor), ..AttributeProto::default() })
}

/// An attribute from text: `axis=1`, `pads=[0,1]`, `alpha=0.5`, `mode=nearest`.
pub(crate) fn attribute(text: &str) -> AttributeProto {
    let (name, value) = text.split_once('=').unwrap();
    if let Some(list) = value.strip_prefix('[') {
        let numbers = list.strip_suffix(']').unwrap().split(',').filter(|number| !number.is_empty());
        ints(name, &numbers.map(|number| number.parse().unwrap()).collect::<Vec<i64>>())
    } else if let Ok(number) = value.parse::<i64>() {
        int(name, number)
    } else if let Ok(number) = value.parse::<f32>() {
        attribute_of(name, AttributeType::Float, AttributeProto { f: Some(number), ..AttributeProto::default() })
    } else {
        let bytes = Some(value.as_bytes().to_vec().into());
        attribute_of(name, AttributeType::String, AttributeProto { s: bytes, ..AttributeProto::default() })
    }
}

/// Attributes from text, separated by spaces.
pub(crate) fn attributes(text: &str) -> Vec<AttributeProto> {
    text.split_whitespace().map(attribute).collect()
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
    dynamic(name, element as i32, dims)
}

/// [`tensor_value`] by the number of its element type.
pub(crate) fn dynamic(name: &str, element: i32, dims: &[&str]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dim = |text: &&str| {
        let value = text.parse().map_or_else(|_| Value::DimParam((*text).to_owned()), Value::DimValue);
        Dimension { value: Some(value), ..Dimension::default() }
    };
    shaped(name, element, Some(TensorShapeProto { dim: dims.iter().map(dim).collect() }))
}

/// A tensor value of fixed sizes, or of none that is known.
pub(crate) fn declared(name: &str, element: i32, dims: Option<&[usize]>) -> ValueInfoProto {
    let sizes: Option<Vec<String>> = dims.map(|dims| dims.iter().map(usize::to_string).collect());
    match sizes {
        Some(sizes) => dynamic(name, element, &sizes.iter().map(String::as_str).collect::<Vec<_>>()),
        None => shaped(name, element, None),
    }
}

fn shaped(name: &str, element: i32, shape: Option<TensorShapeProto>) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(element), shape };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(r#type), ..ValueInfoProto::default() }
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
    of_opsets(graph, 8, &[("", 17)])
}

/// A model of a version of the file format and of operator sets.
pub(crate) fn of_opsets(graph: GraphProto, ir_version: i64, opsets: &[(&str, i64)]) -> ModelProto {
    let opset = |&(domain, version): &(&str, i64)| OperatorSetIdProto {
        domain: Some(domain.to_owned()),
        version: Some(version),
    };
    ModelProto {
        ir_version: Some(ir_version),
        opset_import: opsets.iter().map(opset).collect(),
        graph: Some(graph),
        ..ModelProto::default()
    }
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
