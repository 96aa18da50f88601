//! Models that are read from files or bytes.

use std::path::PathBuf;

use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::errors::raised;

/// A model, read once and never changed. Clones share its weights.
#[pyclass(frozen, module = "paredown._paredown")]
pub(crate) struct Model(pub(crate) paredown::Model);

#[pymethods]
impl Model {
    /// Reads a file and its external data.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        raised(py, py.detach(|| paredown::Model::load(path))).map(Self)
    }

    /// Decodes a model; its weights stay slices of `content`.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, content: PyBackedBytes) -> PyResult<Self> {
        raised(py, py.detach(|| paredown::Model::from_bytes(Bytes::from_owner(content)))).map(Self)
    }

    /// The SHA-256 of the model with its weights.
    fn hash(&self, py: Python<'_>) -> String {
        py.detach(|| paredown::cli::embed::hash_of(&self.0))
    }

    /// The names of the inputs that a caller must give, in order.
    fn inputs(&self) -> Vec<String> {
        self.0.inputs().iter().map(|name| (*name).to_owned()).collect()
    }
}
