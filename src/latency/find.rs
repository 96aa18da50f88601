//! Where the library of ONNX Runtime is.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};

/// The variable that other programs read too.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// Prints the folder of the Python package, without importing it.
const ASK: &str = "import importlib.util as u; s = u.find_spec('onnxruntime'); \
                   print(s.submodule_search_locations[0] if s else '')";

/// File name of the library, for the system's search.
const SYSTEM: &str = if cfg!(windows) {
    "onnxruntime.dll"
} else if cfg!(target_os = "macos") {
    "libonnxruntime.dylib"
} else {
    "libonnxruntime.so"
};

/// The library at `path` or in that folder, else where `ORT_DYLIB_PATH` points to; `None` if neither is given.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) if there is no library.
pub fn named(path: Option<&Path>) -> Result<Option<PathBuf>> {
    let variable = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let Some(path) = path.map(Path::to_path_buf).or(variable) else { return Ok(None) };
    let found = if path.is_dir() { within(&path) } else { Some(path.clone()).filter(|path| path.is_file()) };
    let missing =
        || Error::usage(format!("{} is not an ONNX Runtime library, nor a folder that contains one", path.display()));
    found.ok_or_else(missing).map(Some)
}

/// The library of the Python on `PATH`, else the name by which the system finds one.
pub fn anywhere() -> PathBuf {
    let found = ["python3", "python"].iter().find_map(|python| of_python(python));
    found.unwrap_or_else(|| PathBuf::from(SYSTEM))
}

/// The library in the package of this Python.
fn of_python(python: &str) -> Option<PathBuf> {
    let said = Command::new(python).args(["-c", ASK]).output().ok()?;
    let folder = String::from_utf8(said.stdout).ok()?;
    within(&PathBuf::from(folder.trim()).join("capi"))
}

/// The library in a folder: `libonnxruntime.so`, `libonnxruntime.so.1.22.0`, `libonnxruntime.1.22.0.dylib`, `onnxruntime.dll`.
fn within(folder: &Path) -> Option<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.into_iter().find(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == "onnxruntime.dll" || name.starts_with("libonnxruntime.so") || is_dylib(name)
    })
}

fn is_dylib(name: &str) -> bool {
    name.starts_with("libonnxruntime.") && Path::new(name).extension().is_some_and(|ending| ending == "dylib")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_searched_and_a_wrong_path_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["libonnxruntime_providers_shared.so", "onnxruntime_pybind11_state.so"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let error = named(Some(folder.path())).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Usage);
        for name in ["libonnxruntime.so.1.32.0", "libonnxruntime.1.32.0.dylib", "onnxruntime.dll"] {
            let path = folder.path().join(name);
            std::fs::write(&path, "").unwrap();
            assert_eq!(named(Some(folder.path())).unwrap(), Some(path.clone()));
            std::fs::remove_file(path).unwrap();
        }
        assert!(named(Some(&folder.path().join("nothing"))).is_err());
    }
}
