//! The layers of a model, decomposed once: what each rank loses and costs, and the model with those that are chosen split.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::options::FactorizeOptions;
use super::prepare::{Prepared, components, prepare_all, refit};
use super::table::{Measured, layer_reports, nothing};
use crate::analysis::Subject;
use crate::axes::Selection;
use crate::calibrate::Calibration;
use crate::error::Result;
use crate::factorize::candidates::{Candidate, Candidates, Form};
use crate::factorize::correct::{Chosen, correct};
use crate::factorize::inputs::{input_moments, scarce};
use crate::factorize::resized::Resized;
use crate::factorize::rewrite::split_layers;
use crate::factorize::select::{Decision, Decisions, Offer, Why, choose, reference_ranks};
use crate::factorize::speed;
use crate::graph::bodies::hoisted_like;
use crate::jobs::clock::Clock;
use crate::lowrank::Factors;
use crate::lowrank::conv::ConvMode;
use crate::lowrank::outputs::Inputs;
use crate::onnx::Model;
use crate::onnx::proto::ModelProto;
use crate::plan::CostModel;
use crate::price::Curve;
use crate::price::distance::Reference;
use crate::price::effects::{Site, effects};
use crate::report::LayerReport;
use crate::runtime::NamedTensor;
use crate::runtime::latency::Latency;
use crate::times::Times;

/// The original's outputs on samples that judge: a split is good if it changes them little.
#[derive(Clone, Copy)]
pub(in crate::jobs) struct Judge<'j> {
    pub(in crate::jobs) reference: &'j Reference,
    /// Inputs of the samples that the reference was run on.
    pub(in crate::jobs) batches: &'j [Vec<NamedTensor>],
}

/// The layers of a model, decomposed.
pub(in crate::jobs) struct Offers<'c> {
    pub(super) prepared: Vec<Prepared<'c>>,
    pub(super) notes: Vec<String>,
    /// What the operators of the model take, for a latency budget.
    pub(super) times: Times,
}

/// A model with some layers split.
pub(in crate::jobs) struct Split {
    pub(in crate::jobs) model: ModelProto,
    /// Ranks, by the names of layers.
    pub(in crate::jobs) ranks: BTreeMap<String, usize>,
    /// Every layer, with what was decided about it.
    pub(in crate::jobs) layers: Vec<LayerReport>,
    /// Where a budget was shared out: how far the sum of errors may be above the least possible, as a share of it.
    pub(in crate::jobs) gap: Option<f64>,
    /// Its predicted time in nanoseconds, if operators were timed.
    pub(in crate::jobs) nanos: u64,
    pub(in crate::jobs) notes: Vec<String>,
}

impl<'c> Offers<'c> {
    /// Decomposes the layers of `found`, on samples if there are any.
    ///
    /// # Errors
    /// As [`factorize`].
    pub(in crate::jobs) fn new(
        subject: Subject<'_>,
        found: &'c Candidates,
        options: &FactorizeOptions,
        data: Option<Calibration<'_>>,
        clock: &mut Clock,
    ) -> Result<Self> {
        let moments = moments(subject, data, (&found.open, options.conv))?;
        let notes: Vec<String> = scarce(&found.open, &moments).into_iter().collect();
        clock.lap("calibrate")?;
        options.setting.progress.enter("splitting layers")?;
        let prepared = prepare_all(subject, &found.open, options, moments)?;
        clock.lap("decompose")?;
        Ok(Self { prepared, notes, times: Times::default() })
    }

