//! One structure of results; terminal and JSON are views of it. Fractions, not percents; `None` is `null`.

#[cfg(feature = "cli")]
mod terminal;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::analysis::Analysis;
use crate::axes::Selection;
use crate::latency::RuntimeLatency;
use crate::linalg::default_backend;
use crate::plan::{Cost, Group};
use crate::verify::VerifyReport;

pub use crate::progress::Progress;
pub use crate::repair::RepairReport;
pub use crate::train::{EpochReport, TuningReport};
#[cfg(feature = "cli")]
pub use terminal::{coloured, human_bytes, human_count, inspection, result};

/// Version of the JSON report.
pub const SCHEMA_VERSION: u32 = 2;

/// What was found, done and proved.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// Version of this structure.
    pub schema_version: u32,
    /// The library that decomposes matrices and solves least squares: `faer` or `lapack`.
    pub linear_algebra: String,
    /// Figures of the whole model.
    pub model: BeforeAfter,
    /// Every coupled group.
    pub groups: Vec<GroupReport>,
    /// Axes of stored tensors and values that no group may touch, with the node that holds them.
    pub frozen: Vec<FrozenReport>,
    /// Every layer that was considered for factorization.
    pub layers: Vec<LayerReport>,
    /// Proofs and measurements.
    pub verify: VerifyReport,
    /// What a budget was shared by, for each step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pricing: Vec<PricingReport>,
    /// Calibration data and repair.
    pub calibration: Option<CalibrationReport>,
    /// Training, one entry for each time that it was done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub training: Vec<TuningReport>,
    /// Latency in other runtimes than tract.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub latencies: Vec<RuntimeLatency>,
    /// What the search for the largest reduction within a loss tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchReport>,
    /// How far the predicted error of the ranks may be above the least possible under the budget, as a share of it; 0 is
    /// proved to be the least. `null` if no budget was shared out among layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation_gap: Option<f64>,
    /// Memory that the job might take, and took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryReport>,
    /// Where the time went, in seconds, by phase.
    pub seconds: BTreeMap<String, f64>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Memory of a job, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryReport {
    /// What it was allowed.
    pub budget: u64,
    /// Most that it had at one time; `None` where the system does not tell.
    pub peak: Option<u64>,
}

/// The model before and after.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BeforeAfter {
    /// The original.
    pub before: ModelFigures,
    /// The result.
    pub after: ModelFigures,
}

/// Figures of a model.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelFigures {
    /// Elements of weights.
    pub params: u64,
    /// Multiply–accumulates at the sample sizes.
    pub macs: u64,
    /// Bytes of the file, external data included.
    pub bytes: u64,
    /// Nodes of the main graph.
    pub nodes: usize,
    /// tract's median time for one run.
    pub latency_ms: Option<f64>,
}

/// A coupled group.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GroupReport {
    /// Stable name.
    pub name: String,
    /// `free`, `shifts` or `frozen`.
    pub role: String,
    /// What its indices are: heads, channels, …
    pub axis: String,
    /// Number of indices.
    pub size: usize,
    /// Indices that stay.
    pub kept: usize,
    /// Axes of stored tensors.
    pub members: Vec<MemberReport>,
    /// Parameters of everything that mentions it.
    pub params: u64,
    /// Multiply–accumulates of everything that mentions it.
    pub macs: u64,
    /// Why it is left alone or limited: node and reason.
    pub reason: Option<String>,
    /// What the units that stay are a multiple of, unless all stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiple_of: Option<usize>,
    /// Why that is not what the hardware computes in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misaligned: Option<String>,
}

/// An axis of a stored tensor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemberReport {
    /// Name of the tensor.
    pub tensor: String,
    /// Number of the axis.
    pub axis: usize,
}

/// A node that no rule could handle, or whose results have no known shape.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FrozenReport {
    /// Name of the node.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Why everything that it touches is frozen.
    pub reason: String,
}

