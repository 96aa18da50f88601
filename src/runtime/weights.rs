//! From a `TensorProto` to tract's tensor, its declared size checked against the data that is there.

use std::sync::Arc;

use tract_onnx::prelude::{Datum, DatumType, Tensor};
use tract_onnx::tract_hir::internal::ensure;

use super::promote::{Precision, half_values, low_half, promoted_type};
use super::tensor::element_count;
use crate::onnx::proto::TensorProto;
use crate::onnx::proto::tensor_proto::{DataLocation, DataType};
use crate::{Error, Result};

/// tract's name for ONNX's number of an element type.
pub(super) fn datum_type(code: i32) -> Option<DatumType> {
    use tract_onnx::pb::tensor_proto::DataType;
    DataType::try_from(code).ok().and_then(|data_type| DatumType::try_from(data_type).ok())
}

/// The initializer `tensor` for tract, floats in `precision`.
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input) when dims are negative or overflow, the data is of another length,
/// or sits in an external file that was not loaded; `Runtime` when tract lacks the element type.
pub(super) fn tract_tensor(tensor: &TensorProto, precision: Precision) -> Result<Tensor> {
    let code = tensor.data_type();
    let shape = shape_of(tensor)?;
    if tensor.data_location() == DataLocation::External {
        return Err(Error::input(format!("the external data of initializer '{}' is not loaded", tensor.name())));
    }
    let single = promoted_type(code, if precision == Precision::Double { Precision::Single } else { precision });
    let built = if single == code { native(tensor, &shape) } else { of_elements(&shape, &half_values(tensor)) };
    let built = built.and_then(|built| match promoted_type(code, precision) {
        wide if wide == single => Ok(built),
        _ => cast(&built, f64::datum_type()),
    });
    built.map_err(|e| e.at_node(tensor.name()))
}

/// The values of `tensor` in its own type; bfloat16 as float32.
///
/// # Errors
/// As [`tract_tensor`].
pub(crate) fn tensor_of(tensor: &TensorProto) -> Result<crate::runtime::Tensor> {
    Ok(crate::runtime::Tensor::from_tract(Arc::new(tract_tensor(tensor, Precision::Declared)?)))
}

fn shape_of(tensor: &TensorProto) -> Result<Vec<usize>> {
    let shape = tensor.dims.iter().map(|&dim| usize::try_from(dim)).collect::<Result<Vec<_>, _>>();
    let shape = shape
        .map_err(|_| Error::input(format!("initializer '{}' has a negative dim: {:?}", tensor.name(), tensor.dims)))?;
    match element_count(&shape) {
        Some(_) => Ok(shape),
        None => Err(Error::input(format!("the size of initializer '{}' overflows: {shape:?}", tensor.name()))),
    }
}

fn native(tensor: &TensorProto, shape: &[usize]) -> Result<Tensor> {
    let code = tensor.data_type();
    let lacking =
        || Error::runtime(format!("element type {code} of initializer '{}' is not one that tract has", tensor.name()));
    let dt = datum_type(code).ok_or_else(lacking)?;
    if !tensor.raw_data().is_empty() && dt != bool::datum_type() {
        return from_bytes(dt, shape, tensor.raw_data());
    }
    match DataType::try_from(code).map_err(|_| lacking())? {
        DataType::Float => of_elements(shape, &tensor.float_data),
        DataType::Double => of_elements(shape, &tensor.double_data),
        DataType::Int64 => of_elements(shape, &tensor.int64_data),
        DataType::Int32 => of_elements(shape, &tensor.int32_data),
        DataType::Uint64 => of_elements(shape, &tensor.uint64_data),
        DataType::Uint32 => of_elements(shape, &tensor.uint64_data).and_then(|t| cast(&t, dt)),
        DataType::Float16 => {
            let halves: Vec<half::f16> =
                tensor.int32_data.iter().map(|&word| half::f16::from_bits(low_half(word))).collect();
            of_elements(shape, &halves)
        }
        DataType::Bool if !tensor.raw_data().is_empty() => {
            let flags: Vec<bool> = tensor.raw_data().iter().map(|&byte| byte != 0).collect();
            of_elements(shape, &flags)
        }
        DataType::Bool | DataType::Int8 | DataType::Int16 | DataType::Uint8 | DataType::Uint16 => {
            of_elements(shape, &tensor.int32_data).and_then(|t| cast(&t, dt))
        }
        DataType::String => Err(Error::runtime("string initializers cannot be run".to_owned())),
        _ => Err(lacking()),
    }
}

/// Elements of a fixed-width type from their little-endian bytes.
fn from_bytes(dt: DatumType, shape: &[usize], bytes: &[u8]) -> Result<Tensor> {
    let expected = element_count(shape).and_then(|count| count.checked_mul(dt.size_of()));
    if expected != Some(bytes.len()) {
        return Err(Error::input(format!("{} bytes of data cannot have shape {shape:?} of {dt:?}", bytes.len())));
    }
    let mut tensor = Tensor::zero_dt(dt, shape).map_err(|e| Error::input(e.to_string()))?;
    if !bytes.is_empty() {
        tensor.as_bytes_mut().copy_from_slice(bytes);
    }
    Ok(tensor)
}

fn of_elements<T: Datum + Copy>(shape: &[usize], elements: &[T]) -> Result<Tensor> {
    let checked = || {
        ensure!(
            element_count(shape) == Some(elements.len()),
            "{} elements cannot have shape {shape:?}",
            elements.len()
        );
        Tensor::from_shape(shape, elements)
    };
    checked().map_err(|e| Error::input(e.to_string()))
}

fn cast(tensor: &Tensor, dt: tract_onnx::prelude::DatumType) -> Result<Tensor> {
    tensor.cast_to_dt(dt).map(std::borrow::Cow::into_owned).map_err(|e| Error::input(e.to_string()))
}
