//! Recurrent layers: their gates are fitted to the pre-activations of the original.
//!
//! A row is (xₜ, hₜ₋₁), x of the repaired model, and what the original's gates make of its own row is the target (see
//! [`Layer`]). The state that the layer will see depends on its weights: they are fitted to the original's states first, and
//! then, in further rounds, to those of the layer's own run as well. Each round is judged by such a run on held-out samples;
//! the best one stays.

use ndarray::{Array1, Array2};
use rayon::prelude::*;

use super::Method;
use super::reader::{HELD_OUT, MANY_SAMPLES, RIDGES};
use super::report::RepairReport;
use crate::analysis::Subject;
use crate::axes::Selection;
use crate::calibrate::team::shared;
use crate::calibrate::{
    Calibration, Detail, Division, Evidence, Gather, Growing, Layer, Pair, Reference, Row, Sampler, Visit, Wanted,
    exposed,
};
use crate::error::{Error, Result};
use crate::graph::{NodeId, View};
use crate::linalg::default_backend;
use crate::onnx::proto::ModelProto;

/// Runs of a layer that its weights are fitted to.
const ROUNDS: usize = 3;

/// Gates of an operator that read the same rows, before and after the removal.
struct Part {
    original: Layer,
    pruned: Layer,
    /// Pre-activations of the original that the pruned gates still make.
    kept: Vec<usize>,
    /// Channels of the original's rows in the place of the pruned state's.
    states: Vec<usize>,
    sampler: Sampler,
    /// The weights of this round.
    fit: Fit,
    /// The best ones so far.
    best: Fit,
    /// What is known of the original's states.
    taught: Option<[Evidence; 2]>,
}

/// Weights (K×N), bias, and the share of the inputs' variance that pulled towards the old weights, with the effective dimension.
#[derive(Clone)]
struct Fit {
    weights: Array2<f64>,
    bias: Array1<f64>,
    ridge: Option<(f64, f64)>,
}

/// An operator on its way through the rounds.
struct Operator {
    node: NodeId,
    name: String,
    parts: Vec<Part>,
    /// Held-out errors of the old weights and of the best ones, and the variance of the targets.
    before: f64,
    best: f64,
    spread: f64,
    rows: usize,
    is_judged: bool,
    is_over: bool,
}

/// Rows of a part: of the layer's own run, and in the first round of the original's states; to fit and to judge by.
struct Gathering<'p> {
    part: &'p Part,
    division: Division,
    own: [Growing; 2],
    taught: Option<[Growing; 2]>,
}

/// Fits the recurrent `layers` of one stage, whose inputs are final. One report for each operator.
///
/// # Errors
/// If reading the data, running a model or writing a weight fails.
pub(super) fn fit(
    subject: Subject<'_>,
    selection: &Selection,
    model: &mut ModelProto,
    (data, models): (Calibration<'_>, &mut Pair<'_>),
    (layers, method): (&[&Layer], Method),
) -> Result<Vec<RepairReport>> {
    let mut reports = Vec::new();
    let mut operators: Vec<Operator> = Vec::new();
    let view = View::of(model)?;
    for &layer in layers {
        let Some(part) = Part::new(subject, selection, &view, layer, data)? else {
            let reason = Some("it no longer exists, or its weights are now computed".to_owned());
            reports.push(RepairReport { name: layer.name.clone(), reason, ..RepairReport::default() });
            continue;
        };
        match operators.iter_mut().find(|operator| operator.node == layer.node) {
            Some(operator) => operator.parts.push(part),
            None => operators.push(Operator::new(layer, part)),
        }
    }
    let pruned = model.clone();
    for round in 0..=ROUNDS {
        if operators.iter().all(|operator| operator.is_over) {
            break;
        }
        let mut trial = pruned.clone();
        for operator in operators.iter().filter(|_| round > 0) {
            operator.write(&mut trial, |part| if operator.is_over { &part.best } else { &part.fit })?;
        }
        let evidence = collect(subject, &trial, data, &operators, models, round)?;
        let mut evidence = evidence.into_iter();
        for operator in &mut operators {
            let own: Vec<_> = evidence.by_ref().take(operator.parts.len()).collect();
            if !operator.is_over {
                operator.judge(own, (round, method))?;
            }
        }
    }
    *model = pruned;
    for operator in operators {
        if operator.is_better() {
            operator.write(model, |part| &part.best)?;
        }
        reports.push(operator.report());
    }
    Ok(reports)
}

/// Evidence on all parts, in order: of the layer's own run, to fit and to judge by; and in the first round of the original's
/// states.
type Found = ([Evidence; 2], Option<[Evidence; 2]>);

