//! Factorization of a whole model: from an analysed file to a rewritten one.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use crate::analysis::Analysis;
use crate::analysis::Subject;
use crate::axes::Selection;
use crate::calibrate::Calibration;
use crate::calibrate::data::Dataset;
use crate::error::{Error, Result};
use crate::factorize::candidates::{Candidate, Candidates, Form, Refused, candidates};
use crate::factorize::correct::{Chosen, correct};
use crate::factorize::decompose::{ConvMode, Decomposition, Inputs, Method};
use crate::factorize::inputs::{input_moments, scarce};
use crate::factorize::price::PriceList;
use crate::factorize::rewrite::{Factors, added_by_bias, split_layers};
use crate::factorize::select::{Decision, Offer, choose, reference_ranks};
use crate::factorize::sensitivity::{Effect, Site};
use crate::factorize::table::{Outcome, layer_reports, nothing};
use crate::factorize::{sensitivity, speed};
use crate::linalg::default_backend;
use crate::onnx::Model;
use crate::plan::{Cost, CostModel, Patterns, Plan};
use crate::report::{CalibrationReport, Clock, Progress, Report};
use crate::runtime::inputs::DimSizes;
use crate::runtime::probes::probe_batches;
use crate::train::{self, Guidance};
use crate::verify::Latency;

pub use crate::factorize::select::Target;

/// Made-up samples that a layer's effect is measured on without data.
const PROBES: usize = 8;

/// Options of [`factorize`].
#[derive(Debug, Clone)]
pub struct Options {
    /// How small the layers are to become.
    pub target: Target,
    /// How matrices are split.
    pub method: Method,
    /// How kernels are split.
    pub conv: ConvMode,
    /// Ranks that are not typed are multiples of this, unless a layer is small.
    pub align: usize,
    /// Patterns of layers or tensors to split; all if empty.
    pub include: Vec<String>,
    /// Patterns of layers or tensors to leave alone.
    pub exclude: Vec<String>,
    /// Whether layers behind split ones are fitted to what those have become, where data is given.
    pub sequential: bool,
    /// Whether tract's time of each split layer is measured.
    pub time_layers: bool,
    /// Whether layers that did not get faster are put back; takes [`Options::time_layers`].
    pub keep_faster: bool,
    /// Sizes of dynamic dimensions.
    pub dims: DimSizes,
    /// Whether and how the weights are trained once the layers are split.
    pub retrain: Option<train::Options>,
    /// Seed of every random choice.
    pub seed: u64,
    /// Who is told what goes on.
    pub progress: Progress,
}

impl Options {
    /// The defaults, for this target.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            method: Method::default(),
            conv: ConvMode::default(),
            align: 8,
            include: Vec::new(),
            exclude: Vec::new(),
            sequential: true,
            time_layers: false,
            keep_faster: false,
            dims: DimSizes::default(),
            retrain: None,
            seed: 0,
            progress: Progress::default(),
        }
    }
}

/// A factorized model that has not been proved or written yet.
#[derive(Debug)]
pub struct Factorized<'m> {
    /// What is known about the original.
    pub analysis: Analysis<'m>,
    /// The ranks, by layer.
    pub plan: Plan,
    /// The rewritten model.
    pub model: Model,
    /// What was done.
    pub report: Report,
}

/// A layer with everything that the choice needs.
pub(crate) struct Prepared<'c> {
    pub(crate) candidate: &'c Candidate,
    mode: ConvMode,
    pub(crate) decomposition: Decomposition,
    pub(crate) prices: PriceList,
    effect: Effect,
}

