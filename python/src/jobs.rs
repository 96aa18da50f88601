//! The jobs, each on a thread of its own.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use paredown::Cancel;
use paredown::cli::embed::{self, Board, Caller, Passes, Service};
use pyo3::prelude::*;

use crate::desk::{Desk, Line};
use crate::model::Model;
use crate::outcome::{Outcome, Report, Sweep};

/// How a job is judged: a function of a model's bytes, and whether a lower figure is better.
type Metric = (Py<PyAny>, bool);

/// Where processes meet that share a job, and the number of workers.
type Team = (Py<PyAny>, usize);

/// A desk for a new job, and the job's side of it.
fn desk(listener: Option<Py<PyAny>>, metric: Option<Metric>, teacher: Option<&Model>) -> (Desk, Caller) {
    desk_of_team(listener, metric, teacher, None)
}

/// [`desk`] for a job that workers share.
fn desk_of_team(
    listener: Option<Py<PyAny>>,
    metric: Option<Metric>,
    teacher: Option<&Model>,
    team: Option<Team>,
) -> (Desk, Caller) {
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
        team: team.as_ref().map(|(_, workers)| (Arc::new(line.clone()) as Arc<dyn Board>, *workers)),
    };
    let (metric, board) = (metric.map(|(metric, _)| metric), team.map(|(board, _)| board));
    (Desk { line, cancel, listener, metric, board }, caller)
}

/// Runs `prune`, `factorize`, `compress` or `tune` with options as they are typed.
#[pyfunction]
#[pyo3(signature = (command, options, model, teacher=None, listener=None, metric=None, team=None))]
#[allow(clippy::too_many_arguments)] // each is an argument in Python
pub(crate) fn rewrite(
    py: Python<'_>,
    command: String,
    options: Vec<OsString>,
    model: &Model,
    teacher: Option<PyRef<'_, Model>>,
    listener: Option<Py<PyAny>>,
    metric: Option<Metric>,
    team: Option<Team>,
) -> PyResult<Outcome> {
    let (desk, caller) = desk_of_team(listener, metric, teacher.as_deref(), team);
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

/// Runs `gather` with options as they are typed, and returns the number of results that are new in the file.
#[pyfunction]
#[pyo3(signature = (options, model, listener=None))]
pub(crate) fn gather(
    py: Python<'_>,
    options: Vec<OsString>,
    model: &Model,
    listener: Option<Py<PyAny>>,
) -> PyResult<usize> {
    let (desk, caller) = desk(listener, None, None);
    let model = model.0.clone();
    desk.run(py, move || embed::gather(&options, &model, &caller))
}

/// What a job needs sums for, as a dictionary.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Needs {
    scores: bool,
    splits: bool,
    prices: bool,
}

/// Runs a share of the samples for the job of another process, with options of `gather` as they are typed; `board` is where they
/// meet. `worker` is the number of this worker and that of all. Returns the number of repairs.
#[pyfunction]
pub(crate) fn serve(
    py: Python<'_>,
    options: Vec<OsString>,
    model: &Model,
    board: Py<PyAny>,
    worker: (usize, usize),
    needs: Needs,
    thaw: BTreeSet<String>,
) -> PyResult<usize> {
    let (worker, workers) = worker;
    let (desk, caller) = desk_of_team(None, None, None, Some((board, workers)));
    let passes = Passes { scores: needs.scores, dimensions: false, splits: needs.splits, prices: needs.prices };
    let (model, service) = (model.0.clone(), Service { worker, workers, passes, thaw });
    let line: Arc<dyn Board> = Arc::new(desk.line.clone());
    desk.run(py, move || embed::serve(&options, &service, &model, (&caller, line)))
}

/// Writes what the workers at `board` gathered to a file, and tells them.
#[pyfunction]
pub(crate) fn gathered(py: Python<'_>, board: Py<PyAny>, workers: usize, stats: PathBuf) -> PyResult<()> {
    let (desk, _) = desk_of_team(None, None, None, Some((board, workers)));
    let line: Arc<dyn Board> = Arc::new(desk.line.clone());
    desk.run(py, move || embed::gathered(&line, workers, &stats))
}

/// Merges files of statistics, and returns the number of results and the eighths of the samples that are missing.
#[pyfunction]
pub(crate) fn merge_stats(py: Python<'_>, files: Vec<PathBuf>, output: PathBuf) -> PyResult<(usize, Vec<usize>)> {
    let (desk, _) = desk(None, None, None);
    let merged = desk.run(py, move || paredown::merge_stats(&files, output))?;
    Ok((merged.results, merged.missing))
}

/// Runs `sweep` with options as they are typed.
#[pyfunction]
#[pyo3(signature = (options, model, listener=None, metric=None))]
pub(crate) fn sweep(
    py: Python<'_>,
    options: Vec<OsString>,
    model: &Model,
    listener: Option<Py<PyAny>>,
    metric: Option<Metric>,
) -> PyResult<Sweep> {
    let (desk, caller) = desk(listener, metric, None);
    let model = model.0.clone();
    desk.run(py, move || embed::sweep(&options, &model, &caller)).map(Sweep)
}

/// Begins a sweep whose budgets are carried out elsewhere: the name of each, how it is typed, and whether it is finished.
#[pyfunction]
pub(crate) fn begin_sweep(
    py: Python<'_>,
    options: Vec<OsString>,
    model: &Model,
) -> PyResult<Vec<(String, String, bool)>> {
    let (desk, caller) = desk(None, None, None);
    let model = model.0.clone();
    let budgets = desk.run(py, move || embed::begin_sweep(&options, &model, &caller))?;
    Ok(budgets.into_iter().map(|budget| (budget.name, budget.typed, budget.is_finished)).collect())
}

/// Moves points that were carried out elsewhere to the folder of their sweep; `order` names all its points.
#[pyfunction]
pub(crate) fn take_over(py: Python<'_>, part: PathBuf, folder: PathBuf, order: Vec<String>) -> PyResult<()> {
    let (desk, _) = desk(None, None, None);
    desk.run(py, move || embed::take_over(&part, &folder, &order))
}

/// The report of a sweep whose points were all taken over.
#[pyfunction]
pub(crate) fn end_sweep(py: Python<'_>, folder: PathBuf) -> PyResult<Sweep> {
    let (desk, _) = desk(None, None, None);
    desk.run(py, move || embed::end_sweep(&folder)).map(Sweep)
}

/// The long names of the options of a command.
#[pyfunction]
pub(crate) fn options_of(command: &str) -> Vec<String> {
    embed::options_of(command)
}
