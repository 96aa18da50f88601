//! Prices: what the network's output loses when one part of it alone is made smaller.
//!
//! An error in one layer says little about the output: the same relative error costs one block of a network thirty times what
//! it costs another. So each part is changed alone, repaired, and run from there to the outputs, on samples that the repair has
//! not seen ([`effects`]); between the sizes that were measured, a [`Curve`] follows what the criterion predicts.
//! [`allocate`](allocate::allocate) then chooses all sizes under a budget.

pub(crate) mod allocate;
pub(crate) mod curve;
pub(crate) mod distance;
pub(crate) mod effects;
pub(crate) mod groups;
mod refit;
pub(crate) mod samples;
pub(crate) mod splits;

pub use curve::{Curve, Effect};
pub use groups::Effort;
