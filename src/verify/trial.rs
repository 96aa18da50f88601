//! The models of a proof in tract, and their outputs for synthetic inputs.

use rayon::prelude::*;

use super::{Exactness, Faithfulness, Kept};
use crate::error::{Error, ErrorKind, Result};
use crate::graph::bodies::decided;
use crate::onnx::proto::ModelProto;
use crate::runtime::{NamedTensor, RunOptions, Runnable, release_memory, unsupported_nodes};

/// Two models that must be the same function: the original with the removed units masked, and the pruned model.
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
    if !unsupported_nodes(&decided(model)).is_empty() {
        return None;
    }
    let fault = Runnable::new(model, &RunOptions::default()).and_then(|model| model.run(inputs)).err()?;
    if fault.kind() != ErrorKind::Runtime {
        return Some(fault);
    }
    let shapes: Vec<String> = inputs.iter().map(described).collect();
    let advice =
        "give samples with `data`, or sizes that it runs at with `dim`; if another runtime runs it, pass `no_verify`";
    Some(Error::input(format!(
        "tract does not run the model even before anything is changed, on {}: {fault}; {advice}",
        shapes.join(", ")
    )))
}

/// An input by its shape, or by its value if that is a single integer, which may be a setting.
fn described((name, tensor): &NamedTensor) -> String {
    match tensor.to_vec::<i64>() {
        Ok(values) if tensor.is_integer() && values.len() == 1 => format!("{name} = {}", values[0]),
        _ => format!("{name} {:?}", tensor.shape()),
    }
}

/// The rewritten model in tract, and the removal that it is held against.
pub(super) struct Models<'a> {
    pub(super) after: Runnable,
    removal: Option<&'a Removal>,
    /// What is left of the inputs of `after`.
    pub(super) resized: Kept,
}

impl<'a> Models<'a> {
    /// Hands the rewritten model to tract.
    pub(super) fn load(rewritten: &ModelProto, removal: Option<&'a Removal>, resized: Kept) -> Result<Self> {
        Ok(Self { after: load(rewritten)?, removal, resized })
    }

    /// Runs the rewritten model and those of the removal on `probes`. The latter are in memory only meanwhile: a model in
    /// tract takes its weights several times over.
    pub(super) fn run(&self, probes: Vec<Vec<NamedTensor>>) -> Result<Trial> {
        let kept = self.removal.map(|removal| removal.kept.clone()).unwrap_or_default();
        let given = |model: Option<&ModelProto>| model.map(load).transpose();
        let (masked, pruned) = rayon::join(
            || given(self.removal.map(|removal| &removal.masked)),
            || given(self.removal.and_then(|removal| removal.pruned.as_ref())),
        );
        let (masked, pruned) = (masked?, pruned?);
        let (resized, rest) = (cut(&self.resized, &probes)?, cut(&kept, &probes)?);
        let models = [(Some(&self.after), &resized[..]), (masked.as_ref(), &probes[..]), (pruned.as_ref(), &rest[..])];
        let [after, masked, pruned] = outputs(models)?;
        let masked = cut(&kept, &masked)?;
        Ok(Trial { probes, after, masked, pruned })
    }
}

/// A model in tract.
pub(super) fn load(model: &ModelProto) -> Result<Runnable> {
    Runnable::new(model, &RunOptions::default())
}

/// Probes, and what the models made of them.
pub(super) struct Trial {
    probes: Vec<Vec<NamedTensor>>,
    after: Outputs,
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

    /// The outputs of the rewritten model against those of the original, which runs on the single probes.
    pub(super) fn faithfulness(&self, original: &Runnable) -> Result<Faithfulness> {
        let singles = singles(&self.probes);
        let [before] = outputs([(Some(original), singles)])?;
        Faithfulness::between(&before, &self.after[self.probes.len() - singles.len()..], singles)
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
///
/// Batches of one shape run side by side, batches of another after them: a plan holds the weights once more, and is dropped
/// before the next one is made.
fn outputs<const N: usize>(models: [(Option<&Runnable>, &[Vec<NamedTensor>]); N]) -> Result<[Outputs; N]> {
    let shapes = |batch: &[NamedTensor]| batch.iter().map(|(_, tensor)| tensor.shape().to_vec()).collect::<Vec<_>>();
    let count = models.iter().map(|(_, batches)| batches.len()).max().unwrap_or(0);
    let alike = |a: usize, b: usize| {
        models.iter().all(|(_, all)| match (all.get(a), all.get(b)) {
            (Some(a), Some(b)) => shapes(a) == shapes(b),
            _ => true,
        })
    };
    let mut all = [const { Vec::new() }; N];
    let mut start = 0;
    while start < count {
        let end = (start + 1..count).find(|&at| !alike(start, at)).unwrap_or(count);
        if start > 0 {
            models.iter().for_each(|(model, _)| model.iter().for_each(|model| model.forget_plans()));
            release_memory();
        }
        // Plans are made before anything runs: a run that wants the plan that another one is making would wait.
        let part = |batches: &'_ [Vec<NamedTensor>]| start.min(batches.len())..end.min(batches.len());
        let plan = |&(model, batches): &(Option<&Runnable>, &[Vec<NamedTensor>])| {
            batches[part(batches)].iter().try_for_each(|batch| model.map_or(Ok(()), |model| model.plan_for(batch)))
        };
        let planned: Vec<Result<()>> = models.par_iter().map(plan).collect();
        planned.into_iter().collect::<Result<()>>()?;
        release_memory();
        let jobs = models.iter().enumerate().filter_map(|(slot, &(model, batches))| Some((slot, model?, batches)));
        let jobs: Vec<(usize, &Runnable, &Vec<NamedTensor>)> = jobs
            .flat_map(|(slot, model, batches)| batches[part(batches)].iter().map(move |batch| (slot, model, batch)))
            .collect();
        let ran: Vec<Result<(usize, Vec<NamedTensor>)>> =
            jobs.into_par_iter().with_max_len(1).map(|(slot, model, batch)| Ok((slot, model.run(batch)?))).collect();
        for ran in ran {
            let (slot, outputs) = ran?;
            all[slot].push(outputs);
        }
        start = end;
    }
    Ok(all)
}
