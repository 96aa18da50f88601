//! Factorization of a whole model, from a model to a rewritten one.

mod table;

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::clock::Clock;
use super::outcome::{Evidence, Outcome};
use super::setting::{Setting, calibration_report, configured, to_fit};
use crate::analysis::{Analysis, Subject};
use crate::axes::Selection;
use crate::calibrate::Calibration;
use crate::calibrate::data::Dataset as Samples;
use crate::defect::at_node;
use crate::error::{Error, Result};
use crate::factorize::candidates::{Candidate, Candidates, Form, Refused, candidates};
use crate::factorize::correct::{Chosen, correct};
use crate::factorize::decompose::{Decomposition, Method};
use crate::factorize::inputs::{input_moments, scarce};
use crate::factorize::price::PriceList;
use crate::factorize::rewrite::{added_by_bias, split_layers};
use crate::factorize::select::{Decision, Decisions, Offer, Target, Why, choose, reference_ranks};
use crate::factorize::speed;
use crate::linalg::default_backend;
use crate::lowrank::Factors;
use crate::lowrank::conv::ConvMode;
use crate::lowrank::low_rank::ErrorCurve;
use crate::lowrank::outputs::Inputs;
use crate::onnx::Model;
use crate::onnx::proto::ModelProto;
use crate::plan::{Align, Cost, CostModel, Hardware, Patterns, Plan, Remaining};
use crate::price::Curve;
use crate::price::distance::Reference;
use crate::price::effects::{Site, effects};
use crate::price::groups::Samples as Apart;
use crate::report::{Report, TuningReport};
use crate::runtime::inputs::DimSizes;
use crate::runtime::latency::Latency;
use crate::runtime::probes::probe_batches;
use crate::train::{self, Guidance};
use table::{Measured, layer_reports, nothing};

/// Made-up samples that a layer's effect is measured on without data.
const PROBES: usize = 8;

/// Options of [`factorize`](crate::factorize).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FactorizeOptions {
    /// How small the layers are to become.
    pub(crate) target: Target,
    /// How matrices are split.
    pub(crate) method: Method,
    /// How kernels are split.
    pub(crate) conv: ConvMode,
    /// What chosen ranks are multiples of, unless a layer is small.
    pub(crate) align: Align,
    /// Patterns of layers or tensors to split; all if empty.
    pub(crate) include: Vec<String>,
    /// Patterns of layers or tensors to leave alone.
    pub(crate) exclude: Vec<String>,
    /// Whether layers after split ones are fitted to what those have become, where data is given.
    pub(crate) sequential: bool,
    /// Whether tract's time of each split layer is measured.
    pub(crate) time_layers: bool,
    /// Whether layers that did not get faster are put back; takes [`FactorizeOptions::time_layers`].
    pub(crate) keep_faster: bool,
    /// Whether and how the weights are trained once the layers are split.
    pub(crate) retrain: Option<train::Options>,
    /// Samples, sizes, seed, and who is told.
    pub(crate) setting: Setting,
}

configured!(FactorizeOptions);

impl FactorizeOptions {
    /// Splits every layer at this rank, where that saves parameters.
    pub fn rank(rank: usize) -> Self {
        Self::new(Target::Rank(rank))
    }

    /// Splits every layer at the smallest rank that keeps this share of its energy Σσ².
    pub fn energy(share: f64) -> Self {
        Self::new(Target::Energy(share))
    }

    /// Splits until these parameters remain of the whole model: a share of the original's (0.5) or a number of them.
    pub fn params(remaining: impl Into<Remaining>) -> Self {
        Self::new(Target::Params(remaining.into()))
    }

    /// Splits until these multiply–accumulates remain of the whole model: a share of the original's (0.5) or a number.
    pub fn macs(remaining: impl Into<Remaining>) -> Self {
        Self::new(Target::Macs(remaining.into()))
    }

    /// Splits at the ranks of a plan.
    pub fn plan(plan: Plan) -> Self {
        Self::new(Target::Plan(plan))
    }

    /// The defaults, for this target.
    #[doc(hidden)]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            method: Method::default(),
            conv: ConvMode::default(),
            align: Align::default(),
            include: Vec::new(),
            exclude: Vec::new(),
            sequential: true,
            time_layers: false,
            keep_faster: false,
            retrain: None,
            setting: Setting::default(),
        }
    }

    /// The same for another target.
    #[doc(hidden)]
    pub fn target(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    /// How a weight is split; by default the best split of the weight, or with data of the layer's outputs.
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// How convolutions are split.
    pub fn conv(mut self, mode: ConvMode) -> Self {
        self.conv = mode;
        self
    }

    /// Chooses ranks that are a multiple of this, unless the layer is small, whatever the result runs on.
    pub fn align(mut self, ranks: usize) -> Self {
        self.align = Align::Multiple(ranks);
        self
    }

    /// Chooses ranks that are a multiple of what this hardware computes in, unless the layer is small; by default it is this
    /// machine.
    pub fn hardware(mut self, hardware: Hardware) -> Self {
        self.align = Align::For(hardware);
        self
    }

    /// Adds a pattern (`*` and `?` match anything); only layers that match one by name or tensor are split.
    pub fn include(mut self, pattern: impl Into<String>) -> Self {
        self.include.push(pattern.into());
        self
    }

    /// Adds a pattern; layers that match it by name or tensor are left alone.
    pub fn exclude(mut self, pattern: impl Into<String>) -> Self {
        self.exclude.push(pattern.into());
        self
    }

    /// Measures tract's time of each layer before and after.
    pub fn time_layers(mut self, measure: bool) -> Self {
        self.time_layers = measure;
        self
    }

    /// Puts layers back that did not get faster in tract, which measures their times.
    pub fn keep_faster(mut self, keep: bool) -> Self {
        self.keep_faster = keep;
        self.time_layers |= keep;
        self
    }

    /// Trains the weights once the layers are split, towards the original's outputs, and the data's labels if there are any.
    pub fn retrain(mut self, training: train::Options) -> Self {
        self.retrain = Some(training);
        self
    }
}

