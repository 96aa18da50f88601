//! Arithmetic of whole tensors, broadcast as numpy does, for operators and losses that are composed of it.

use super::elementwise::elementwise;
use super::rows::{Reduction, RowMap, map_rows, reduce_rows};
use super::scalars as s;
use crate::error::Result;
use crate::train::kernel::Real;
use crate::train::tape::Tensor;

impl<T: Real> Tensor<T> {
    /// `self + other`.
    pub(crate) fn plus(&self, other: &Self) -> Result<Self> {
        elementwise::<s::Add, T>(&[self, other], &[])
    }

    /// `self − other`.
    pub(crate) fn minus(&self, other: &Self) -> Result<Self> {
        elementwise::<s::Sub, T>(&[self, other], &[])
    }

    /// `self · other`, element by element.
    pub(crate) fn times(&self, other: &Self) -> Result<Self> {
        elementwise::<s::Mul, T>(&[self, other], &[])
    }

    /// `self / other`, element by element.
    pub(in crate::train) fn over(&self, other: &Self) -> Result<Self> {
        elementwise::<s::Div, T>(&[self, other], &[])
    }

    /// `scale · self`.
    pub(crate) fn scaled(&self, scale: f64) -> Result<Self> {
        self.affine(scale, 0.0)
    }

    /// `scale · self + shift`.
    pub(in crate::train) fn affine(&self, scale: f64, shift: f64) -> Result<Self> {
        elementwise::<s::Affine, T>(&[self], &[scale, shift])
    }

    /// `√self`.
    pub(in crate::train) fn sqrt(&self) -> Result<Self> {
        elementwise::<s::Sqrt, T>(&[self], &[])
    }

    /// `exp self`.
    pub(in crate::train) fn exp(&self) -> Result<Self> {
        elementwise::<s::Exp, T>(&[self], &[])
    }

    /// `log self`.
    pub(in crate::train) fn ln(&self) -> Result<Self> {
        elementwise::<s::Log, T>(&[self], &[])
    }

    /// Clamped to `low..=high`.
    pub(in crate::train) fn clamp(&self, low: f64, high: f64) -> Result<Self> {
        elementwise::<s::Clip, T>(&[self], &[low, high])
    }

    /// `self · self`, element by element.
    pub(in crate::train) fn squared(&self) -> Result<Self> {
        self.times(self)
    }

    /// The sum of all elements.
    pub(crate) fn sum(&self) -> Result<Self> {
        reduce_rows(&self.reshape([self.len()])?, Reduction::Sum)
    }

    /// The sums over the last axis.
    pub(in crate::train) fn sum_last(&self) -> Result<Self> {
        reduce_rows(self, Reduction::Sum)
    }

    /// Log probabilities of the last axis.
    pub(in crate::train) fn log_softmax(&self) -> Result<Self> {
        map_rows(self, RowMap::LogSoftmax)
    }
}
