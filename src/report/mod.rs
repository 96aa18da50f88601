//! The report of a job; the terminal, JSON and the page are views of it. Shares are fractions, not percentages; `None` is `null`.

mod figures;
#[cfg(feature = "cli")]
mod folding;
mod network;
mod page;
mod search;
mod sweep;
#[cfg(feature = "cli")]
mod terminal;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::analysis::Analysis;
use crate::axes::Selection;
use crate::latency::RuntimeLatency;
use crate::linalg::default_backend;
use crate::metric::MetricReport;
use crate::onnx::Model;
use crate::onnx::proto::ModelProto;
use crate::plan::{Cost, Group};
use crate::verify::VerifyReport;

pub use crate::progress::Progress;
pub use crate::repair::RepairReport;
pub use crate::train::{EpochReport, TuningReport};
pub(crate) use figures::percent;
pub use figures::{human_bytes, human_count};
pub use network::{LayerSize, NodeReport};
pub use search::{BoundReport, LatencyReport, LatencyRound, OperatorTime, SearchReport, TrialReport};
pub use sweep::{SweepPoint, SweepReport};
#[cfg(feature = "cli")]
pub use terminal::{coloured, inspection, points, result};

/// Version of the JSON report.
pub const SCHEMA_VERSION: u32 = 2;

/// The report of a job: what was found, changed and proved.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// Version of this structure.
    pub schema_version: u32,
    /// File name of the original; `None` if it came from memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Commands that repeat the job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// The library for matrix decompositions and least squares: `faer` or `lapack`.
    pub linear_algebra: String,
    /// Figures for the whole model, before and after.
    pub model: BeforeAfter,
    /// Every layer with a stored weight, in the order of the graph; empty if nothing was rewritten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<NodeReport>,
    /// Every coupled group.
    pub groups: Vec<GroupReport>,
    /// Nodes that freeze the axes they touch, and why.
    pub frozen: Vec<FrozenReport>,
    /// Every layer that was considered for factorization.
    pub layers: Vec<LayerReport>,
    /// Proofs and measurements.
    pub verify: VerifyReport,
    /// Means of compression that were tried under the budget.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<CandidateReport>,
    /// How a budget was shared among groups, for each step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pricing: Vec<PricingReport>,
    /// Calibration data and repair.
    pub calibration: Option<CalibrationReport>,
    /// Training runs, one entry each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub training: Vec<TuningReport>,
    /// Latency in runtimes other than tract.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub latencies: Vec<RuntimeLatency>,
    /// The user's own metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<MetricReport>,
    /// The latency budget, and what was measured on the way to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_budget: Option<LatencyReport>,
    /// The search for the largest reduction within the allowed loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchReport>,
    /// Upper bound on how far the predicted error of the chosen ranks lies above the minimum possible under the budget,
    /// as a share of it; 0 means proved optimal. `null` if no budget was shared among layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation_gap: Option<f64>,
    /// Memory that the job was allowed to use, and its peak use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryReport>,
    /// Time of each phase, in seconds.
    pub seconds: BTreeMap<String, f64>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Memory of a job, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryReport {
    /// The budget of the job.
    pub budget: u64,
    /// Peak memory use; `None` if the system does not report it.
    pub peak: Option<u64>,
}

impl MemoryReport {
    /// What to say where the job took more than its budget.
    pub(crate) fn excess(&self) -> Option<String> {
        let peak = self.peak.filter(|&peak| peak > self.budget)?;
        Some(format!(
            "peak memory was {}, above the budget of {}: the proof, or the least squares of one wide layer, can take more than its \
             part; a job without the proof takes less",
            human_bytes(peak),
            human_bytes(self.budget)
        ))
    }
}

/// Figures of the model before and after the job.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BeforeAfter {
    /// Figures of the original model.
    pub before: ModelFigures,
    /// Figures of the rewritten model.
    pub after: ModelFigures,
}

/// Size, cost and latency of a model.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelFigures {
    /// Number of parameters (elements of weights).
    pub params: u64,
    /// Multiply–accumulates at the sample sizes.
    pub macs: u64,
    /// File size in bytes, including external data.
    pub bytes: u64,
    /// Number of nodes in the main graph.
    pub nodes: usize,
    /// Median time of one run in tract, in milliseconds.
    pub latency_ms: Option<f64>,
}

