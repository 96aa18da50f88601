//! A command of the user that runs a model somewhere and prints how long that took.

use std::path::Path;
use std::process::Command;

use super::timing::{RuntimeLatency, Timing};
use crate::error::{Error, Result};

/// What stands for the path of the model.
const MODEL: &str = "{model}";

/// Runs of the command for each model, by turns.
const ROUNDS: usize = 3;

/// A command with `{model}` in it, whose last printed number is a time in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchCommand(String);

impl BenchCommand {
    /// A command for the shell.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) if it does not say where the model goes.
    pub fn new(typed: &str) -> Result<Self> {
        if typed.contains(MODEL) {
            return Ok(Self(typed.to_owned()));
        }
        Err(Error::usage(format!("'{typed}' does not name the model: write {MODEL} where its path belongs")))
    }

    /// The time that one run of the command prints for `model`, in milliseconds.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if the command fails or prints no number.
    pub fn once(&self, model: &Path) -> Result<f64> {
        let line = self.0.replace(MODEL, &model.display().to_string());
        let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
        let fail = |why: String| Error::input(format!("the command '{line}' {why}"));
        let said =
            Command::new(shell).args([flag, &line]).output().map_err(|e| fail(format!("does not start: {e}")))?;
        if !said.status.success() {
            let complaint = String::from_utf8_lossy(&said.stderr);
            let last = complaint.trim().lines().last().unwrap_or_default().to_owned();
            return Err(fail(format!("fails ({}): {last}", said.status)));
        }
        last_number(&String::from_utf8_lossy(&said.stdout))
            .ok_or_else(|| fail("prints no number: its last number is taken as milliseconds".to_owned()))
    }

    /// The times of two models, measured by turns.
    ///
    /// # Errors
    /// As [`once`](Self::once).
    pub fn compare(&self, before: &Path, after: &Path) -> Result<RuntimeLatency> {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            times[0].push(self.once(before)?);
            times[1].push(self.once(after)?);
        }
        let [before, after] = times.map(Timing::of);
        let runtime = self.0.split_whitespace().next().unwrap_or_default().to_owned();
        Ok(RuntimeLatency { runtime, provider: None, threads: None, before, after })
    }
}

/// The last word that begins as a number, without a unit that is written to it.
fn last_number(text: &str) -> Option<f64> {
    let number = |word: &str| {
        let word = word.trim_start_matches(['(', '[', '=', '~', '"', '\'']);
        let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
        // What is written in powers of ten is read as it stands.
        let whole = word.trim_end_matches([',', ';', ')', ']', '}', '"', '\'']).parse::<f64>().ok();
        whole.or_else(|| word.get(..end)?.trim_end_matches('.').parse().ok())
    };
    text.split(|c: char| c.is_whitespace() || c == ':' || c == '=')
        .rev()
        .find_map(number)
        .filter(|number| number.is_finite() && *number > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_is_read_with_and_without_its_unit() {
        for (text, expected) in [
            ("median = 3.52 ms\n", Some(3.52)),
            ("mean: 4.1ms, p99=7.25ms.", Some(7.25)),
            ("{\"ms\": 1.5e-1}", Some(0.15)),
            ("latency 1.5e-1", Some(0.15)),
            ("1.25", Some(1.25)),
            ("no figure at all", None),
            ("0", None),
        ] {
            assert_eq!(last_number(text), expected, "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_command_is_run_by_turns_and_its_faults_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let [before, after] = ["before.onnx", "after.onnx"].map(|name| folder.path().join(name));
        std::fs::write(&before, "0123456789").unwrap();
        std::fs::write(&after, "01234").unwrap();
        let found = BenchCommand::new("wc -c < {model}").unwrap().compare(&before, &after).unwrap();
        assert_eq!((found.before.median_ms, found.after.median_ms, found.speedup()), (10.0, 5.0, 2.0));
        let fault =
            |line: &str| BenchCommand::new(line).and_then(|command| command.once(&before)).unwrap_err().to_string();
        assert!(fault("echo {model} >&2; false").contains("fails"));
        assert!(fault("echo none {model} | cut -c1-4").contains("prints no number"));
        assert!(fault("trtexec").contains("{model}"));
    }
}
