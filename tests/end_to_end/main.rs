//! From file to file: the command line and the library on real files, as a user meets them.

// Small exact numbers are compared and cast on purpose.
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
#![allow(clippy::cast_possible_wrap, clippy::float_cmp)]

mod accuracy;
mod align;
mod api;
mod bad_files;
mod bad_graphs;
mod budgets;
mod command;
mod compress;
mod confidence;
mod dead_weight;
mod determinism;
mod exact;
mod factorize;
mod inspect;
mod interrupt;
mod latency;
mod mask;
mod metric;
mod networks;
mod never_silent;
mod output_files;
mod page;
mod plans;
mod prices;
mod stats;
#[path = "../support/graph.rs"]
mod support;
mod sweep;
mod train;
mod usage;
mod verify;
