//! The command line: what was typed → resolved options → library call. One place turns errors into exit codes.

mod bench;
mod bench_table;
mod compress;
pub mod embed;
mod factorize;
mod flags;
mod gather;
mod inspect;
mod job;
mod merge_stats;
mod metric;
mod options;
mod paths;
mod print;
mod prune;
mod reports;
mod sweep;
mod training;
mod tune;
mod verify;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{CommandFactory, Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::defect::{contained, print_no_panics};
use crate::error::{ErrorKind, Result};
use crate::progress::Progress;

/// Makes a trained ONNX model smaller and faster, file in, file out.
#[derive(Debug, Parser)]
#[command(name = "paredown", version, long_version = BUILT_WITH.as_str(), max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

/// The version, and what it was built with, for `--version`.
static BUILT_WITH: LazyLock<String> = LazyLock::new(|| {
    let optimized = if cfg!(debug_assertions) { "with debug assertions" } else { "optimized" };
    let (architecture, system) = (std::env::consts::ARCH, std::env::consts::OS);
    let backend = crate::linalg::default_backend().name();
    format!(
        "{}\n{optimized}, {architecture} {system}; runtime: tract; linear algebra: {backend}",
        env!("CARGO_PKG_VERSION")
    )
});

/// The subcommands: each is a file with its `Args` and a function `run`, which is given the whole command to name its flags.
macro_rules! commands {
    ($($name:ident in $file:ident),*) => {
        #[derive(Debug, Subcommand)]
        enum Command {
            $($name($file::Args),)*
        }

        impl Command {
            fn run(&self, command: &clap::Command) -> Result<()> {
                match self {
                    $(Self::$name(args) => $file::run(args, command),)*
                }
            }
        }
    };
}

commands! {
    Inspect in inspect,
    Prune in prune,
    Factorize in factorize,
    Compress in compress,
    Sweep in sweep,
    Tune in tune,
    Gather in gather,
    MergeStats in merge_stats,
    Verify in verify,
    BenchTable in bench_table
}

/// Runs the command line, and returns its exit code for `main`.
pub fn run(typed: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::from(status(typed))
}

/// Runs the command line and returns the exit code: 0 done · 2 usage · 3 bad input · 4 nothing to do or budget out of
/// reach · 5 verification failed · 6 output could not be written · 70 a defect of paredown · 130 interrupted.
pub fn status(typed: impl IntoIterator<Item = OsString>) -> u8 {
    exit_on_interrupt();
    print_no_panics();
    let typed: Vec<OsString> = typed.into_iter().collect();
    reports::remember(&typed);
    let args = match Args::try_parse_from(typed) {
        Ok(args) => args,
        Err(error) => {
            // Help and version go to standard output with code 0, mistakes to standard error with code 2.
            let code = if error.use_stderr() { exit_code(ErrorKind::Usage) } else { 0 };
            let _ = error.print();
            return code;
        }
    };
    let command = Args::command();
    match contained(&Progress::default(), || args.command.run(&command)) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "paredown: error: {}", flags::as_typed(&error.to_string(), &command));
            exit_code(error.kind())
        }
    }
}

/// The exit code that scripts rely on.
fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Usage => 2,
        ErrorKind::Input => 3,
        ErrorKind::Nothing => 4,
        ErrorKind::Runtime | ErrorKind::Proof => 5,
        ErrorKind::Output => 6,
        ErrorKind::Defect => 70,
        ErrorKind::Interrupted => 130,
    }
}

/// Ctrl-C ends the program with its exit code and leaves no half-written file.
fn exit_on_interrupt() {
    // Without a handler an interrupt still ends the program; only a temporary file may be left.
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else { return };
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            crate::onnx::discard_staged();
            crate::command::end_commands();
            std::process::exit(i32::from(exit_code(ErrorKind::Interrupted)));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::{Args, exit_code};
    use crate::ErrorKind;
    use clap::CommandFactory;

    /// The codes that README promises.
    #[test]
    fn every_kind_of_error_has_its_exit_code() {
        let kinds = [ErrorKind::Usage, ErrorKind::Input, ErrorKind::Nothing, ErrorKind::Runtime, ErrorKind::Proof];
        assert_eq!(kinds.map(exit_code), [2, 3, 4, 5, 5]);
        let kinds = [ErrorKind::Output, ErrorKind::Defect, ErrorKind::Interrupted];
        assert_eq!(kinds.map(exit_code), [6, 70, 130]);
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_version_says_what_it_was_built_with() {
        let version = Args::command().render_long_version();
        assert!(version.starts_with(concat!("paredown ", env!("CARGO_PKG_VERSION"), "\n")), "{version}");
        assert!(version.contains("tract") && version.contains(std::env::consts::ARCH), "{version}");
    }

    #[test]
    fn every_option_is_documented() {
        for command in Args::command().get_subcommands() {
            for argument in command.get_arguments().filter(|a| !a.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }
}
