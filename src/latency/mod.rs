//! How long a model takes in the runtime that it is deployed in.
//!
//! [`onnxruntime`] loads the library of ONNX Runtime at run time and times two models by turns; [`command`] leaves the timing
//! to a command of the user, which may drive TensorRT, a phone, or anything else that ends with a number.

pub mod command;
pub mod find;
pub mod onnxruntime;
pub mod runtimes;
pub mod timing;

pub use runtimes::{Measured, RuntimeOptions, Runtimes};
pub use timing::{RuntimeLatency, Timing};
