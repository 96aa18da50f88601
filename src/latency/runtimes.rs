//! The runtimes, besides tract, that latency is measured in.

use std::path::{Path, PathBuf};

use super::command::BenchCommand;
use super::onnxruntime::{Candidate, OnnxRuntime};
use super::session::Difference;
use super::timing::RuntimeLatency;
use crate::error::{ErrorKind, Result};
use crate::onnx::{Model, TemporaryFile};
use crate::progress::Progress;
use crate::runtime::latency::output_names;
use crate::runtime::{NamedTensor, RunOptions, Runnable};

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
    named: Option<OnnxRuntime>,
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
        let named = OnnxRuntime::named(options.library.as_deref())?;
        let command = options.command.as_deref().map(BenchCommand::new).transpose()?;
        if let Some(command) = &command {
            command.once(original, &Progress::default())?;
        }
        Ok(Self { named, command, threads: options.threads.max(1) })
    }

    /// Times the original and the rewritten model in alternation, on inputs that both take, and compares their outputs in ONNX
    /// Runtime with those in tract. `file` is the original's. What cannot be measured is no reason to lose the result: a note says why.
    ///
    /// # Errors
    /// [`Interrupted`](ErrorKind::Interrupted) if the job was cancelled.
    pub fn measure(
        &self,
        (original, file): (&Model, &Path),
        rewritten: &Model,
        inputs: &[NamedTensor],
        progress: &Progress,
    ) -> Result<Measured> {
        let mut measured = Measured::default();
        let library = self.named.clone().map_or_else(OnnxRuntime::find, Ok);
        if let Err(why) = &library {
            measured.notes.push(format!(
                "the latency in ONNX Runtime was not measured ({why}); `pip install onnxruntime`, or name its library \
                 with `onnxruntime`"
            ));
            if self.command.is_none() {
                return Ok(measured);
            }
        }
        let written = match TemporaryFile::of(rewritten) {
            Ok(written) => written,
            Err(error) => {
                measured
                    .notes
                    .push(format!("the latency was not measured ({error}); set `TMPDIR` to a folder with more space"));
                return Ok(measured);
            }
        };
        if let Ok(library) = &library {
            let outputs = output_names(&rewritten.proto);
            let expected = [original, rewritten].map(|model| in_tract(model, inputs));
            let candidate = |file, expected| Candidate { file, expected };
            let candidates = [candidate(file, &expected[0]), candidate(written.path(), &expected[1])];
            match library.compare(candidates, (inputs, &outputs), self.threads) {
                Ok(found) => {
                    measured.latencies.push(found.latency);
                    let models = ["the original", "the rewritten model"].into_iter().zip(found.differences);
                    let doubts = models.filter_map(|(model, found)| doubt(model, &found, library.version()));
                    measured.notes.extend(doubts);
                }
                Err(error) => measured.notes.push(format!(
                    "ONNX Runtime {} does not run both files, so its latency is unknown: {error}",
                    library.version()
                )),
            }
        }
        if let Some(command) = &self.command {
            match command.compare(file, written.path(), progress) {
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Ok(found) => measured.latencies.push(found),
                Err(error) => measured.notes.push(format!("the latency was not measured by your command: {error}")),
            }
        }
        let slower = measured.latencies.iter().filter(|latency| latency.is_slower()).map(|latency| {
            format!(
                "the result is slower in {}: {:.3} ms, {:.3} ms before; a budget of `latency` changes only what gets faster by it, and multiples of the hardware's block size are computed quickly: name it with `hardware`, or give `align` 16",
                latency.runtime, latency.after.median_ms, latency.before.median_ms
            )
        });
        let slower: Vec<String> = slower.collect();
        measured.notes.extend(slower);
        Ok(measured)
    }
}

/// Outputs of two runtimes that differ by more than this share of their largest value are told: rounding explains less, in
/// float16 and with 8-bit weights too.
const DOUBTFUL: f64 = 0.02;

/// What tract computes with a model; empty if it does not run it, which the proof has told.
fn in_tract(model: &Model, inputs: &[NamedTensor]) -> Vec<NamedTensor> {
    let run = Runnable::new(&model.proto, &RunOptions::default()).and_then(|model| model.run(inputs));
    run.unwrap_or_default()
}

/// A note on an output that the two runtimes do not agree on, or that could not be compared.
fn doubt(model: &str, found: &std::result::Result<Option<Difference>, String>, version: &str) -> Option<String> {
    match found {
        Ok(Some(Difference { output, relative })) if *relative > DOUBTFUL => Some(format!(
            "ONNX Runtime {version} and tract do not agree on output '{output}' of {model}: they differ by {:.0} % of its \
             largest value on synthetic inputs; what this report says of accuracy was computed in tract, so compare the two \
             files in ONNX Runtime on samples of your own",
            100.0 * relative
        )),
        Ok(_) => None,
        Err(why) => Some(format!(
            "the outputs of {model} in ONNX Runtime {version} could not be compared with those in tract: {why}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_that_rounding_does_not_explain_are_told() {
        let found = |relative| Ok(Some(Difference { output: "y".to_owned(), relative }));
        assert_eq!(doubt("the original", &found(1e-3), "1.22.0"), None);
        assert_eq!(doubt("the original", &Ok(None), "1.22.0"), None);
        assert!(doubt("the original", &Err("another shape".to_owned()), "1.22.0").unwrap().contains("another shape"));
        let told = doubt("the original", &found(0.4), "1.22.0").unwrap();
        assert!(told.contains("'y' of the original") && told.contains("40 %"), "{told}");
    }
}
