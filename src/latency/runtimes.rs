//! The runtimes, besides tract, that latency is measured in.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::command::BenchCommand;
use super::onnxruntime::OnnxRuntime;
use super::timing::RuntimeLatency;
use crate::error::{Error, Result};
use crate::onnx::{Model, SaveOptions};
use crate::runtime::NamedTensor;

/// Options of [`Runtimes`]: where to measure latency, besides tract.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RuntimeOptions {
    /// The ONNX Runtime library, or a directory that contains it; if `None`, it is searched for.
    pub library: Option<PathBuf>,
    /// A benchmark command: `{model}` stands for the model's path, and the last number printed is the time in
    /// milliseconds.
    pub command: Option<String>,
    /// Number of threads for each run in ONNX Runtime; 0 counts as 1.
    pub threads: usize,
    /// The runtime whose latency a budget limits; if `None`, ONNX Runtime if its library is found, otherwise tract.
    pub runtime: Option<RuntimeName>,
    /// The file of operator times that a latency budget is shared by; if `None`, one in the user's cache directory. A table
    /// that another machine recorded is used as it is.
    pub table: Option<PathBuf>,
}

/// A runtime in which single operators can be timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeName {
    /// ONNX Runtime.
    OnnxRuntime,
    /// tract.
    Tract,
}

/// The runtimes that latency is measured in, besides tract.
#[derive(Debug)]
pub struct Runtimes {
    /// The given library; otherwise one is searched for when it is needed.
    named: Option<Rc<OnnxRuntime>>,
    command: Option<BenchCommand>,
    threads: usize,
}

/// Measured latencies, and notes on those that could not be measured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// One entry for each runtime.
    pub latencies: Vec<RuntimeLatency>,
    /// Why figures are missing, and what to do if the rewritten model is slower.
    pub notes: Vec<String>,
}

impl Runtimes {
    /// Loads the given library and runs the command once on the original, so that mistakes show before any work is
    /// done.
    ///
    /// # Errors
    /// As [`OnnxRuntime::named`], [`BenchCommand::new`] and [`BenchCommand::once`].
    pub fn open(options: &RuntimeOptions, original: &Path) -> Result<Self> {
        let named = OnnxRuntime::named(options.library.as_deref())?.map(Rc::new);
        let command = options.command.as_deref().map(BenchCommand::new).transpose()?;
        if let Some(command) = &command {
            command.once(original)?;
        }
        Ok(Self { named, command, threads: options.threads.max(1) })
    }

    /// Times the file `original` and the rewritten model in alternation, on inputs that both take.
    ///
    /// # Errors
    /// [`Output`](crate::ErrorKind::Output) if the rewritten model cannot be written to a temporary folder, and what
    /// [`BenchCommand::compare`] returns.
    pub fn measure(&self, original: &Path, rewritten: &Model, inputs: &[NamedTensor]) -> Result<Measured> {
        let mut measured = Measured::default();
        let library = self.named.clone().map_or_else(|| OnnxRuntime::find().map(Rc::new), Ok);
        if let Err(why) = &library {
            measured.notes.push(format!(
                "the latency in ONNX Runtime was not measured ({why}); `pip install onnxruntime`, or name its library \
                 with `onnxruntime`"
            ));
            if self.command.is_none() {
                return Ok(measured);
            }
        }
        let folder = tempfile::tempdir().map_err(|e| Error::output(format!("a temporary folder: {e}")))?;
        let path = folder.path().join("rewritten.onnx");
        rewritten.save(&path, &SaveOptions::default())?;
        if let Ok(library) = &library {
            let outputs: Vec<String> =
                rewritten.proto.graph.iter().flat_map(|graph| &graph.output).map(|out| out.name().to_owned()).collect();
            match library.compare(original, &path, (inputs, &outputs), self.threads) {
                Ok(latency) => measured.latencies.push(latency),
                Err(error) => measured.notes.push(format!(
                    "ONNX Runtime {} does not run both files, so its latency is unknown: {error}",
                    library.version()
                )),
            }
        }
        if let Some(command) = &self.command {
            measured.latencies.push(command.compare(original, &path)?);
        }
        let slower = measured.latencies.iter().filter(|latency| latency.is_slower()).map(|latency| {
            format!(
                "the result is slower in {}: {:.3} ms, {:.3} ms before; multiples of the hardware's block size help: name it with `hardware`, or give `align` 16",
                latency.runtime, latency.after.median_ms, latency.before.median_ms
            )
        });
        let slower: Vec<String> = slower.collect();
        measured.notes.extend(slower);
        Ok(measured)
    }
}
