//! Errors of paredown as exceptions.

use paredown::{Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The exception for an error, with its node, file and hint.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    let class = match error.kind() {
        ErrorKind::Usage => "UsageError",
        ErrorKind::Input => "InputError",
        ErrorKind::Runtime => "RuntimeUnsupported",
        ErrorKind::Proof => "ProofError",
        ErrorKind::Nothing => "NothingToDo",
        ErrorKind::Output => "OutputError",
        ErrorKind::Interrupted => "Interrupted",
        ErrorKind::Defect => "Defect",
        _ => "Error",
    };
    let raised = || -> PyResult<Bound<'_, PyAny>> {
        let details = PyDict::new(py);
        details.set_item("node", error.node())?;
        details.set_item("hint", error.hint())?;
        details.set_item("file", error.file().map(|file| file.display().to_string()))?;
        py.import("paredown.errors")?.getattr(class)?.call((error.to_string(),), Some(&details))
    };
    raised().map_or_else(|failure| failure, PyErr::from_value)
}

/// The value, or the exception for its error.
pub(crate) fn raised<T>(py: Python<'_>, result: paredown::Result<T>) -> PyResult<T> {
    result.map_err(|error| exception(py, &error))
}