/// A coupled group: axes of stored tensors that must shrink together.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GroupReport {
    /// Name of the group, stable across runs.
    pub name: String,
    /// `free`, `shifts` or `frozen`.
    pub role: String,
    /// The kind of its units: heads, channels, …
    pub axis: String,
    /// Number of units.
    pub size: usize,
    /// Number of units kept.
    pub kept: usize,
    /// The axes of stored tensors in the group.
    pub members: Vec<MemberReport>,
    /// Parameters of all tensors in the group.
    pub params: u64,
    /// Multiply–accumulates of all nodes that the group affects.
    pub macs: u64,
    /// Why the group is frozen, skipped or limited: node and reason.
    pub reason: Option<String>,
    /// Why it kept all units, though it could have lost some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_whole: Option<String>,
    /// Number that the kept units are a multiple of, unless all units are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiple_of: Option<usize>,
    /// Why that number is not the hardware's block size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misaligned: Option<String>,
}

/// An axis of a stored tensor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemberReport {
    /// Name of the tensor.
    pub tensor: String,
    /// Index of the axis.
    pub axis: usize,
}

/// A node that no rule can handle, or whose outputs have no known shape.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FrozenReport {
    /// Name of the node.
    pub node: String,
    /// Operator of the node.
    pub op: String,
    /// Why everything that it touches is frozen.
    pub reason: String,
}

/// A layer that was considered for factorization, and the decision.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LayerReport {
    /// Name of the node.
    pub name: String,
    /// Operator of the node.
    pub op: String,
    /// Shape of the weight, inputs × outputs.
    pub shape: Vec<usize>,
    /// Rank after the split; `None` if the layer was not split.
    pub rank: Option<usize>,
    /// Parameters after the job.
    pub params: u64,
    /// Multiply–accumulates after the job.
    pub macs: u64,
    /// Relative squared error of the layer's output (or weight, without data).
    pub error: Option<f64>,
    /// Loss at the output at this rank, if it was measured on held-out samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The next smaller rank, and its loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<(usize, f64)>,
    /// The smallest rank that keeps 90 % of the energy: Σσ² of the weight, or the variance of the outputs with data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_for_90: Option<usize>,
    /// Median time of the layer alone in tract, in milliseconds, before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<(f64, f64)>,
    /// `split` or `kept`.
    pub decision: String,
    /// Whether the layer was split and then restored because it did not get faster.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub put_back: bool,
    /// Reason for the decision.
    pub reason: Option<String>,
}

/// How a budget was shared among groups, by the loss that each group causes at the output. Losses are measured on
/// held-out samples.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PricingReport {
    /// Metric of the losses.
    pub metric: String,
    /// Number of held-out samples.
    pub samples: usize,
    /// Predicted loss: the sum of the chosen groups' losses, plus the loss before they were measured.
    pub loss: f64,
    /// Measured loss of all removals together, repaired on the other samples.
    pub measured: Option<f64>,
    /// Time spent measuring, in seconds.
    pub seconds: f64,
    /// The groups that share the budget.
    pub groups: Vec<PriceReport>,
}

/// Means of compression that were tried under a budget.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CandidateReport {
    /// What was done: `widths`, `ranks`, or both.
    pub means: String,
    /// Loss at the output on held-out samples, repaired on the others; `null` if the budget is out of reach.
    pub loss: Option<f64>,
    /// Whether this is what was carried out.
    #[serde(rename = "chosen")]
    pub is_chosen: bool,
    /// Why the budget is out of reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The loss that a group causes at the output, by its width.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PriceReport {
    /// Name of the group.
    pub name: String,
    /// Number of units kept.
    pub kept: usize,
    /// Loss at the output with this many units.
    pub loss: Option<f64>,
    /// The next smaller width, and its loss.
    pub next: Option<(usize, f64)>,
    /// Measured widths and their losses, made monotonic, and corrected for what the repair of later layers makes of them where a
    /// note says so.
    pub measured: Vec<(usize, f64)>,
    /// Why the loss could not be measured; all units are kept then.
    pub reason: Option<String>,
}

/// Calibration data, and the layers repaired with it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CalibrationReport {
    /// Number of samples used.
    pub samples: usize,
    /// Start of the data's SHA-256.
    pub hash: String,
    /// Seed for every random choice.
    pub seed: u64,
    /// Whether the data is synthetic.
    pub synthetic: bool,
    /// Results of earlier passes over the data that were taken from a file of statistics; `null` if none was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused: Option<usize>,
    /// The layers that were considered for repair.
    pub layers: Vec<RepairReport>,
}

