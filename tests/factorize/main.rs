//! Factorization of whole models, checked in tract.

// Small numbers that the tests wrote themselves.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::case_sensitive_file_extension_comparisons,
    clippy::needless_update
)]

mod biases;
mod budgets;
mod compose;
mod graphs;
mod layers;
#[path = "../support/graph.rs"]
mod support;
mod tables;
