//! What is known of one value under one binding, and its translation to and from tract's terms.

use std::sync::Arc;

use tract_onnx::pb;
use tract_onnx::prelude::{DatumType, InferenceFact, TDim, Tensor};
use tract_onnx::tract_hir::infer::Factoid;

/// Largest tensor, in elements, whose value is followed through the graph.
pub(super) const CONSTANT_LIMIT: u64 = 1 << 14;

/// The same for what tells positions in a tensor.
pub(super) const POSITION_LIMIT: u64 = 1 << 18;

/// Sizes of one value under one binding.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) element: Option<DatumType>,
    pub(super) raw_element: Option<i32>,
    pub(super) shape: Option<Vec<u64>>,
    pub(super) value: Option<Arc<Tensor>>,
}

impl Known {
    /// What is known of every value of this type and shape.
    pub(super) fn without_value(&self) -> Self {
        Self { value: None, ..self.clone() }
    }
}

pub(super) fn known_value(tensor: Tensor) -> Known {
    let tensor = match tensor.datum_type() {
        DatumType::TDim => tensor.cast_to::<i64>().map(std::borrow::Cow::into_owned).unwrap_or(tensor),
        _ => tensor,
    };
    let shape = tensor.shape().iter().map(|&d| d as u64).collect();
    Known { element: Some(tensor.datum_type()), raw_element: None, shape: Some(shape), value: Some(Arc::new(tensor)) }
}

pub(super) fn known_of(fact: &InferenceFact) -> Known {
    if let Some(value) = fact.value.concretize()
        && value.len() as u64 <= CONSTANT_LIMIT
    {
        return known_value(Tensor::clone(&value));
    }
    let dims = fact.shape.concretize();
    let shape =
        dims.and_then(|dims| dims.iter().map(|d| d.to_i64().ok().and_then(|d| u64::try_from(d).ok())).collect());
    let element = match fact.datum_type.concretize() {
        Some(DatumType::TDim) => Some(DatumType::I64),
        other => other,
    };
    Known { element, raw_element: None, shape, value: None }
}

pub(super) fn fact_of(known: &Known) -> InferenceFact {
    if let Some(value) = &known.value
        && let Ok(fact) = InferenceFact::try_from(value.clone())
    {
        return fact;
    }
    let mut fact = InferenceFact::default();
    if let Some(element) = known.element {
        fact = fact.with_datum_type(element);
    }
    if let Some(shape) = &known.shape {
        let dims: Vec<TDim> = shape.iter().map(|&d| TDim::from(i64::try_from(d).unwrap_or(i64::MAX))).collect();
        fact = fact.with_shape(dims);
    }
    fact
}

pub(super) fn datum_type(element: i32) -> Option<DatumType> {
    let element = pb::tensor_proto::DataType::try_from(element).ok()?;
    DatumType::try_from(element).ok()
}

pub(super) fn onnx_element(datum: DatumType) -> Option<i32> {
    use crate::onnx::proto::tensor_proto::DataType as Onnx;
    Some(match datum {
        DatumType::Bool => Onnx::Bool,
        DatumType::U8 => Onnx::Uint8,
        DatumType::U16 => Onnx::Uint16,
        DatumType::U32 => Onnx::Uint32,
        DatumType::U64 => Onnx::Uint64,
        DatumType::I8 => Onnx::Int8,
        DatumType::I16 => Onnx::Int16,
        DatumType::I32 => Onnx::Int32,
        DatumType::I64 => Onnx::Int64,
        DatumType::F16 => Onnx::Float16,
        DatumType::F32 => Onnx::Float,
        DatumType::F64 => Onnx::Double,
        DatumType::String => Onnx::String,
        _ => return None,
    } as i32)
}
