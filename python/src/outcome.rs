//! Results of jobs.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use paredown::{Error, SaveOptions};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::desk::{Desk, Line};
use crate::errors::{exception, raised};

/// A report, as JSON and as text.
#[pyclass(frozen, module = "paredown._paredown")]
pub(crate) struct Report {
    pub(crate) report: paredown::Report,
    pub(crate) is_inspection: bool,
}

#[pymethods]
impl Report {
    /// The report as JSON.
    fn to_json(&self, py: Python<'_>) -> String {
        py.detach(|| self.report.to_json())
    }

    /// The report as a page.
    fn to_html(&self, py: Python<'_>) -> String {
        py.detach(|| self.report.to_html())
    }

    /// Writes the report as a page if the name ends in `.html`, otherwise as JSON.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        raised(py, py.detach(|| paredown::cli::embed::save_report(&path, &self.report)))
    }

    /// The report as the command line prints it.
    fn text(&self, py: Python<'_>) -> String {
        py.detach(|| paredown::cli::embed::text(&self.report, self.is_inspection))
    }
}

/// The report of a sweep, as JSON, as text and as a page.
#[pyclass(frozen, module = "paredown._paredown")]
pub(crate) struct Sweep(pub(crate) paredown::SweepReport);

#[pymethods]
impl Sweep {
    /// The report as JSON.
    fn to_json(&self, py: Python<'_>) -> String {
        py.detach(|| self.0.to_json())
    }

    /// The report as a page.
    fn to_html(&self, py: Python<'_>) -> String {
        py.detach(|| self.0.to_html())
    }

    /// The report as the command line prints it.
    fn text(&self, py: Python<'_>) -> String {
        py.detach(|| paredown::cli::embed::text_of_sweep(&self.0))
    }
}

/// The result of a rewrite. A failed or interrupted proof takes it away.
#[pyclass(frozen, module = "paredown._paredown")]
pub(crate) struct Outcome {
    outcome: Mutex<Option<paredown::Outcome>>,
    line: Line,
    cancel: paredown::Cancel,
    metric: Option<Py<PyAny>>,
}

impl Outcome {
    pub(crate) fn new(outcome: paredown::Outcome, desk: Desk) -> Self {
        Self { outcome: Mutex::new(Some(outcome)), line: desk.line, cancel: desk.cancel, metric: desk.metric }
    }

    /// Works on the result without the interpreter.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut paredown::Outcome) -> paredown::Result<T> + Send,
    ) -> PyResult<T> {
        let result = py.detach(|| {
            let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            outcome.as_mut().ok_or_else(unproved).and_then(work)
        });
        raised(py, result)
    }
}

#[pymethods]
impl Outcome {
    /// The report as it is now.
    fn report(&self, py: Python<'_>) -> PyResult<Report> {
        self.with(py, |outcome| Ok(Report { report: outcome.report.clone(), is_inspection: false }))
    }

    /// The plan as JSON.
    fn plan(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, |outcome| Ok(outcome.plan.to_text()))
    }

    /// Proves the rewrite, once.
    #[pyo3(signature = (listener=None))]
    fn prove(&self, py: Python<'_>, listener: Option<Py<PyAny>>) -> PyResult<()> {
        let taken = py.detach(|| self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take());
        let outcome = taken.ok_or_else(|| exception(py, &unproved()))?;
        let proved = if outcome.report.verify.valid.is_some() {
            outcome
        } else {
            let metric = self.metric.as_ref().map(|metric| metric.clone_ref(py));
            let desk = Desk { line: self.line.clone(), cancel: self.cancel.clone(), listener, metric, board: None };
            desk.run(py, move || outcome.prove())?
        };
        py.detach(|| *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(proved));
        Ok(())
    }

    /// Writes the model, completely or not at all.
    fn save(&self, py: Python<'_>, path: PathBuf, external_data: bool, force: bool) -> PyResult<()> {
        self.with(py, |outcome| {
            outcome.model.check_output(&path, force)?;
            outcome.save_with(&path, &SaveOptions { external_data, force })
        })
    }

    /// Writes the plan.
    fn save_plan(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.with(py, |outcome| outcome.plan.save(&path))
    }

    /// The model as one protobuf.
    fn model_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let content = self.with(py, |outcome| outcome.model.to_bytes())?;
        Ok(PyBytes::new(py, &content))
    }
}

fn unproved() -> Error {
    Error::usage("the proof of this result failed or was interrupted, so there is nothing to save: run the job again")
}
