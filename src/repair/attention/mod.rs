//! Refits whole attention blocks that lost heads: queries, keys and values of those that stay, not their output alone.
//!
//! With half of the heads gone, the output projection of the others can only recombine what they already look at and
//! already carry. The block `softmax(α q kᵀ + b) v W_o` is small, and a least-squares problem like any other layer, if not
//! a linear one: inputs from the repaired model, targets from the original. No label and no other layer takes part.

mod block;
mod fit;
mod gather;
mod pattern;
mod whiten;

pub(super) use gather::Gathered;
pub(super) use pattern::Block;
