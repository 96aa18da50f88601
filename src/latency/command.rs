//! A command of the user that runs a model somewhere and prints how long that took.

use std::path::Path;

use super::timing::{RuntimeLatency, Timing};
use crate::command::ModelCommand;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Runs of the command for each model, by turns.
const ROUNDS: usize = 3;

/// A command with `{model}` in it, whose last printed number is a time in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchCommand(ModelCommand);

impl BenchCommand {
    /// A command for the shell.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) if it does not say where the model goes.
    pub fn new(typed: &str) -> Result<Self> {
        ModelCommand::new(typed, None).map(Self)
    }

    /// The time that one run of the command prints for `model`, in milliseconds.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if the command fails or prints no time; [`Interrupted`](crate::ErrorKind::Interrupted) if the
    /// job was cancelled.
    pub fn once(&self, model: &Path, progress: &Progress) -> Result<f64> {
        let ms = self.0.number(model, progress)?;
        if ms.is_finite() && ms > 0.0 {
            return Ok(ms);
        }
        Err(Error::input(format!("the command '{}' prints {ms}, which is no time in milliseconds", self.0.line())))
    }

    /// The times of two models, measured by turns.
    ///
    /// # Errors
    /// As [`once`](Self::once).
    pub fn compare(&self, before: &Path, after: &Path, progress: &Progress) -> Result<RuntimeLatency> {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            times[0].push(self.once(before, progress)?);
            times[1].push(self.once(after, progress)?);
        }
        let [before, after] = times.map(Timing::of);
        let runtime = self.0.program().to_owned();
        Ok(RuntimeLatency { runtime, provider: None, threads: None, before, after, difference: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_command_is_run_by_turns_and_its_faults_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let [before, after] = ["before.onnx", "after.onnx"].map(|name| folder.path().join(name));
        std::fs::write(&before, "0123456789").unwrap();
        std::fs::write(&after, "01234").unwrap();
        let found =
            BenchCommand::new("wc -c < {model}").unwrap().compare(&before, &after, &Progress::default()).unwrap();
        assert_eq!((found.before.median_ms, found.after.median_ms, found.speedup()), (10.0, 5.0, 2.0));
        let once = |command: BenchCommand| command.once(&before, &Progress::default());
        let fault = |line: &str| BenchCommand::new(line).and_then(once).unwrap_err().to_string();
        assert!(fault("echo {model} >&2; false").contains("fails"));
        assert!(fault("echo none {model} | cut -c1-4").contains("prints no number"));
        assert!(fault("echo 0 # {model}").contains("no time"));
    }
}
