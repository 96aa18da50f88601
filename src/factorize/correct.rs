//! Sequential correction: a layer after split layers gets other inputs than it was trained on. Stage after stage, its
//! factors are fitted to give the *original's* outputs from the inputs that it now gets ([`OutputPca::corrected`]).

use std::collections::BTreeMap;

use ndarray::{Array1, Array2};
use rayon::prelude::*;

use super::candidates::Candidate;
use super::decompose::{assembled, kernel, matrices};
use super::inputs::{MOST_INPUTS, layer};
use super::rewrite::split_layers;
use crate::analysis::Subject;
use crate::calibrate::stages::{Part, Stages};
use crate::calibrate::{Calibration, Columns, Detail, Evidence, Gather, Layer, Pair, Sampler, Visit, Wanted};
use crate::error::Result;
use crate::graph::NodeId;
use crate::linalg::default_backend;
use crate::lowrank::conv::ConvMode;
use crate::lowrank::outputs::{InputMoments, OutputPca, Target};
use crate::lowrank::{Factors, encoded};
use crate::onnx::proto::ModelProto;

/// Pull towards the old weight, as a share of the mean variance of the inputs.
const DAMPING: f64 = 1e-2;

/// A layer that is split.
#[derive(Debug, Clone)]
pub(crate) struct Chosen<'c> {
    pub(crate) candidate: &'c Candidate,
    pub(crate) mode: ConvMode,
    pub(crate) rank: usize,
    pub(crate) factors: Factors,
    /// Variance of each group's outputs; empty where the split is not one of outputs.
    pub(crate) energies: Vec<f64>,
}

/// A layer of which the outputs are at most this share of the inputs is summed up by its outputs: forming them costs less than
/// their part of the sums of products.
const FEW_OUTPUTS: usize = 8;

/// Sums over rows of each group's input: as it is now (x), and as it was in the original (y), or what the group makes of that.
struct Collector<'l> {
    layer: &'l Layer,
    sampler: Sampler,
    groups: Vec<(Gather, Option<Array2<f32>>)>,
}

/// Whether the outputs of a group of this weight (K×N) are summed up in place of its original inputs.
fn is_by_outputs(weight: &Array2<f64>) -> bool {
    weight.ncols() * FEW_OUTPUTS <= weight.nrows()
}

/// Fits the factors of every layer after split layers to its changed inputs, in place.
///
/// # Errors
/// If reading the data or running a model fails.
pub(crate) fn correct(subject: Subject<'_>, data: Calibration<'_>, chosen: &mut [Chosen<'_>]) -> Result<()> {
    let mut models = Pair::new(data);
    for stage in stages(subject, chosen) {
        let mut members: Vec<(usize, Layer)> = Vec::new();
        for index in stage {
            let candidate = chosen[index].candidate;
            if let Some(layer) = layer(subject, candidate, candidate.nodes[0])? {
                members.push((index, layer));
            }
        }
        if members.is_empty() {
            continue;
        }
        let pairs: Vec<(&Candidate, &Factors)> = chosen.iter().map(|c| (c.candidate, &c.factors)).collect();
        let model = split_layers(subject, &pairs)?;
        let layers: Vec<&Layer> = members.iter().map(|(_, layer)| layer).collect();
        let weights: Vec<Vec<Array2<f64>>> =
            members.iter().map(|(index, _)| weights(subject, chosen[*index].candidate)).collect::<Result<_>>()?;
        let sums = collect(&mut models, (subject.model, &model), data, (&layers, &weights))?;
        let fitted: Vec<Factors> = members
            .par_iter()
            .zip(weights.par_iter().zip(&sums))
            .map(|((index, _), (weights, sums))| fit(subject, &chosen[*index], (weights, sums)))
            .collect::<Result<_>>()?;
        for ((index, _), factors) in members.iter().zip(fitted) {
            chosen[*index].factors = factors;
        }
    }
    Ok(())
}

/// The matrix of each group of a layer, K×N.
fn weights(subject: Subject<'_>, candidate: &Candidate) -> Result<Vec<Array2<f64>>> {
    matrices(candidate, &candidate.values(subject)?, ConvMode::Channel)
}

/// Positions of the layers whose inputs depend on others that are split, by the number of these on the longest way to them.
fn stages(subject: Subject<'_>, chosen: &[Chosen<'_>]) -> Vec<Vec<usize>> {
    let split: BTreeMap<NodeId, usize> =
        chosen.iter().enumerate().flat_map(|(i, c)| c.candidate.nodes.iter().map(move |&id| (id, i))).collect();
    let order = Stages::of(subject.graph, |id, reached| match split.get(&id) {
        None => Part::Follows,
        Some(&index) => {
            let Chosen { candidate, energies, .. } = &chosen[index];
            let fits = candidate.nodes.len() == 1 && !energies.is_empty() && candidate.matrix_shape().0 <= MOST_INPUTS;
            Part::Layer { fitted: reached.is_some() && fits }
        }
    });
    order.stages.iter().map(|stage| stage.iter().filter_map(|id| split.get(id).copied()).collect()).collect()
}

