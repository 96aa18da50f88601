//! Training on the ONNX graph itself: gradients, an optimizer, a loop.
//!
//! A model becomes a [`Program`]: values that a trained tensor reaches are computed on the tape of `candle`, operator
//! by operator, everything else by tract. An operator with a gradient is a row of one table (`ops/table.rs`).
//!
//! The operators run on `rayon`. candle has threads of its own, for additions of gradients, that wait in busy loops: a
//! program that embeds this library trains faster with `CANDLE_NUM_THREADS=1` in its environment. The command sets it.

mod adamw;
mod feed;
mod kernel;
mod loss;
mod ops;
mod options;
mod parameters;
mod program;
mod samples;
#[cfg(test)]
mod tests;
mod tune;

pub use loss::{Loss, label_loss};
pub use ops::differentiable;
pub use options::Options;
pub use program::{Gate, Parameter, Program, Run, Wanted};
pub use tune::{Guidance, tune};

use crate::error::Error;

impl From<candle_core::Error> for Error {
    /// A tensor operation that does not fit its operands. The caller names the node.
    fn from(error: candle_core::Error) -> Self {
        match error {
            candle_core::Error::WithBacktrace { inner, .. } => (*inner).into(),
            error => Error::input(error.to_string()),
        }
    }
}