/// A layer with everything that the choice needs.
pub(crate) struct Prepared<'c> {
    pub(crate) candidate: &'c Candidate,
    mode: ConvMode,
    pub(crate) decomposition: Decomposition,
    pub(crate) prices: PriceList,
    /// What the network's output loses without this many components.
    loss: Option<Curve>,
}

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
    report.model.after.bytes = rewritten.file_bytes();
    report.model.after.nodes = rewritten.proto.graph.as_ref().map_or(0, |graph| graph.node.len());
    report.layers = layer_reports(&prepared, &decisions, &measured(&chosen, &latencies), (&found.refused, &cost));
    report.notes.extend(notes);
    report.training = training;
    report.allocation_gap = gap;
    report.calibration = data.map(|data| calibration_report(data, seed));
    clock.lap("rewrite")?;
    report.seconds = clock.laps;
    let plan = Plan::of_ranks(chosen.iter().map(|layer| (layer.candidate.name.clone(), layer.rank)).collect());
    drop(chosen);
    drop(prepared);
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
    let guidance = Guidance { labels: data.has_labels(), teacher: Some(&model.proto) };
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
    let named = || format!("split without a look at their time, which cannot be measured: {}", untimed.join(", "));
    (!untimed.is_empty()).then(named)
}

impl<'c> Prepared<'c> {
    fn offer(&self) -> Offer<'_> {
        Offer {
            name: &self.candidate.name,
            curve: self.decomposition.curve(),
            prices: &self.prices,
            loss: self.loss.as_ref(),
        }
    }

    fn chosen(&self, rank: usize) -> Result<Chosen<'c>> {
        Ok(Chosen {
            candidate: self.candidate,
            mode: self.mode,
            rank,
            factors: self.factors(rank)?,
            energies: self.decomposition.output_energies(),
        })
    }

    fn factors(&self, rank: usize) -> Result<Factors> {
        let name = || self.candidate.name.as_str();
        self.decomposition.split(default_backend(), self.candidate, self.mode, rank).map_err(|e| e.at_node(name()))
    }
}

/// Decomposes all layers. The error, if any, is that of the first layer that has one, not of the first that is done.
fn prepare_all<'c>(
    subject: Subject<'_>,
    candidates: &'c [Candidate],
    options: &FactorizeOptions,
    moments: Vec<Option<Vec<Inputs>>>,
) -> Result<Vec<Prepared<'c>>> {
    let layers = candidates.par_iter().zip(moments);
    let prepared: Vec<Result<Prepared<'c>>> = layers
        .map(|(candidate, inputs)| {
            options.setting.progress.check()?;
            at_node(&candidate.name, || prepare(subject, candidate, options, inputs))
        })
        .collect();
    prepared.into_iter().collect()
}

/// Decomposes one layer.
fn prepare<'c>(
    subject: Subject<'_>,
    candidate: &'c Candidate,
    options: &FactorizeOptions,
    inputs: Option<Vec<Inputs>>,
) -> Result<Prepared<'c>> {
    let mode = match candidate.form {
        Form::Matrix => ConvMode::Channel,
        Form::Kernel { .. } => options.conv.on(&candidate.dims[2..]),
    };
    let weight = candidate.values(subject)?;
    let decomposition = Decomposition::new(default_backend(), candidate, weight, (options.method, mode), inputs)
        .map_err(|e| e.at_node(candidate.name.as_str()))?;
    let added = if decomposition.is_of_outputs() { added_by_bias(subject, candidate) } else { 0 };
    Ok(Prepared {
        candidate,
        mode,
        prices: PriceList::new(subject, candidate, mode, added),
        loss: Curve::proportional(&components(decomposition.curve())),
        decomposition,
    })
}

/// Decomposes the layers that are split again, on all samples.
fn refit(
    subject: Subject<'_>,
    prepared: &mut [Prepared<'_>],
    decisions: &[Decision],
    options: &FactorizeOptions,
    data: Calibration<'_>,
) -> Result<()> {
    let split = prepared.iter_mut().zip(decisions).filter(|(_, decision)| matches!(decision, Decision::Split(_)));
    let mut split: Vec<&mut Prepared<'_>> = split.map(|(layer, _)| layer).collect();
    let candidates: Vec<Candidate> = split.iter().map(|layer| layer.candidate.clone()).collect();
    let moments = input_moments(subject, data, &candidates)?;
    split.par_iter_mut().zip(moments).try_for_each(|(layer, inputs)| {
        let loss = layer.loss.take();
        **layer = at_node(&layer.candidate.name, || prepare(subject, layer.candidate, options, inputs))?;
        layer.loss = loss;
        Ok(())
    })
}

/// What each component of a layer explains, the smallest one first.
fn components(curve: &ErrorCurve) -> Vec<f64> {
    (0..curve.full_rank()).rev().map(|rank| curve.error(rank) - curve.error(rank + 1)).collect()
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
        let by_mode = (is_kernel && options.conv == ConvMode::None).then_some("convolutions stay with `conv` none");
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
