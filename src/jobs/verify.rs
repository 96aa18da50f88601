//! The proof of a rewritten file, repeated later.

use std::collections::{BTreeMap, BTreeSet};

use super::certificate::Certificate;
use super::outcome::enter;
use super::setting::{Setting, configured};
use crate::analysis::Analysis;
use crate::axes::Selection;
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::onnx::proto::{ModelProto, NodeProto};
use crate::plan::{CostModel, Filter, Plan, Quota, Request, Scope, groups};
use crate::report::Report;
use crate::rewrite;
use crate::verify::{Exactness, Failure, Proof, Removed};

/// Options of [`verify`](crate::verify).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct VerifyOptions {
    pub(crate) plan: Option<Plan>,
    pub(crate) setting: Setting,
}

configured!(VerifyOptions);

impl VerifyOptions {
    /// Creates the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the plan that the rewrite carried out, which is required to prove that it is exact.
    pub fn plan(mut self, plan: Plan) -> Self {
        self.plan = Some(plan);
        self
    }
}

/// Proves `rewritten` against `original`, with the exactness proof if the plan is given.
///
/// # Errors
/// [`Proof`](crate::ErrorKind::Proof) if the rewritten model is not valid, or the plan was not carried out exactly;
/// [`Runtime`](crate::ErrorKind::Runtime) if tract cannot run a model; [`Input`](crate::ErrorKind::Input) if a model or the
/// plan is malformed.
pub(crate) fn verify(original: &Model, rewritten: &Model, options: &VerifyOptions) -> Result<Report> {
    let (options, samples) = options.opened(original)?;
    let Setting { dims, limits, seed, progress, .. } = &options.setting;
    let certificate = Certificate::read(&rewritten.proto)?;
    certificate.iter().try_for_each(|certificate| certificate.check(original, rewritten))?;
    // What was certified is proved, unless another plan is given.
    let plan = options.plan.as_ref().or(certificate.as_ref().map(|certificate| &certificate.plan));
    let thaw = plan.map(|plan| plan.thaw.clone()).unwrap_or_default();
    let thawed: BTreeSet<String> = thaw.iter().cloned().collect();
    progress.enter("analysing")?;
    let analysis = Analysis::new(original, dims, &thawed)?;
    let after = Analysis::new(rewritten, dims, &BTreeSet::new())?;
    let cost = CostModel::new(analysis.subject());
    let groups = groups(analysis.subject(), &cost, &Filter::default());
    let request = Request { quota: Quota::Ratio(0.0), scope: Scope::Layer, min_keep: 1, whole_blocks: false };
    let selection = match plan {
        Some(plan) => plan.selection(&groups, &[], &request, true)?,
        None => Selection::all(),
    };
    let new_cost = CostModel::new(after.subject()).cost(&Selection::all());
    let mut report = Report::new(&analysis, &groups, &selection, cost.cost(&Selection::all()), new_cost);
    report.enter_rewritten(&original.proto, rewritten);
    if plan.is_none() {
        // Which units were removed is not known.
        report.groups.clear();
    }
    let adjusted = plan.is_some_and(|plan| plan.adjusted);
    if adjusted {
        same_sizes(&rewrite::prune(analysis.subject(), &selection)?, &rewritten.proto)?;
        report.notes.push(
            "the plan says that the kept weights were repaired or trained: the removal was carried out again and proved \
             without that; the file has its sizes"
                .to_owned(),
        );
    }
    if let Some(plan) = plan {
        same_ranks(plan, &rewritten.proto)?;
    }
    let removed = Some(Removed { groups: &groups, selection: &selection, adjusted });
    let (rewritten, data) = (&after.model.proto, samples.to_measure());
    progress.enter("proving")?;
    let proof =
        Proof { analysis: &analysis, rewritten, removed, thaw: &thaw, data, dims, limits: *limits, seed: *seed };
    let proved = proof.prove().map_err(|failure| match failure {
        Failure::Inexact(found) if !adjusted => Error::proof(format!(
            "the file differs from the masked original by {found:.1e} (allowed: {:.0e}): a different plan was carried out, or the weights were changed afterwards; leave out `plan` to measure how far the file is",
            Exactness::TOLERANCE
        )),
        failure => failure.into(),
    })?;
    enter(&mut report, &proved, *limits);
    if let Some(certificate) = certificate {
        let pairs = proved.faithfulness.as_ref().and_then(|found| found.pairs).filter(|_| data.is_some());
        report.notes.push(certificate.compared(pairs)?);
        report.search = certificate.search;
    }
    report.metric = options.setting.judge(&samples, &after.model)?;
    Ok(report)
}

/// Checks that the last node of every layer that the plan splits reads as many inputs as its rank. Layers whose nodes have no
/// name of their own are passed over.
fn same_ranks(plan: &Plan, found: &ModelProto) -> Result<()> {
    let Some(graph) = &found.graph else { return Ok(()) };
    let sizes: BTreeMap<&str, &[i64]> =
        graph.initializer.iter().map(|tensor| (tensor.name(), &tensor.dims[..])).collect();
    let nodes: BTreeMap<&str, &NodeProto> = graph.node.iter().map(|node| (node.name(), node)).collect();
    for (name, &rank) in &plan.ranks {
        let Some(node) = nodes.get(name.as_str()) else { continue };
        let is_rank = |&size: &i64| usize::try_from(size) == Ok(rank);
        let operands = node.input.iter().filter_map(|input| sizes.get(input.as_str()));
        if !operands.flat_map(|sizes| sizes.iter()).any(is_rank) {
            return Err(
                Error::proof(format!("it is not split at rank {rank}, as the plan says")).at_node(name.as_str())
            );
        }
    }
    Ok(())
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
            return Err(Error::proof(format!(
                "tensor '{name}' has shape {other:?}, but {dims:?} by the plan: another plan was carried out"
            )));
        }
    }
    Ok(())
}
