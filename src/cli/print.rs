//! What goes to standard output.

use std::io::{IsTerminal, Write};

use crate::error::{Error, Result};
use crate::report::coloured;

/// Prints to standard output, with colours on a terminal. A reader that closes it early (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    let text = if out.is_terminal() { coloured(text) } else { text.to_owned() };
    match out.write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::output(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}
