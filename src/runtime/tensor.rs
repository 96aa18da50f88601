//! The tensor that crosses the boundary between paredown and tract.

use std::sync::Arc;

use half::f16;
use ndarray::ArrayD;
use tract_onnx::prelude::{Datum, DatumType, Tensor as TractTensor};

use crate::{Error, Result};

/// An element type that a [`Tensor`] can be built from and viewed as.
pub trait Element: Datum + Copy {}

impl Element for f32 {}
impl Element for f64 {}
impl Element for f16 {}
impl Element for i8 {}
impl Element for i16 {}
impl Element for i32 {}
impl Element for i64 {}
impl Element for u8 {}
impl Element for u16 {}
impl Element for u32 {}
impl Element for u64 {}
impl Element for bool {}

/// A dense row-major tensor; a clone shares the elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor(Arc<TractTensor>);

impl Tensor {
    /// A tensor of `shape` from its elements in row-major order.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) when the number of elements is not the product of `shape`.
    pub fn new<T: Element>(shape: &[usize], elements: &[T]) -> Result<Self> {
        let len = element_count(shape);
        if len != Some(elements.len()) {
            return Err(Error::input(format!("{} elements cannot have shape {shape:?}", elements.len())));
        }
        TractTensor::from_shape(shape, elements)
            .map(|tensor| Self(Arc::new(tensor)))
            .map_err(|e| Error::input(e.to_string()))
    }

    /// Sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether some axis has size zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of the element type as Rust and tract write it: `F32`, `I64`, `Bool` …
    pub fn type_name(&self) -> String {
        format!("{:?}", self.0.datum_type())
    }

    /// Whether the elements are of type `T`.
    pub fn is<T: Element>(&self) -> bool {
        self.0.datum_type() == T::datum_type()
    }

    /// Whether the elements are float16, float32 or float64.
    pub fn is_float(&self) -> bool {
        self.0.datum_type().is_float()
    }

    /// The elements in row-major order, if they are of type `T`.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        self.0.as_plain_ram()?.as_slice::<T>().ok()
    }

    /// Whether the elements are integers.
    pub fn is_integer(&self) -> bool {
        self.0.datum_type().is_integer()
    }

    /// The elements in row-major order, converted to `T`; floats become integers by truncation.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) when the element type has no conversion (strings).
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if let Some(elements) = self.as_slice::<T>() {
            return Ok(elements.to_vec());
        }
        let cast = self.cast_to(T::datum_type())?;
        cast.as_slice::<T>().map(<[T]>::to_vec).ok_or_else(|| no_conversion(&cast.0))
    }

    /// The elements as an `ndarray` array of the same shape, converted to `T`.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn to_array<T: Element>(&self) -> Result<ArrayD<T>> {
        ArrayD::from_shape_vec(self.shape().to_vec(), self.to_vec()?).map_err(|e| Error::input(e.to_string()))
    }

    /// The same values with elements of type `T`.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn cast<T: Element>(&self) -> Result<Self> {
        self.cast_to(T::datum_type())
    }

    /// Rows `start..end` of axis 0.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) when the range is empty or exceeds axis 0.
    pub fn rows(&self, start: usize, end: usize) -> Result<Self> {
        self.0.slice(0, start, end).map(|rows| Self(Arc::new(rows))).map_err(|e| Error::input(e.to_string()))
    }

    /// Positions `start..end` of an axis.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) when there is no such axis, or the range is empty or exceeds it.
    pub fn narrow(&self, axis: usize, start: usize, end: usize) -> Result<Self> {
        if self.shape().get(axis).is_none_or(|&size| start >= end || end > size) {
            let shape = self.shape();
            return Err(Error::input(format!("a tensor of shape {shape:?} has no {start}..{end} on axis {axis}")));
        }
        self.0.slice(axis, start, end).map(|part| Self(Arc::new(part))).map_err(|e| Error::input(e.to_string()))
    }

    /// The given positions of an axis, in this order.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) when a position exceeds the axis, or there is none.
    pub fn take(&self, axis: usize, positions: &[usize]) -> Result<Self> {
        let parts = positions.iter().map(|&at| self.0.slice(axis, at, at + 1));
        let parts = parts.collect::<Result<Vec<_>, _>>().map_err(|e| Error::input(e.to_string()))?;
        let whole = TractTensor::stack_tensors(axis, &parts).map_err(|e| Error::input(e.to_string()))?;
        Ok(Self(Arc::new(whole)))
    }

    /// The rows of `parts`, one part after the other along axis 0.
    ///
    /// # Errors
    /// As [`concatenate`](Self::concatenate).
    pub fn concatenate_rows(parts: &[Self]) -> Result<Self> {
        Self::concatenate(0, parts)
    }

    /// `parts`, one after the other along `axis`.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) when there is no part, or parts differ in type or in another axis.
    pub fn concatenate(axis: usize, parts: &[Self]) -> Result<Self> {
        let tensors: Vec<&TractTensor> = parts.iter().map(|part| &*part.0).collect();
        TractTensor::stack_tensors(axis, &tensors)
            .map(|whole| Self(Arc::new(whole)))
            .map_err(|e| Error::input(e.to_string()))
    }

    /// The same elements with `axis` in front of all others.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) when there is no such axis.
    pub fn with_first(&self, axis: usize) -> Result<Self> {
        if axis >= self.shape().len() {
            return Err(Error::input(format!("a tensor of shape {:?} has no axis {axis}", self.shape())));
        }
        let moved = (*self.0).clone().move_axis(axis, 0).map_err(|e| Error::input(e.to_string()))?;
        Ok(Self(Arc::new(moved)))
    }

    /// The elements in memory, row-major and little-endian where the machine is.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub(super) fn cast_to(&self, target: DatumType) -> Result<Self> {
        if self.0.datum_type() == target {
            return Ok(self.clone());
        }
        let cast = self.0.cast_to_dt(target).map_err(|_| no_conversion(&self.0))?;
        Ok(Self(Arc::new(cast.into_owned())))
    }

    pub(super) fn datum_type(&self) -> DatumType {
        self.0.datum_type()
    }

    pub(super) fn as_tract(&self) -> &Arc<TractTensor> {
        &self.0
    }

    pub(super) fn from_tract(tensor: Arc<TractTensor>) -> Self {
        Self(tensor)
    }
}