/// A layer and what factorization decided about it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LayerReport {
    /// Name of the node.
    pub name: String,
    /// Operator.
    pub op: String,
    /// Shape of the weight, inputs × outputs.
    pub shape: Vec<usize>,
    /// Rank after the split.
    pub rank: Option<usize>,
    /// Parameters after.
    pub params: u64,
    /// Multiply–accumulates after.
    pub macs: u64,
    /// Relative squared error of the layer's output (or weight, without data).
    pub error: Option<f64>,
    /// The smallest rank that keeps 90 % of the energy: Σσ² of the weight, or the variance of the outputs with data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_for_90: Option<usize>,
    /// tract's median time of the layer alone, before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<(f64, f64)>,
    /// `split` or `kept`.
    pub decision: String,
    /// Whether it was split first, and put back because it did not get faster.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub put_back: bool,
    /// Why.
    pub reason: Option<String>,
}

/// What the output loses by each group, measured on samples that nothing was fitted to, and what a budget chose.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PricingReport {
    /// What losses are measured in.
    pub metric: String,
    /// Held-out samples.
    pub samples: usize,
    /// Sum of the prices of what was chosen, and what had been lost before they were measured.
    pub loss: f64,
    /// What all of it together loses, repaired on the other samples.
    pub measured: Option<f64>,
    /// Time that it took to measure the prices.
    pub seconds: f64,
    /// Every group that competes for the budget.
    pub groups: Vec<PriceReport>,
}

/// The price of a group.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PriceReport {
    /// The group.
    pub name: String,
    /// Units that stay.
    pub kept: usize,
    /// What the output loses by that.
    pub loss: Option<f64>,
    /// The width that would be next to go to, and its loss.
    pub next: Option<(usize, f64)>,
    /// Widths that were measured, and their losses, made to rise.
    pub measured: Vec<(usize, f64)>,
    /// Why there is no price: all units stay then.
    pub reason: Option<String>,
}

/// A search for the largest reduction that loses no more than is allowed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SearchReport {
    /// Share of the figure that may be lost.
    pub allowed: f64,
    /// The figure that is judged by: `accuracy`, `R²`, `top-1 agreement` or `cosine similarity`.
    pub figure: String,
    /// Share of it that the result loses.
    pub lost: f64,
    /// Held-out samples that it is measured on.
    pub samples: usize,
    /// What was tried, in this order.
    pub trials: Vec<TrialReport>,
}

/// One reduction that was tried.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TrialReport {
    /// Share of the multiply–accumulates that remains.
    pub macs: f64,
    /// Share of the figure that is lost; `null` if the reduction is out of reach.
    pub lost: Option<f64>,
    /// Whether that is allowed.
    pub fits: bool,
}

impl std::fmt::Display for TrialReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let macs = percent(self.macs);
        match self.lost {
            None => write!(f, "{macs} out of reach"),
            Some(lost) if self.fits => write!(f, "{macs} loses {}", percent(lost)),
            Some(lost) => write!(f, "{macs} loses {} (too much)", percent(lost)),
        }
    }
}

/// A share as text: `12.50 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// Calibration data, and what repair did with it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CalibrationReport {
    /// Samples used.
    pub samples: usize,
    /// Start of the data's SHA-256.
    pub hash: String,
    /// Seed of every random choice.
    pub seed: u64,
    /// Whether the data was made up.
    pub synthetic: bool,
    /// Repaired layers.
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
            linear_algebra: default_backend().name().to_owned(),
            model: BeforeAfter { before: figures(before), after: figures(after) },
            groups: groups.iter().map(|group| GroupReport::new(group, selection)).collect(),
            frozen: frozen(analysis),
            layers: Vec::new(),
            verify: VerifyReport::default(),
            pricing: Vec::new(),
            calibration: None,
            training: Vec::new(),
            latencies: Vec::new(),
            memory: None,
            search: None,
            allocation_gap: None,
            seconds: BTreeMap::new(),
            notes: analysis.model.warnings.clone(),
        }
    }

    /// The report as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

impl GroupReport {
    /// Whether units of it can be removed without any further option.
    pub fn is_open(&self) -> bool {
        self.role == "free" && self.size > 1 && self.reason.is_none()
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
