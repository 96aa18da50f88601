//! Every write is proved: valid, exact, faithful, and how fast.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::quantized;
use super::trial::{Models, Removal, Trial, own_fault};
use crate::analysis::Analysis;
use crate::analysis::Subject;
use crate::axes::{Role, Selection};
use crate::calibrate::data::Dataset;
use crate::error::{Error, ErrorKind, Result};
use crate::graph::ValueId;
use crate::onnx::Model;
use crate::onnx::proto::ModelProto;
use crate::plan::{CostModel, Filter, Group, Plan, Quota, Request, Scope, groups};
use crate::report::Report;
use crate::rewrite;
use crate::runtime::inputs::DimSizes;
use crate::runtime::probes::{probe_batches, probes};
use crate::verify::{Exactness, Kept, LatencyBudget, faithful, latency_each, signature};

/// Samples that probes are made of.
const PROBES: usize = 6;
/// Samples of one batch when data is given.
const BATCH: usize = 64;

/// A rewrite to compare with its original, whatever the rewrite was.
#[derive(Debug, Clone, Copy)]
pub struct Comparison<'a> {
    /// The original and what is known about it.
    pub analysis: &'a Analysis<'a>,
    /// The rewritten model.
    pub rewritten: &'a ModelProto,
    /// Outputs that may have shrunk.
    pub thaw: &'a [String],
    /// Data to measure fidelity and accuracy on; made-up inputs otherwise.
    pub data: Option<&'a Dataset>,
    /// Sizes of dynamic dimensions.
    pub dims: &'a DimSizes,
    /// Seed of made-up inputs.
    pub seed: u64,
}

/// A removal of units, to be compared with its original and proved exact.
#[derive(Debug, Clone, Copy)]
pub struct Proof<'a> {
    /// The two models.
    pub comparison: Comparison<'a>,
    /// Groups of the original.
    pub groups: &'a [Group],
    /// What stays.
    pub selection: &'a Selection,
    /// Whether what stays was repaired or trained: the removal is then carried out again and proved without that.
    pub adjusted: bool,
}

