//! Every write is proved: valid, exact, faithful, and how fast.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::quantized;
use crate::analysis::Analysis;
use crate::axes::{Role, Selection};
use crate::calibrate::data::Dataset;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::onnx::Model;
use crate::onnx::proto::ModelProto;
use crate::plan::{CostModel, Filter, Group, Plan, Quota, Request, Scope, groups};
use crate::report::Report;
use crate::rewrite::{self, Subject};
use crate::runtime::inputs::DimSizes;
use crate::runtime::probes::probe_batches;
use crate::runtime::{RunOptions, Runnable};
use crate::verify::{Exactness, Kept, LatencyBudget, exactness_of_rest, faithful, latency_each, signature};

/// Samples that probes are made of.
const PROBES: usize = 8;
/// Samples of one batch when data is given.
const BATCH: usize = 64;

/// What is to be proved about which models.
#[derive(Debug, Clone, Copy)]
pub struct Proof<'a> {
    /// The original and what is known about it.
    pub analysis: &'a Analysis<'a>,
    /// Its groups.
    pub groups: &'a [Group],
    /// What stays.
    pub selection: &'a Selection,
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

/// Both models in tract, and inputs for them.
#[derive(Debug)]
pub struct Loaded {
    before: Runnable,
    after: Runnable,
    probes: Vec<Vec<(String, crate::runtime::Tensor)>>,
    sizes: DimSizes,
    kept: Kept,
}

impl Comparison<'_> {
    /// Checks that the rewritten model has the signature of the original and runs.
    ///
    /// # Errors
    /// [`Verification`](crate::ErrorKind::Verification) if it does not.
    pub fn load(&self, report: &mut Report) -> Result<Loaded> {
        self.load_resized(Kept::default(), report)
    }

    /// [`load`](Self::load), where inputs and outputs may have shrunk: `kept` says what is left of them.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_resized(&self, kept: Kept, report: &mut Report) -> Result<Loaded> {
        let original = &self.analysis.model.proto;
        signature(original, self.rewritten, &self.thaw.iter().cloned().collect())?;
        let sizes = self.analysis.probe_sizes(self.dims);
        let probes = probe_batches(self.analysis.subject().proto()?, &sizes, PROBES, self.seed)?;
        let options = RunOptions::default();
        let (before, after) =
            rayon::join(|| Runnable::new(original, &options), || Runnable::new(self.rewritten, &options));
        let (before, after) = (before?, after?);
        let first = probes.first().ok_or_else(|| Error::verification("there are no probes"))?;
        after.run(&kept.of(first)?)?;
        report.verify.valid = Some(true);
        Ok(Loaded { before, after, probes, sizes, kept })
    }

    /// Measures fidelity and time.
    ///
    /// # Errors
    /// What running the models returns.
    pub fn measure(&self, loaded: &Loaded, report: &mut Report) -> Result<()> {
        let graph = self.analysis.subject().proto()?;
        let Loaded { before, after, sizes, kept, .. } = loaded;
        if self.thaw.is_empty() {
            let measured = match self.data {
                Some(data) => faithful(before, after, data.batches(BATCH))?,
                None => faithful(before, after, Dataset::synthetic(graph, sizes, PROBES, self.seed)?.batches(2))?,
            };
            report.verify.set_faithfulness(&measured);
            if self.data.is_none() {
                report
                    .notes
                    .push("fidelity was measured on made-up inputs; give --data for a figure to trust".to_owned());
            }
        }
        let single = probe_batches(graph, sizes, 1, self.seed)?;
        if let Some(inputs) = single.first() {
            let measured = latency_each((before, inputs), (after, &kept.of(inputs)?), LatencyBudget::default())?;
            report.model.before.latency_ms = Some(measured.before_ms);
            report.model.after.latency_ms = Some(measured.after_ms);
        }
        Ok(())
    }
}

/// Proves the rewrite and enters what was measured into the report.
///
/// # Errors
/// [`Verification`](crate::ErrorKind::Verification) if the rewritten model is not valid or the removal was not exact.
pub fn prove(proof: &Proof<'_>, report: &mut Report) -> Result<()> {
    let started = Instant::now();
    let Proof { analysis, rewritten, thaw, data, dims, seed, .. } = *proof;
    let comparison = Comparison { analysis, rewritten, thaw, data, dims, seed };
    let loaded = comparison.load_resized(kept(analysis.subject(), proof.selection), report)?;
    prove_exact(proof, &loaded.after, &loaded.probes, report)?;
    comparison.measure(&loaded, report)?;
    report.seconds.insert("verify".to_owned(), started.elapsed().as_secs_f64());
    Ok(())
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

/// The exact part of the selection on unrepaired weights, against the masked original.
fn prove_exact(
    proof: &Proof<'_>,
    after: &Runnable,
    probes: &[Vec<(String, crate::runtime::Tensor)>],
    report: &mut Report,
) -> Result<()> {
    let mut free = proof.selection.clone();
    let mut all_free = true;
    for group in proof.groups {
        if !matches!(group.role, Role::Free) && !free.keeps_all(group.factor) {
            free.keep(group.factor, vec![true; group.size]);
            all_free = false;
        }
    }
    if proof.selection.touched().next().is_none() {
        report.notes.push("without a plan there is no removal whose exactness could be proved; give --plan".to_owned());
        return Ok(());
    }
    if free.touched().next().is_none() {
        report.notes.push("every removal shifts a statistic: there is no exact part to prove".to_owned());
        return Ok(());
    }
    let subject = proof.analysis.subject();
    let masked = rewrite::masked(subject, &free)?;
    let unrepaired = report.calibration.is_none() && all_free;
    let kept = kept(subject, &free);
    if quantized::is_quantized(&masked) {
        let exact = if unrepaired { proof.rewritten.clone() } else { rewrite::prune(subject, &free)? };
        let measured = quantized::prove(&masked, &exact, probes, &kept, report)?;
        report.verify.exact_max_rel = Some(measured.max_rel());
        return judge(&measured, report);
    }
    let masked = Runnable::new(&masked, &RunOptions::default())?;
    let measured = if unrepaired {
        exactness_of_rest(&masked, after, probes, &kept)?
    } else {
        let exact = rewrite::prune(subject, &free)?;
        exactness_of_rest(&masked, &Runnable::new(&exact, &RunOptions::default())?, probes, &kept)?
    };
    report.verify.exact_max_rel = Some(measured.max_rel());
    judge(&measured, report)
}

fn judge(measured: &Exactness, report: &mut Report) -> Result<()> {
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
    let request = Request { quota: Quota::Ratio(0.0), scope: Scope::Layer, min_keep: 1, align: 1 };
    let selection = match plan {
        Some(plan) => plan.selection(&groups, &[], &request, true)?,
        None => Selection::all(),
    };
    let new_cost = CostModel::new(after.subject()).cost(&Selection::all());
    let mut report = Report::new(&analysis, &groups, &selection, cost.cost(&Selection::all()), new_cost);
    report.model.after.bytes = rewritten.file_bytes();
    report.model.after.nodes = after.graph.nodes.len();
    let proof = Proof {
        analysis: &analysis,
        groups: &groups,
        selection: &selection,
        rewritten: &after.model.proto,
        thaw: &[],
        data,
        dims,
        seed,
    };
    prove(&proof, &mut report)?;
    Ok(report)
}
