//! A command of the user that runs a model somewhere and prints a number: a time, or how good the model is.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::progress::Progress;

/// What stands for the path of the model.
const MODEL: &str = "{model}";

/// Pause between two looks at whether a command has ended.
const PAUSE: Duration = Duration::from_millis(10);

/// A shell command with `{model}` in it. The last number that it prints to standard output is its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelCommand {
    line: String,
    timeout: Option<Duration>,
}

impl ModelCommand {
    /// A command for the shell, which is ended after `timeout`.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) if it does not say where the model goes.
    pub(crate) fn new(typed: &str, timeout: Option<Duration>) -> Result<Self> {
        if typed.contains(MODEL) {
            return Ok(Self { line: typed.to_owned(), timeout });
        }
        Err(Error::usage(format!("'{typed}' does not name the model: write {MODEL} where its path belongs")))
    }

    /// The program that is run.
    pub(crate) fn program(&self) -> &str {
        self.line.split_whitespace().next().unwrap_or_default()
    }

    /// The command as it was typed.
    pub(crate) fn line(&self) -> &str {
        &self.line
    }

    /// The command for a model. A path with characters that mean something to the shell is quoted, unless the user did.
    fn line_for(&self, model: &Path) -> String {
        let path = model.display().to_string();
        let is_plain = |character: char| character.is_alphanumeric() || "/\\._-+=:@%,".contains(character);
        if cfg!(windows) || path.chars().all(is_plain) {
            return self.line.replace(MODEL, &path);
        }
        let quoted = format!("'{}'", path.replace('\'', r"'\''"));
        let mut parts = self.line.split(MODEL);
        let mut line = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            line += if line.ends_with(['\'', '"']) { &path } else { &quoted };
            line += part;
        }
        line
    }

    /// The number that one run of the command prints for `model`. It may be infinite or not a number, if the command
    /// says so.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if the command fails, takes too long or prints no number;
    /// [`Interrupted`](crate::ErrorKind::Interrupted) if the job was cancelled meanwhile.
    pub(crate) fn number(&self, model: &Path, progress: &Progress) -> Result<f64> {
        let line = self.line_for(model);
        let fail = |why: String| Error::input(format!("the command '{line}' {why}"));
        let begin = |e: std::io::Error| fail(format!("does not start: {e}"));
        // Files, because a process that outlives the shell may hold a pipe open.
        let (out, err) = (tempfile::tempfile().map_err(begin)?, tempfile::tempfile().map_err(begin)?);
        let (mut heard, mut complaint) = (out.try_clone().map_err(begin)?, err.try_clone().map_err(begin)?);
        let mut running = Running::start(&line, out, err).map_err(begin)?;
        let status = running.wait(self.timeout, progress, &fail)?;
        if !status.success() {
            let complaint = text(&mut complaint);
            let last = complaint.trim().lines().last().unwrap_or_default();
            return Err(fail(format!("fails ({status}): {last}")));
        }
        last_number(&text(&mut heard)).ok_or_else(|| fail("prints no number to standard output".to_owned()))
    }
}

/// All that was written to a file.
fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // What cannot be read back is not there: the command then prints no number.
    let _ = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Process groups of the commands that are running.
static GROUPS: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Ends all commands that are running: for the handler of an interrupt, after which no destructor runs.
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub(crate) fn end_commands() {
    let groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
    groups.iter().for_each(|&group| end(group));
}

/// Ends a process group, which is the shell with all that it started.
fn end(group: u32) {
    if cfg!(unix) {
        let mut kill = Command::new("sh");
        // A group that has ended by itself is no failure.
        let _ = kill.args(["-c", &format!("kill -KILL -{group}")]).stderr(Stdio::null()).status();
    }
}

/// A shell at work. Dropping it ends it and all that it started.
struct Running(Child);