impl Comparison<'_> {
    /// Checks that the rewritten model has the signature of the original and runs; measures fidelity and time.
    ///
    /// # Errors
    /// [`Verification`](crate::ErrorKind::Verification) if the model is not valid, and what running the models returns.
    pub fn prove(&self, report: &mut Report) -> Result<()> {
        self.prove_with(None, Kept::default(), report)
    }

    /// As [`prove`](Self::prove), and that the two models of `removal` agree. Every model is loaded once and runs on
    /// the probes once, whatever its outputs are then held against; a quantized one by itself. `resized` is what is left
    /// of thawed inputs.
    fn prove_with(&self, removal: Option<&Removal>, resized: Kept, report: &mut Report) -> Result<()> {
        let started = Instant::now();
        let original = &self.analysis.model.proto;
        signature(original, self.rewritten, &self.thaw.iter().cloned().collect())?;
        let quantized = removal.filter(|removal| quantized::is_quantized(&removal.masked));
        let compared = removal.filter(|_| quantized.is_none());
        let models = Models::load(original, self.rewritten, compared, resized).map_err(|e| self.blame(e))?;
        let trial = self.run(&models, report)?;
        report.verify.valid = Some(true);
        if let Some(measured) = trial.exactness()? {
            judge(&measured, report)?;
        }
        if let Some(Removal { masked, pruned, kept }) = quantized {
            let pruned = pruned.as_ref().unwrap_or(self.rewritten);
            judge(&quantized::prove(masked, pruned, trial.probes(), kept, report)?, report)?;
        }
        if self.thaw.is_empty() {
            let measured = match self.data {
                Some(data) => faithful(&models.before, &models.after, data.batches(BATCH))?,
                None => trial.faithfulness()?,
            };
            report.verify.set_faithfulness(&measured);
            let doubt = "fidelity was measured on made-up inputs; give --data for a figure to trust";
            report.notes.extend(self.data.is_none().then(|| doubt.to_owned()));
        }
        let Models { before, after, resized, .. } = models;
        // Both have just run on these inputs.
        let budget = LatencyBudget { warm_up: 0, ..LatencyBudget::default() };
        let last = trial.last();
        let measured = latency_each((&before, last), (&after, &resized.of(last)?), budget)?;
        report.model.before.latency_ms = Some(measured.before_ms);
        report.model.after.latency_ms = Some(measured.after_ms);
        report.seconds.insert("verify".to_owned(), started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Runs the models on probes: single ones but for the first pair, or pairs, if tract fails on single ones.
    fn run(&self, models: &Models, report: &mut Report) -> Result<Trial> {
        let graph = self.analysis.subject().proto()?;
        let sizes = self.analysis.probe_sizes(self.dims);
        // Without data, fidelity is measured on the probes too.
        let with_original = self.thaw.is_empty() && self.data.is_none();
        match models.run(probes(graph, &sizes, PROBES, self.seed)?, with_original) {
            Err(error) if error.kind() == ErrorKind::Verification => {
                let pairs = probe_batches(graph, &sizes, PROBES, self.seed)?;
                let trial = models.run(pairs, with_original).map_err(|e| self.blame(e))?;
                report.notes.push(format!("tract runs pairs of samples of this model, but no single ones: {error}"));
                Ok(trial)
            }
            trial => trial,
        }
    }

    /// `error`, unless the original fails by itself.
    fn blame(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Verification {
            return error;
        }
        let sizes = self.analysis.probe_sizes(self.dims);
        let probes = self.analysis.subject().proto().and_then(|graph| probe_batches(graph, &sizes, 1, self.seed));
        let Ok(Some(inputs)) = probes.map(|batches| batches.into_iter().next()) else { return error };
        own_fault(&self.analysis.model.proto, &inputs).unwrap_or(error)
    }
}

/// Proves the rewrite and enters what was measured into the report.
///
/// # Errors
/// [`Verification`](crate::ErrorKind::Verification) if the rewritten model is not valid or the removal was not exact.
pub fn prove(proof: &Proof<'_>, report: &mut Report) -> Result<()> {
    let removal = proof.removal(report)?;
    let resized = kept(proof.comparison.analysis.subject(), proof.selection);
    proof.comparison.prove_with(removal.as_ref(), resized, report)
}

/// What `selection` leaves of every value of a model.
fn kept(subject: Subject<'_>, selection: &Selection) -> Kept {
    let Subject { graph, network, .. } = subject;
    let mut kept = BTreeMap::new();
    for (index, value) in graph.values.iter().enumerate() {
        let axes = network.value(ValueId(index)).unwrap_or_default().iter().enumerate();
        let cuts: Vec<(usize, Vec<usize>)> =
            axes.filter_map(|(axis, expr)| Some((axis, network.solution.kept(expr, selection)?))).collect();
        if !cuts.is_empty() {
            kept.insert(value.name.clone(), cuts);
        }
    }
    kept.into()
}

impl Proof<'_> {
    /// The exact part of the selection, on unrepaired weights; `None`, with a note, where there is none to prove.
    fn removal(&self, report: &mut Report) -> Result<Option<Removal>> {
        let mut free = self.selection.clone();
        let mut all_free = true;
        for group in self.groups {
            if !matches!(group.role, Role::Free) && !free.keeps_all(group.factor) {
                free.keep(group.factor, vec![true; group.size]);
                all_free = false;
            }
        }
        let obstacle = if self.selection.touched().next().is_none() {
            Some("there is no removal whose exactness could be proved; give the plan of `prune` with --plan")
        } else if free.touched().next().is_none() {
            Some("every removal shifts a statistic: there is no exact part to prove")
        } else {
            None
        };
        if let Some(obstacle) = obstacle {
            report.notes.push(obstacle.to_owned());
            return Ok(None);
        }
        let subject = self.comparison.analysis.subject();
        let is_rewritten = !self.adjusted && all_free;
        let pruned = if is_rewritten { None } else { Some(rewrite::prune(subject, &free)?) };
        Ok(Some(Removal { masked: rewrite::masked(subject, &free)?, pruned, kept: kept(subject, &free) }))
    }
}

