//! The models of a proof in tract, and what they make of made-up inputs.

use rayon::prelude::*;

use super::{Exactness, Faithfulness, Kept};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::proto::ModelProto;
use crate::runtime::{NamedTensor, RunOptions, Runnable, unsupported_nodes};

/// Two models that must be the same function: the original with what goes masked, and with it removed.
pub(super) struct Removal {
    pub(super) masked: ModelProto,
    /// `None` if the rewritten model is just that.
    pub(super) pruned: Option<ModelProto>,
    /// What is left of every value.
    pub(super) kept: Kept,
}

/// Outputs of a model, batch by batch.
type Outputs = Vec<Vec<NamedTensor>>;

/// Why the model does not run on `inputs` though tract has all its operators: its own fault, most likely.
pub(crate) fn own_fault(model: &ModelProto, inputs: &[NamedTensor]) -> Option<Error> {
    if !unsupported_nodes(model).is_empty() {
        return None;
    }
    let fault = Runnable::new(model, &RunOptions::default()).and_then(|model| model.run(inputs)).err()?;
    if fault.kind() != ErrorKind::Runtime {
        return Some(fault);
    }
    let shapes: Vec<String> = inputs.iter().map(|(name, tensor)| format!("{name} {:?}", tensor.shape())).collect();
    let advice = "give sizes that it runs at with `dim`; if another runtime runs it, pass `no_verify`";
    Some(Error::input(format!(
        "tract does not run the model even before anything is changed, on {}: {fault}; {advice}",
        shapes.join(", ")
    )))
}

/// The models of a proof in tract.
pub(super) struct Models {
    pub(super) before: Runnable,
    pub(super) after: Runnable,
    masked: Option<Runnable>,
    pruned: Option<Runnable>,
    /// What is left of the inputs of `after`.
    pub(super) resized: Kept,
    /// What is left in `pruned` of the values of `masked`.
    kept: Kept,
}

impl Models {
    /// Hands the models to tract, side by side. The error is that of the first model that has one.
    pub(super) fn load(
        original: &ModelProto,
        rewritten: &ModelProto,
        removal: Option<&Removal>,
        resized: Kept,
    ) -> Result<Self> {
        let load = |model: &ModelProto| Runnable::new(model, &RunOptions::default());
        let given = |model: Option<&ModelProto>| model.map(load).transpose();
        let ((after, before), (masked, pruned)) = rayon::join(
            || rayon::join(|| load(rewritten), || load(original)),
            || {
                rayon::join(
                    || given(removal.map(|removal| &removal.masked)),
                    || given(removal.and_then(|removal| removal.pruned.as_ref())),
                )
            },
        );
        let kept = removal.map(|removal| removal.kept.clone()).unwrap_or_default();
        Ok(Self { after: after?, before: before?, masked: masked?, pruned: pruned?, resized, kept })
    }

    /// Runs every model on `probes`, the original on the single ones, if at all.
    pub(super) fn run(&self, probes: Vec<Vec<NamedTensor>>, with_original: bool) -> Result<Trial> {
        let singles = if with_original { singles(&probes) } else { &[] };
        let (resized, rest) = (cut(&self.resized, &probes)?, cut(&self.kept, &probes)?);
        let [after, before, masked, pruned] = outputs([
            (Some(&self.after), &resized),
            (Some(&self.before), singles),
            (self.masked.as_ref(), &probes),
            (self.pruned.as_ref(), &rest),
        ])?;
        let masked = cut(&self.kept, &masked)?;
        Ok(Trial { probes, after, before, masked, pruned })
    }
}

/// Probes, and what the models made of them.
pub(super) struct Trial {
    probes: Vec<Vec<NamedTensor>>,
    after: Outputs,
    /// For the single probes.
    before: Outputs,
    /// What is left of them in the pruned model.
    masked: Outputs,
    pruned: Outputs,
}

impl Trial {
    /// The outputs of the pruned model against those of the masked original, if there is one.
    pub(super) fn exactness(&self) -> Result<Option<Exactness>> {
        if self.masked.is_empty() {
            return Ok(None);
        }
        let removed = if self.pruned.is_empty() { &self.after } else { &self.pruned };
        Exactness::between(&self.masked, removed, &self.probes).map(Some)
    }

    /// The outputs of the rewritten model against those of the original, on the single probes.
    pub(super) fn faithfulness(&self) -> Result<Faithfulness> {
        let singles = singles(&self.probes);
        Faithfulness::between(&self.before, &self.after[self.probes.len() - singles.len()..], singles)
    }

    /// All probes.
    pub(super) fn probes(&self) -> &[Vec<NamedTensor>] {
        &self.probes
    }

    /// The last probe: a single one, where the batch is open.
    pub(super) fn last(&self) -> &[NamedTensor] {
        self.probes.last().map_or(&[], Vec::as_slice)
    }
}

/// What is left of the values of every batch.
fn cut(kept: &Kept, batches: &[Vec<NamedTensor>]) -> Result<Outputs> {
    batches.iter().map(|batch| kept.of(batch)).collect()
}

/// All probes but the first, which may be a pair, unless there is no other.
fn singles(probes: &[Vec<NamedTensor>]) -> &[Vec<NamedTensor>] {
    if probes.len() > 1 { &probes[1..] } else { probes }
}

/// Outputs of each model for each of its batches, none for a model that is not given. The error is that of the first
/// model that has one.
fn outputs<const N: usize>(models: [(Option<&Runnable>, &[Vec<NamedTensor>]); N]) -> Result<[Outputs; N]> {
    // Plans are made before anything runs: a run that wants the plan that another one is making would wait.
    let plan = |&(model, batches): &(Option<&Runnable>, &[Vec<NamedTensor>])| {
        batches.iter().try_for_each(|batch| model.map_or(Ok(()), |model| model.plan_for(batch)))
    };
    let planned: Vec<Result<()>> = models.par_iter().map(plan).collect();
    planned.into_iter().collect::<Result<()>>()?;
    let jobs = models.iter().enumerate().filter_map(|(slot, &(model, batches))| Some((slot, model?, batches)));
    let jobs: Vec<(usize, &Runnable, &Vec<NamedTensor>)> =
        jobs.flat_map(|(slot, model, batches)| batches.iter().map(move |batch| (slot, model, batch))).collect();
    let ran: Vec<Result<(usize, Vec<NamedTensor>)>> =
        jobs.into_par_iter().with_max_len(1).map(|(slot, model, batch)| Ok((slot, model.run(batch)?))).collect();
    let mut all = [const { Vec::new() }; N];
    for ran in ran {
        let (slot, outputs) = ran?;
        all[slot].push(outputs);
    }
    Ok(all)
}
