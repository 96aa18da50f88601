//! paredown makes trained ONNX models smaller and faster, without the framework they were trained in.
//!
//! It removes whole neurons, channels and attention heads ([`prune`]) and splits layers into smaller ones of low rank
//! ([`factorize`]). It repairs the kept weights, trains them on request ([`tune`]), and proves every rewrite by running
//! it in tract.
//!
//! # A model, half as large
//!
//! Load a model and see what can be removed. A *group* is a set of tensor axes that must shrink together:
//!
//! ```
//! use paredown::{InspectOptions, Model, inspect};
//!
//! let model = Model::load("fixtures/digits_resnet.onnx")?;
//! let report = inspect(&model, &InspectOptions::new())?;
//! for group in &report.groups {
//!     println!("{}: {} {}, {}", group.name, group.size, group.axis, group.role);
//! }
//! assert!(report.groups.iter().any(|group| group.role == "free"));
//! # Ok::<(), paredown::Error>(())
//! ```
//!
//! Remove half of the units (neurons, channels, heads) of every group. With samples, units are ranked by how much they contribute to the outputs
//! of their layers, and the kept weights are fitted to the original's outputs by least squares. Samples given as `eval`
//! only measure the result; no decision uses them:
//!
//! ```
//! use paredown::{Model, Plan, PruneOptions, VerifyOptions, prune, verify};
//!
//! let folder = std::env::temp_dir().join(format!("paredown-doc-{}", std::process::id()));
//! std::fs::create_dir_all(&folder)?;
//! let model = Model::load("fixtures/digits_resnet.onnx")?;
//! let options = PruneOptions::ratio(0.5).data("fixtures/calib.npz").eval("fixtures/eval.npz");
//! let mut pruned = prune(&model, &options)?.prove()?;
//!
//! // The report holds everything that was found, changed and proved.
//! let report = &pruned.report;
//! assert!(report.model.after.params < report.model.before.params / 2);
//! assert!(report.verify.exact_max_rel.is_some_and(|deviation| deviation <= 1e-4));
//! assert!(report.verify.accuracy.after > Some(0.9));
//! println!("{}", report.to_json());
//!
//! // A file is written completely or not at all, and an existing file is never overwritten.
//! pruned.save(folder.join("pruned.onnx"))?;
//! pruned.plan.save(folder.join("plan.json"))?;
//!
//! // Anyone with both files and the plan can repeat the proof.
//! let written = Model::load(folder.join("pruned.onnx"))?;
//! let again = VerifyOptions::new().plan(Plan::load(folder.join("plan.json"))?);
//! assert_eq!(verify(&model, &written, &again)?.verify.valid, Some(true));
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Samples from memory
//!
//! A [`Dataset`] is made from a path, or from arrays in memory whose batch axis (axis 0 in most models) counts samples. An optional array called
//! `labels` holds the correct answer for each sample:
//!
//! ```
//! use paredown::{Array, Cancel, Dataset, FactorizeOptions, Model, factorize};
//!
//! let images: Vec<f32> = (0..32 * 64).map(|i| (i % 17) as f32 / 17.0).collect();
//! let data = Dataset::from_arrays([("input", Array::new(&[32, 1, 8, 8], images)?)])?;
//! let cancel = Cancel::new(); // another thread may set it
//! let options = FactorizeOptions::params(0.6).data(data).cancel(&cancel).progress(|doing| println!("{doing}"));
//! let split = factorize(&Model::load("fixtures/digits_resnet.onnx")?, &options)?;
//! for layer in split.report.layers.iter().filter(|layer| layer.rank.is_some()) {
//!     println!("{} at rank {:?}", layer.name, layer.rank);
//! }
//! # Ok::<(), paredown::Error>(())
//! ```
//!
//! # What fails, and how
//!
//! An [`Error`] has a [kind](ErrorKind), names the file and the node that it concerns, and says what to do next. No job
//! changes the model that it is given.
//!
//! `ARCHITECTURE.md` explains how it works: the axis algebra and the proof.

#![warn(clippy::print_stdout)]
// Tests cast small numbers that they wrote themselves.
#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss))]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

#[cfg(test)]
extern crate self as paredown;

mod analysis;
mod api;
mod axes;
mod calibrate;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod command;
mod defect;
mod error;
mod factorize;
mod facts;
mod graph;
#[doc(hidden)]
pub mod internals;
mod jobs;
mod latency;
mod linalg;
mod lowrank;
mod metric;
mod normalize;
mod onnx;
mod ops;
mod plan;
mod price;
mod progress;
mod repair;
mod report;
mod rewrite;
mod runtime;
mod score;
mod texts;
mod times;
mod train;
mod verify;

/// Compiles the Rust of README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use api::*;
