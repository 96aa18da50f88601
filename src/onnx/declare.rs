//! What a model says about itself: the type of a value, and the operators that it may use.

use super::proto::{TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto};

/// An input or output: its name, the code of its element type and, if it is known, its shape.
pub(crate) fn declared(name: impl Into<String>, element: i32, shape: Option<&[usize]>) -> ValueInfoProto {
    let sizes = shape.map(|sizes| sizes.iter().copied().map(Some).collect::<Vec<_>>());
    declared_partly(name, element, sizes.as_deref())
}

/// As [`declared`], where some sizes may stay open.
pub(crate) fn declared_partly(
    name: impl Into<String>,
    element: i32,
    shape: Option<&[Option<usize>]>,
) -> ValueInfoProto {
    let dim = |&size: &Option<usize>| tensor_shape_proto::Dimension {
        value: size.and_then(|size| i64::try_from(size).ok()).map(tensor_shape_proto::dimension::Value::DimValue),
        ..tensor_shape_proto::Dimension::default()
    };
    let shape = shape.map(|sizes| TensorShapeProto { dim: sizes.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(element), shape };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(kind), ..ValueInfoProto::default() }
}