fn judge(measured: &Exactness, report: &mut Report) -> Result<()> {
    report.verify.exact_max_rel = Some(measured.max_rel());
    if measured.max_rel() <= Exactness::TOLERANCE {
        if !measured.proves() {
            report.notes.push(
                "the output barely reacts to made-up inputs, so the exactness check proves little; give --data"
                    .to_owned(),
            );
        }
        return Ok(());
    }
    if !measured.proves() {
        let silent: Vec<&str> = measured.silent_outputs().collect();
        report.notes.push(format!(
            "the exactness check proves nothing: output {} barely reacts to made-up inputs (deviation {:.1e}); give --data",
            silent.join(", "),
            measured.max_rel()
        ));
        return Ok(());
    }
    Err(Error::verification(format!(
        "the pruned model differs from the masked original by {:.1e} (allowed: {:.0e}); this is a defect of paredown, please report it",
        measured.max_rel(),
        Exactness::TOLERANCE
    )))
}

/// Proves `rewritten` against `original`, with the exactness proof if the plan is given.
///
/// # Errors
/// [`Verification`](crate::ErrorKind::Verification) if the rewritten model is not valid, or the plan was not carried out exactly;
/// [`Input`](crate::ErrorKind::Input) if a model or the plan is malformed.
pub fn verify(
    original: &Model,
    rewritten: &Model,
    plan: Option<&Plan>,
    data: Option<&Dataset>,
    dims: &DimSizes,
    seed: u64,
) -> Result<Report> {
    let analysis = Analysis::new(original, dims, &BTreeSet::new())?;
    let after = Analysis::new(rewritten, dims, &BTreeSet::new())?;
    let cost = CostModel::new(analysis.subject());
    let groups = groups(analysis.subject(), &cost, &Filter::default());
    let request = Request { quota: Quota::Ratio(0.0), scope: Scope::Layer, min_keep: 1 };
    let selection = match plan {
        Some(plan) => plan.selection(&groups, &[], &request, true)?,
        None => Selection::all(),
    };
    let new_cost = CostModel::new(after.subject()).cost(&Selection::all());
    let mut report = Report::new(&analysis, &groups, &selection, cost.cost(&Selection::all()), new_cost);
    report.model.after.bytes = rewritten.file_bytes();
    report.model.after.nodes = after.graph.nodes.len();
    let comparison = Comparison { analysis: &analysis, rewritten: &after.model.proto, thaw: &[], data, dims, seed };
    let adjusted = plan.is_some_and(|plan| plan.adjusted);
    if adjusted {
        same_sizes(&rewrite::prune(analysis.subject(), &selection)?, &rewritten.proto)?;
        report.notes.push(
            "the plan says that what stayed was repaired or trained: the removal was carried out again and proved \
             without that; the file has its sizes"
                .to_owned(),
        );
    }
    match prove(&Proof { comparison, groups: &groups, selection: &selection, adjusted }, &mut report) {
        Err(_) if !adjusted && report.verify.exact_max_rel.is_some_and(|found| found > Exactness::TOLERANCE) => {
            Err(Error::verification(format!(
                "the file differs from the masked original by {:.1e} (allowed: {:.0e}): another plan than this one was \
                 carried out, or the weights were changed afterwards; leave out --plan to measure how far the file is",
                report.verify.exact_max_rel.unwrap_or(f64::NAN),
                Exactness::TOLERANCE
            )))
        }
        proved => proved.map(|()| report),
    }
}

/// Checks that tensors of one name are of one size.
fn same_sizes(planned: &ModelProto, found: &ModelProto) -> Result<()> {
    let stored = |model: &ModelProto| -> BTreeMap<String, Vec<i64>> {
        let tensors = model.graph.iter().flat_map(|graph| &graph.initializer);
        tensors.map(|tensor| (tensor.name().to_owned(), tensor.dims.clone())).collect()
    };
    let found = stored(found);
    for (name, dims) in stored(planned) {
        if let Some(other) = found.get(&name).filter(|other| **other != dims) {
            return Err(Error::verification(format!(
                "tensor '{name}' is of shape {other:?}, by the plan of {dims:?}: another plan was carried out"
            )));
        }
    }
    Ok(())
}
