//! The table of all layers, and what is said when none is split.

use std::collections::BTreeMap;

use super::prepare::Prepared;
use crate::error::Error;
use crate::factorize::candidates::{Form, Refused};
use crate::factorize::select::{Decision, Why};
use crate::plan::{Align, Cost, CostModel};
use crate::report::LayerReport;
use crate::runtime::latency::Latency;

/// What was measured about a layer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Measured {
    /// Squared error of the factors that are written.
    pub(super) error: Option<f64>,
    /// tract's time of the layer alone, whole and split.
    pub(super) latency: Option<Latency>,
}

/// Why no layer is split: a few reasons.
pub(super) fn nothing(prepared: &[Prepared<'_>], decisions: &[Decision], refused: &[Refused]) -> Error {
    let kept = prepared.iter().zip(decisions).filter_map(|(layer, decision)| match decision {
        Decision::Keep(why) => Some((layer.candidate.name.as_str(), why.to_string())),
        Decision::Split(_) => None,
    });
    let reasons = kept.chain(refused.iter().map(|r| (r.name.as_str(), r.reason.clone())));
    let mut message = "no layer can be split this way".to_owned();
    for (name, reason) in reasons.take(5) {
        message += &format!("\n  {name}: {reason}");
    }
    if prepared.is_empty() && refused.is_empty() {
        message += ": the model has no products with stored matrices";
    }
    Error::nothing(message)
}

/// Every layer with what was decided about it, in graph order.
pub(super) fn layer_reports(
    prepared: &[Prepared<'_>],
    decisions: &[Decision],
    outcomes: &BTreeMap<&str, Measured>,
    (refused, cost): (&[Refused], &CostModel<'_>),
    align: Align,
) -> Vec<LayerReport> {
    let mut layers: BTreeMap<usize, LayerReport> = BTreeMap::new();
    for (layer, decision) in prepared.iter().zip(decisions) {
        let candidate = layer.candidate;
        let total = layer.decomposition.curve().total();
        let (rank, price, reason) = match decision {
            Decision::Split(rank) => (Some(*rank), layer.prices.split(*rank), None),
            Decision::Keep(why) => (None, layer.prices.dense(), Some(why.to_string())),
        };
        let outcome = outcomes.get(candidate.name.as_str()).copied().unwrap_or_default();
        let error = outcome.error.map(|e| if total > 0.0 { e / total } else { 0.0 });
        let (k, n) = candidate.matrix_shape();
        let shape = if matches!(candidate.form, Form::Kernel { .. }) { candidate.dims.clone() } else { vec![k, n] };
        let report = report(&candidate.name, &candidate.op, shape, price);
        let (loss, next) = layer.losses(rank, align);
        layers.insert(
            candidate.nodes[0].0,
            LayerReport {
                rank,
                rank_for_90: layer.decomposition.curve().rank_for_energy(0.9).ok(),
                error,
                loss,
                next,
                latency_ms: outcome.latency.map(|latency| (latency.before_ms, latency.after_ms)),
                decision: if rank.is_some() { "split" } else { "kept" }.to_owned(),
                put_back: matches!(decision, Decision::Keep(Why::PutBack { .. })),
                reason,
                ..report
            },
        );
    }
    for refused in refused {
        let params = if refused.dims.is_empty() { 0 } else { refused.dims.iter().map(|&d| d as u64).product() };
        let report = report(
            &refused.name,
            &refused.op,
            refused.dims.clone(),
            Cost { params, macs: cost.macs_of(refused.node), ..Cost::default() },
        );
        layers.insert(refused.node.0, LayerReport { reason: Some(refused.reason.clone()), ..report });
    }
    layers.into_values().collect()
}

fn report(name: &str, op: &str, shape: Vec<usize>, price: Cost) -> LayerReport {
    LayerReport {
        name: name.to_owned(),
        op: op.to_owned(),
        shape,
        rank: None,
        params: price.params,
        macs: price.macs,
        error: None,
        loss: None,
        next: None,
        rank_for_90: None,
        latency_ms: None,
        decision: "kept".to_owned(),
        put_back: false,
        reason: None,
    }
}
