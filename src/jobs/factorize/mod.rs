//! Factorization of a whole model, from a model to a rewritten one.

mod options;
mod prepare;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::clock::Clock;
use super::outcome::{Evidence, Outcome};
use super::setting::{Setting, calibration_report, to_fit};
use crate::analysis::{Analysis, Subject};
use crate::axes::Selection;
use crate::calibrate::Calibration;
use crate::calibrate::data::Dataset as Samples;
use crate::error::{Error, Result};
use crate::factorize::candidates::{Candidate, Candidates, Form, Refused, candidates};
use crate::factorize::correct::{Chosen, correct};
use crate::factorize::inputs::{input_moments, scarce};
use crate::factorize::rewrite::split_layers;
use crate::factorize::select::{Decision, Decisions, Offer, Target, Why, choose, reference_ranks};
use crate::factorize::speed;
use crate::lowrank::Factors;
use crate::lowrank::conv::ConvMode;
use crate::lowrank::outputs::Inputs;
use crate::onnx::Model;
use crate::onnx::proto::ModelProto;
use crate::plan::{Align, Cost, CostModel, Patterns, Plan};
use crate::price::Curve;
use crate::price::distance::Reference;
use crate::price::effects::{Site, effects};
use crate::price::groups::Samples as Apart;
use crate::report::{Report, TuningReport};
use crate::runtime::inputs::DimSizes;
use crate::runtime::latency::Latency;
use crate::runtime::probes::probe_batches;
use crate::train::{self, Guidance};
pub use options::FactorizeOptions;
use prepare::{Prepared, components, prepare_all, refit};
use table::{Measured, layer_reports, nothing};

/// Synthetic samples that a layer's effect is measured on without data.
const PROBES: usize = 8;

