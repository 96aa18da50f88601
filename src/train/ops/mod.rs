//! Operators on the tape: a value and a gradient each. [`table`] lists them all.

mod activations;
mod contract;
mod conv;
mod einsum;
mod elementwise;
mod layout;
mod pool;
mod product;
mod recurrent;
mod resize;
mod rows;
mod scalars;
mod site;
mod statistics;
mod table;
mod take;

use candle_core::Tensor;

pub(super) use site::{Operand, Site};
pub use table::differentiable;
#[cfg(test)]
pub(super) use table::rows;
pub(super) use table::{Gradient, gradient};

/// Log probabilities of the last axis.
pub(super) fn log_softmax(x: &Tensor) -> candle_core::Result<Tensor> {
    rows::map_rows(x, rows::RowMap::LogSoftmax)
}

/// `a · b`, broadcast.
pub(super) fn multiply(a: &Tensor, b: &Tensor) -> candle_core::Result<Tensor> {
    elementwise::elementwise::<scalars::Mul>(&[a, b], &[])
}
