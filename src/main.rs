//! The `paredown` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    paredown::cli::run(std::env::args_os())
}
