//! Mean and covariance of every layer's input, measured on data in the original model.

use std::borrow::Cow;

use ndarray::Array2;

use super::candidates::{Candidate, Form};
use super::decompose::matrices;
use crate::analysis::Subject;
use crate::calibrate::{Calibration, Detail, InputStatistics, Layer, Product, Sums, pass, statistics};
use crate::error::{Error, Result};
use crate::graph::{NodeId, Source};
use crate::lowrank::conv::ConvMode;
use crate::lowrank::outputs::{Inputs, Space};
use crate::onnx::tensor::from_f32;
use crate::runtime::{Limits, Tensor};

/// A layer of more values than this has no covariance of them, which would take over half a gigabyte.
const MOST: usize = 8192;

/// Up to this many inputs a layer is split by the covariance of its inputs, however few outputs it has.
const WIDE: usize = 4608;

/// A layer has few outputs where these are at most this share of its inputs: forming them costs less than their part of the
/// sums of products.
pub(crate) const FEW_OUTPUTS: usize = 8;

/// What is measured to split a layer: its inputs, or its outputs if there are far more inputs than outputs. `None` for a layer
/// that is decomposed without data.
pub(crate) fn space(candidate: &Candidate, conv: ConvMode) -> Option<Space> {
    let (inputs, outputs) = candidate.matrix_shape();
    let can_be_by_outputs =
        outputs <= inputs.min(MOST) && !matches!(candidate.mode(conv), ConvMode::Spatial | ConvMode::Tucker2);
    let is_dear = inputs > MOST || (inputs > WIDE && outputs * FEW_OUTPUTS <= inputs);
    if is_dear && can_be_by_outputs { Some(Space::Outputs) } else { (inputs <= MOST).then_some(Space::Inputs) }
}

/// For every candidate the moments of each group's input; `None` for layers with too many of them. `conv` is the decomposition
/// of convolutions.
///
/// # Errors
/// If reading the data or running the model fails.
pub(crate) fn input_moments(
    subject: Subject<'_>,
    calibration: Calibration<'_>,
    (candidates, conv): (&[Candidate], ConvMode),
) -> Result<Vec<Option<Vec<Inputs>>>> {
    let mut layers: Vec<(Layer, Option<Vec<Product>>)> = Vec::new();
    let mut used: Vec<(Space, Vec<usize>)> = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let mut own = Vec::new();
        let space = space(candidate, conv).filter(|_| candidate.form != Form::Table);
        if let Some(space) = space {
            let products = (space == Space::Outputs).then(|| products(subject, candidate)).transpose()?;
            for layer in all_uses(subject, candidate)? {
                own.push(layers.len());
                layers.push((layer, products.clone()));
            }
        }
        used.push((space.unwrap_or(Space::Inputs), own));
    }
    let mut measured: Vec<InputStatistics> = Vec::with_capacity(layers.len());
    for part in passes(&layers, calibration.limits) {
        let part: Vec<_> = part.iter().map(|(layer, products)| (layer, products.as_deref())).collect();
        measured.extend(statistics(subject, calibration, &part, Detail::Covariance)?);
    }
    let pooled = used.iter().zip(candidates).map(|((space, own), candidate)| match candidate.form {
        Form::Table => picked(subject, calibration, candidate).map(|inputs| Some(vec![inputs])),
        _ => Ok(pooled(*space, own, &measured)),
    });
    pooled.collect()
}

/// The nodes of a layer, those that read in the same way as one layer: an unrolled recurrence has one sum, not one for each
/// step. Nodes that read the same rows count once.
fn all_uses(subject: Subject<'_>, candidate: &Candidate) -> Result<Vec<Layer>> {
    let mut all: Vec<Layer> = Vec::new();
    for &id in &candidate.nodes {
        let Some(layer) = layer(subject, candidate, id)? else { continue };
        match all.iter_mut().find(|other| other.window == layer.window) {
            Some(other) if other.all_data().any(|data| *data == layer.data) => {}
            Some(other) => other.add_use(layer),
            None => all.push(layer),
        }
    }
    Ok(all)
}

/// The weight of each group of a layer, to multiply inputs with.
///
/// # Errors
/// If the stored tensor cannot be read.
fn products(subject: Subject<'_>, candidate: &Candidate) -> Result<Vec<Product>> {
    let weights = matrices(candidate, &candidate.values(subject)?, ConvMode::Channel)?;
    Ok(weights.iter().map(Product::new).collect())
}