/// Chooses ranks and rewrites the model.
///
/// # Errors
/// As [`choose`]; [`Input`](crate::ErrorKind::Input) for a malformed model or weights that cannot be decomposed,
/// [`Nothing`](crate::ErrorKind::Nothing) if no layer is split; the message names reasons.
pub(crate) fn factorize(model: &Model, options: &FactorizeOptions) -> Result<Outcome> {
    let Setting { dims, seed, progress, .. } = &options.setting;
    let seed = *seed;
    if options.align == Align::Multiple(0) {
        return Err(Error::usage("`align` is at least one"));
    }
    let mut clock = Clock::start(progress);
    let samples = options.setting.open(model)?;
    let fitted = samples.data.as_ref().map(|data| to_fit(data, options.retrain.is_some()));
    let data = fitted.as_ref();
    progress.enter("analysing")?;
    let analysis = Analysis::new(model, dims, &BTreeSet::new())?;
    let subject = analysis.subject();
    let mut found = candidates(subject);
    exclude(&mut found, options)?;
    clock.lap("analyse")?;
    let calibration = data.map(|data| Calibration::within(subject.model, data, seed, options.setting.limits));
    let calibration = calibration.transpose()?;
    // What a split costs the output is told by samples that it was not fitted to.
    let is_shared = matches!(options.target, Target::Params(_) | Target::Macs(_));
    let apart = calibration.filter(|_| is_shared).map(Apart::new).transpose()?.flatten();
    let moments = moments(subject, apart.as_ref().map(Apart::fitted).or(calibration), &found.open)?;
    let mut notes: Vec<String> = scarce(&found.open, &moments).into_iter().collect();
    clock.lap("calibrate")?;
    progress.enter("splitting layers")?;
    let mut prepared = prepare_all(subject, &found.open, options, moments)?;
    clock.lap("decompose")?;
    if is_shared {
        notes.extend(weigh(&analysis, &mut prepared, options, (apart.as_ref(), calibration))?);
        clock.lap("weigh")?;
    }
    let cost = CostModel::new(subject);
    let whole = cost.cost(&Selection::all());
    let offers: Vec<Offer<'_>> = prepared.iter().map(Prepared::offer).collect();
    let Decisions { layers: mut decisions, gap } = if offers.is_empty() {
        Decisions { layers: Vec::new(), gap: None }
    } else {
        choose(&offers, &options.target, whole, options.align)?
    };
    clock.lap("select")?;
    if let (Some(data), Some(_)) = (calibration, &apart) {
        refit(subject, &mut prepared, &decisions, options, data)?;
        clock.lap("decompose")?;
    }
    let mut chosen = chosen(&prepared, &decisions)?;
    let latencies = if options.time_layers { time(subject, &chosen)? } else { BTreeMap::new() };
    if options.keep_faster {
        notes.extend(keep_faster(&prepared, &mut decisions, &mut chosen, &latencies));
    }
    if chosen.is_empty() {
        return Err(nothing(&prepared, &decisions, &found.refused));
    }
    clock.lap("split")?;
    if let (Some(data), true) = (calibration, options.sequential) {
        correct(subject, data, &mut chosen)?;
        clock.lap("correct")?;
    }
    let rewritten = split_layers(subject, &pairs(&chosen))?;
    let (rewritten, training) = trained(model, rewritten, options, samples.data.as_ref())?;
    if !training.is_empty() {
        clock.lap("train")?;
    }
    let rewritten = model.with_proto(rewritten);
    let after = costs(&rewritten, dims)?;
    let mut report = Report::new(&analysis, &[], &Selection::all(), whole, after);
    report.layers = layer_reports(&prepared, &decisions, &measured(&chosen, &latencies), (&found.refused, &cost));
    report.enter_rewritten(&model.proto, &rewritten);
    report.notes.extend(notes);
    report.training = training;
    report.allocation_gap = gap;
    report.calibration = data.map(|data| calibration_report(data, seed));
    clock.lap("rewrite")?;
    report.seconds = clock.laps;
    let plan = Plan::of_ranks(chosen.iter().map(|layer| (layer.candidate.name.clone(), layer.rank)).collect());
    drop(chosen);
    drop(prepared);
    samples.kept(Ok(()))?;
    let analysis = analysis.into_owned();
    let evidence = Evidence { analysis, groups: None, selection: Selection::all(), thaw: Vec::new() };
    Ok(Outcome { model: rewritten, plan, report, evidence, setting: options.setting.clone(), samples })
}

/// The moments of every layer's inputs, where there is data.
fn moments(
    subject: Subject<'_>,
    data: Option<Calibration<'_>>,
    candidates: &[Candidate],
) -> Result<Vec<Option<Vec<Inputs>>>> {
    data.map_or_else(|| Ok(vec![None; candidates.len()]), |data| input_moments(subject, data, candidates))
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

/// `rewritten`, trained towards `model` if that is asked for, with a report of it.
fn trained(
    model: &Model,
    rewritten: ModelProto,
    options: &FactorizeOptions,
    data: Option<&Samples>,
) -> Result<(ModelProto, Vec<TuningReport>)> {
    let Some(retrain) = &options.retrain else { return Ok((rewritten, Vec::new())) };
    let data = data.ok_or_else(|| Error::usage("`retrain` needs samples: give some with `data`"))?;
    let guidance = Guidance { labels: data.has_labels() && retrain.labels, teacher: Some(&model.proto) };
    let Setting { seed, progress, .. } = &options.setting;
    let retrain = train::Options { seed: *seed, progress: progress.clone(), ..retrain.clone() };
    let (trained, report) = train::tune(&rewritten, data, guidance, &retrain)?;
    Ok((trained, vec![report]))
}

/// The layers that are split, with their factors.
fn chosen<'c>(prepared: &[Prepared<'c>], decisions: &[Decision]) -> Result<Vec<Chosen<'c>>> {
    let split = |(layer, decision): (&Prepared<'c>, &Decision)| match decision {
        Decision::Split(rank) => Some(layer.chosen(*rank)),
        Decision::Keep(_) => None,
    };
    prepared.par_iter().zip(decisions).filter_map(split).collect()
}

