//! Models in temporary files, for runtimes and commands that read files.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::model::Model;
use super::save::SaveOptions;
use crate::{Error, Result};

/// A file of a model, which is removed with this value.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    path: PathBuf,
    _folder: TempDir,
}

impl TemporaryFile {
    /// Writes the model, with its external data if it is large.
    ///
    /// # Errors
    /// [`Output`](crate::ErrorKind::Output) if the file or its folder cannot be written.
    pub(crate) fn of(model: &Model) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(|e| Error::output(format!("a temporary folder: {e}")))?;
        let path = folder.path().join("model.onnx");
        model.save(&path, &SaveOptions::default())?;
        Ok(Self { path, _folder: folder })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
