//! Do shape, element type and amount of data agree? And the elements of typed fields as bytes.

use bytes::Bytes;

use super::element::{ElementType, TypedField};
use crate::onnx::proto::TensorProto;
use crate::onnx::proto::tensor_proto::DataLocation;
use crate::{Error, Result};

/// What a tensor that holds together looks like.
pub(super) struct Layout {
    pub(super) element: ElementType,
    pub(super) dims: Vec<usize>,
    /// Number of elements.
    pub(super) len: usize,
    /// Whether they are in `raw_data`, not in a typed field.
    pub(super) raw: bool,
}

/// Checks `tensor`; the error does not name it.
pub(super) fn layout(tensor: &TensorProto) -> Result<Layout> {
    if tensor.segment.is_some() {
        return Err(Error::input("is stored in segments, which is not supported"));
    }
    if tensor.data_location() == DataLocation::External {
        return Err(Error::input("is stored in an external file; load the model from its path"));
    }
    let element = ElementType::from_code(tensor.data_type())?;
    let dims = checked_dims(&tensor.dims)?;
    let len = element_count(&dims)?;
    let typed = typed_entries(tensor);
    let raw_len = tensor.raw_data.as_ref().map(Bytes::len);
    let raw = raw_len.is_some_and(|n| n > 0) || (raw_len.is_some() && typed.iter().all(|&(_, n)| n == 0));
    let (holds, needs, unit) = if raw {
        (raw_len.unwrap_or(0), byte_count(len, element)?, "bytes")
    } else {
        let field = element.typed_field();
        let own = typed.iter().find(|entry| entry.0 == field).map_or(0, |entry| entry.1);
        (own, typed_count(len, element)?, "values")
    };
    if raw && element == ElementType::String {
        return Err(Error::input("holds strings in raw_data, where the format does not allow them"));
    }
    if holds != needs {
        let shape = &tensor.dims;
        return Err(Error::input(format!("shape {shape:?} of {element} needs {needs} {unit}, found {holds}")));
    }
    Ok(Layout { element, dims, len, raw })
}

/// The shape as sizes.
fn checked_dims(dims: &[i64]) -> Result<Vec<usize>> {
    let sizes: Result<Vec<usize>, _> = dims.iter().map(|&dim| usize::try_from(dim)).collect();
    sizes.map_err(|_| Error::input(format!("shape {dims:?} has a negative dimension")))
}

/// Number of elements of a shape; even the non-zero part of an empty shape must not overflow.
pub(super) fn element_count(dims: &[usize]) -> Result<usize> {
    let count = dims.iter().filter(|&&dim| dim > 0).try_fold(1_usize, |count, &dim| count.checked_mul(dim));
    match count {
        Some(_) if dims.contains(&0) => Ok(0),
        // 16 bytes is the widest element, 128 bits.
        Some(count) if count <= isize::MAX.unsigned_abs() / 16 => Ok(count),
        _ => Err(Error::input(format!("shape {dims:?} has more elements than memory can hold"))),
    }
}

/// Bytes of `len` elements as laid out in `raw_data`.
///
/// # Errors
/// If they overflow.
fn byte_count(len: usize, element: ElementType) -> Result<usize> {
    let bits = len.checked_mul(element.bits()).ok_or_else(|| Error::input("has more elements than memory can hold"))?;
    Ok(bits.div_ceil(8))
}

/// Bytes that `dims` of `element` take in an external file.
pub(in crate::onnx) fn stored_bytes(dims: &[i64], element: ElementType) -> Result<usize> {
    byte_count(element_count(&checked_dims(dims)?)?, element)
}

/// Entries that `len` elements take in the typed field.
fn typed_count(len: usize, element: ElementType) -> Result<usize> {
    match element {
        ElementType::Complex64 | ElementType::Complex128 => Ok(len * 2),
        // Packed as in raw_data, one byte an entry, except 6-bit floats: one element an entry.
        _ if matches!(element.bits(), 2 | 4) => byte_count(len, element),
        _ => Ok(len),
    }
}

/// Number of entries of each typed field.
fn typed_entries(tensor: &TensorProto) -> [(TypedField, usize); 6] {
    [
        (TypedField::Float, tensor.float_data.len()),
        (TypedField::Double, tensor.double_data.len()),
        (TypedField::Int32, tensor.int32_data.len()),
        (TypedField::Int64, tensor.int64_data.len()),
        (TypedField::Uint64, tensor.uint64_data.len()),
        (TypedField::String, tensor.string_data.len()),
    ]
}

/// The elements of a typed field as `raw_data` would hold them.
pub(super) fn typed_bytes(tensor: &TensorProto, element: ElementType, len: usize) -> Bytes {
    let bytes = match (element.typed_field(), element.bits()) {
        (TypedField::Float, _) => flatten(&tensor.float_data, f32::to_le_bytes),
        (TypedField::Double, _) => flatten(&tensor.double_data, f64::to_le_bytes),
        (TypedField::Int64, _) => flatten(&tensor.int64_data, i64::to_le_bytes),
        (TypedField::Uint64, 32) => flatten(&tensor.uint64_data, |value| low(value.to_le_bytes()) as [u8; 4]),
        (TypedField::Uint64, _) => flatten(&tensor.uint64_data, u64::to_le_bytes),
        (TypedField::Int32, 32) => flatten(&tensor.int32_data, i32::to_le_bytes),
        (TypedField::Int32, 16) => flatten(&tensor.int32_data, |value| low(value.to_le_bytes()) as [u8; 2]),
        (TypedField::Int32, 6) => pack_six_bits(&tensor.int32_data, len),
        (TypedField::Int32, _) => flatten(&tensor.int32_data, |value| low(value.to_le_bytes()) as [u8; 1]),
        (TypedField::String, _) => Vec::new(),
    };
    Bytes::from(bytes)
}

/// The bytes of all values, in order.
pub(super) fn flatten<T: Copy, const N: usize>(values: &[T], to_bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().map(|&value| to_bytes(value)).collect::<Vec<_>>().into_flattened()
}

/// The `N` low bytes of a little-endian value of `M` bytes.
fn low<const M: usize, const N: usize>(bytes: [u8; M]) -> [u8; N] {
    std::array::from_fn(|position| bytes.get(position).copied().unwrap_or(0))
}

/// Four 6-bit codes in three bytes, first element in the lowest bits.
fn pack_six_bits(codes: &[i32], len: usize) -> Vec<u8> {
    let mut packed = vec![0_u8; (len * 6).div_ceil(8)];
    for (position, &code) in codes.iter().enumerate() {
        for bit in (0..6).filter(|bit| code >> bit & 1 == 1) {
            let at = position * 6 + bit;
            if let Some(byte) = packed.get_mut(at / 8) {
                *byte |= 1 << (at % 8);
            }
        }
    }
    packed
}
