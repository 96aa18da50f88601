//! Repairs what pruning costs, without gradients.
//!
//! * `lstsq`: every layer after a removal gets the weights that reproduce its *original* result best from its
//!   *repaired* input, one least-squares solve each, in topological order;
//! * `bias`: the same with the bias alone;
//! * `bn`: running means and variances of batch normalizations are estimated again.
//!
//! The gates of recurrent layers are fitted in the same way, to their original pre-activations at every step.
//!
//! Every fifth sample is held out. A layer whose error on those would grow keeps its weights; one that improves is fitted
//! once more, on all samples, with the ridge that did best.

mod attention;
mod batch_norm;
mod changes;
mod member;
mod method;
mod reader;
mod reconstruct;
mod recurrent;
#[cfg(test)]
pub(crate) mod recurrent_tests;
mod report;
#[cfg_attr(not(feature = "cli"), allow(dead_code))] // only the command line's library has workers
mod served;
mod skip;
mod start;
#[cfg(test)]
mod tests;
mod touch;
mod write;

use std::collections::BTreeSet;

use crate::analysis::Subject;
use crate::axes::Selection;
use crate::calibrate::{Calibration, Recording, readers};
use crate::error::Result;
use crate::graph::bodies::{hoisted_like, nested};
use crate::graph::{NodeId, View};
use crate::onnx::proto::ModelProto;

pub use attention::Bases;
#[cfg(feature = "cli")]
pub(crate) use method::METHODS;
pub use method::Method;
pub(crate) use reader::RIDGES;
use reconstruct::How;
pub use report::RepairReport;
#[cfg(feature = "cli")]
pub(crate) use served::{dismiss, serve};

/// `pruned`, which is `subject` with only `selection` kept, repaired so that its layers' results are those of `subject`
/// again, as well as their inputs allow. Heads of which dimensions are gone are in the new `bases` already, which are found again
/// on the way. One report for each layer that was looked at.
///
/// # Errors
/// If reading the data, running a model or writing a weight fails.
pub fn repair(
    subject: Subject<'_>,
    selection: &Selection,
    pruned: ModelProto,
    data: Calibration<'_>,
    (method, bases): (Method, &mut Bases),
) -> Result<(ModelProto, Vec<RepairReport>)> {
    // What the samples always run is repaired in branches too.
    let mut model = hoisted_like(pruned, subject.model);
    let reports = match method {
        Method::None => Vec::new(),
        Method::Bias | Method::Lstsq => {
            let how = How { method, bases, split: None, limits: data.limits };
            led(subject, selection, &mut model, data, how)?
        }
        Method::BatchNorm => batch_norm::estimate(subject, selection, &mut model, data)?,
    };
    Ok((nested(&model).into_owned(), reports))
}

/// Fits layers, with the workers if there are any.
fn led(
    subject: Subject<'_>,
    selection: &Selection,
    model: &mut ModelProto,
    data: Calibration<'_>,
    how: How<'_>,
) -> Result<Vec<RepairReport>> {
    if let Some(team) = data.team {
        served::ask(team, selection, (model, data), &how)?;
    }
    reconstruct::reconstruct(subject, selection, model, data, how)
}

/// What a pass over the samples should record of `subject` within the limits of memory, so that [`repair`] need not run it again.
///
/// # Errors
/// If a layer's weight is malformed.
pub(crate) fn recording(subject: Subject<'_>, data: Calibration<'_>) -> Result<Recording> {
    let mut recording = Recording::within(data.limits.recorded());
    let (view, choice) = (View::of(subject.model)?, (data.data.samples(), data.seed));
    for layer in readers(subject)?.iter().filter(|layer| layer.steps.is_none()) {
        let skip = skip::skip(&view, layer, layer.groups * layer.outputs)?;
        let values = layer.uses().map(|at| at.result).chain(skip.map(|skip| skip.value));
        recording.want(layer, values, choice);
    }
    Ok(recording)
}

/// A repaired model of which layers were `split` since, fitted once more: the last part of every split, and all layers after
/// one or after a removal. `bases` are those that repair found.
///
/// # Errors
/// As [`repair`].
pub(crate) fn refit_split(
    subject: Subject<'_>,
    selection: &Selection,
    split_model: ModelProto,
    data: Calibration<'_>,
    (bases, split): (&Bases, &BTreeSet<NodeId>),
) -> Result<(ModelProto, Vec<RepairReport>)> {
    let (mut model, mut bases) = (hoisted_like(split_model, subject.model), bases.clone());
    let how = How { method: Method::Lstsq, bases: &mut bases, split: Some(split), limits: data.limits };
    let reports = led(subject, selection, &mut model, data, how)?;
    Ok((nested(&model).into_owned(), reports))
}
