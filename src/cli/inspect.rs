//! `paredown inspect`: every group, and why the frozen ones are.

use std::path::PathBuf;

use clap::Command;

use super::flags::as_typed;
use super::options::{Dims, spinner};
use super::print::print;
use crate::error::Result;
use crate::report::inspection;
use crate::{InspectOptions, Model};

/// Lists every coupled group of a model: what its indices are, which tensors it slices, what it costs, and which node
/// freezes it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The ONNX file
    model: PathBuf,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    dims: Dims,
    /// Count groups whose removal shifts a statistic as prunable
    #[arg(long)]
    allow_shifts: bool,
    /// A graph output (or input) whose axes may be pruned; may be repeated
    #[arg(long, value_name = "NAME")]
    thaw: Vec<String>,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn run(args: &Args, command: &Command) -> Result<()> {
    let mut options = InspectOptions::new().allow_shifts(args.allow_shifts);
    options.dims = args.dims.sizes()?;
    options.thaw.clone_from(&args.thaw);
    let bar = spinner(args.quiet || args.json, "analysing");
    let model = Model::load(&args.model)?;
    let report = crate::inspect(&model, &options).map_err(|e| e.in_file(&args.model))?;
    bar.finish_and_clear();
    if args.json { print(&report.to_json()) } else { print(&as_typed(&inspection(&report), command)) }
}