fn pairs<'p>(chosen: &'p [Chosen<'_>]) -> Vec<(&'p Candidate, &'p Factors)> {
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

/// Measures what each layer's split does to the model's output, with that layer alone split, at three ranks: on samples that it
/// was not fitted to, if there are any. Returns a note where that is not possible; errors then weigh by their share of the
/// layer's energy.
fn weigh(
    analysis: &Analysis<'_>,
    prepared: &mut [Prepared<'_>],
    options: &FactorizeOptions,
    (apart, data): (Option<&Apart>, Option<Calibration<'_>>),
) -> Result<Option<String>> {
    let subject = analysis.subject();
    let batches = match (apart, data) {
        (Some(apart), _) => apart.batches().to_vec(),
        // Too few to hold some out.
        (None, Some(data)) => data.data.batches(data.batch).map(|batch| Ok(batch?.inputs)).collect::<Result<_>>()?,
        (None, None) => {
            probe_batches(subject.proto()?, &analysis.probe_sizes(&options.setting.dims), PROBES, options.setting.seed)?
        }
    };
    let ranks: Vec<Vec<usize>> = prepared.iter().map(|layer| reference_ranks(&layer.offer(), options.align)).collect();
    let site = |(layer, ranks): (&Prepared<'_>, &Vec<usize>)| -> Site {
        let reads = subject.graph.node(layer.candidate.nodes[0]).inputs.iter().flatten();
        let reads = reads.map(|&value| subject.graph.at(value).name.clone()).collect();
        Site { reads, changes: ranks.len() }
    };
    let sites: Vec<Site> = prepared.iter().zip(&ranks).map(site).collect();
    let write = |site: usize, change: usize| {
        let layer = &prepared[site];
        split_layers(subject, &[(layer.candidate, &layer.factors(ranks[site][change])?)])
    };
    let measured = Reference::new(subject.model, &batches)
        .and_then(|reference| effects(subject.model, &reference, &sites, write, &batches, options.setting.limits));
    let effects = match measured {
        Ok(effects) => effects,
        Err(error) => {
            return Ok(Some(format!("the effect of each layer on the output could not be measured ({error})")));
        }
    };
    for ((layer, ranks), effects) in prepared.iter_mut().zip(&ranks).zip(effects) {
        let curve = layer.decomposition.curve();
        let points: Vec<(usize, f64)> = ranks.iter().map(|rank| curve.full_rank() - rank).zip(effects).collect();
        layer.loss = Curve::new(&components(curve), &points).or(layer.loss.take());
    }
    Ok(None)
}

/// Moves layers that the user's patterns leave out to the refused ones.
fn exclude(found: &mut Candidates, options: &FactorizeOptions) -> Result<()> {
    let patterns = Patterns::new(&options.include, &options.exclude)?;
    let is_left_out = |candidate: &Candidate| {
        let is_kernel = matches!(candidate.form, Form::Kernel { .. });
        let by_mode =
            (is_kernel && options.conv == ConvMode::None).then_some("`conv` none does not split convolutions");
        patterns.refusal([candidate.name.as_str(), candidate.tensor.as_str()]).or(by_mode)
    };
    let (mut open, mut refused) = (Vec::new(), Vec::new());
    for candidate in std::mem::take(&mut found.open) {
        match is_left_out(&candidate) {
            None => open.push(candidate),
            Some(reason) => refused.push(Refused {
                node: candidate.nodes[0],
                name: candidate.name.clone(),
                op: candidate.op.clone(),
                dims: candidate.dims.clone(),
                reason: reason.to_owned(),
            }),
        }
    }
    found.open = open;
    found.refused.extend(refused);
    Ok(())
}

/// Cost of a rewritten model.
fn costs(model: &Model, dims: &DimSizes) -> Result<Cost> {
    let analysis = Analysis::new(model, dims, &BTreeSet::new())?;
    Ok(CostModel::new(analysis.subject()).cost(&Selection::all()))
}
