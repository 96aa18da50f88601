//! The extension module `paredown._paredown`: models, jobs and their results for the Python package around it.
//!
//! A job gets its options as they are typed on the command line, so that each has one definition. It runs on a thread of
//! its own, which never touches Python: what it says and asks arrives at the caller's thread (`desk.rs`).

mod desk;
mod errors;
mod jobs;
mod model;
mod outcome;

use std::ffi::OsString;

use pyo3::prelude::*;

#[pymodule]
mod _paredown {
    #[pymodule_export]
    use super::jobs::{
        begin_sweep, end_sweep, gather, gathered, inspect, merge_stats, options_of, rewrite, serve, sweep, take_over,
        verify,
    };
    #[pymodule_export]
    use super::model::Model;
    #[pymodule_export]
    use super::outcome::{Outcome, Report, Sweep};
    #[pymodule_export]
    use super::{main, target};
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}

/// The name of the hardware that sizes are chosen for where the caller asks for no other.
#[pyfunction]
fn target() -> &'static str {
    paredown::cli::embed::target()
}

/// Runs the command line and returns its exit code.
#[pyfunction]
fn main(py: Python<'_>, typed: Vec<OsString>) -> u8 {
    py.detach(|| paredown::cli::status(typed))
}
