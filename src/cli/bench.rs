//! Latency in the runtimes that a model is deployed in.

use std::path::{Path, PathBuf};

use super::options::latency;
use crate::error::Result;
use crate::{Remaining, RuntimeName, RuntimeOptions, Runtimes};

/// ONNX Runtime, and how it runs.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Library {
    /// ONNX Runtime library for measuring latency, or a directory that contains it [default: the first of
    /// `ORT_DYLIB_PATH`, the package of the Python on `PATH`, the system's library]
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    /// Number of threads for each run in ONNX Runtime
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
}

impl Library {
    fn options(&self) -> RuntimeOptions {
        let mut options = RuntimeOptions::default();
        options.library.clone_from(&self.onnxruntime);
        options.threads = usize::from(self.threads);
        options
    }

    /// The same, in this runtime, with this table of operator times.
    pub(super) fn measured_in(&self, runtime: Option<TypedRuntime>, table: Option<&Path>) -> RuntimeOptions {
        let mut options = self.options();
        options.table = table.map(Path::to_path_buf);
        options.runtime = runtime.map(|runtime| match runtime {
            TypedRuntime::Onnxruntime => RuntimeName::OnnxRuntime,
            TypedRuntime::Tract => RuntimeName::Tract,
        });
        options
    }
}

/// Where latency is measured, besides tract.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Bench {
    #[command(flatten)]
    library: Library,
    /// Command for measuring latency in any other runtime: `{model}` stands for the model's path, and the last number
    /// printed is the time in milliseconds
    #[arg(long, value_name = "CMD")]
    bench_cmd: Option<String>,
}

impl Bench {
    /// Whether a command was typed.
    pub(super) fn has_command(&self) -> bool {
        self.bench_cmd.is_some()
    }

    /// Loads the given library, and tries the command.
    pub(super) fn open(&self, original: &Path) -> Result<Runtimes> {
        let mut options = self.library.options();
        options.command.clone_from(&self.bench_cmd);
        Runtimes::open(&options, original)
    }
}

/// A budget of latency.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Latency {
    /// Time of one run to keep: 60% of the original's, or 8ms. Operators are timed at several sizes, and the result is
    /// measured and corrected
    #[arg(long, value_name = "B", value_parser = latency)]
    pub(super) latency: Option<Remaining>,
    /// Runtime whose latency --latency limits [default: onnxruntime if its library is found, otherwise tract]
    #[arg(long, value_enum, value_name = "NAME")]
    runtime: Option<TypedRuntime>,
    /// File of operator times for --latency; `paredown bench-table` records one, also on another machine [default: one in
    /// the user's cache directory]
    #[arg(long, value_name = "FILE")]
    bench_table: Option<PathBuf>,
}

impl Latency {
    /// Where operators are timed.
    pub(super) fn options(&self, bench: &Bench) -> RuntimeOptions {
        bench.library.measured_in(self.runtime, self.bench_table.as_deref())
    }

    /// The table of operator times, if one was named.
    pub(super) fn table(&self) -> Option<&Path> {
        self.bench_table.as_deref()
    }
}

/// A runtime in which single operators can be timed.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum TypedRuntime {
    Onnxruntime,
    Tract,
}
