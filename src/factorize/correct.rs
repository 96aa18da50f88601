//! Sequential correction: a layer after split layers gets other inputs than it was trained on. Stage after stage, its
//! factors are fitted to give the *original's* outputs from the inputs that it now gets ([`OutputPca::corrected`]).

use std::collections::BTreeMap;

use ndarray::{Array1, Array2};
use rayon::prelude::*;

use super::candidates::Candidate;
use super::decompose::{assembled, kernel, matrices};
use super::inputs::{FEW_OUTPUTS, layer, space};
use super::rewrite::split_layers;
use crate::analysis::Subject;
use crate::calibrate::stages::{Part, Stages};
use crate::calibrate::{
    Calibration, Detail, Evidence, Gather, Layer, Pair, Product, Reference, Sampler, Visit, Wanted,
};
use crate::error::Result;
use crate::graph::NodeId;
use crate::graph::bodies::hoisted_like;
use crate::linalg::default_backend;
use crate::lowrank::conv::ConvMode;
use crate::lowrank::outputs::{InputMoments, OutputPca, Space, Target};
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

/// A layer that is fitted.
struct Member {
    /// Its position among the layers that are split.
    index: usize,
    layer: Layer,
    /// What its sums are of.
    space: Space,
    /// The matrix of each group, K×N, and to multiply with.
    weights: Vec<Array2<f64>>,
    products: Vec<Product>,
}

impl Member {
    /// Whether the original is summed up by what the weights make of its inputs: always where the changed inputs are, and
    /// where that costs less.
    fn is_by_outputs(&self) -> bool {
        let is_few = |weight: &Array2<f64>| weight.ncols() * FEW_OUTPUTS <= weight.nrows();
        self.space == Space::Outputs || self.weights.iter().all(is_few)
    }
}

/// Sums over rows of each group's input as it is now (x), and as it was in the original (y), or of what the group's weight
/// makes of them.
struct Collector<'m> {
    member: &'m Member,
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
        let mut members: Vec<Member> = Vec::new();
        for index in stage {
            let Chosen { candidate, mode, .. } = &chosen[index];
            let read = layer(subject, candidate, candidate.nodes[0])?.zip(space(candidate, *mode));
            if let Some((layer, space)) = read {
                let weights = matrices(candidate, &candidate.values(subject)?, ConvMode::Channel)?;
                let products = weights.iter().map(Product::new).collect();
                members.push(Member { index, layer, space, weights, products });
            }
        }
        if members.is_empty() {
            continue;
        }
        let pairs: Vec<(&Candidate, &Factors)> = chosen.iter().map(|c| (c.candidate, &c.factors)).collect();
        let model = hoisted_like(split_layers(subject, &pairs)?, subject.model);
        let sums = collect(&mut models, (subject.model, &model), data, &members)?;
        let fitted: Vec<Factors> = members
            .par_iter()
            .zip(&sums)
            .map(|(member, sums)| fit(subject, &chosen[member.index], (member, sums)))
            .collect::<Result<_>>()?;
        for (member, factors) in members.iter().zip(fitted) {
            chosen[member.index].factors = factors;
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
            let Chosen { candidate, mode, energies, .. } = &chosen[index];
            let fits = candidate.nodes.len() == 1 && !energies.is_empty() && space(candidate, *mode).is_some();
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
    members: &[Member],
) -> Result<Vec<Vec<Evidence>>> {
    let names: Vec<&String> = members.iter().map(|member| &member.layer.data).collect();
    let wanted = |model| Wanted::new(model, names.iter().copied(), []);
    let mut collectors: Vec<Collector<'_>> = members.iter().map(|member| Collector::new(member, data)).collect();
    models.stage(&Reference::Run(wanted(before)), &wanted(after), |visit| {
        collectors.par_iter_mut().try_for_each(|c| c.add(visit))
    })?;
    Ok(collectors.into_iter().map(|c| c.groups.into_iter().map(Gather::finish).collect()).collect())
}

impl<'m> Collector<'m> {
    fn new(member: &'m Member, data: Calibration<'_>) -> Self {
        let inputs = member.layer.inputs();
        let width = |weight: &Array2<f64>, is_by_outputs: bool| if is_by_outputs { weight.ncols() } else { inputs };
        let widths = |weight: &Array2<f64>| {
            (width(weight, member.space == Space::Outputs), width(weight, member.is_by_outputs()))
        };
        let gather = |weight: &Array2<f64>| {
            let (x, y) = widths(weight);
            Gather::new(x, y, Evidence::sums(x, y, Detail::Covariance))
        };
        let rows = member.weights.first().map_or(inputs, |weight| widths(weight).0);
        let sampler = Sampler::of_inputs(&member.layer, rows, data.data.samples(), data.seed);
        Self { member, sampler, groups: member.weights.iter().map(gather).collect() }
    }

    fn add(&mut self, visit: Visit<'_>) -> Result<()> {
        let (member, at) = (self.member, visit.at);
        let layer = &member.layer;
        let (now, was) = (visit.changed.get(&layer.data)?, visit.original.get(&layer.data)?);
        let rows = self.sampler.choose(layer.row_count(now.shape()), at.samples, at.first, at.padding);
        let (now, was) = (layer.inputs_of(now, &rows)?, layer.inputs_of(was, &rows)?);
        let groups = self.groups.par_iter_mut().zip(&member.products).enumerate();
        groups.for_each(|(group, (gather, product))| {
            let first = group * layer.channels;
            let product = |is_by_outputs: bool| is_by_outputs.then_some(product);
            gather.add(rows.len(), |rows, x, y| {
                now.write_or_multiply(product(member.space == Space::Outputs), first, rows.clone(), x);
                was.write_or_multiply(product(member.is_by_outputs()), first, rows, y);
            });
        });
        Ok(())
    }
}

/// The factors of a layer, from how its inputs have changed.
fn fit(subject: Subject<'_>, chosen: &Chosen<'_>, (member, sums): (&Member, &[Evidence])) -> Result<Factors> {
    let backend = default_backend();
    let candidate = chosen.candidate;
    let groups = member.weights.iter().zip(sums).zip(&chosen.energies);
    let located = |e: crate::Error| e.at_node(candidate.name.as_str());
    if !matches!(chosen.mode, ConvMode::Spatial | ConvMode::Tucker2) {
        let split = |((w, sums), &energy): ((&Array2<f64>, &Evidence), &f64)| {
            let change = Change::new(member, w, sums);
            let corrected = match member.space {
                Space::Inputs => OutputPca::corrected,
                Space::Outputs => OutputPca::corrected_outputs,
            };
            corrected(backend, w.view(), change.inputs(), change.target(energy), DAMPING, &candidate.tensor)?
                .split(backend, chosen.rank)
        };
        let groups = groups.map(split).collect::<Result<_>>().map_err(located)?;
        return assembled(candidate, chosen.mode, groups);
    }
    let weight = candidate.values(subject)?;
    let kernel = kernel(candidate, &weight)?;
    let split = |((w, sums), &energy): ((&Array2<f64>, &Evidence), &f64)| {
        let change = Change::new(member, w, sums);
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
    fn new(member: &Member, w: &Array2<f64>, sums: &Evidence) -> Self {
        let (cross, wanted) = (sums.cross_covariance(), sums.mean_y());
        let (cross, wanted) = if member.is_by_outputs() {
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
