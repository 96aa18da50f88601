//! paredown makes a trained ONNX model smaller and faster, file in, file out, without the training framework.
//!
//! It removes whole neurons, channels and attention heads (structured pruning), splits layers into two low-rank ones
//! (factorization), repairs what that costs, and proves every rewrite by running it in tract.
//!
//! ```
//! use paredown::onnx::Model;
//! use paredown::jobs::prune::{Options, Target, prune};
//!
//! let model = Model::load("fixtures/digits_mlp.onnx".as_ref())?;
//! let pruned = prune(&model, &Options::new(Target::Ratio(0.5)), None)?;
//! let figures = &pruned.report.model;
//! assert!(figures.after.params < figures.before.params / 2);
//! # Ok::<(), paredown::Error>(())
//! ```
//!
//! The idea behind it is the [axis algebra](axes): every axis of every tensor is a sum of products of factors, each
//! operator contributes equations between axes ([`ops`]), and the solution says which slices belong together.

#![warn(clippy::print_stdout)]
// Tests cast small numbers that they wrote themselves.
#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss))]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

pub mod analysis;
pub mod axes;
pub mod calibrate;
pub mod cli;
pub mod error;
pub mod factorize;
pub mod facts;
pub mod graph;
pub mod jobs;
pub mod linalg;
pub mod lowrank;
pub mod normalize;
pub mod onnx;
pub mod ops;
pub mod plan;
pub mod repair;
pub mod report;
pub mod rewrite;
pub mod runtime;
pub mod score;
mod texts;
pub mod train;
pub mod verify;

pub use error::{Error, ErrorKind, Result};
