//! Repairs what pruning costs, without gradients.
//!
//! * `lstsq`: every layer behind a removal gets the weights that reproduce its *original* result best from its
//!   *repaired* input, one least-squares solve each, in topological order;
//! * `bias`: the same with the bias alone;
//! * `bn`: running means and variances of batch normalizations are estimated again.
//!
//! Every fifth sample is held out. A layer whose error on those would grow keeps its weights; one that improves is fitted
//! once more, on all samples, with the ridge that did best.

mod attention;
mod batch_norm;
mod member;
mod reader;
mod reconstruct;
mod skip;
mod stages;
#[cfg(test)]
mod tests;
mod touch;
mod write;

use crate::analysis::Subject;
use crate::axes::Selection;
use crate::calibrate::Calibration;
use crate::error::{Error, Result};
use crate::onnx::proto::ModelProto;
use crate::report::RepairReport;

/// How a pruned model is repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    None,
    /// Biases follow the shifted means.
    Bias,
    /// Statistics of batch normalizations are estimated again.
    BatchNorm,
    /// Least-squares reconstruction.
    Lstsq,
}

/// A line of the table of methods.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// Name on the command line.
    pub(crate) name: &'static str,
    /// One line of help.
    pub(crate) about: &'static str,
    method: Method,
}

/// All methods, sorted by name.
pub(crate) const METHODS: &[Row] = &[
    Row { name: "bias", about: "biases follow the shifted means", method: Method::Bias },
    Row { name: "bn", about: "statistics of batch normalizations are estimated again", method: Method::BatchNorm },
    Row { name: "lstsq", about: "least squares: layers reproduce the results of the original", method: Method::Lstsq },
    Row { name: "none", about: "the kept weights stay as they are", method: Method::None },
];

impl Method {
    /// The method called `name` on the command line.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) with the names that exist.
    pub fn by_name(name: &str) -> Result<Self> {
        METHODS.iter().find(|row| row.name == name).map(|row| row.method).ok_or_else(|| {
            let names: Vec<&str> = METHODS.iter().map(|row| row.name).collect();
            Error::usage(format!("repair '{name}' is unknown; choose one of {}", names.join(", ")))
        })
    }
}

/// `pruned`, which is `subject` with only `selection` kept, repaired so that its layers' results are those of `subject`
/// again, as well as their inputs allow. One report for each layer that was looked at.
///
/// # Errors
/// If reading the data, running a model or writing a weight fails.
pub fn repair(
    subject: Subject<'_>,
    selection: &Selection,
    pruned: ModelProto,
    data: Calibration<'_>,
    method: Method,
) -> Result<(ModelProto, Vec<RepairReport>)> {
    let mut model = pruned;
    let reports = match method {
        Method::None => Vec::new(),
        Method::Bias | Method::Lstsq => reconstruct::reconstruct(subject, selection, &mut model, data, method)?,
        Method::BatchNorm => batch_norm::estimate(subject, selection, &mut model, data)?,
    };
    Ok((model, reports))
}
