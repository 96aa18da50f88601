//! Factorization of a whole model, from a model to a rewritten one.

mod latency;
mod offers;
mod options;
mod prepare;
mod table;

use std::collections::BTreeSet;

use super::clock::Clock;
use super::outcome::{Evidence, Outcome};
use super::setting::{Setting, calibration_report, to_fit};
use crate::analysis::{Analysis, Subject};
use crate::axes::Selection;
use crate::calibrate::Calibration;
use crate::calibrate::data::Dataset as Samples;
use crate::error::{Error, Result};
use crate::factorize::candidates::{Candidate, Candidates, Form, Refused, candidates};
use crate::factorize::select::Target;
use crate::lowrank::conv::ConvMode;
use crate::onnx::Model;
use crate::onnx::proto::ModelProto;
use crate::plan::{Cost, CostModel, Patterns, Plan};
use crate::price::distance::Reference;
use crate::price::samples::Samples as Apart;
use crate::report::{Report, TuningReport};
use crate::runtime::NamedTensor;
use crate::runtime::inputs::DimSizes;
use crate::runtime::probes::probe_batches;
use crate::train::{self, Guidance};
pub(in crate::jobs) use offers::{Judge, Offers, Split};
pub use options::FactorizeOptions;

/// Synthetic samples that a layer's effect is measured on without data.
const PROBES: usize = 8;

/// Chooses ranks and rewrites the model.
///
/// # Errors
/// As [`choose`]; [`Input`](crate::ErrorKind::Input) for a malformed model or weights that cannot be decomposed,
/// [`Nothing`](crate::ErrorKind::Nothing) if no layer is split; the message names reasons.
pub(crate) fn factorize(model: &Model, options: &FactorizeOptions) -> Result<Outcome> {
    options.check()?;
    let mut clock = Clock::start(&options.setting.progress);
    let (options, samples) = options.opened(model)?;
    let options = &options;
    let Setting { dims, seed, progress, limits, .. } = &options.setting;
    let fitted = samples.data.as_ref().map(|data| to_fit(data, options.retrain.is_some()));
    let data = fitted.as_ref();
    progress.enter("analysing")?;
    let analysis = Analysis::new(model, dims, &BTreeSet::new())?;
    let subject = analysis.subject();
    let found = layers(subject, options)?;
    clock.lap("analyse")?;
    let calibration = data.map(|data| Calibration::within(subject.model, data, *seed, *limits)).transpose()?;
    // The cost of a split at the output is measured on samples that it was not fitted to.
    let is_shared =
        matches!(options.target, Target::Params(_) | Target::Macs(_) | Target::Size(_) | Target::Latency(_));
    let apart = calibration.filter(|_| is_shared).map(Apart::new).transpose()?.flatten();
    let first = apart.as_ref().map(Apart::fitted).or(calibration);
    let mut offers = Offers::new(subject, &found, options, first, &mut clock)?;
    if is_shared {
        let measured = batches(&analysis, options, (apart.as_ref(), calibration)).and_then(|mut batches| {
            let reference = Reference::new(subject.model, &mut batches, *limits)?;
            offers.weigh(subject, options, Judge { reference: &reference, batches: &batches })
        });
        if let Err(error) = measured {
            offers.notes.push(format!("the effect of each layer on the output could not be measured ({error})"));
        }
        clock.lap("weigh")?;
    }
    let again = calibration.filter(|_| apart.is_some());
    let timed = latency::within(&analysis, (model, options), &mut offers, &mut clock)?;
    let (target, budget) = timed.unzip();
    let options = &options.clone().target(target.unwrap_or_else(|| options.target.clone()));
    let split = offers.split((model, subject), (&found, options), (calibration, again), &mut clock)?;
    let Split { model: rewritten, ranks, layers, gap, notes, .. } = split;
    let (rewritten, training) = trained((model, subject), rewritten, options, samples.data.as_ref())?;
    if !training.is_empty() {
        clock.lap("train")?;
    }
    let rewritten = model.with_proto(rewritten);
    let whole = CostModel::new(subject).cost(&Selection::all());
    let mut report = Report::new(&analysis, &[], &Selection::all(), whole, costs(&rewritten, dims)?);
    report.layers = layers;
    report.enter_rewritten(&model.proto, &rewritten);
    report.notes.extend(notes);
    report.training = training;
    report.allocation_gap = gap;
    let (budget, of_budget) = budget.unzip();
    report.latency_budget = budget;
    report.notes.extend(of_budget.into_iter().flatten());
    report.calibration = data.map(|data| calibration_report(data, *seed));
    clock.lap("rewrite")?;
    report.seconds = clock.laps;
    drop(found);
    samples.kept(Ok(()))?;
    let analysis = analysis.into_owned();
    let evidence = Evidence { analysis, groups: None, selection: Selection::all(), thaw: Vec::new() };
    let (plan, setting) = (Plan::of_ranks(ranks), options.setting.clone());
    Ok(Outcome { model: rewritten, plan, report, evidence, setting, samples })
}

