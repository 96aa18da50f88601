//! The rule table: every row solved on an example, and held against what tract computes.

// Small numbers that the tests wrote themselves.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::case_sensitive_file_extension_comparisons,
    clippy::needless_update
)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod attributes;
mod bodies;
mod build;
mod decided;
mod documented;
mod examples;
mod exporters;
mod functions;
mod golden;
mod merged;
mod net;
mod oracles;
mod proofs;
mod spelled;
#[path = "../support/graph.rs"]
mod support;
mod traits;
mod traps;
mod unroll;