fn collect(
    subject: Subject<'_>,
    model: &ModelProto,
    data: Calibration<'_>,
    operators: &[Operator],
    models: &mut Pair<'_>,
    round: usize,
) -> Result<Vec<Found>> {
    let parts: Vec<&Part> = operators.iter().flat_map(|operator| &operator.parts).collect();
    let originals = || parts.iter().map(|part| &part.original);
    let before = exposed(subject.model, originals())?;
    let after = exposed(model, parts.iter().map(|part| &part.pruned))?;
    let (before_view, after_view) = (View::of(&before)?, View::of(&after)?);
    let inputs: Vec<String> = originals().filter_map(|layer| layer.steps.as_ref()?.input(&before_view)).collect();
    let steps = parts.iter().filter_map(|part| part.pruned.steps.as_ref());
    let finals: Vec<String> = steps.filter_map(|steps| steps.input(&after_view)).collect();
    let original = Wanted::new(&before, &inputs, originals().flat_map(|layer| [&layer.data, &layer.result]));
    let original = Reference::Run(original);
    let changed = Wanted::new(&after, &finals, parts.iter().map(|part| &part.pruned.data));
    let mut gathering: Vec<Gathering<'_>> = parts.iter().map(|&part| Gathering::new(part, data, round == 0)).collect();
    models
        .stage(&original, &changed, |visit| gathering.par_iter_mut().try_for_each(|gathering| gathering.add(visit)))?;
    gathering.into_iter().map(|gathering| gathering.finish(data, round)).collect()
}

impl Part {
    fn new(
        subject: Subject<'_>,
        selection: &Selection,
        view: &View<'_>,
        layer: &Layer,
        data: Calibration<'_>,
    ) -> Result<Option<Self>> {
        let Some(pruned) = layer.found_in(view)? else { return Ok(None) };
        let (Some(was), Some(is)) = (&layer.steps, &pruned.steps) else { return Ok(None) };
        let Some((kept, states)) = was.kept(subject, selection, layer.node) else { return Ok(None) };
        let fits = kept.len() == pruned.outputs
            && states.len() == pruned.inputs() - is.input_width()
            && kept.iter().all(|&gate| gate < layer.outputs)
            && states.iter().all(|&state| state < layer.inputs());
        if !fits {
            return Ok(None);
        }
        let weights = pruned.stored_matrices(|name| view.tensor(view.graph.value(name)?))?;
        let Some(weights) = weights.into_iter().next() else { return Ok(None) };
        let fit = Fit { weights, bias: is.bias(view)?, ridge: None };
        let sampler = Sampler::new(&pruned, data.data.samples(), data.seed);
        let original = layer.clone();
        Ok(Some(Self { original, pruned, kept, states, sampler, best: fit.clone(), fit, taught: None }))
    }
}

impl<'p> Gathering<'p> {
    fn new(part: &'p Part, data: Calibration<'_>, is_first: bool) -> Self {
        let both = || [(); 2].map(|()| Growing::new(data.is_apart()));
        Self { part, division: Division::in_quarters(data.data), own: both(), taught: is_first.then(both) }
    }

    /// What was found on all samples, whoever ran them.
    fn finish(self, data: Calibration<'_>, round: usize) -> Result<Found> {
        let pruned = &self.part.pruned;
        let total = |kind: &str, both: [Growing; 2]| -> Result<[Evidence; 2]> {
            let [train, held_out] = both.map(Growing::finish);
            let key = format!("{}/{round}/{kind}", self.part.original.result);
            let nothing = || Evidence::sums(pruned.inputs(), pruned.outputs, Detail::Covariance);
            let train = shared(data.team, &format!("{key}/train"), train)?;
            let held_out = shared(data.team, &format!("{key}/held out"), held_out)?;
            Ok([train, held_out].map(|found| found.unwrap_or_else(nothing)))
        };
        Ok((total("own", self.own)?, self.taught.map(|taught| total("taught", taught)).transpose()?))
    }

    fn add(&mut self, visit: Visit<'_>) -> Result<()> {
        let Part { original, pruned, kept, states, sampler, .. } = self.part;
        let (at, data) = (visit.at, visit.changed.get(&pruned.data)?);
        let (all, quarter) = (pruned.row_count(data.shape()), self.division.leaf(at.first));
        let expected = sampler.choose(all / at.samples.max(1), 1, 0, None).len() * at.total;
        let evidence = || Evidence::expecting(expected, pruned.inputs(), pruned.outputs);
        let start = || Gather::new(pruned.inputs(), pruned.outputs, evidence());
        let rows = sampler.choose(all, at.samples, at.first, at.padding);
        let by_sample = at.total >= MANY_SAMPLES;
        let is_held_out = |row: &Row| (if by_sample { row.sample } else { row.index }) % HELD_OUT == HELD_OUT - 1;
        let (held_out, train): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(is_held_out);
        let first = pruned.inputs() - states.len();
        for (number, rows) in [train, held_out].into_iter().enumerate() {
            let inputs = pruned.inputs_of(data, &rows)?;
            let targets = original.results_of(visit.original.get(&original.result)?, &rows)?;
            if targets.channels() != original.outputs {
                return Err(Error::input("its gates are not those of its weights").at_node(original.name.as_str()));
            }
            self.own[number].add(quarter, start, rows.len(), |rows, x, y| {
                inputs.write(0, rows.clone(), x);
                targets.write_channels(kept, rows, y);
            });
            let Some(taught) = &mut self.taught else { continue };
            let was = original.inputs_of(visit.original.get(&original.data)?, &rows)?;
            taught[number].add(quarter, start, rows.len(), |rows, x, y| {
                inputs.write(0, rows.clone(), x);
                was.write_channels(states, rows.clone(), &mut x.part(first..first + states.len()));
                targets.write_channels(kept, rows, y);
            });
        }
        Ok(())
    }
}

