//! Latency in the runtimes that a model is deployed in.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::{RuntimeOptions, Runtimes};

/// Where latency is measured, besides tract.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Bench {
    /// The library of ONNX Runtime, or a folder with it, to measure latency in [default: `ORT_DYLIB_PATH`, the package of the
    /// Python on `PATH`, the system's]
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    /// A command that runs a model anywhere: `{model}` stands for its path, and the last number that it prints is taken as
    /// milliseconds
    #[arg(long, value_name = "CMD", conflicts_with = "no_verify")]
    bench_cmd: Option<String>,
    /// Threads of one run in ONNX Runtime
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
}

impl Bench {
    /// Loads the library that was named, and tries the command.
    pub(super) fn open(&self, original: &Path) -> Result<Runtimes> {
        let mut options = RuntimeOptions::default();
        options.library.clone_from(&self.onnxruntime);
        options.command.clone_from(&self.bench_cmd);
        options.threads = usize::from(self.threads);
        Runtimes::open(&options, original)
    }
}
