//! New tensors from numbers.

use std::ops::Range;

use bytes::Bytes;
use half::{bf16, f16};

use super::element::ElementType;
use super::layout::{element_count, flatten};
use crate::onnx::proto::TensorProto;
use crate::{Error, Result};

/// Sizes as the file stores them.
pub(super) fn file_dims(dims: &[usize]) -> Vec<i64> {
    // Sizes come from a checked shape or from a slice in memory; both fit.
    dims.iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect()
}

fn from_raw(name: &str, dims: &[usize], element: ElementType, raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: file_dims(dims),
        data_type: Some(element.code()),
        raw_data: Some(Bytes::from(raw)),
        ..TensorProto::default()
    }
}

fn check_count(name: &str, dims: &[usize], found: usize) -> Result<()> {
    if element_count(dims)? == found {
        return Ok(());
    }
    Err(Error::input(format!("tensor '{name}': shape {dims:?} does not hold {found} values")))
}

/// A `float32` tensor.
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input) if `values` does not fill `dims`.
pub fn from_f32(name: &str, dims: &[usize], values: &[f32]) -> Result<TensorProto> {
    check_count(name, dims, values.len())?;
    Ok(from_raw(name, dims, ElementType::Float, flatten(values, f32::to_le_bytes)))
}

/// An `int64` tensor.
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input) if `values` does not fill `dims`.
pub fn from_i64(name: &str, dims: &[usize], values: &[i64]) -> Result<TensorProto> {
    check_count(name, dims, values.len())?;
    Ok(from_raw(name, dims, ElementType::Int64, flatten(values, i64::to_le_bytes)))
}

/// A one-dimensional `int64` tensor, such as a shape operand.
pub fn vector_i64(name: &str, values: &[i64]) -> TensorProto {
    from_raw(name, &[values.len()], ElementType::Int64, flatten(values, i64::to_le_bytes))
}

/// An `int64` scalar.
pub fn scalar_i64(name: &str, value: i64) -> TensorProto {
    from_raw(name, &[], ElementType::Int64, value.to_le_bytes().to_vec())
}

/// A `float32` scalar.
pub fn scalar_f32(name: &str, value: f32) -> TensorProto {
    from_raw(name, &[], ElementType::Float, value.to_le_bytes().to_vec())
}

/// A tensor of `element` type from `f64` values, rounded to the nearest (ties to even).
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input) if `values` does not fill `dims`, if `element` is neither a float of
/// at least 16 bits nor an integer of at least 8, or if a value is not in an integer's range.
pub fn from_f64_as(name: &str, dims: &[usize], values: &[f64], element: ElementType) -> Result<TensorProto> {
    encoded(name, dims, values.iter().copied(), element)
}

/// Below this magnitude, 2⁻¹⁰⁰, a weight counts as zero.
const LEAST_WEIGHT: f64 = 7.888_609_052_210_118e-31;

/// A tensor of computed weights: as [`from_f64_as`], with zeros for numbers of less than 2⁻¹⁰⁰.
///
/// A filter that training gave up has next to no weights. Its share of a low-rank factor, and its products with activations, are
/// subnormal numbers, with which processors compute up to a hundred times more slowly: a split layer of a text recognizer took
/// 11 ms instead of 0.3.
///
/// # Errors
/// As [`from_f64_as`].
pub fn from_weights(name: &str, dims: &[usize], values: &[f64], element: ElementType) -> Result<TensorProto> {
    let weight = |&value: &f64| if value.abs() < LEAST_WEIGHT { 0.0 } else { value };
    encoded(name, dims, values.iter().map(weight), element)
}

fn encoded(
    name: &str,
    dims: &[usize],
    values: impl ExactSizeIterator<Item = f64>,
    element: ElementType,
) -> Result<TensorProto> {
    check_count(name, dims, values.len())?;
    let mut raw = Vec::with_capacity(values.len().saturating_mul(element.bits()).div_ceil(8));
    for value in values {
        encode_f64(value, element, &mut raw).map_err(|e| Error::input(format!("tensor '{name}': {e}")))?;
    }
    Ok(from_raw(name, dims, element, raw))
}

#[allow(clippy::cast_possible_truncation)] // rounding and range-checked narrowing
fn encode_f64(value: f64, element: ElementType, raw: &mut Vec<u8>) -> Result<()> {
    match element {
        ElementType::Float => raw.extend((value as f32).to_le_bytes()),
        ElementType::Double => raw.extend(value.to_le_bytes()),
        ElementType::Float16 => raw.extend(f16::from_f64(value).to_le_bytes()),
        ElementType::Bfloat16 => raw.extend(bf16::from_f64(value).to_le_bytes()),
        _ => {
            let width = element.bytes().unwrap_or(0);
            let range = integer_range(element)
                .ok_or_else(|| Error::input(format!("{element} values cannot be written from real numbers")))?;
            let rounded = value.round_ties_even();
            // i128 holds every integer type; NaN and infinities fail the comparison below.
            let integer = rounded as i128;
            if !rounded.is_finite() || !range.contains(&integer) {
                return Err(Error::input(format!("{value} is out of range for {element}")));
            }
            raw.extend(integer.to_le_bytes().into_iter().take(width));
        }
    }
    Ok(())
}

fn integer_range(element: ElementType) -> Option<Range<i128>> {
    match element {
        ElementType::Bool => Some(0..2),
        ElementType::Int8 | ElementType::Int16 | ElementType::Int32 | ElementType::Int64 => {
            let half = 1_i128 << (element.bits() - 1);
            Some(-half..half)
        }
        ElementType::Uint8 | ElementType::Uint16 | ElementType::Uint32 | ElementType::Uint64 => {
            Some(0..1_i128 << element.bits())
        }
        _ => None,
    }
}