impl Operator {
    fn new(layer: &Layer, part: Part) -> Self {
        let (name, parts) = (layer.name.clone(), vec![part]);
        let (before, best, spread) = (f64::INFINITY, f64::INFINITY, 0.0);
        Self { node: layer.node, name, parts, before, best, spread, rows: 0, is_judged: false, is_over: false }
    }

    fn is_better(&self) -> bool {
        self.best < self.before
    }

    /// Judges the weights of this round by the layer's own run, and fits those of the next.
    fn judge(&mut self, found: Vec<Found>, (round, method): (usize, Method)) -> Result<()> {
        let backend = default_backend();
        let errors =
            |(part, (own, _)): (&Part, &Found)| own[1].errors(backend, &part.fit.weights, &part.fit.bias).sum();
        let error: f64 = self.parts.iter().zip(&found).map(errors).sum();
        if round == 0 {
            self.spread = found.iter().map(|(own, _)| own[1].spreads().sum()).sum();
            self.rows = found.iter().map(|(own, _)| own[0].rows() + own[1].rows()).max().unwrap_or(0);
            self.is_judged = found.iter().all(|(own, _)| own.iter().all(|evidence| evidence.rows() > 0));
            (self.before, self.best) = (error, error);
        } else if error < self.best {
            self.best = error;
            self.parts.iter_mut().for_each(|part| part.best = part.fit.clone());
        } else if round > 1 {
            self.is_over = true;
        }
        self.is_over |= !self.is_judged || round == ROUNDS;
        if !self.is_over {
            let name = self.name.as_str();
            let fitted: Result<()> = self
                .parts
                .par_iter_mut()
                .zip(found)
                .try_for_each(|(part, (own, taught))| part.refit(own, taught, (method, name)));
            fitted?;
        }
        Ok(())
    }

    fn write<'s>(&'s self, model: &mut ModelProto, of: impl Fn(&'s Part) -> &'s Fit) -> Result<()> {
        for part in &self.parts {
            let (Some(steps), fit) = (&part.pruned.steps, of(part)) else { continue };
            steps.put(model, Some(&fit.weights), &fit.bias).map_err(|e| e.at_node(self.name.as_str()))?;
        }
        Ok(())
    }

    fn report(self) -> RepairReport {
        let is_better = self.is_better();
        let reason = match (self.is_judged, is_better) {
            (false, _) => Some("too few samples to repair and to check".to_owned()),
            (true, false) => Some("repair would not help on held-out data: the weights are kept".to_owned()),
            (true, true) => None,
        };
        let inputs = self.parts.iter().map(|part| part.pruned.inputs()).max().unwrap_or(0);
        let rows = self.rows;
        let is_short = is_better && rows < inputs;
        let spread = self.spread.max(f64::MIN_POSITIVE);
        let ridges = || self.parts.iter().filter_map(|part| part.best.ridge);
        RepairReport {
            before: Some(self.before / spread),
            after: Some(self.best / spread),
            reason,
            warning: is_short.then(|| format!("{rows} rows of data for {inputs} inputs: more samples would help")),
            rows: Some(rows),
            dimension: ridges().map(|(_, dimension)| dimension).reduce(f64::max),
            ridge: ridges().map(|(share, _)| share).reduce(f64::max),
            name: self.name,
            with: Vec::new(),
        }
    }
}

impl Part {
    /// New weights, by the original's states in the first round and with those of the own run later.
    fn refit(
        &mut self,
        own: [Evidence; 2],
        taught: Option<[Evidence; 2]>,
        (method, name): (Method, &str),
    ) -> Result<()> {
        let backend = default_backend();
        if taught.is_some() {
            self.taught = taught;
        } else if let Some(taught) = &mut self.taught {
            taught.iter_mut().zip(&own).for_each(|(all, own)| all.merge(own, backend));
        }
        let Some([train, held_out]) = &self.taught else { return Ok(()) };
        let old = &self.best.weights;
        let mut candidates = vec![(None, old.clone())];
        if method == Method::Lstsq {
            let fitted = train.weights(backend, old, &RIDGES, name)?;
            candidates.extend(RIDGES.into_iter().map(Some).zip(fitted));
        }
        let error =
            |(_, weights): &(Option<f64>, Array2<f64>)| held_out.errors(backend, weights, &train.bias(weights)).sum();
        let errors: Vec<f64> = candidates.par_iter().map(error).collect();
        let best = (0..errors.len()).min_by(|&a, &b| errors[a].total_cmp(&errors[b])).unwrap_or(0);
        let (share, weights) = candidates.swap_remove(best);
        let dimension = share.map(|share| train.weights_and_dimension(backend, old, share, name)).transpose()?;
        let ridge = share.zip(dimension.map(|(_, dimension)| dimension));
        self.fit = Fit { bias: train.bias(&weights), weights, ridge };
        Ok(())
    }
}
