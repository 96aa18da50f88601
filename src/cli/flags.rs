//! Options as they are typed. The library names them by their fields, in backticks; here they become flags.

use std::collections::BTreeSet;

use clap::Command;

/// Fields that the command line calls something else.
const RENAMED: [(&str, &str); 5] = [
    ("checkpoints", "checkpoint-dir"),
    ("decay", "weight-decay"),
    ("hardware", "target"),
    ("rate", "lr"),
    ("units", "unit"),
];

/// `text`, in which every option of `command` is named as it is typed: `` `max_drop` `` becomes `--max-drop`.
pub(super) fn as_typed(text: &str, command: &Command) -> String {
    let flags = flags(command);
    let mut typed = String::new();
    let mut pieces = text.split('`');
    typed += pieces.next().unwrap_or_default();
    while let Some(quoted) = pieces.next() {
        let Some(plain) = pieces.next() else {
            // A last backtick that quotes nothing.
            return typed + "`" + quoted;
        };
        match flag(quoted).filter(|flag| flags.contains(flag)) {
            Some(flag) => typed += &format!("--{flag}"),
            None => typed += &format!("`{quoted}`"),
        }
        typed += plain;
    }
    typed
}

/// `text`, in which every option of `command` is named as a keyword argument: `--max-drop <D>` becomes `` `max_drop` ``.
pub(super) fn as_keywords(text: &str, command: &Command) -> String {
    let flags = flags(command);
    let typed = as_typed(text, command);
    let mut keywords = String::new();
    let mut pieces = typed.split("--");
    keywords += pieces.next().unwrap_or_default();
    for piece in pieces {
        let end =
            piece.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '-').unwrap_or(piece.len());
        let (name, rest) = piece.split_at(end);
        if !flags.contains(name) {
            keywords += &format!("--{piece}");
            continue;
        }
        // The placeholder of its value says nothing to those who do not type it.
        let placeholder = rest.strip_prefix(" <").and_then(|rest| rest.split_once('>'));
        let mut rest = placeholder.map_or(rest, |(_, rest)| rest);
        if let (true, Some(unquoted)) = (keywords.ends_with('\''), rest.strip_prefix('\'')) {
            keywords.pop();
            rest = unquoted;
        }
        keywords += &format!("`{}`{rest}", name.replace('-', "_"));
    }
    keywords
}

/// What the field `name` is called when it is typed, if it may be an option at all.
fn flag(name: &str) -> Option<String> {
    let is_field = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let renamed = RENAMED.iter().find(|(field, _)| *field == name).map(|(_, flag)| (*flag).to_owned());
    is_field.then(|| renamed.unwrap_or_else(|| name.replace('_', "-")))
}

/// The long names of all options of all subcommands.
fn flags(command: &Command) -> BTreeSet<String> {
    let arguments = command.get_subcommands().flat_map(Command::get_arguments);
    arguments.filter_map(|argument| argument.get_long().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Args;

    fn typed(text: &str) -> String {
        as_typed(text, &Args::command())
    }

    #[test]
    fn fields_become_flags_and_nothing_else_does() {
        assert_eq!(typed("`max_drop` needs samples: give `data`"), "--max-drop needs samples: give --data");
        assert_eq!(typed("`rate` is positive"), "--lr is positive");
        assert_eq!(typed("`paredown inspect` lists `them`, a ` alone"), "`paredown inspect` lists `them`, a ` alone");
    }

    #[test]
    fn flags_become_keyword_arguments() {
        let keywords = |text: &str| as_keywords(text, &Args::command());
        assert_eq!(keywords("`max_drop` needs samples: give `data`"), "`max_drop` needs samples: give `data`");
        assert_eq!(keywords("`rate` or `units`; --lr is one"), "`lr` or `unit`; `lr` is one");
        assert_eq!(keywords("invalid value '2' for '--ratio <R>': no"), "invalid value '2' for `ratio`: no");
        assert_eq!(keywords("a -- b --nothing"), "a -- b --nothing");
    }

    #[test]
    fn renamed_fields_are_options() {
        let flags = flags(&Args::command());
        assert!(RENAMED.iter().all(|(field, flag)| flags.contains(*flag) && !flags.contains(*field)));
    }

    /// The library does not know how its options are typed.
    #[test]
    fn no_message_outside_the_command_line_names_a_flag() {
        fn visit(folder: &std::path::Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.ends_with("cli") {
                    visit(&path, found);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                    let flags = flags(&Args::command());
                    let named = code.flat_map(|line| line.split("--").skip(1)).filter(|rest| {
                        let name = rest.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().unwrap_or_default();
                        flags.contains(name)
                    });
                    found.extend(named.map(|rest| format!("{}: --{rest}", path.display())));
                }
            }
        }
        let mut found = Vec::new();
        visit(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        assert!(found.is_empty(), "{found:#?}");
    }
}
