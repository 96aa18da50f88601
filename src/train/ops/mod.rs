//! Operators on the tape: a value and a gradient each. [`table`] lists them all.

mod activations;
mod arithmetic;
mod contract;
mod conv;
mod einsum;
mod elementwise;
mod layout;
mod moves;
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
mod walk;

pub(super) use site::{Operand, Site};
pub use table::differentiable;
#[cfg(test)]
pub(super) use table::rows;
pub(super) use table::{Gradient, gradient};
pub(super) use take::take;
