//! `paredown merge-stats`: one file of statistics from those of several machines.

use std::path::PathBuf;

use clap::Command;

use super::paths::check_paths;
use super::print::print;
use crate::error::Result;

/// Puts files of statistics together that were gathered from shares of the same samples
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The files, in any order
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The file to write
    #[arg(long, short, value_name = "FILE", required = true)]
    output: PathBuf,
    /// Print only errors
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn run(args: &Args, _: &Command) -> Result<()> {
    let read = args.files.iter().skip(1).map(PathBuf::as_path);
    check_paths(&args.files[0], read, None, &[("--output", Some(args.output.as_path()))])?;
    let merged = crate::merge_stats(&args.files, &args.output)?;
    let mut text = format!("{} results kept in {}\n", merged.results, args.output.display());
    if !merged.missing.is_empty() {
        let missing: Vec<String> = merged.missing.iter().map(ToString::to_string).collect();
        text += &format!("still missing: eighths {} of the samples\n", missing.join(", "));
    }
    if args.quiet { Ok(()) } else { print(&text) }
}
