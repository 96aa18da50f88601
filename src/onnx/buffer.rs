//! The bytes of a file: small files are read, big ones are mapped into memory.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use bytes::Bytes;
use memmap2::Mmap;

use crate::{Error, Result};

/// Files of at least this many bytes are mapped: below, reading is as fast and holds no tie to the file.
const MAP_FROM: u64 = 4 << 20;

/// The bytes of the regular file at `path`.
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input), naming the file, if it is not there, not a regular file (a folder, a
/// pipe), or cannot be read.
pub(super) fn file_bytes(path: &Path) -> Result<Bytes> {
    let fail = |e: std::io::Error| Error::input(format!("cannot be read: {e}")).in_file(path);
    // Asked before opening, because opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(fail)?.is_file() {
        return Err(Error::input("is not a regular file").in_file(path));
    }
    let mut file = File::open(path).map_err(fail)?;
    let len = file.metadata().map_err(fail)?.len();
    if len < MAP_FROM {
        let mut buffer = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        file.read_to_end(&mut buffer).map_err(fail)?;
        return Ok(Bytes::from(buffer));
    }
    Ok(Bytes::from_owner(map(&file).map_err(fail)?))
}

/// The same bytes in a temporary file without a name, mapped into memory: they take none until they are read.
///
/// # Errors
/// [`ErrorKind::Output`](crate::ErrorKind::Output), naming the folder, if there is no room for such a file.
pub(crate) fn put_aside(bytes: &Bytes) -> Result<Bytes> {
    put_aside_in(&std::env::temp_dir(), bytes)
}

fn put_aside_in(folder: &Path, bytes: &Bytes) -> Result<Bytes> {
    let write = || {
        let mut file = tempfile::tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.flush()?;
        map(&file)
    };
    let mapped = write().map_err(|e| {
        let size = bytes.len();
        Error::output(format!("cannot hold {size} bytes of temporary weights: {e}; set TMPDIR to a folder with room"))
            .in_file(folder)
    })?;
    Ok(Bytes::from_owner(mapped))
}

/// Maps the whole file, read-only.
#[allow(unsafe_code)]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is private and read-only, so nothing in this process can change the bytes behind the
    // shared references that `Mmap` hands out, and `Bytes` keeps the mapping alive for as long as any slice of
    // it. What remains is an assumption that no program can check: nobody else changes or shortens the file
    // while it is mapped. paredown keeps its own side of it: it never writes into an existing file but renames
    // a finished one over it (`save`), which leaves a mapped file as it was, and it refuses to write over a
    // file that the model came from. Bytes changed by someone else would be read as other numbers, and a file
    // shortened by someone else ends the process with SIGBUS; both are documented limits.
    unsafe { Mmap::map(file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_big_files_give_the_same_bytes_as_reading() {
        let folder = tempfile::tempdir().unwrap();
        for len in [0, 10, MAP_FROM - 1, MAP_FROM, MAP_FROM + 4097] {
            let path = folder.path().join(len.to_string());
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            assert!(file_bytes(&path).unwrap() == bytes, "{len} bytes");
        }
    }

    #[test]
    fn bytes_that_were_put_aside_are_the_same() {
        let bytes = Bytes::from((0..100_000_u32).map(|i| (i % 251) as u8).collect::<Vec<u8>>());
        assert_eq!(put_aside(&bytes).unwrap(), bytes);
    }

    #[test]
    fn a_folder_that_cannot_hold_what_is_put_aside_is_named() {
        let missing = tempfile::tempdir().unwrap().path().join("missing");
        let error = put_aside_in(&missing, &Bytes::from_static(b"weights")).unwrap_err();
        assert_eq!((error.kind(), error.file()), (crate::ErrorKind::Output, Some(missing.as_path())));
        assert!(error.to_string().contains("set TMPDIR"), "{error}");
    }

    #[test]
    fn a_folder_and_a_missing_file_are_named_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = file_bytes(folder.path()).unwrap_err();
        assert!(error.to_string().ends_with("is not a regular file"), "{error}");
        let missing = folder.path().join("missing.onnx");
        let error = file_bytes(&missing).unwrap_err();
        assert_eq!(error.file(), Some(missing.as_path()));
        assert!(error.to_string().contains("cannot be read: No such file"), "{error}");
    }
}
