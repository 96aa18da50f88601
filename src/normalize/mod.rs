//! Rewrites of the graph before it is analysed: what the axis algebra reads more easily, with the same outputs.

mod copies;
mod fold;
mod states;
mod unroll;

pub(crate) use copies::without_copies;
pub(crate) use fold::folded;
pub(crate) use states::unstacked;
pub(crate) use unroll::{may_unroll, unrolled};