    /// Measures what each layer's split does to the model's output, with that layer alone split, at three ranks.
    ///
    /// # Errors
    /// If a model cannot be made or run; errors then weigh by their share of the layer's energy.
    pub(in crate::jobs) fn weigh(
        &mut self,
        subject: Subject<'_>,
        options: &FactorizeOptions,
        judge: Judge<'_>,
    ) -> Result<()> {
        let prepared = &mut self.prepared;
        let ranks: Vec<Vec<usize>> =
            prepared.iter().map(|layer| reference_ranks(&layer.offer(), options.align)).collect();
        let site = |(layer, ranks): (&Prepared<'_>, &Vec<usize>)| -> Site {
            let reads = subject.graph.node(layer.candidate.nodes[0]).inputs.iter().flatten();
            let reads = reads.map(|&value| subject.graph.at(value).name.clone()).collect();
            Site { reads, changes: ranks.len() }
        };
        let sites: Vec<Site> = prepared.iter().zip(&ranks).map(site).collect();
        let write = |site: usize, change: usize| {
            let layer = &prepared[site];
            let split = split_layers(subject, &[(layer.candidate, &layer.factors(ranks[site][change])?)])?;
            Ok(hoisted_like(split, subject.model))
        };
        let Judge { reference, batches } = judge;
        let effects = effects(subject.model, reference, &sites, write, batches, options.setting.limits)?;
        let base = reference.distance_of(subject.model, batches)?;
        for ((layer, ranks), effects) in prepared.iter_mut().zip(&ranks).zip(effects) {
            let curve = layer.decomposition.curve();
            let losses = effects.into_iter().map(|loss| loss - base);
            let points: Vec<(usize, f64)> = ranks.iter().map(|rank| curve.full_rank() - rank).zip(losses).collect();
            if let Some(measured) = Curve::new(&components(curve), &points) {
                (layer.loss, layer.is_weighed) = (Some(measured), true);
            }
        }
        Ok(())
    }

    /// The layers as choices beside the widths of groups; `narrowed` are selections, wide to narrow, in the order in which
    /// units go.
    ///
    /// # Errors
    /// If a decomposition does not converge.
    pub(in crate::jobs) fn resized<'a>(
        &'a self,
        subject: Subject<'a>,
        narrowed: &[Selection],
        options: &FactorizeOptions,
    ) -> Result<Vec<Resized<'a>>> {
        let resized = |layer: &'a Prepared<'c>| match &layer.loss {
            Some(loss) => {
                let parts = (&layer.decomposition, &layer.prices, loss);
                Resized::new(subject, layer.candidate, parts, narrowed, options.align)
            }
            None => Ok(None),
        };
        let layers: Vec<Option<Resized<'a>>> = self.prepared.par_iter().map(resized).collect::<Result<_>>()?;
        Ok(layers.into_iter().flatten().collect())
    }

    /// What the model costs, in time too if its operators were timed.
    pub(super) fn cost<'s>(&self, subject: Subject<'s>) -> CostModel<'s> {
        CostModel::timed(subject, &self.times.timed)
    }

    /// Chooses ranks and splits the layers, fitted to `data`; `again` are samples that the layers are decomposed on once more
    /// before they are split.
    ///
    /// # Errors
    /// As [`factorize`].
    pub(in crate::jobs) fn split(
        mut self,
        (model, subject): (&Model, Subject<'_>),
        (found, options): (&'c Candidates, &FactorizeOptions),
        (data, again): (Option<Calibration<'_>>, Option<Calibration<'_>>),
        clock: &mut Clock,
    ) -> Result<Split> {
        let cost = self.cost(subject);
        let (prepared, notes) = (&mut self.prepared, &mut self.notes);
        let whole = cost.cost(&Selection::all());
        let rest = model.file_bytes().saturating_sub(whole.bytes);
        let offers: Vec<Offer<'_>> = prepared.iter().map(Prepared::offer).collect();
        let Decisions { layers: mut decisions, gap } = if offers.is_empty() {
            Decisions { layers: Vec::new(), gap: None }
        } else {
            choose(&offers, &options.target, (whole, rest), options.align)?
        };
        clock.lap("select")?;
        if let Some(data) = again {
            refit(subject, prepared, &decisions, options, data)?;
        }
        let mut chosen = chosen(prepared, &decisions)?;
        let latencies = if options.time_layers { time(subject, &chosen)? } else { BTreeMap::new() };
        if options.keep_faster {
            notes.extend(keep_faster(prepared, &mut decisions, &mut chosen, &latencies));
        }
        if chosen.is_empty() {
            return Err(nothing(prepared, &decisions, &found.refused));
        }
        let nanos = predicted(prepared, whole.nanos, &decisions);
        clock.lap("split")?;
        if let (Some(data), true) = (data, options.sequential) {
            correct(subject, data, &mut chosen)?;
            clock.lap("correct")?;
        }
        notes.extend(states(&chosen));
        let outcomes = measured(&chosen, &latencies);
        let layers = layer_reports(prepared, &decisions, &outcomes, (&found.refused, &cost), options.align);
        let ranks = chosen.iter().map(|layer| (layer.candidate.name.clone(), layer.rank)).collect();
        let model = split_layers(subject, &pairs(&chosen))?;
        Ok(Split { model, ranks, layers, gap, nanos, notes: self.notes })
    }
}

/// The moments of every layer's inputs, where there is data.
fn moments(
    subject: Subject<'_>,
    data: Option<Calibration<'_>>,
    (candidates, conv): (&[Candidate], ConvMode),
) -> Result<Vec<Option<Vec<Inputs>>>> {
    let without = || Ok(vec![None; candidates.len()]);
    data.map_or_else(without, |data| input_moments(subject, data, (candidates, conv)))
}

/// Says that the states of recurrent layers are still multiplied with whole weights.
fn states(chosen: &[Chosen<'_>]) -> Option<String> {
    let is_gates = |layer: &&Chosen<'_>| matches!(layer.candidate.form, Form::Gates { .. });
    let count = chosen.iter().filter(is_gates).count();
    let text = "only the input weights of recurrent layers were split, because the operator multiplies its state with R itself; `prune` can remove units";
    (count > 0).then(|| text.to_owned())
}

/// The error and the time of each layer that is split.
fn measured<'c>(chosen: &[Chosen<'c>], latencies: &BTreeMap<&'c str, Latency>) -> BTreeMap<&'c str, Measured> {
    let timed = |(&name, &latency): (&&'c str, &Latency)| (name, Measured { latency: Some(latency), error: None });
    let mut measured: BTreeMap<&str, Measured> = latencies.iter().map(timed).collect();
    for layer in chosen {
        measured.entry(layer.candidate.name.as_str()).or_default().error = Some(layer.factors.error());
    }
    measured
}

/// The layers that are split, with their factors.
pub(super) fn chosen<'c>(prepared: &[Prepared<'c>], decisions: &[Decision]) -> Result<Vec<Chosen<'c>>> {
    let split = |(layer, decision): (&Prepared<'c>, &Decision)| match decision {
        Decision::Split(rank) => Some(layer.chosen(*rank)),
        Decision::Keep(_) => None,
    };
    prepared.par_iter().zip(decisions).filter_map(split).collect()
}