/// The layers of a model that may be split by these options, and all others with the reason.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) for a pattern that cannot be read.
pub(in crate::jobs) fn layers(subject: Subject<'_>, options: &FactorizeOptions) -> Result<Candidates> {
    let mut found = candidates(subject);
    exclude(&mut found, options)?;
    Ok(found)
}

/// The samples that splits are judged on: those that they are not fitted to, else all, else synthetic ones.
fn batches(
    analysis: &Analysis<'_>,
    options: &FactorizeOptions,
    (apart, data): (Option<&Apart>, Option<Calibration<'_>>),
) -> Result<Vec<Vec<NamedTensor>>> {
    match (apart, data) {
        (Some(apart), _) => Ok(apart.batches().to_vec()),
        // Too few to hold some out.
        (None, Some(data)) => data.data.batches(data.batch).map(|batch| Ok(batch?.inputs)).collect(),
        (None, None) => {
            let sizes = analysis.probe_sizes(&options.setting.dims);
            probe_batches(analysis.subject().proto()?, &sizes, PROBES, options.setting.seed)
        }
    }
}

/// `rewritten`, trained towards `model` if that is asked for, with a report of it.
fn trained(
    (model, subject): (&Model, Subject<'_>),
    rewritten: ModelProto,
    options: &FactorizeOptions,
    data: Option<&Samples>,
) -> Result<(ModelProto, Vec<TuningReport>)> {
    let Some(retrain) = &options.retrain else { return Ok((rewritten, Vec::new())) };
    let data = data.ok_or_else(|| Error::usage("`retrain` needs samples: give some with `data`"))?;
    let guidance = Guidance { labels: data.has_labels() && retrain.labels, teacher: Some(&model.proto) };
    let Setting { seed, progress, .. } = &options.setting;
    let retrain = train::Options { seed: *seed, progress: progress.clone(), ..retrain.clone() };
    let (trained, report) = train::tune((rewritten, subject.model), data, guidance, &retrain)?;
    Ok((trained, vec![report]))
}

/// Moves layers that the user's patterns leave out to the refused ones.
fn exclude(found: &mut Candidates, options: &FactorizeOptions) -> Result<()> {
    let patterns = Patterns::new(&options.include, &options.exclude)?;
    let is_left_out = |candidate: &Candidate| {
        let is_kernel = matches!(candidate.form, Form::Kernel { .. });
        let by_mode =
            (is_kernel && options.conv == ConvMode::None).then_some("`conv` none does not split convolutions");
        let is_table = candidate.form == Form::Table;
        let by_target = match options.target {
            Target::Macs(_) if is_table => {
                Some("it is a table: a split of it saves parameters, but no multiply–accumulates")
            }
            Target::Latency(_) if is_table => Some("it is a table: a split of it saves parameters, but no time"),
            _ => None,
        };
        let is_meant = if is_table { options.tables } else { options.layers };
        let by_means = (!is_meant).then_some("`means` leaves it out");
        let by_pattern = patterns.refusal([candidate.name.as_str(), candidate.tensor.as_str()]);
        by_pattern.or(by_mode).or(by_target).or(by_means)
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
///
/// # Errors
/// If it cannot be analysed.
pub(in crate::jobs) fn costs(model: &Model, dims: &DimSizes) -> Result<Cost> {
    let analysis = Analysis::new(model, dims, &BTreeSet::new())?;
    Ok(CostModel::new(analysis.subject()).cost(&Selection::all()))
}