/// Number of elements of `shape`, or `None` when it overflows.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |count, &size| count.checked_mul(size))
}

fn no_conversion(tensor: &TractTensor) -> Error {
    Error::input(format!("elements of type {:?} have no such conversion", tensor.datum_type()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_number_of_elements_is_refused() {
        assert!(Tensor::new(&[2, 3], &[0_f32; 5]).is_err());
        assert!(Tensor::new(&[usize::MAX, 2], &[0_f32; 5]).is_err());
    }

    #[test]
    fn rows_and_their_concatenation_are_inverse() {
        let whole = Tensor::new(&[3, 2], &[1_i64, 2, 3, 4, 5, 6]).unwrap();
        let parts = [whole.rows(0, 1).unwrap(), whole.rows(1, 3).unwrap()];
        assert_eq!(parts[1].as_slice::<i64>().unwrap(), [3, 4, 5, 6]);
        assert_eq!(Tensor::concatenate_rows(&parts).unwrap(), whole);
        assert!(whole.rows(2, 4).is_err());
    }

    #[test]
    fn positions_of_any_axis_are_taken_in_order() {
        let whole = Tensor::new(&[2, 3], &[1_i64, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(whole.take(1, &[2, 0]).unwrap(), Tensor::new(&[2, 2], &[3_i64, 1, 6, 4]).unwrap());
        assert!(whole.take(1, &[3]).is_err());
    }

    #[test]
    fn casts_keep_values() {
        let ids = Tensor::new(&[2], &[7_i64, -3]).unwrap();
        assert_eq!(ids.to_vec::<f32>().unwrap(), [7.0, -3.0]);
        assert_eq!(ids.cast::<i32>().unwrap().as_slice::<i32>().unwrap(), [7, -3]);
        let halves = Tensor::new(&[1], &[f16::from_f32(0.5)]).unwrap();
        assert_eq!(halves.to_vec::<f64>().unwrap(), [0.5]);
    }
}
