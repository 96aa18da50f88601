//! Sequential correction: a layer behind split layers gets other inputs than it was trained on. Stage after stage, its
//! factors are fitted to give the *original's* outputs from the inputs that it now gets
//! ([`OutputPca::corrected`]).

use std::collections::BTreeMap;

use ndarray::{Array1, Array2};
use rayon::prelude::*;

use super::candidates::Candidate;
use super::decompose::{assembled, kernel, matrices};
use super::inputs::{MOST_INPUTS, layer};
use super::rewrite::split_layers;
use crate::analysis::Subject;
use crate::calibrate::data::Batch;
use crate::calibrate::moments::Moments;
use crate::calibrate::stages::{Part, Stages};
use crate::calibrate::{
    Activations, Buffered, Calibration, Held, Layer, Padding, Sampler, Stream, floats, in_turn, run_both, samples_of,
};
use crate::error::Result;
use crate::graph::NodeId;
use crate::linalg::default_backend;
use crate::lowrank::conv::ConvMode;
use crate::lowrank::outputs::{InputMoments, OutputPca, Target};
use crate::lowrank::{Factors, encoded};

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

/// Sums over rows of one group's input: as it is now (x), as it was in the original (y).
struct Collector<'l> {
    layer: &'l Layer,
    group: usize,
    sampler: Sampler,
    sums: Buffered,
}

/// Fits the factors of every layer behind others to what those have become, in place.
///
/// # Errors
/// If reading the data or running a model fails.
pub(crate) fn correct(subject: Subject<'_>, data: Calibration<'_>, chosen: &mut [Chosen<'_>]) -> Result<()> {
    let (mut original, mut split) = (Stream::default(), Stream::default());
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
        let sums = collect((subject.model, &model), data, &layers, (&mut original, &mut split))?;
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

/// Runs both models as far as the layers' inputs, and lets them start there next time.
fn collect(
    (before, after): (&crate::onnx::proto::ModelProto, &crate::onnx::proto::ModelProto),
    data: Calibration<'_>,
    layers: &[&Layer],
    (original, split): (&mut Stream, &mut Stream),
) -> Result<Vec<Vec<Moments>>> {
    let mut names: Vec<String> = layers.iter().map(|layer| layer.data.clone()).collect();
    names.sort();
    names.dedup();
    let sources = original.segment(before, &names, &names)?;
    let images = split.segment(after, &names, &names)?;
    let samples = data.data.samples();
    let mut collectors: Vec<Collector<'_>> = layers
        .iter()
        .flat_map(|layer| (0..layer.groups).map(move |group| (*layer, group)))
        .map(|(layer, group)| Collector {
            layer,
            group,
            sampler: Sampler::new(layer, samples, data.seed),
            sums: Buffered::new(layer.inputs(), layer.inputs()),
        })
        .collect();
    let mut held = Held::default();
    let mut first = 0;
    let pair = [(&*original, &sources), (&*split, &images)];
    let run = |index: usize, batch: &Batch| run_both(pair, index, &batch.inputs);
    in_turn(data.data.batches(data.batch), run, |batch, (old, new)| {
        let count = samples_of(&batch.inputs);
        let padding = Padding::of(&batch.inputs);
        collectors.par_iter_mut().try_for_each(|c| c.add(&new, &old, (count, first), padding.as_ref()))?;
        first += count;
        held.add([old.frontier, new.frontier]);
        Ok(())
    })?;
    held.advance([(original, &sources), (split, &images)]);
    let mut done = collectors.into_iter().map(|c| c.sums.finish(default_backend()));
    Ok(layers.iter().map(|layer| done.by_ref().take(layer.groups).collect()).collect())
}

impl Collector<'_> {
    fn add(
        &mut self,
        new: &Activations,
        old: &Activations,
        (samples, first): (usize, usize),
        padding: Option<&Padding>,
    ) -> Result<()> {
        let (now, was) = (new.get(&self.layer.data)?, old.get(&self.layer.data)?);
        let rows = self.sampler.choose(self.layer.row_count(now.shape()), samples, first, padding);
        let (mut x, mut y) = (Vec::new(), Vec::new());
        self.layer.input_rows(now, &floats(now)?, self.group, &rows, &mut x)?;
        self.layer.input_rows(was, &floats(was)?, self.group, &rows, &mut y)?;
        self.sums.push(default_backend(), &x, &y);
        Ok(())
    }
}

/// The factors of a layer, from how its inputs have changed.
fn fit(subject: Subject<'_>, chosen: &Chosen<'_>, sums: &[Moments]) -> Result<Factors> {
    let backend = default_backend();
    let candidate = chosen.candidate;
    let weight = candidate.values(subject)?;
    let matrices = matrices(candidate, &weight, ConvMode::Channel)?;
    let groups = matrices.iter().zip(sums).zip(&chosen.energies);
    let located = |e: crate::Error| e.at_node(candidate.name.as_str());
    if !matches!(chosen.mode, ConvMode::Spatial | ConvMode::Tucker2) {
        let split = |((w, sums), &energy): ((&Array2<f64>, &Moments), &f64)| {
            let change = Change::new(w, sums);
            OutputPca::corrected(backend, w.view(), change.inputs(), change.target(energy), DAMPING, &candidate.tensor)?
                .split(backend, chosen.rank)
        };
        let groups = groups.map(split).collect::<Result<_>>().map_err(located)?;
        return assembled(candidate, chosen.mode, groups);
    }
    let kernel = kernel(candidate, &weight)?;
    let split = |((w, sums), &energy): ((&Array2<f64>, &Moments), &f64)| {
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
    #[allow(clippy::cast_precision_loss)]
    fn new(w: &Array2<f64>, sums: &Moments) -> Self {
        let rows = sums.rows.max(1) as f64;
        Self {
            covariance: sums.covariance(),
            mean: &sums.x / rows,
            cross: default_backend().matmul(sums.cross_covariance().view(), w.view()),
            wanted: w.t().dot(&(&sums.y / rows)),
        }
    }

    fn inputs(&self) -> InputMoments<'_> {
        InputMoments { matrix: self.covariance.view(), mean: Some(&self.mean) }
    }

    fn target(&self, energy: f64) -> Target<'_> {
        Target { cross: self.cross.view(), mean: Some(&self.wanted), energy }
    }
}