impl Running {
    fn start(line: &str, out: File, err: File) -> std::io::Result<Self> {
        let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
        let mut command = Command::new(shell);
        command.args([flag, line]).stdin(Stdio::null()).stdout(out).stderr(err);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn()?;
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).push(child.id());
        Ok(Self(child))
    }

    fn wait(
        &mut self,
        timeout: Option<Duration>,
        progress: &Progress,
        fail: &impl Fn(String) -> Error,
    ) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().map_err(|e| fail(format!("is lost: {e}")))? {
                return Ok(status);
            }
            progress.check()?;
            if let Some(timeout) = timeout.filter(|&timeout| started.elapsed() >= timeout) {
                return Err(fail(format!("did not end within {} s and was stopped", timeout.as_secs_f64())));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only while the shell runs does its group certainly have this number.
        if matches!(self.0.try_wait(), Ok(None)) {
            end(self.0.id());
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).retain(|&group| group != self.0.id());
    }
}

/// The last word that begins as a number, without a unit that is written to it.
fn last_number(text: &str) -> Option<f64> {
    let number = |word: &str| {
        let word = word.trim_start_matches(['(', '[', '~', '"', '\'']);
        let digits = word.trim_start_matches(['-', '+']);
        let sign = word.len() - digits.len();
        let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').map_or(word.len(), |end| sign + end);
        // What is written in powers of ten is read as it stands.
        let whole = word.trim_end_matches([',', ';', ')', ']', '}', '"', '\'']).parse::<f64>().ok();
        whole.or_else(|| word.get(..end)?.trim_end_matches('.').parse().ok())
    };
    text.split(|c: char| c.is_whitespace() || c == ':' || c == '=').rev().find_map(number)
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
            ("loss=-0.5", Some(-0.5)),
            ("psnr -3.5dB", Some(-3.5)),
            ("mAP 0.41 (COCO)", Some(0.41)),
            ("no figure at all - none", None),
            ("", None),
        ] {
            assert_eq!(last_number(text), expected, "{text}");
        }
        assert!(last_number("f1 nan").is_some_and(f64::is_nan));
    }

    #[cfg(unix)]
    #[test]
    fn the_faults_of_a_command_are_told() {
        let fault = |line: &str| {
            let command = ModelCommand::new(line, Some(Duration::from_millis(200)));
            let number = command.and_then(|command| command.number(Path::new("a.onnx"), &Progress::default()));
            number.unwrap_err().to_string()
        };
        assert!(fault("echo because >&2; exit 3 # {model}").contains("fails (exit status: 3): because"));
        assert!(fault("echo none # {model}").contains("prints no number"));
        assert!(fault("trtexec").contains("{model}"));
    }

    #[cfg(unix)]
    #[test]
    fn a_path_is_one_word_for_the_shell() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b $(exit 3) it's.onnx");
        std::fs::write(&path, "0123456789").unwrap();
        let number = |line: &str| {
            ModelCommand::new(line, None).and_then(|command| command.number(&path, &Progress::default())).unwrap()
        };
        assert_eq!(number("wc -c < {model}"), 10.0);
        let plain = folder.path().join("a b.onnx");
        std::fs::write(&plain, "012").unwrap();
        let quoted = ModelCommand::new("wc -c < '{model}'; wc -c < \"{model}\"", None).unwrap();
        assert_eq!(quoted.number(&plain, &Progress::default()).unwrap(), 3.0);
    }

    /// A shell that is ended takes along what it started, even if that ignores a closed terminal.
    #[cfg(unix)]
    #[test]
    fn a_command_that_takes_too_long_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let line = format!("cd {}; (sleep 2; touch late) & sleep 60 # {{model}}", folder.path().display());
        let command = ModelCommand::new(&line, Some(Duration::from_millis(100))).unwrap();
        let error = command.number(Path::new("a.onnx"), &Progress::default()).unwrap_err().to_string();
        assert!(error.contains("did not end within 0.1 s"), "{error}");
        std::thread::sleep(Duration::from_millis(2500));
        assert!(!folder.path().join("late").exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_cancelled_job_ends_its_command() {
        let cancel = crate::progress::Cancel::new();
        cancel.cancel();
        let command = ModelCommand::new("sleep 60 # {model}", None).unwrap();
        let error = command.number(Path::new("a.onnx"), &Progress::default().with_cancel(cancel)).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Interrupted);
    }
}
