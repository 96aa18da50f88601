//! One runtime that times operators and whole models, for a budget of latency.

use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::onnxruntime::{Candidate, OnnxRuntime};
use super::runtimes::{RuntimeName, RuntimeOptions};
use super::timing::{RuntimeLatency, by_turns};
use crate::error::{Error, Result};
use crate::onnx::{Model, TemporaryFile};
use crate::runtime::latency::{Fed, output_names, times};
use crate::runtime::{NamedTensor, Prepared, RunOptions, Runnable, Watch, on_deep_stack};

/// The version of tract that is linked in.
const TRACT: &str = "0.23";

/// Where operators were timed: their times mean nothing elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Where {
    /// `ONNX Runtime` or `tract`.
    pub(crate) runtime: String,
    /// Its version.
    pub(crate) version: String,
    /// Name of the processor.
    pub(crate) device: String,
    /// Threads of each run.
    pub(crate) threads: usize,
}

/// Name of the runtime that computes convolutions in blocks of channels.
const BLOCKED: &str = "ONNX Runtime";

impl Where {
    /// Whether convolutions are computed in blocks of channels, which neighbours hand on.
    pub(crate) fn is_blocked(&self) -> bool {
        self.runtime == BLOCKED
    }
}

impl std::fmt::Display for Where {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { runtime, version, device, threads } = self;
        let plural = if *threads == 1 { "" } else { "s" };
        write!(f, "{runtime} {version}, {device}, {threads} thread{plural}")
    }
}

/// A runtime that times operators and whole models.
#[derive(Debug)]
pub(crate) enum Stopwatch {
    /// ONNX Runtime, with this many threads for each run.
    OnnxRuntime(OnnxRuntime, usize),
    /// tract, on one thread.
    Tract,
}

impl Stopwatch {
    /// The runtime that `options` name, otherwise ONNX Runtime if its library is found, otherwise tract. Then a note says how
    /// to get the figures of ONNX Runtime.
    ///
    /// # Errors
    /// As [`OnnxRuntime::named`]; [`Usage`](crate::ErrorKind::Usage) if ONNX Runtime is asked for and not found.
    pub(crate) fn open(options: &RuntimeOptions) -> Result<(Self, Option<String>)> {
        if options.runtime == Some(RuntimeName::Tract) {
            return Ok((Self::Tract, None));
        }
        let found = match OnnxRuntime::named(options.library.as_deref())? {
            Some(library) => Ok(library),
            None => OnnxRuntime::find(),
        };
        match found {
            Ok(library) => Ok((Self::OnnxRuntime(library, options.threads.max(1)), None)),
            Err(why) if options.runtime == Some(RuntimeName::OnnxRuntime) => Err(Error::usage(format!(
                "ONNX Runtime is not found ({why}); `pip install onnxruntime`, or name its library with `onnxruntime`"
            ))),
            Err(_) => {
                let note = "the latency budget is that of tract, because ONNX Runtime is not found; `pip install onnxruntime`, or name its library with `onnxruntime`";
                Ok((Self::Tract, Some(note.to_owned())))
            }
        }
    }

    /// Where it measures.
    pub(crate) fn place(&self) -> Where {
        let (runtime, version, threads) = match self {
            Self::OnnxRuntime(library, threads) => (BLOCKED, library.version().to_owned(), *threads),
            Self::Tract => ("tract", TRACT.to_owned(), 1),
        };
        Where { runtime: runtime.to_owned(), version, device: device(), threads }
    }

    /// The least time of one run of each model, in milliseconds, run in alternation; `None` for those that do not run.
    ///
    /// # Errors
    /// If there is no thread to run them on.
    pub(crate) fn times(&self, models: &[Fed]) -> Result<Vec<Option<f64>>> {
        match self {
            Self::OnnxRuntime(library, threads) => Ok(library.times(models, *threads)),
            Self::Tract => times(models),
        }
    }

    /// Times the original and a rewritten model in alternation, on inputs that both take.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if the runtime does not run one of them, [`Output`](crate::ErrorKind::Output) if they
    /// cannot be written to a temporary folder.
    pub(crate) fn compare(
        &self,
        original: &Model,
        rewritten: &Model,
        inputs: &[NamedTensor],
    ) -> Result<RuntimeLatency> {
        match self {
            Self::OnnxRuntime(library, threads) => {
                let files = [TemporaryFile::of(original)?, TemporaryFile::of(rewritten)?];
                let outputs = output_names(&rewritten.proto);
                let candidates = files.each_ref().map(|file| Candidate { file: file.path(), expected: &[] });
                Ok(library.compare(candidates, (inputs, &outputs), *threads)?.latency)
            }
            Self::Tract => {
                let load = |model: &Model| Runnable::new(&model.proto, &RunOptions::default());
                let (before, after) = (load(original)?, load(rewritten)?);
                let prepared: [Prepared<'_>; 2] = [before.prepare(inputs)?, after.prepare(inputs)?];
                let [before, after] =
                    on_deep_stack(|| by_turns(Watch::of(1), || prepared[0].run_once(), || prepared[1].run_once()))?;
                let runtime = "tract".to_owned();
                Ok(RuntimeLatency { runtime, provider: None, threads: Some(1), before, after, difference: None })
            }
        }
    }
}

/// Name of the processor, if the system reports it.
fn device() -> String {
    let from_file = |path: &str| {
        let text = std::fs::read_to_string(Path::new(path)).ok()?;
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        line.split_once(':').map(|(_, name)| name.trim().to_owned())
    };
    let from_system = || {
        let said = Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]).output().ok()?;
        Some(String::from_utf8_lossy(&said.stdout).trim().to_owned()).filter(|name| !name.is_empty())
    };
    let named = from_file("/proc/cpuinfo").or_else(from_system);
    named.or_else(|| std::env::var("PROCESSOR_IDENTIFIER").ok()).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Tensor;
    use crate::runtime::sample_models::mlp;

    #[test]
    fn the_version_is_the_one_of_the_manifest() {
        let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
        assert!(manifest.contains(&format!("tract-onnx = \"{TRACT}\"")));
    }

    #[test]
    fn tract_times_models_alone_and_side_by_side() {
        let options = RuntimeOptions { runtime: Some(RuntimeName::Tract), ..RuntimeOptions::default() };
        let (stopwatch, note) = Stopwatch::open(&options).unwrap();
        assert!(note.is_none() && stopwatch.place().runtime == "tract" && !stopwatch.place().device.is_empty());
        let inputs = vec![("x".to_owned(), Tensor::new(&[1, 3], &[1_f32; 3]).unwrap())];
        let model = Model::from_proto(mlp());
        let found = stopwatch.compare(&model, &model, &inputs).unwrap();
        assert!(found.before.median_ms > 0.0 && found.after.runs == found.before.runs);
    }

    /// Where there is a library, it times a model from memory.
    #[test]
    fn onnx_runtime_times_models_from_memory() {
        let options = RuntimeOptions { runtime: Some(RuntimeName::OnnxRuntime), ..RuntimeOptions::default() };
        let Ok((stopwatch, _)) = Stopwatch::open(&options) else { return };
        let fed = Fed { model: mlp(), inputs: vec![("x".to_owned(), Tensor::new(&[1, 3], &[1_f32; 3]).unwrap())] };
        let unfed = Fed { model: mlp(), inputs: Vec::new() };
        let found = stopwatch.times(&[fed, unfed]).unwrap();
        assert!(found[0].is_some_and(|ms| ms > 0.0) && found[1].is_none(), "{found:?}");
    }
}
