//! What the gradient of an operator sees of one node.

use crate::error::{Error, Result};
use crate::onnx::attributes::{Attributes, position};
use crate::onnx::proto::NodeProto;
use crate::runtime;
use crate::train::kernel::Real;
use crate::train::tape::Tensor;

/// An operand: on the tape, or known without it.
#[derive(Debug, Clone)]
pub(in crate::train) enum Operand<T: Real> {
    /// A real tensor that gradients may flow through. Truth values are 0 and 1.
    Real(Tensor<T>),
    /// Integers, and what else is not real.
    Known(runtime::Tensor),
}

/// A node with its operands.
pub(in crate::train) struct Site<'a, T: Real> {
    pub(super) node: &'a NodeProto,
    pub(super) attributes: Attributes<'a>,
    pub(super) inputs: Vec<Option<Operand<T>>>,
    /// Version of the operator set that the node is of.
    pub(super) opset: i64,
}

impl<'a, T: Real> Site<'a, T> {
    pub(in crate::train) fn new(node: &'a NodeProto, inputs: Vec<Option<Operand<T>>>, opset: i64) -> Self {
        Self { node, attributes: Attributes::of(node), inputs, opset }
    }

    /// Operand `slot` as real numbers.
    pub(super) fn real(&self, slot: usize) -> Result<Tensor<T>> {
        self.optional(slot)?.ok_or_else(|| Error::input(format!("operand {slot} is missing")))
    }

    /// Operand `slot` as real numbers, if it is there.
    pub(super) fn optional(&self, slot: usize) -> Result<Option<Tensor<T>>> {
        match self.inputs.get(slot) {
            Some(Some(Operand::Real(tensor))) => Ok(Some(tensor.clone())),
            Some(Some(Operand::Known(tensor))) => Tensor::of(tensor).map(Some),
            _ => Ok(None),
        }
    }

    /// Operand `slot` as integers, if it is there.
    pub(super) fn ints(&self, slot: usize) -> Result<Option<Vec<i64>>> {
        match self.inputs.get(slot) {
            Some(Some(Operand::Known(tensor))) => tensor.to_vec::<i64>().map(Some),
            Some(Some(Operand::Real(_))) => {
                Err(Error::input(format!("operand {slot} depends on weights, where the operator wants fixed integers")))
            }
            _ => Ok(None),
        }
    }

    /// Operand `slot` as numbers that do not depend on weights, if it is there.
    pub(super) fn floats(&self, slot: usize) -> Result<Option<Vec<f64>>> {
        match self.inputs.get(slot) {
            Some(Some(Operand::Known(tensor))) => tensor.to_vec::<f64>().map(Some),
            Some(Some(Operand::Real(tensor))) => Ok(Some(tensor.data().iter().map(|x| x.to_f64()).collect())),
            _ => Ok(None),
        }
    }

    /// Shape of operand `slot`.
    pub(super) fn dims(&self, slot: usize) -> Result<Vec<usize>> {
        match self.inputs.get(slot) {
            Some(Some(Operand::Real(tensor))) => Ok(tensor.dims().to_vec()),
            Some(Some(Operand::Known(tensor))) => Ok(tensor.shape().to_vec()),
            _ => Err(Error::input(format!("operand {slot} is missing"))),
        }
    }

    /// A list that is an attribute in old operator sets and operand `slot` in new ones.
    pub(super) fn list(&self, name: &str, slot: usize) -> Result<Option<Vec<i64>>> {
        match self.attributes.ints(name)? {
            Some(list) => Ok(Some(list.to_vec())),
            None => self.ints(slot),
        }
    }

    /// An integer attribute.
    pub(super) fn int(&self, name: &str, default: i64) -> Result<i64> {
        self.attributes.int_or(name, default)
    }

    /// A real attribute.
    pub(super) fn float(&self, name: &str, default: f32) -> Result<f64> {
        self.attributes.float_or(name, default).map(f64::from)
    }

    /// A text attribute.
    pub(super) fn text(&self, name: &str, default: &'a str) -> Result<&'a str> {
        Ok(self.attributes.string(name)?.unwrap_or(default))
    }
}

/// Axis number `axis`, negative counted from the end, of a tensor of rank `rank`.
pub(super) fn axis_of(axis: i64, rank: usize) -> Result<usize> {
    position(axis, rank).ok_or_else(|| Error::input(format!("there is no axis {axis} of a tensor of rank {rank}")))
}

/// Most elements of one tensor on the tape (8 GiB in float32): sizes come from a file.
const LARGEST: usize = 1 << 31;

/// Refuses a shape of more than 2³¹ elements, before anything of it is made.
pub(super) fn check_size(dims: impl IntoIterator<Item = usize>) -> Result<()> {
    let count = dims.into_iter().try_fold(1_usize, |count, size| count.checked_mul(size));
    match count.filter(|&count| count <= LARGEST) {
        Some(_) => Ok(()),
        None => Err(Error::input(format!("a tensor of more than {LARGEST} elements"))),
    }
}
