//! The report's file: a page if its name ends in `.html`, otherwise JSON; and the commands that repeat the job.

use std::path::Path;

use crate::Report;
use crate::error::Result;
use crate::texts::write_text;

/// Writes the report to `path`.
pub(super) fn write_report(path: &Path, report: &Report) -> Result<()> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let is_page = ["html", "htm"].iter().any(|page| ending.eq_ignore_ascii_case(page));
    write_text(path, &if is_page { report.to_html() } else { report.to_json() })
}

/// The command that was typed.
pub(super) fn typed() -> String {
    let arguments = std::env::args_os().skip(1).map(|argument| quoted(&argument.to_string_lossy()));
    ["paredown".to_owned()].into_iter().chain(arguments).collect::<Vec<_>>().join(" ")
}

/// The command that proves `output` against `model` again.
pub(super) fn proof(model: &Path, output: &Path, plan: Option<&Path>) -> String {
    let path = |path: &Path| quoted(&path.to_string_lossy());
    let plan = plan.map(|plan| format!(" --plan {}", path(plan))).unwrap_or_default();
    format!("paredown verify {} {}{plan}", path(model), path(output))
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
        let command = proof(Path::new("a b.onnx"), Path::new("c.onnx"), Some(Path::new("p.json")));
        assert_eq!(command, "paredown verify 'a b.onnx' c.onnx --plan p.json");
    }
}
