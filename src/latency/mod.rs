//! Latency in the runtimes that a model is deployed in.
//!
//! [`onnxruntime`] loads the ONNX Runtime library at run time, times two models in alternation, and compares their outputs with
//! tract's. [`command`] leaves the timing to a command of the user, which may drive TensorRT, a phone, or anything else that
//! prints a time.

pub mod command;
pub mod find;
mod library;
pub mod onnxruntime;
pub mod runtimes;
mod session;
pub mod stopwatch;
pub mod timing;

pub use runtimes::{Measured, RuntimeName, RuntimeOptions, Runtimes};
pub(crate) use stopwatch::{Stopwatch, Where};
pub use timing::{RuntimeLatency, Timing};
