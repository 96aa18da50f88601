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
use crate::calibrate::{Calibration, Detail, Evidence, Gather, Layer, Pair, Sampler, Visit, Wanted};
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

/// Sums over rows of each group's input: as it is now (x), as it was in the original (y).
struct Collector<'l> {
    layer: &'l Layer,
    sampler: Sampler,
    groups: Vec<Gather>,
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
        let sums = collect(&mut models, (subject.model, &model), data, &layers)?;
        let fitted: Vec<Factors> = members
            .par_iter()
            .zip(&sums)
            .map(|((index, _), sums)| fit(subject, &chosen[*index], sums))
            .collect::<Result<_>>()?;
        for ((index, _), factors) in members.iter().zip(fitted) {
            chosen[*index].factors = factors;
        }
    }
    Ok(())
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
    layers: &[&Layer],
) -> Result<Vec<Vec<Evidence>>> {
    let names: Vec<&String> = layers.iter().map(|layer| &layer.data).collect();
    let wanted = |model| Wanted::new(model, names.iter().copied(), []);
    let mut collectors: Vec<Collector<'_>> = layers.iter().map(|layer| Collector::new(layer, data)).collect();
    models.stage(&wanted(before), &wanted(after), |visit| collectors.par_iter_mut().try_for_each(|c| c.add(visit)))?;
    Ok(collectors.into_iter().map(|c| c.groups.into_iter().map(Gather::finish).collect()).collect())
}

impl<'l> Collector<'l> {
    fn new(layer: &'l Layer, data: Calibration<'_>) -> Self {
        let k = layer.inputs();
        let sums = |_| Gather::new(k, k, Evidence::sums(k, k, Detail::Covariance));
        let sampler = Sampler::new(layer, data.data.samples(), data.seed);
        Self { layer, sampler, groups: (0..layer.groups).map(sums).collect() }
    }

    fn add(&mut self, visit: Visit<'_>) -> Result<()> {
        let (layer, at) = (self.layer, visit.at);
        let (now, was) = (visit.changed.get(&layer.data)?, visit.original.get(&layer.data)?);
        let rows = self.sampler.choose(layer.row_count(now.shape()), at.samples, at.first, at.padding);
        let (now, was) = (layer.inputs_of(now, &rows)?, layer.inputs_of(was, &rows)?);
        self.groups.par_iter_mut().enumerate().for_each(|(group, gather)| {
            let first = group * layer.channels;
            gather.add(rows.len(), |rows, x, y| {
                now.write(first, rows.clone(), x);
                was.write(first, rows, y);
            });
        });
        Ok(())
    }
}

/// The factors of a layer, from how its inputs have changed.
fn fit(subject: Subject<'_>, chosen: &Chosen<'_>, sums: &[Evidence]) -> Result<Factors> {
    let backend = default_backend();
    let candidate = chosen.candidate;
    let weight = candidate.values(subject)?;
    let matrices = matrices(candidate, &weight, ConvMode::Channel)?;
    let groups = matrices.iter().zip(sums).zip(&chosen.energies);
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
    fn new(w: &Array2<f64>, inputs: &Evidence) -> Self {
        Self {
            covariance: inputs.covariance(),
            mean: inputs.mean_x(),
            cross: default_backend().matmul(inputs.cross_covariance().view(), w.view()),
            wanted: w.t().dot(&inputs.mean_y()),
        }
    }

    fn inputs(&self) -> InputMoments<'_> {
        InputMoments { matrix: self.covariance.view(), mean: Some(&self.mean) }
    }

    fn target(&self, energy: f64) -> Target<'_> {
        Target { cross: self.cross.view(), mean: Some(&self.wanted), energy }
    }
}