/// Chooses ranks and rewrites the model.
///
/// # Errors
/// As [`choose`]; [`Input`](crate::ErrorKind::Input) for a malformed model or weights that cannot be decomposed,
/// [`NothingToDo`](crate::ErrorKind::NothingToDo) if no layer is split; the message names reasons.
pub fn factorize<'m>(model: &'m Model, options: &Options, data: Option<&Dataset>) -> Result<Factorized<'m>> {
    let mut clock = Clock::start();
    // What training is judged on, the splits before it must not see.
    let (samples, without) = (data, data.filter(|_| options.retrain.is_some()).map(Dataset::without_held_out));
    let data = without.as_ref().or(samples);
    let analysis = Analysis::new(model, &options.dims, &BTreeSet::new())?;
    let subject = analysis.subject();
    let mut found = candidates(subject);
    exclude(&mut found, options)?;
    clock.lap("analyse");
    let moments = match data {
        Some(data) => input_moments(subject, Calibration::new(data, options.seed), &found.open)?,
        None => vec![None; found.open.len()],
    };
    let mut notes: Vec<String> = scarce(&found.open, &moments).into_iter().collect();
    clock.lap("calibrate");
    // The error, if any, is that of the first layer that has one, not of the first that is done.
    let prepared: Vec<Result<Prepared<'_>>> = found
        .open
        .par_iter()
        .zip(moments)
        .map(|(candidate, inputs)| prepare(subject, candidate, options, inputs))
        .collect();
    let mut prepared = prepared.into_iter().collect::<Result<Vec<_>>>()?;
    clock.lap("decompose");
    if matches!(options.target, Target::Params(_) | Target::Macs(_)) {
        notes.extend(weigh(&analysis, &mut prepared, options, data)?);
        clock.lap("weigh");
    }
    let cost = CostModel::new(subject);
    let whole = cost.cost(&Selection::all());
    let offers: Vec<Offer<'_>> = prepared.iter().map(Prepared::offer).collect();
    let mut decisions =
        if offers.is_empty() { Vec::new() } else { choose(&offers, &options.target, whole, options.align)? };
    clock.lap("select");
    let mut chosen = chosen(&prepared, &decisions)?;
    let latencies = if options.time_layers { time(subject, &chosen)? } else { BTreeMap::new() };
    if options.keep_faster {
        notes.extend(keep_faster(&prepared, &mut decisions, &mut chosen, &latencies));
    }
    if chosen.is_empty() {
        return Err(nothing(&prepared, &decisions, &found.refused));
    }
    clock.lap("split");
    if let (Some(data), true) = (data, options.sequential) {
        correct(subject, Calibration::new(data, options.seed), &mut chosen)?;
        clock.lap("correct");
    }
    let mut rewritten = split_layers(subject, &pairs(&chosen))?;
    let mut training = Vec::new();
    if let Some(retrain) = &options.retrain {
        let data = samples.ok_or_else(|| Error::usage("--retrain needs samples: give some with --data"))?;
        let guidance = Guidance { labels: data.has_labels(), teacher: Some(&model.proto) };
        let retrain = train::Options { progress: options.progress.clone(), ..retrain.clone() };
        let (trained, report) = train::tune(&rewritten, data, guidance, &retrain)?;
        (rewritten, training) = (trained, vec![report]);
        clock.lap("train");
    }
    let rewritten = model.with_proto(rewritten);
    let after = costs(&rewritten, &options.dims)?;
    let mut report = Report::new(&analysis, &[], &Selection::all(), whole, after);
    report.model.after.bytes = rewritten.file_bytes();
    report.model.after.nodes = rewritten.proto.graph.as_ref().map_or(0, |graph| graph.node.len());
    let mut outcomes: BTreeMap<&str, Outcome> =
        latencies.iter().map(|(name, &latency)| (*name, Outcome { latency: Some(latency), error: None })).collect();
    for layer in &chosen {
        outcomes.entry(layer.candidate.name.as_str()).or_default().error = Some(layer.factors.error());
    }
    report.layers = layer_reports(&prepared, &decisions, &outcomes, (&found.refused, &cost));
    report.notes.extend(notes);
    report.training = training;
    report.calibration = data.map(|data| CalibrationReport {
        samples: data.samples(),
        hash: data.hash().to_owned(),
        seed: options.seed,
        synthetic: data.is_synthetic(),
        ..CalibrationReport::default()
    });
    clock.lap("rewrite");
    report.seconds = clock.laps;
    let plan = Plan::of_ranks(chosen.iter().map(|layer| (layer.candidate.name.clone(), layer.rank)).collect());
    Ok(Factorized { plan, model: rewritten, report, analysis })
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

