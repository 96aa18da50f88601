//! Latency in the runtimes that a model is deployed in.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::{RuntimeOptions, Runtimes};

/// Where latency is measured, besides tract.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Bench {
    /// ONNX Runtime library for measuring latency, or a directory that contains it [default: the first of
    /// `ORT_DYLIB_PATH`, the package of the Python on `PATH`, the system's library]
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    /// Command for measuring latency in any other runtime: `{model}` stands for the model's path, and the last number
    /// printed is the time in milliseconds
    #[arg(long, value_name = "CMD")]
    bench_cmd: Option<String>,
    /// Number of threads for each run in ONNX Runtime
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
}

impl Bench {
    /// Whether a command was typed.
    pub(super) fn has_command(&self) -> bool {
        self.bench_cmd.is_some()
    }

    /// Loads the given library, and tries the command.
    pub(super) fn open(&self, original: &Path) -> Result<Runtimes> {
        let mut options = RuntimeOptions::default();
        options.library.clone_from(&self.onnxruntime);
        options.command.clone_from(&self.bench_cmd);
        options.threads = usize::from(self.threads);
        Runtimes::open(&options, original)
    }
}
