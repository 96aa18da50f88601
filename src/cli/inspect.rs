//! `paredown inspect`: every group, and why the frozen ones are.

use std::path::PathBuf;

use clap::Command;

use super::flags::as_typed;
use super::options::{Dims, spinner};
use super::print::print;
use crate::error::Result;
use crate::report::inspection;
use crate::{InspectOptions, Model};

/// Lists every coupled group of a model: its kind of units, its tensors, its cost, and the node that freezes it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The ONNX file
    model: PathBuf,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    dims: Dims,
    /// Treat groups whose removal shifts a statistic (LayerNorm, Softmax, …) as prunable
    #[arg(long)]
    allow_shifts: bool,
    /// Allow pruning the axes of this graph output or input; may be repeated
    #[arg(long, value_name = "NAME")]
    thaw: Vec<String>,
    /// List all groups, those of kernel axes and of repeated layers one by one
    #[arg(long)]
    all: bool,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
}

impl Args {
    /// The options of the job.
    pub(super) fn options(&self) -> Result<InspectOptions> {
        let mut options = InspectOptions::new().allow_shifts(self.allow_shifts);
        options.dims = self.dims.sizes()?;
        options.thaw.clone_from(&self.thaw);
        Ok(options)
    }
}

pub(super) fn run(args: &Args, command: &Command) -> Result<()> {
    let options = args.options()?;
    let bar = spinner(args.quiet || args.json, "analysing");
    let model = Model::load(&args.model)?;
    let report = crate::inspect(&model, &options).map_err(|e| e.in_file(&args.model))?;
    bar.finish_and_clear();
    if args.json { print(&report.to_json()) } else { print(&as_typed(&inspection(&report, args.all), command)) }
}
