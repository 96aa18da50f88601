//! The file format: what goes in comes out, and what is broken is refused.

// Small exact numbers are compared and cast on purpose.
#![allow(clippy::cast_precision_loss, clippy::cast_possible_wrap, clippy::float_cmp)]

mod attributes;
mod bad_input;
mod external_data;
mod generated;
mod round_trip;
mod samples;
mod saving;
mod tensors;
