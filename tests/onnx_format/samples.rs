//! Tiny models, together with every message and field of the format.

use bytes::Bytes;
use paredown::internals::onnx::attributes;
use paredown::internals::onnx::proto::attribute_proto::AttributeType;
use paredown::internals::onnx::proto::tensor_proto::{DataType, Segment};
use paredown::internals::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use paredown::internals::onnx::proto::type_proto::{self, Value};
use paredown::internals::onnx::proto::*;
use paredown::internals::onnx::tensor;

#[allow(clippy::unnecessary_wraps)] // what the fields of messages want
fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub(crate) fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: text(key), value: text(value) }
}

fn properties() -> Vec<StringStringEntryProto> {
    vec![entry("source", "made by hand"), entry("empty", "")]
}

fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: text(domain), version: Some(version) }
}

pub(crate) fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        name: Some(format!("{op_type}_of_{}", outputs.join("_"))),
        op_type: text(op_type),
        input: texts(inputs),
        output: texts(outputs),
        ..NodeProto::default()
    }
}

fn tensor_type(dims: Vec<Dimension>) -> TypeProto {
    let shape = Some(TensorShapeProto { dim: dims });
    let tensor = type_proto::Tensor { elem_type: Some(DataType::Float.into()), shape };
    TypeProto { value: Some(Value::TensorType(tensor)), denotation: None }
}

fn size(size: i64) -> Dimension {
    Dimension { value: Some(dimension::Value::DimValue(size)), denotation: None }
}

fn symbol(name: &str) -> Dimension {
    Dimension { value: Some(dimension::Value::DimParam(name.to_owned())), denotation: text("DATA_BATCH") }
}

