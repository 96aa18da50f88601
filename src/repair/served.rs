//! A repair whose samples are run by other processes: the lead asks for it, workers serve it.
//!
//! The lead sends what is to be repaired. Lead and workers then go through the same stages: workers run their samples and send
//! their sums, the lead solves and sends what changed in the model. So all have the same model at every stage.

use std::collections::BTreeSet;

use prost::Message;
use serde::{Deserialize, Serialize};

use super::attention::Bases;
use super::method::Method;
use super::reconstruct::{How, reconstruct};
use crate::analysis::Subject;
use crate::axes::{FactorId, Selection};
use crate::calibrate::{Calibration, Team};
use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::onnx::proto::ModelProto;
use crate::runtime::Limits;

/// What is to be repaired, beside the model. The bytes of an empty request end the service.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    /// The factors that lose something, with a flag for each index.
    kept: Vec<(u32, Vec<bool>)>,
    method: Method,
    /// The factors whose heads are in a new basis.
    heads: Vec<u32>,
    /// Nodes of layers that were split.
    split: Option<Vec<usize>>,
    /// Whether rows of the original that were recorded stand for a run of it: their last digits are others.
    is_recorded: bool,
    /// The memory by which layers are fitted together.
    limits: Limits,
}

/// Asks all workers to repair `model`, which is a model with only `selection` left.
///
/// # Errors
/// If the workers cannot be reached.
pub(super) fn ask(
    team: &Team,
    selection: &Selection,
    (model, data): (&ModelProto, Calibration<'_>),
    how: &How<'_>,
) -> Result<()> {
    let kept = selection.touched().map(|factor| (factor.0, selection.flags(factor).unwrap_or_default().to_vec()));
    let request = Request {
        kept: kept.collect(),
        method: how.method,
        heads: how.bases.shares().into_keys().map(|factor| factor.0).collect(),
        split: how.split.map(|nodes| nodes.iter().map(|node| node.0).collect()),
        is_recorded: data.recorded.is_some(),
        limits: how.limits,
    };
    let request = serde_json::to_vec(&request).map_err(|e| Error::defect(e.to_string()))?;
    team.begin();
    team.put("model", model.encode_to_vec())?;
    team.put("request", request)
}

/// Ends the service of all workers.
///
/// # Errors
/// If they cannot be reached.
pub(crate) fn dismiss(team: &Team) -> Result<()> {
    team.begin();
    team.put("request", Vec::new())
}

/// Serves the lead until it needs no more repairs: runs this worker's samples of `data`, whose original is `subject` with heads in
/// `bases`. Returns the number of repairs.
///
/// # Errors
/// If the lead cannot be reached, or as [`repair`](super::repair).
pub(crate) fn serve(subject: Subject<'_>, (team, data): (&Team, Calibration<'_>), bases: &Bases) -> Result<usize> {
    let damaged = |what: &str| Error::runtime(format!("the {what} that the lead sent is damaged"));
    for served in 0.. {
        team.begin();
        let request = team.get("request")?;
        if request.is_empty() {
            return Ok(served);
        }
        let request: Request = serde_json::from_slice(&request).map_err(|_| damaged("request"))?;
        let mut model = ModelProto::decode(team.get("model")?.as_slice()).map_err(|e| damaged("model").caused_by(e))?;
        let factors = subject.network.solution.factors.len();
        let mut selection = Selection::all();
        for (factor, flags) in request.kept.into_iter().filter(|(factor, _)| FactorId(*factor).index() < factors) {
            selection.keep(FactorId(factor), flags);
        }
        let mut bases = bases.clone();
        bases.retain(|factor| request.heads.contains(&factor.0));
        let split: Option<BTreeSet<NodeId>> = request.split.map(|nodes| nodes.into_iter().map(NodeId).collect());
        let how = How { method: request.method, bases: &mut bases, split: split.as_ref(), limits: request.limits };
        let recorded = data.recorded.filter(|_| request.is_recorded);
        reconstruct(subject, &selection, &mut model, Calibration { recorded, ..data }, how)?;
    }
    Err(Error::defect("there are always more requests"))
}
