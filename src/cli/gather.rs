//! `paredown gather`: the passes over the samples alone, or a share of them.

use std::path::PathBuf;

use clap::Command;

use super::options::{Inputs, listener, spinner};
use super::paths::check_paths;
use super::print::print;
use crate::error::Result;
use crate::jobs::setting::Setting;
use crate::progress::Progress;
use crate::{GatherOptions, Model};

/// Gathers what prune and factorize need to know of the samples, and keeps it in a file for their --stats
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The ONNX file
    model: PathBuf,
    /// The file to keep the sums in
    #[arg(long, value_name = "FILE", required = true)]
    stats: PathBuf,
    /// Gather from one share of the samples only, such as 2/4: every machine gets all samples as --data, and merge-stats
    /// puts the files together. There may be up to 8 shares
    #[arg(long, value_name = "K/N", value_parser = share)]
    share: Option<(usize, usize)>,
    #[command(flatten)]
    inputs: Inputs,
    /// Seed for every random choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print only errors
    #[arg(long, short)]
    quiet: bool,
}

/// `2/4`: the second of four.
fn share(typed: &str) -> Result<(usize, usize), String> {
    let parts = typed.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
    parts.ok_or_else(|| format!("'{typed}' is not a share such as 2/4"))
}

impl Args {
    /// The options of the job.
    pub(super) fn options(&self, progress: Progress) -> Result<GatherOptions> {
        let setting = self.inputs.setting(self.seed, progress)?;
        let mut options = GatherOptions::new();
        // Sums are gathered from `data` alone.
        options.setting = Setting { eval: None, stats: Some(self.stats.clone()), share: self.share, ..setting };
        Ok(options)
    }
}

pub(super) fn run(args: &Args, _: &Command) -> Result<()> {
    check_paths(&args.model, args.inputs.data.paths(), None, &[("--stats", Some(args.stats.as_path()))])?;
    let bar = spinner(args.quiet, "gathering");
    let options = args.options(listener(&bar))?;
    let model = Model::load(&args.model)?;
    let added = crate::gather(&model, &options).map_err(|e| e.in_file(&args.model))?;
    bar.finish_and_clear();
    let of = args.share.map_or(String::new(), |(number, of)| format!(" of share {number}/{of}"));
    if args.quiet { Ok(()) } else { print(&format!("{added} results{of} kept in {}\n", args.stats.display())) }
}
