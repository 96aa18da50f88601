//! The ONNX file format: messages, loading and saving, tensors, attributes, external data.
//!
//! Weights are never copied: a `bytes` field of a message is a slice of the buffer that the file was read
//! or mapped into, and goes to the output straight from there.

pub mod attributes;
mod buffer;
mod declare;
pub(crate) mod domain;
mod encode;
mod external;
pub mod model;
#[rustfmt::skip] // generated
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod proto;
mod save;
#[rustfmt::skip] // generated
mod schema;
mod temporary;
pub mod tensor;
pub mod traits;
mod visit;
mod wire;

pub(crate) use buffer::put_aside;
pub(crate) use declare::{declared, declared_partly};
pub(crate) use domain::opset_of;
pub(crate) use encode::hash_of;
pub use model::Model;
pub use save::{SaveOptions, discard_staged};
pub(crate) use temporary::TemporaryFile;