pub(super) fn pairs<'p>(chosen: &'p [Chosen<'_>]) -> Vec<(&'p Candidate, &'p Factors)> {
    chosen.iter().map(|layer| (layer.candidate, &layer.factors)).collect()
}

/// tract's time of each layer alone.
fn time<'c>(subject: Subject<'_>, chosen: &[Chosen<'c>]) -> Result<BTreeMap<&'c str, Latency>> {
    let rewritten = split_layers(subject, &pairs(chosen))?;
    let candidates: Vec<&'c Candidate> = chosen.iter().map(|layer| layer.candidate).collect();
    let measured = speed::latencies(subject, &rewritten, &candidates);
    Ok(candidates.iter().zip(measured).filter_map(|(c, latency)| Some((c.name.as_str(), latency?))).collect())
}

/// Puts back the layers that did not get faster. A note names those whose time cannot be measured.
fn keep_faster(
    prepared: &[Prepared<'_>],
    decisions: &mut [Decision],
    chosen: &mut Vec<Chosen<'_>>,
    latencies: &BTreeMap<&str, Latency>,
) -> Option<String> {
    let mut untimed = Vec::new();
    for (layer, decision) in prepared.iter().zip(decisions) {
        let name = layer.candidate.name.as_str();
        match (&decision, latencies.get(name)) {
            (Decision::Split(_), Some(&Latency { before_ms, after_ms })) if after_ms >= before_ms => {
                *decision = Decision::Keep(Why::PutBack { before_ms, after_ms });
                chosen.retain(|layer| layer.candidate.name != name);
            }
            (Decision::Split(_), None) => untimed.push(name),
            _ => {}
        }
    }
    let named = || format!("split although their time cannot be measured: {}", untimed.join(", "));
    (!untimed.is_empty()).then(named)
}

/// Predicted nanoseconds of a model of `whole` nanoseconds after these decisions.
pub(super) fn predicted(prepared: &[Prepared<'_>], whole: u64, decisions: &[Decision]) -> u64 {
    let saved = |(layer, decision): (&Prepared<'_>, &Decision)| match decision {
        Decision::Split(rank) => layer.prices.dense().nanos.saturating_sub(layer.prices.split(*rank).nanos),
        Decision::Keep(_) => 0,
    };
    whole.saturating_sub(prepared.iter().zip(decisions).map(saved).sum())
}