/// Runs both models as far as the layers' inputs.
fn collect(
    models: &mut Pair<'_>,
    (before, after): (&ModelProto, &ModelProto),
    data: Calibration<'_>,
    (layers, weights): (&[&Layer], &[Vec<Array2<f64>>]),
) -> Result<Vec<Vec<Evidence>>> {
    let names: Vec<&String> = layers.iter().map(|layer| &layer.data).collect();
    let wanted = |model| Wanted::new(model, names.iter().copied(), []);
    let mut collectors: Vec<Collector<'_>> =
        layers.iter().zip(weights).map(|(layer, weights)| Collector::new(layer, weights, data)).collect();
    models.stage(&wanted(before), &wanted(after), |visit| collectors.par_iter_mut().try_for_each(|c| c.add(visit)))?;
    Ok(collectors.into_iter().map(|c| c.groups.into_iter().map(|(gather, _)| gather.finish()).collect()).collect())
}

impl<'l> Collector<'l> {
    #[allow(clippy::cast_possible_truncation)]
    fn new(layer: &'l Layer, weights: &[Array2<f64>], data: Calibration<'_>) -> Self {
        let k = layer.inputs();
        let group = |weight: &Array2<f64>| {
            let outputs = is_by_outputs(weight).then(|| weight.mapv(|w| w as f32));
            let wanted = outputs.as_ref().map_or(k, Array2::ncols);
            (Gather::new(k, wanted, Evidence::sums(k, wanted, Detail::Covariance)), outputs)
        };
        let sampler = Sampler::new(layer, data.data.samples(), data.seed);
        Self { layer, sampler, groups: weights.iter().map(group).collect() }
    }

    fn add(&mut self, visit: Visit<'_>) -> Result<()> {
        let (layer, at) = (self.layer, visit.at);
        let (now, was) = (visit.changed.get(&layer.data)?, visit.original.get(&layer.data)?);
        let rows = self.sampler.choose(layer.row_count(now.shape()), at.samples, at.first, at.padding);
        let (now, was) = (layer.inputs_of(now, &rows)?, layer.inputs_of(was, &rows)?);
        self.groups.par_iter_mut().enumerate().for_each(|(group, (gather, weight))| {
            let first = group * layer.channels;
            gather.add(rows.len(), |rows, x, y| {
                now.write(first, rows.clone(), x);
                let Some(weight) = weight else { return was.write(first, rows, y) };
                let count = rows.len();
                let mut inputs = vec![0.0; weight.nrows() * count];
                was.write(first, rows, &mut Columns::over(&mut inputs, weight.nrows()));
                outputs(weight, &inputs, count, y);
            });
        });
        Ok(())
    }
}

/// Writes what a weight (K×N) makes of inputs (K columns of `count` values each): value by value, so that it is the same
/// however many rows come at once.
fn outputs(weight: &Array2<f32>, inputs: &[f32], count: usize, into: &mut Columns<'_>) {
    for (number, factors) in weight.columns().into_iter().enumerate() {
        let column = into.column(number);
        column.fill(0.0);
        for (&factor, input) in factors.iter().zip(inputs.chunks_exact(count.max(1))) {
            column.iter_mut().zip(input).for_each(|(to, &value)| *to += factor * value);
        }
    }
}

/// The factors of a layer, from how its inputs have changed.
fn fit(subject: Subject<'_>, chosen: &Chosen<'_>, (weights, sums): (&[Array2<f64>], &[Evidence])) -> Result<Factors> {
    let backend = default_backend();
    let candidate = chosen.candidate;
    let groups = weights.iter().zip(sums).zip(&chosen.energies);
    let located = |e: crate::Error| e.at_node(candidate.name.as_str());
    if !matches!(chosen.mode, ConvMode::Spatial | ConvMode::Tucker2) {
        let split = |((w, sums), &energy): ((&Array2<f64>, &Evidence), &f64)| {
            let change = Change::new(w, sums);
            OutputPca::corrected(backend, w.view(), change.inputs(), change.target(energy), DAMPING, &candidate.tensor)?
                .split(backend, chosen.rank)
        };
        let groups = groups.map(split).collect::<Result<_>>().map_err(located)?;
        return assembled(candidate, chosen.mode, groups);
    }
    let weight = candidate.values(subject)?;
    let kernel = kernel(candidate, &weight)?;
    let split = |((w, sums), &energy): ((&Array2<f64>, &Evidence), &f64)| {
        let change = Change::new(w, sums);
        let places = encoded::places(&kernel, chosen.mode);
        let ranks = encoded::ranks(&kernel, chosen.mode, chosen.rank);
        encoded::Encoders::new(backend, w.view(), places, change.inputs(), &candidate.tensor)?.split(
            backend,
            w.view(),
            ranks,
            change.inputs(),
            change.target(energy),
            DAMPING,
        )
    };
    let groups = groups.map(split).collect::<Result<_>>().map_err(located)?;
    encoded::assembled(&kernel, chosen.mode, groups)
}

/// The moments of a group's inputs as they are now, and of the outputs that it should give for them.
struct Change {
    covariance: Array2<f64>,
    mean: Array1<f64>,
    cross: Array2<f64>,
    wanted: Array1<f64>,
}

impl Change {
    fn new(w: &Array2<f64>, sums: &Evidence) -> Self {
        let (cross, wanted) = (sums.cross_covariance(), sums.mean_y());
        let (cross, wanted) = if is_by_outputs(w) {
            (cross, wanted)
        } else {
            (default_backend().matmul(cross.view(), w.view()), w.t().dot(&wanted))
        };
        Self { covariance: sums.covariance(), mean: sums.mean_x(), cross, wanted }
    }

    fn inputs(&self) -> InputMoments<'_> {
        InputMoments { matrix: self.covariance.view(), mean: Some(&self.mean) }
    }

    fn target(&self, energy: f64) -> Target<'_> {
        Target { cross: self.cross.view(), mean: Some(&self.wanted), energy }
    }
}
