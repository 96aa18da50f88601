//! Training on the ONNX graph itself: gradients, an optimizer, a loop.
//!
//! A model becomes a [`Program`]: values that a trained tensor reaches are computed on a tape (`tape.rs`), operator by
//! operator, everything else by tract. An operator with a gradient is a row of one table (`ops/table.rs`).

mod adamw;
mod feed;
mod kernel;
mod loss;
mod ops;
mod options;
mod parameters;
mod program;
mod report;
mod samples;
mod sums;
mod tape;
#[cfg(test)]
mod tests;
mod tune;

pub use kernel::Real;
pub use loss::{Loss, label_loss};
pub use ops::differentiable;
pub use options::Options;
pub use program::{Gate, Parameter, Program, Run, Wanted};
pub use report::{EpochReport, TuningReport};
pub use tape::{Gradients, Tensor};
pub use tune::{Guidance, tune};
