//! Small texts beside the model (plans, reports, records of checkpoints), and numbers as text.

use std::fmt::Write as _;
use std::path::Path;

use crate::error::{Error, Result};

/// The folder of a path, `.` for a bare name.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a text file through a temporary one beside it.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<()> {
    let fail = |error: std::io::Error| Error::output(error.to_string()).in_file(path);
    let mut file = tempfile::NamedTempFile::new_in(folder(path)).map_err(fail)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(fail)?;
    file.persist(path).map(drop).map_err(|e| fail(e.error))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
