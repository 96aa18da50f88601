//! Small texts beside the model (plans, reports, records of checkpoints), numbers as text, and the hash of a file.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// The folder of a path, `.` for a bare name.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A temporary file in a folder, with the permissions that the umask leaves of those of any new file.
#[cfg(unix)]
pub(crate) fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    use std::os::unix::fs::PermissionsExt as _;
    let permissions = std::fs::Permissions::from_mode(0o666);
    tempfile::Builder::new().prefix(".paredown-").permissions(permissions).tempfile_in(folder)
}

/// A temporary file in a folder.
#[cfg(not(unix))]
pub(crate) fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(".paredown-").tempfile_in(folder)
}

/// Writes a text file through a temporary one beside it. A device or a pipe (`/dev/stdout`) is written to, not replaced.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<()> {
    let fail = |error: io::Error| Error::output(error.to_string()).in_file(path).caused_by(error);
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return std::fs::write(path, text).map_err(fail);
    }
    let mut file = temporary(folder(path)).map_err(fail)?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(fail)?;
    file.persist(path).map(drop).map_err(|e| fail(e.error))
}

/// SHA-256 of a file, in hexadecimal digits.
///
/// # Errors
/// [`Input`](crate::ErrorKind::Input) if it cannot be read.
pub(crate) fn file_hash(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::input(e.to_string()).in_file(path).caused_by(e))?;
    Ok(hexadecimal(&Sha256::digest(bytes)))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        write_text(&link, "text").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert!(link.metadata().unwrap().file_type().is_char_device());
    }

    /// Others may read a report, as they may read the model.
    #[cfg(unix)]
    #[test]
    fn a_text_has_the_permissions_of_any_new_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write_text(&at("report.html"), "text").unwrap();
        std::fs::write(at("other"), "text").unwrap();
        let mode = |name: &str| at(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode("report.html"), mode("other"));
    }

    #[test]
    fn a_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_text(folder.path(), "text").unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Output);
    }
}