impl Report {
    /// The report of an analysed model of which `selection` stays.
    pub(crate) fn new(
        analysis: &Analysis<'_>,
        groups: &[Group],
        selection: &Selection,
        before: Cost,
        after: Cost,
    ) -> Self {
        let nodes = analysis.graph.nodes.len();
        let figures = |cost: Cost| ModelFigures {
            params: cost.params,
            macs: cost.macs,
            bytes: analysis.model.file_bytes() - before.bytes.min(analysis.model.file_bytes()) + cost.bytes,
            nodes,
            latency_ms: None,
        };
        Self {
            schema_version: SCHEMA_VERSION,
            file: analysis.model.file_name(),
            commands: Vec::new(),
            linear_algebra: default_backend().name().to_owned(),
            model: BeforeAfter { before: figures(before), after: figures(after) },
            network: Vec::new(),
            groups: groups.iter().map(|group| GroupReport::new(group, selection)).collect(),
            frozen: frozen(analysis),
            layers: Vec::new(),
            verify: VerifyReport::default(),
            candidates: Vec::new(),
            pricing: Vec::new(),
            calibration: None,
            training: Vec::new(),
            latencies: Vec::new(),
            latency_budget: None,
            memory: None,
            metric: None,
            search: None,
            allocation_gap: None,
            seconds: BTreeMap::new(),
            notes: analysis.model.warnings.clone(),
        }
    }

    /// Enters the size and the layers of what `original` has become.
    pub(crate) fn enter_rewritten(&mut self, original: &ModelProto, rewritten: &Model) {
        self.model.after.bytes = rewritten.file_bytes();
        self.model.after.nodes = rewritten.proto.graph.as_ref().map_or(0, |graph| graph.node.len());
        self.network = network::network(original, &rewritten.proto);
        let ranks: BTreeMap<&str, &LayerReport> =
            self.layers.iter().map(|layer| (layer.name.as_str(), layer)).collect();
        for layer in &mut self.network {
            let Some(split) = ranks.get(layer.name.as_str()).filter(|split| split.rank.is_some()) else { continue };
            layer.rank = split.rank;
            layer.after = Some(LayerSize { width: layer.before.width, params: split.params });
        }
    }

    /// Formats the report as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

impl GroupReport {
    /// Whether units of this group can be removed without further options.
    pub fn is_open(&self) -> bool {
        self.role == "free" && self.size > 1 && self.reason.is_none()
    }

    /// Why it has its size, if there is more to say than the numbers.
    fn why(&self) -> Option<&str> {
        self.reason.as_deref().or(self.kept_whole.as_deref())
    }

    fn new(group: &Group, selection: &Selection) -> Self {
        let reason = group.role.reason().map(ToString::to_string).or_else(|| group.excluded.clone());
        Self {
            name: group.name.clone(),
            role: group.role.name().to_owned(),
            axis: group.kind.name().to_owned(),
            size: group.size,
            kept: selection.count(group.factor, group.size),
            members: group
                .members
                .iter()
                .map(|member| MemberReport { tensor: member.tensor.clone(), axis: member.axis })
                .collect(),
            params: group.controls.params,
            macs: group.controls.macs,
            reason,
            multiple_of: (group.step > 1).then_some(group.step),
            kept_whole: None,
            misaligned: group.misaligned.as_ref().map(ToString::to_string),
        }
    }
}

/// Nodes that freeze what they touch because paredown does not understand them.
fn frozen(analysis: &Analysis<'_>) -> Vec<FrozenReport> {
    let gaps = analysis.facts.gaps.iter().map(|(node, why)| (node, format!("its shapes are not known: {why}")));
    let refusals = analysis.network.refusals.iter().map(|(node, why)| (node, why.clone()));
    let mut all: BTreeMap<_, String> = gaps.collect();
    all.extend(refusals);
    all.into_iter()
        .map(|(&node, reason)| {
            let node = analysis.graph.node(node);
            let op = crate::ops::operator_name(&node.domain, &node.op);
            FrozenReport { node: node.name.clone(), op, reason }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proof, or one wide layer, may take more than the budget: the job says so.
    #[test]
    fn memory_beyond_the_budget_is_told() {
        let told = |peak| MemoryReport { budget: 600_000_000, peak }.excess();
        let text = told(Some(764_000_000)).unwrap();
        assert!(text.contains("764 MB") && text.contains("600 MB"), "{text}");
        assert!(told(Some(600_000_000)).is_none() && told(None).is_none());
    }
}
