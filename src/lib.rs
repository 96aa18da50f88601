//! paredown makes a trained ONNX model smaller and faster, file in, file out.

pub mod analysis;
pub mod axes;
pub mod calibrate;
pub mod cli;
pub mod error;
pub mod factorize;
pub mod facts;
pub mod graph;
pub mod linalg;
pub mod onnx;
pub mod ops;
pub mod plan;
pub mod prune;
pub mod repair;
pub mod report;
pub mod rewrite;
pub mod runtime;
pub mod score;
pub mod train;
pub mod verify;

pub use error::{Error, ErrorKind, Result};
