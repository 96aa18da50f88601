//! The arrays of one file: `.npz` or `.npy`.

use std::fs::File;
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::npy::NpyArray;
use crate::{Error, Result};

/// The arrays of the file at `path` whose names `wanted` accepts, and the names of all.
///
/// The array of an `.npy` file has the name `sole`.
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input) when the file cannot be read or is not what its extension says.
pub(super) fn open_arrays(
    path: &Path,
    sole: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<(Vec<NpyArray>, Vec<String>)> {
    let opened = match extension(path).as_str() {
        "npy" => NpyArray::open(path, sole).map(|array| (vec![array], vec![sole.to_owned()])),
        "npz" => open_archive(path, wanted),
        _ => Err(Error::input("is neither an .npz nor an .npy file")),
    };
    opened.map_err(|e| e.in_file(path))
}

/// The extension of `path` in lower case.
pub(super) fn extension(path: &Path) -> String {
    path.extension().map(|extension| extension.to_string_lossy().to_lowercase()).unwrap_or_default()
}

fn open_archive(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<(Vec<NpyArray>, Vec<String>)> {
    let unreadable = |e: std::io::Error| Error::input(format!("cannot be read: {e}"));
    let malformed = |e: zip::result::ZipError| Error::input(format!("is not a valid .npz archive: {e}"));
    let mut archive = ZipArchive::new(File::open(path).map_err(unreadable)?).map_err(malformed)?;
    let (mut arrays, mut names) = (Vec::new(), Vec::new());
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(malformed)?;
        let name = entry.name().strip_suffix(".npy").unwrap_or(entry.name()).to_owned();
        if wanted(&name) && !names.contains(&name) {
            let array = if entry.compression() == CompressionMethod::Stored {
                let (start, length) = (entry.data_start(), entry.size());
                NpyArray::stored(File::open(path).map_err(unreadable)?, start, length, &name)?
            } else {
                NpyArray::unpacked(entry, &name)?
            };
            arrays.push(array);
        }
        names.push(name);
    }
    Ok((arrays, names))
}
