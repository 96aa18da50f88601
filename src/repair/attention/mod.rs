//! Attention as a whole: heads that lose dimensions, and blocks that lose heads.
//!
//! Dimensions go in a basis that puts them in order of what they do ([`Bases`]): the widths of heads are found in the solved
//! graph, which heads meet is traced ([`bond`]), their moments are gathered ([`sides`]), and [`turn`] has the closed rule.
//!
//! Where whole heads go, the output projection of the others can only recombine what they already look at and already carry.
//! The block `softmax(α q kᵀ + b) v W_o` is small, and a least-squares problem like any other layer, if not a linear one
//! ([`fit`]): inputs from the repaired model, targets from the original. No label and no other layer takes part.

mod basis;
#[cfg(test)]
mod basis_tests;
mod block;
mod bond;
mod fit;
mod gather;
mod part;
mod pattern;
mod sides;
mod trace;
mod turn;
mod whiten;

pub use basis::Bases;
pub(super) use basis::Blocks;
pub(super) use gather::Gathered;
pub(super) use pattern::Block;
