//! The rule table: every row solved on an example, and held against what tract computes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod build;
mod examples;
mod golden;
mod oracles;
mod traps;