/// Puts back the layers that did not get faster. Notes name those without a time, and that a budget no longer holds.
fn keep_faster(
    prepared: &[Prepared<'_>],
    decisions: &mut [Decision],
    chosen: &mut Vec<Chosen<'_>>,
    latencies: &BTreeMap<&str, Latency>,
) -> Vec<String> {
    let (mut put_back, mut untimed) = (0, Vec::new());
    for (layer, decision) in prepared.iter().zip(decisions) {
        let name = layer.candidate.name.as_str();
        match (&decision, latencies.get(name)) {
            (Decision::Split(_), Some(Latency { before_ms, after_ms })) if after_ms >= before_ms => {
                *decision = Decision::Keep(format!("it did not get faster: {before_ms:.3} ms, then {after_ms:.3} ms"));
                chosen.retain(|layer| layer.candidate.name != name);
                put_back += 1;
            }
            (Decision::Split(_), None) => untimed.push(name),
            _ => {}
        }
    }
    let mut notes = Vec::new();
    if put_back > 0 {
        notes.push(format!("{put_back} layers that did not get faster were put back: more remains than was asked for"));
    }
    if !untimed.is_empty() {
        notes.push(format!("split without a look at their time, which cannot be measured: {}", untimed.join(", ")));
    }
    notes
}

impl<'c> Prepared<'c> {
    fn offer(&self) -> Offer<'_> {
        Offer {
            name: &self.candidate.name,
            curve: self.decomposition.curve(),
            prices: &self.prices,
            effect: self.effect,
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

/// Decomposes one layer.
fn prepare<'c>(
    subject: Subject<'_>,
    candidate: &'c Candidate,
    options: &Options,
    inputs: Option<Vec<Inputs>>,
) -> Result<Prepared<'c>> {
    let mode = match candidate.form {
        Form::Matrix => ConvMode::Channel,
        Form::Kernel { .. } => options.conv.on(&candidate.dims[2..]),
    };
    let weight = candidate.values(subject)?;
    let decomposition = Decomposition::new(default_backend(), candidate, weight, (options.method, mode), inputs)
        .map_err(|e| e.at_node(candidate.name.as_str()))?;
    let total = decomposition.curve().total();
    let added = if decomposition.is_of_outputs() { added_by_bias(subject, candidate) } else { 0 };
    Ok(Prepared {
        candidate,
        mode,
        prices: PriceList::new(subject, candidate, mode, added),
        effect: Effect::linear(if total > 0.0 { 1.0 / total } else { 0.0 }),
        decomposition,
    })
}

/// Measures what each layer's error does to the model's output, with that layer alone split, at two ranks. Returns a
/// note where that is not possible; errors then weigh by their share of the layer's energy.
fn weigh(
    analysis: &Analysis<'_>,
    prepared: &mut [Prepared<'_>],
    options: &Options,
    data: Option<&Dataset>,
) -> Result<Option<String>> {
    let subject = analysis.subject();
    let batches = match data {
        Some(data) => sensitivity::middle(data)?,
        None => probe_batches(subject.proto()?, &analysis.probe_sizes(&options.dims), PROBES, options.seed)?,
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
    let effects = match sensitivity::effects(subject.model, &sites, write, &batches) {
        Ok(effects) => effects,
        Err(error) => {
            return Ok(Some(format!("the effect of each layer on the output could not be measured ({error})")));
        }
    };
    for ((layer, ranks), effects) in prepared.iter_mut().zip(&ranks).zip(effects) {
        let errors = ranks.iter().map(|&rank| layer.decomposition.curve().error(rank));
        let points: Vec<(f64, f64)> = errors.zip(effects).collect();
        layer.effect = Effect::through(&points).unwrap_or(layer.effect);
    }
    Ok(None)
}

/// Moves layers that the user's patterns leave out to the refused ones.
fn exclude(found: &mut Candidates, options: &Options) -> Result<()> {
    let patterns = Patterns::new(&options.include, &options.exclude)?;
    let is_left_out = |candidate: &Candidate| {
        let is_kernel = matches!(candidate.form, Form::Kernel { .. });
        let by_mode = (is_kernel && options.conv == ConvMode::None).then_some("convolutions stay with --conv none");
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
