//! The ONNX file format: messages, loading and saving, tensors, attributes, external data.
//!
//! Weights are never copied: a `bytes` field of a message is a slice of the buffer that the file was read
//! or mapped into, and goes to the output straight from there.

pub mod attributes;
mod buffer;
mod encode;
mod external;
pub mod model;
mod save;
pub mod tensor;
pub mod traits;
mod visit;
mod wire;

/// The messages of `proto/onnx.proto`, as `prost` generates them; `bytes` fields are [`bytes::Bytes`].
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

pub(crate) use buffer::put_aside;
pub use model::Model;
pub use save::{SaveOptions, discard_staged};