fn value(name: &str, value_type: TypeProto) -> ValueInfoProto {
    ValueInfoProto { name: text(name), r#type: Some(value_type), ..ValueInfoProto::default() }
}

/// Numbers that differ from one another.
pub(crate) fn ramp(len: usize) -> Vec<f32> {
    (0..len).map(|i| i as f32 * 0.25 - 3.0).collect()
}

/// `y = x W + b`, x of shape batch × `rows`, W of shape `rows` × `columns`.
pub(crate) fn linear(rows: usize, columns: usize) -> ModelProto {
    let weight = tensor::from_f32("W", &[rows, columns], &ramp(rows * columns)).unwrap();
    let bias = tensor::from_f32("b", &[columns], &ramp(columns)).unwrap();
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset("", 17)],
        graph: Some(GraphProto {
            name: text("linear"),
            node: vec![node("Gemm", &["x", "W", "b"], &["y"])],
            initializer: vec![weight, bias],
            input: vec![value("x", tensor_type(vec![symbol("batch"), size(rows as i64)]))],
            output: vec![value("y", tensor_type(vec![symbol("batch"), size(columns as i64)]))],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

/// Every message and every field of the format at least once. Raw data of the larger tensors has `len` elements.
pub(crate) fn everything(len: usize) -> ModelProto {
    let mut graph = linear(4, len).graph.unwrap();
    graph.node.push(every_attribute(len));
    graph.node.push(sharded_node());
    graph.doc_string = text("a graph");
    graph.initializer.extend(every_tensor_field());
    graph.sparse_initializer = vec![sparse()];
    graph.value_info = every_type();
    graph.quantization_annotation = vec![TensorAnnotation {
        tensor_name: text("W"),
        quant_parameter_tensor_names: vec![entry("SCALE_TENSOR", "W_scale"), entry("ZERO_POINT_TENSOR", "W_zero")],
    }];
    graph.metadata_props = properties();
    ModelProto {
        ir_version: Some(13),
        producer_name: text("paredown tests"),
        producer_version: text("1"),
        domain: text("org.example"),
        model_version: Some(-1),
        doc_string: text("every field, ünïcode included"),
        graph: Some(graph),
        opset_import: vec![opset("", 21), opset("com.example.unknown", 3)],
        metadata_props: properties(),
        training_info: vec![TrainingInfoProto {
            initialization: linear(2, len).graph,
            algorithm: linear(3, 2).graph,
            initialization_binding: vec![entry("W", "y")],
            update_binding: vec![entry("W", "y"), entry("b", "z")],
        }],
        functions: vec![function(len)],
        configuration: vec![DeviceConfigurationProto {
            name: text("two"),
            num_devices: Some(2),
            device: texts(&["CPU:0", "CPU:1"]),
        }],
    }
}

fn function(len: usize) -> FunctionProto {
    let mut constant = node("Constant", &[], &["c"]);
    attributes::set_tensor(&mut constant, "value", tensor::from_f32("", &[len], &ramp(len)).unwrap());
    let mut referring = node("Softmax", &["c"], &["d"]);
    referring.attribute.push(AttributeProto {
        name: text("axis"),
        ref_attr_name: text("axis"),
        r#type: Some(AttributeType::Int.into()),
        ..AttributeProto::default()
    });
    FunctionProto {
        name: text("ScaledSoftmax"),
        input: texts(&["x"]),
        output: texts(&["d"]),
        attribute: texts(&["axis"]),
        attribute_proto: vec![AttributeProto {
            name: text("scale"),
            f: Some(0.0),
            r#type: Some(AttributeType::Float.into()),
            ..AttributeProto::default()
        }],
        node: vec![constant, referring],
        doc_string: text("a function"),
        opset_import: vec![opset("", 21)],
        domain: text("com.example.unknown"),
        overload: text("second"),
        value_info: vec![value("c", tensor_type(vec![size(len as i64)]))],
        metadata_props: properties(),
    }
}

/// A node of an unknown domain with one attribute of every type.
fn every_attribute(len: usize) -> NodeProto {
    let mut all = node("Everything", &["y", ""], &["z", ""]);
    all.domain = text("com.example.unknown");
    all.overload = text("second");
    all.doc_string = text("a node");
    all.metadata_props = properties();
    attributes::set_float(&mut all, "float", 0.0);
    attributes::set_int(&mut all, "int", i64::MIN);
    attributes::set_string(&mut all, "string", "");
    attributes::set_tensor(&mut all, "tensor", tensor::from_f32("", &[2, len], &ramp(2 * len)).unwrap());
    attributes::set_graph(&mut all, "graph", linear(2, len).graph.unwrap());
    attributes::set_floats(&mut all, "floats", &ramp(len));
    attributes::set_ints(&mut all, "ints", &[1, -1, i64::MAX]);
    let other = |name: &str, kind: AttributeType| AttributeProto {
        name: text(name),
        r#type: Some(kind.into()),
        doc_string: text("an attribute"),
        ..AttributeProto::default()
    };
    all.attribute.extend([
        AttributeProto {
            strings: vec![Bytes::from_static(b"a"), Bytes::new(), Bytes::from_static(b"\xff\x00")],
            ..other("strings", AttributeType::Strings)
        },
        AttributeProto {
            tensors: vec![tensor::scalar_i64("", 7), tensor::from_f32("", &[len], &ramp(len)).unwrap()],
            ..other("tensors", AttributeType::Tensors)
        },
        AttributeProto {
            graphs: vec![linear(1, 1).graph.unwrap(), linear(1, len).graph.unwrap()],
            ..other("graphs", AttributeType::Graphs)
        },
        AttributeProto { sparse_tensor: Some(Box::new(sparse())), ..other("sparse", AttributeType::SparseTensor) },
        AttributeProto { sparse_tensors: vec![sparse(), sparse()], ..other("sparses", AttributeType::SparseTensors) },
        AttributeProto { tp: Some(Box::new(tensor_type(Vec::new()))), ..other("type", AttributeType::TypeProto) },
        AttributeProto { type_protos: vec![tensor_type(Vec::new())], ..other("types", AttributeType::TypeProtos) },
        AttributeProto { name: text("untyped"), i: Some(3), ..AttributeProto::default() },
    ]);
    all
}

fn sharded_node() -> NodeProto {
    let sharding = |dim| SimpleShardedDimProto { dim: Some(dim), num_shards: Some(2) };
    let mut sharded = node("Identity", &["y"], &["w"]);
    sharded.device_configurations = vec![NodeDeviceConfigurationProto {
        configuration_id: text("two"),
        sharding_spec: vec![ShardingSpecProto {
            tensor_name: text("y"),
            device: vec![0, -1],
            index_to_device_group_map: vec![IntIntListEntryProto { key: Some(-1), value: vec![0, 1] }],
            sharded_dim: vec![ShardedDimProto {
                axis: Some(0),
                simple_sharding: vec![
                    sharding(simple_sharded_dim_proto::Dim::DimValue(8)),
                    sharding(simple_sharded_dim_proto::Dim::DimParam("batch".to_owned())),
                ],
            }],
        }],
        pipeline_stage: Some(1),
    }];
    sharded
}

fn sparse() -> SparseTensorProto {
    SparseTensorProto {
        values: Some(tensor::from_f32("sparse", &[2], &[1.5, -2.0]).unwrap()),
        indices: Some(tensor::vector_i64("", &[0, 5])),
        dims: vec![2, 3],
    }
}

/// One tensor for each typed field, with documentation and metadata.
fn every_tensor_field() -> Vec<TensorProto> {
    let typed = |name: &str, kind: DataType, dims: &[i64]| TensorProto {
        name: text(name),
        dims: dims.to_vec(),
        data_type: Some(kind.into()),
        doc_string: text("a tensor"),
        metadata_props: properties(),
        ..TensorProto::default()
    };
    let strings = vec![Bytes::from_static(b"one"), Bytes::from_static(b"\xfftwo")];
    vec![
        TensorProto { float_data: vec![1.0, -0.0], ..typed("floats", DataType::Float, &[2]) },
        TensorProto { int32_data: vec![0x3c00, 0xbc00], ..typed("halves", DataType::Float16, &[1, 2]) },
        TensorProto { string_data: strings, ..typed("strings", DataType::String, &[2]) },
        TensorProto { int64_data: vec![-1, i64::MAX], ..typed("longs", DataType::Int64, &[2]) },
        TensorProto { double_data: vec![f64::MIN_POSITIVE], ..typed("doubles", DataType::Double, &[]) },
        TensorProto { uint64_data: vec![u64::MAX, 0], ..typed("unsigned", DataType::Uint64, &[2, 1]) },
        typed("nothing", DataType::Float, &[0, 3]),
        TensorProto { raw_data: Some(Bytes::new()), ..typed("no bytes", DataType::Int8, &[0]) },
    ]
}

/// A tensor in segments, which the format has and no tool writes.
pub(crate) fn segmented() -> TensorProto {
    TensorProto { segment: Some(Segment { begin: Some(0), end: Some(1) }), ..tensor::scalar_f32("segmented", 1.0) }
}

/// One value of each type.
fn every_type() -> Vec<ValueInfoProto> {
    let with = |value: Value| TypeProto { value: Some(value), denotation: text("IMAGE") };
    let float = || Some(Box::new(tensor_type(vec![size(-1), symbol(""), Dimension::default()])));
    let sparse = type_proto::SparseTensor { elem_type: Some(1), shape: Some(TensorShapeProto::default()) };
    let map = type_proto::Map { key_type: Some(DataType::String.into()), value_type: float() };
    let opaque = type_proto::Opaque { domain: text("org.example"), name: text("Handle") };
    let mut documented = value("tensor", tensor_type(vec![size(0)]));
    documented.doc_string = text("a value");
    documented.metadata_props = properties();
    vec![
        documented,
        value("sequence", with(Value::SequenceType(Box::new(type_proto::Sequence { elem_type: float() })))),
        value("map", with(Value::MapType(Box::new(map)))),
        value("optional", with(Value::OptionalType(Box::new(type_proto::Optional { elem_type: float() })))),
        value("sparse", with(Value::SparseTensorType(sparse))),
        value("opaque", with(Value::OpaqueType(opaque))),
        value("nothing", TypeProto::default()),
    ]
}
