//! The jobs, each on a thread of its own.

use std::ffi::OsString;
use std::sync::Arc;

use paredown::Cancel;
use paredown::cli::embed::{self, Caller};
use pyo3::prelude::*;

use crate::desk::{Desk, Line};
use crate::model::Model;
use crate::outcome::{Outcome, Report};

/// How a job is judged: a function of a model's bytes, and whether a lower figure is better.
type Metric = (Py<PyAny>, bool);

/// A desk for a new job, and the job's side of it.
fn desk(listener: Option<Py<PyAny>>, metric: Option<Metric>, teacher: Option<&Model>) -> (Desk, Caller) {
    let (line, cancel) = (Line::default(), Cancel::new());
    let speaker = line.clone();
    let asker = line.clone();
    let judge = move |model: &paredown::Model| asker.judge(model.to_bytes()?);
    let judged = metric.as_ref().map(|(_, lower)| paredown::Metric::new("metric", judge).lower_is_better(*lower));
    let caller = Caller {
        teacher: teacher.map(|teacher| teacher.0.clone()),
        metric: judged,
        listener: Arc::new(move |phase| speaker.say(phase)),
        cancel: cancel.clone(),
    };
    (Desk { line, cancel, listener, metric: metric.map(|(metric, _)| metric) }, caller)
}

/// Runs `prune`, `factorize`, `compress` or `tune` with options as they are typed.
#[pyfunction]
#[pyo3(signature = (command, options, model, teacher=None, listener=None, metric=None))]
pub(crate) fn rewrite(
    py: Python<'_>,
    command: String,
    options: Vec<OsString>,
    model: &Model,
    teacher: Option<PyRef<'_, Model>>,
    listener: Option<Py<PyAny>>,
    metric: Option<Metric>,
) -> PyResult<Outcome> {
    let (desk, caller) = desk(listener, metric, teacher.as_deref());
    let model = model.0.clone();
    let outcome = desk.run(py, move || embed::rewrite(&command, &options, &model, caller))?;
    Ok(Outcome::new(outcome, desk))
}

/// Runs `inspect` with options as they are typed.
#[pyfunction]
pub(crate) fn inspect(py: Python<'_>, options: Vec<OsString>, model: &Model) -> PyResult<Report> {
    let (desk, _) = desk(None, None, None);
    let model = model.0.clone();
    let report = desk.run(py, move || embed::inspect(&options, &model))?;
    Ok(Report { report, is_inspection: true })
}

/// Runs `verify` with options as they are typed.
#[pyfunction]
#[pyo3(signature = (options, original, rewritten, listener=None, metric=None))]
pub(crate) fn verify(
    py: Python<'_>,
    options: Vec<OsString>,
    original: &Model,
    rewritten: &Model,
    listener: Option<Py<PyAny>>,
    metric: Option<Metric>,
) -> PyResult<Report> {
    let (desk, caller) = desk(listener, metric, None);
    let (original, rewritten) = (original.0.clone(), rewritten.0.clone());
    let report = desk.run(py, move || embed::verify(&options, &original, &rewritten, &caller))?;
    Ok(Report { report, is_inspection: false })
}

/// The long names of the options of a command.
#[pyfunction]
pub(crate) fn options_of(command: &str) -> Vec<String> {
    embed::options_of(command)
}