/// How often each row of a table is picked, as the mean of unit vectors.
///
/// Rows that were never picked share the probability that a next one is new: the share of those that were picked once (Good
/// 1953, "The Population Frequencies of Species").
fn picked(subject: Subject<'_>, data: Calibration<'_>, candidate: &Candidate) -> Result<Inputs> {
    let rows = candidate.matrix_shape().0;
    let (mut counts, height) = (vec![0_u64; rows], i64::try_from(rows).unwrap_or(i64::MAX));
    let mut count = |tensor: &Tensor| -> Result<()> {
        for index in tensor.to_vec::<i64>()? {
            let row = if index < 0 { index + height } else { index };
            if let Some(count) = usize::try_from(row).ok().and_then(|row| counts.get_mut(row)) {
                *count += 1;
            }
        }
        Ok(())
    };
    for &id in &candidate.nodes {
        let indices = subject.graph.node(id).inputs.get(candidate.linear.data).copied().flatten();
        let Some(indices) = indices.map(|value| subject.graph.at(value)) else { continue };
        if matches!(indices.source, Source::Input(_)) {
            for batch in data.data.batches(data.batch) {
                batch?.inputs.iter().filter(|(name, _)| *name == indices.name).try_for_each(|(_, t)| count(t))?;
            }
        } else {
            pass(subject.model, data, [&indices.name], |found, _| count(found.get(&indices.name)?))?;
        }
    }
    let total: u64 = counts.iter().sum();
    let singles = counts.iter().filter(|&&count| count == 1).count() as f64;
    let new = if total > 0 { (singles / total as f64).max(f64::EPSILON) } else { 1.0 };
    let unseen = counts.iter().filter(|&&count| count == 0).count().max(1) as f64;
    let share = |&count: &u64| if count == 0 { new / unseen } else { (1.0 - new) * count as f64 / total as f64 };
    let mean = counts.iter().map(share).collect();
    let rows = usize::try_from(total).unwrap_or(usize::MAX);
    Ok(Inputs { rows, space: Space::Inputs, mean, covariance: Array2::zeros((0, 0)) })
}

/// A node as a layer whose rows of input can be read.
///
/// # Errors
/// If an attribute or the weight is malformed.
pub(crate) fn layer(subject: Subject<'_>, candidate: &Candidate, id: NodeId) -> Result<Option<Layer>> {
    let node = subject.proto()?.node.get(id.0).ok_or_else(|| Error::input("a node is missing"))?;
    match subject.constant(candidate.weight) {
        Some(tensor) if !candidate.is_transposed() && tensor.dims.len() == candidate.dims.len() => {
            Layer::read(node, tensor, candidate.linear, id)
        }
        // Only the shape of the weight is read here.
        _ => Layer::read(node, &from_f32("", &candidate.dims, &vec![0.0; candidate.len()])?, candidate.linear, id),
    }
}

/// The layers in runs whose covariances fit in memory together; layers that read the same rows have one.
fn passes(layers: &[(Layer, Option<Vec<Product>>)], limits: Limits) -> Vec<&[(Layer, Option<Vec<Product>>)]> {
    let mut runs = Vec::new();
    let (mut start, mut sum) = (0, 0);
    for (index, (layer, products)) in layers.iter().enumerate() {
        let width = products.as_deref().and_then(<[Product]>::first).map_or_else(|| layer.inputs(), Product::width);
        let is_known = layers[start..index].iter().any(|(other, _)| other.reads_like(layer)) && products.is_none();
        let bytes = if is_known { 0 } else { layer.groups * width * width * size_of::<f64>() };
        if index > start && (sum + bytes) as u64 > limits.sums() {
            runs.push(&layers[start..index]);
            (start, sum) = (index, 0);
        }
        sum += bytes;
    }
    if start < layers.len() {
        runs.push(&layers[start..]);
    }
    runs
}

/// Moments over all rows of several measurements of the same weight's inputs.
fn pooled(space: Space, own: &[usize], measured: &[InputStatistics]) -> Option<Vec<Inputs>> {
    let parts: Vec<&InputStatistics> = own.iter().filter_map(|&at| measured.get(at)).collect();
    let pool = |group: usize| {
        let mut sums: Option<Cow<'_, Sums>> = None;
        for part in parts.iter().filter_map(|part| part.get(group)) {
            match &mut sums {
                None => sums = Some(Cow::Borrowed(part)),
                Some(sums) => sums.to_mut().merge(part),
            }
        }
        let sums = sums.filter(|sums| sums.rows() > 0)?;
        Some(Inputs { rows: sums.rows(), space, mean: sums.mean_x(), covariance: sums.covariance() })
    };
    (0..parts.first()?.len()).map(pool).collect()
}

/// Says which layers the samples tell less about than they have inputs: the covariance of those has directions that were
/// never seen, and an error in one of them costs nothing.
pub(crate) fn scarce(candidates: &[Candidate], moments: &[Option<Vec<Inputs>>]) -> Option<String> {
    let layers = candidates.iter().zip(moments);
    let scarce = layers.filter_map(|(candidate, inputs)| {
        let (rows, width) = inputs.as_ref()?.iter().map(|inputs| (inputs.rows, inputs.mean.len())).min()?;
        (candidate.form != Form::Table && rows < width).then_some((&candidate.name, rows, width))
    });
    let scarce: Vec<_> = scarce.collect();
    let (name, rows, width) = scarce.first()?;
    let more = if scarce.len() > 1 { format!(" and {} more layers", scarce.len() - 1) } else { String::new() };
    Some(format!(
        "the data has {rows} rows for the {width} inputs of '{name}'{more}: splits fit these samples, not what else comes; give more"
    ))
}
