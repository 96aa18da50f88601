//! The report's file: a page if its name ends in `.html`, otherwise JSON; and the commands that repeat the job.

use std::ffi::OsString;
use std::path::Path;
use std::sync::OnceLock;

use clap::Command;

use crate::Report;
use crate::error::Result;
use crate::texts::write_text;

/// Writes the report to `path`.
pub(super) fn write_report(path: &Path, report: &Report) -> Result<()> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let is_page = ["html", "htm"].iter().any(|page| ending.eq_ignore_ascii_case(page));
    write_text(path, &if is_page { report.to_html() } else { report.to_json() })
}

/// The words that were typed, the program's name first.
static TYPED: OnceLock<Vec<String>> = OnceLock::new();

/// Keeps what was typed, for reports. The arguments of the process are others where Python started it.
pub(super) fn remember(typed: &[OsString]) {
    let words = typed.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    // Once in a process that is a command.
    let _ = TYPED.set(words);
}

fn words() -> &'static [String] {
    TYPED.get().map(Vec::as_slice).unwrap_or_default().get(1..).unwrap_or_default()
}

/// The command that was typed.
pub(super) fn typed() -> String {
    let words = words().iter().map(|word| quoted(word));
    ["paredown".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

/// The command that proves `output` against `model` again, on the samples that were typed.
pub(super) fn proof(command: &Command, model: &Path, output: &Path, plan: Option<&Path>) -> String {
    proof_like(words(), command, [Some(model), Some(output), plan])
}

/// Options that a proof does not take from the job: its own report, and the plan, which stands after the paths.
const OF_THE_JOB: [&str; 3] = ["report", "quiet", "plan"];

fn proof_like(typed: &[String], command: &Command, [model, output, plan]: [Option<&Path>; 3]) -> String {
    let path = |path: &Path| quoted(&path.to_string_lossy());
    let mut line = vec!["paredown verify".to_owned()];
    line.extend([model, output].into_iter().flatten().map(path));
    line.extend(plan.map(|plan| format!("--plan {}", path(plan))));
    let known = command.find_subcommand("verify").into_iter().flat_map(Command::get_arguments);
    let known: Vec<&clap::Arg> = known.filter(|known| !OF_THE_JOB.contains(&known.get_id().as_str())).collect();
    let mut words = typed.iter();
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix("--") else { continue };
        let (name, is_whole) = name.split_once('=').map_or((name, false), |(name, _)| (name, true));
        let Some(option) = known.iter().find(|known| known.get_long() == Some(name)) else { continue };
        line.push(quoted(word));
        if !is_whole && option.get_action().takes_values() {
            line.extend(words.next().map(|value| quoted(value)));
        }
    }
    if plan.is_none() {
        line.push("  # with --plan, which --plan-out writes, this also proves that the removal is exact".to_owned());
    }
    line.join(" ")
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./=,%:@+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_change_them() {
        assert_eq!(quoted("--macs=25%"), "--macs=25%");
        assert_eq!(quoted("python it's.py {model}"), r"'python it'\''s.py {model}'");
    }

    /// What `verify` takes as well is repeated; what belongs to the job is not.
    #[test]
    fn a_proof_runs_on_the_samples_of_the_job() {
        let command = <super::super::Args as clap::CommandFactory>::command();
        let typed = "prune m.onnx --plan old.json --data=s.npz --eval e.npz --report r.html --dim n=3 --quiet --force --plan-out p.json";
        let typed: Vec<String> = typed.split(' ').map(str::to_owned).collect();
        let paths = ["a b.onnx", "c.onnx", "p.json"].map(|path| Some(Path::new(path)));
        let line = proof_like(&typed, &command, paths);
        assert_eq!(line, "paredown verify 'a b.onnx' c.onnx --plan p.json --data=s.npz --eval e.npz --dim n=3");
    }
}
