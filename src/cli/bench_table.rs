//! `paredown bench-table`: time the operators of a model on this machine, for a latency budget here or elsewhere.

use std::path::PathBuf;

use clap::Command;

use super::bench::{Library, TypedRuntime};
use super::options::{Dims, Sizes, at, listener, spinner};
use super::print::print;
use crate::error::Result;
use crate::jobs::setting::Configured;
use crate::{Model, PruneOptions};

/// Times the operators of a model at the sizes that pruning may leave, for `prune --latency` here or on another machine
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The ONNX file
    model: PathBuf,
    /// The table to write; times that it holds already are not measured again
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Runtime to measure in [default: onnxruntime if its library is found, otherwise tract]
    #[arg(long, value_enum, value_name = "NAME")]
    runtime: Option<TypedRuntime>,
    /// Samples; dynamic dimensions get the sizes of the first one
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    #[command(flatten)]
    library: Library,
    #[command(flatten)]
    sizes: Sizes,
    #[command(flatten)]
    dims: Dims,
    /// Show no progress and print only errors
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn run(args: &Args, _command: &Command) -> Result<()> {
    let mut options = PruneOptions::ratio(0.0);
    options.align = args.sizes.align();
    options.runtimes = args.library.measured_in(args.runtime, Some(&args.output));
    let bar = spinner(args.quiet, "timing operators");
    if let Some(path) = &args.data {
        options = options.data(at(path));
    }
    let setting = options.setting_mut();
    (setting.dims, setting.progress) = (args.dims.sizes()?, listener(&bar));
    let model = Model::load(&args.model)?;
    let found = crate::record_times(&model, &options).map_err(|error| error.in_file(&args.model))?;
    bar.finish_and_clear();
    if args.quiet {
        return Ok(());
    }
    let mut text = format!(
        "{}: {:.3} ms for one run; {} sizes of {} operators timed, {} times in {}\n",
        found.runtime,
        found.whole_ms,
        found.timed,
        found.operators,
        found.known,
        args.output.display()
    );
    if found.untimed > 0 {
        text += &format!("note: {} operators cannot be run alone; their times will be estimates\n", found.untimed);
    }
    print(&text)
}
