//! Made-up inputs: random values of the declared types, within the ranges that the graph itself implies.

use std::collections::{BTreeMap, BTreeSet};

use half::f16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::inputs::{DeclaredInput, DimSizes, declared_inputs};
use super::runnable::NamedTensor;
use super::tensor::{Tensor, element_count};
use crate::onnx::attributes::position;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};
use crate::onnx::traits::{self, CARRIES_IDS, CONVERTS};
use crate::{Error, Result};

/// Largest input that is generated, in elements.
const LARGEST_INPUT: usize = 1 << 28;

/// Makes up inputs for a graph, sample by sample.
///
/// Floats are drawn from N(0, 1), ids uniformly from the rows of the table that they index, bytes from their whole
/// range. Masks (booleans, inputs whose name contains `mask`) and integers of unknown meaning are ones. The same seed gives the
/// same values, and a sample (a row of axis 0) has the same values whatever batch it is in.
#[derive(Debug, Clone)]
pub struct Prober {
    inputs: Vec<DeclaredInput>,
    sizes: DimSizes,
    bounds: BTreeMap<String, usize>,
    seed: u64,
}

impl Prober {
    /// For the inputs of `graph`, their open axes sized by `sizes`.
    ///
    /// # Errors
    /// As [`declared_inputs`] and [`DimSizes::resolve`].
    pub fn new(graph: &GraphProto, sizes: &DimSizes, seed: u64) -> Result<Self> {
        let inputs = declared_inputs(graph)?;
        sizes.resolve(&inputs)?;
        Ok(Self { inputs, sizes: sizes.clone(), bounds: index_bounds(graph), seed })
    }

    /// Samples `first..first + count`, or as many as a fixed batch axis wants.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) when an input has an element type that cannot be generated
    /// (strings, complex numbers) or is too large.
    pub fn batch(&self, first: usize, count: usize) -> Result<Vec<NamedTensor>> {
        let shapes = self.sizes.clone().with_batch(count).resolve(&self.inputs)?;
        let each = self.inputs.iter().zip(shapes).enumerate();
        each.map(|(index, (input, (name, shape)))| {
            if let Some(same) = self.sizes.values.get(&name).filter(|same| element_count(&shape) == Some(same.len())) {
                return Ok((name, elements(input.element, &Tensor::new(&shape, same)?)?));
            }
            let bound = self.bounds.get(&name).copied();
            let tensor = draw(input, &shape, bound, |row| {
                let mut random = ChaCha8Rng::seed_from_u64(self.seed);
                random.set_stream((index as u64) << 40 | (first + row) as u64);
                random
            })?;
            Ok((name, tensor))
        })
        .collect()
    }
}

/// At least `samples` synthetic samples for `graph` in batches of two, or of as many as a fixed batch axis wants.
///
/// # Errors
/// As [`Prober`].
pub fn probe_batches(graph: &GraphProto, sizes: &DimSizes, samples: usize, seed: u64) -> Result<Vec<Vec<NamedTensor>>> {
    drawn(graph, sizes, samples, seed, |_| 2)
}

/// [`probe_batches`] where only the first batch is of two samples, and the others are single: one batch shows whether samples
/// are kept apart, and tract runs single ones almost twice as fast.
///
/// # Errors
/// As [`Prober`].
pub fn probes(graph: &GraphProto, sizes: &DimSizes, samples: usize, seed: u64) -> Result<Vec<Vec<NamedTensor>>> {
    drawn(graph, sizes, samples, seed, |before| if before == 0 { 2 } else { 1 })
}

/// At least `samples` samples in batches of `size`, which is told how many there are already.
fn drawn(
    graph: &GraphProto,
    sizes: &DimSizes,
    samples: usize,
    seed: u64,
    size: fn(usize) -> usize,
) -> Result<Vec<Vec<NamedTensor>>> {
    let prober = Prober::new(graph, sizes, seed)?;
    let mut batches = Vec::new();
    let mut drawn = 0;
    while drawn < samples {
        let batch = prober.batch(drawn, size(drawn))?;
        let rows = batch.first().and_then(|(_, tensor)| tensor.shape().first().copied());
        drawn += rows.unwrap_or(1).max(1);
        batches.push(batch);
    }
    Ok(batches)
}

/// What the elements of an input are drawn from.
enum Values {
    Normal,
    Uniform { low: i64, width: u64 },
    Ones,
}

fn values_of(input: &DeclaredInput, bound: Option<usize>) -> Option<Values> {
    let is_mask = input.name.to_lowercase().contains("mask");
    match input.element {
        DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16 if !is_mask => Some(Values::Normal),
        DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16 | DataType::Bool => {
            Some(Values::Ones)
        }
        DataType::Int8
        | DataType::Uint8
        | DataType::Int16
        | DataType::Uint16
        | DataType::Int32
        | DataType::Uint32
        | DataType::Int64
        | DataType::Uint64 => Some(match (bound, input.element) {
            _ if is_mask => Values::Ones,
            (Some(bound), _) => Values::Uniform { low: 0, width: bound.max(1) as u64 },
            (None, DataType::Uint8) => Values::Uniform { low: 0, width: 256 },
            (None, DataType::Int8) => Values::Uniform { low: -128, width: 256 },
            (None, _) => Values::Ones,
        }),
        _ => None,
    }
}

/// An input of `shape`, each row of axis 0 drawn from its own source of randomness.
fn draw(
    input: &DeclaredInput,
    shape: &[usize],
    bound: Option<usize>,
    random: impl Fn(usize) -> ChaCha8Rng,
) -> Result<Tensor> {
    let count = element_count(shape).filter(|&count| count <= LARGEST_INPUT).ok_or_else(|| {
        let message =
            format!("input '{}' of shape {shape:?} is too large to make up; pass smaller sizes with `dim`", input.name);
        Error::input(message)
    })?;
    let values = values_of(input, bound).ok_or_else(|| {
        let message =
            format!("cannot generate values for input '{}' of type {:?}; pass `data`", input.name, input.element);
        Error::input(message)
    })?;
    let rows = shape.first().copied().unwrap_or(1).max(1);
    let in_rows = |row: usize| (random(row), count / rows);
    match values {
        Values::Ones => elements(input.element, &Tensor::new(shape, &vec![1_i64; count])?),
        Values::Uniform { low, width } => {
            let row =
                |(mut random, length): (ChaCha8Rng, usize)| (0..length).map(move |_| low + uniform(&mut random, width));
            let drawn: Vec<i64> = (0..rows).map(in_rows).flat_map(row).collect();
            elements(input.element, &Tensor::new(shape, &drawn)?)
        }
        Values::Normal => {
            let row = |(mut random, length): (ChaCha8Rng, usize)| (0..length).map(move |_| normal(&mut random));
            let drawn: Vec<f32> = (0..rows).map(in_rows).flat_map(row).collect();
            elements(input.element, &Tensor::new(shape, &drawn)?)
        }
    }
}

/// `tensor` with elements of type `element`.
pub(crate) fn elements(element: DataType, tensor: &Tensor) -> Result<Tensor> {
    match element {
        DataType::Double => tensor.cast::<f64>(),
        DataType::Float16 => tensor.cast::<f16>(),
        // tract has no bfloat16: such inputs are fed as float32.
        DataType::Float | DataType::Bfloat16 => tensor.cast::<f32>(),
        DataType::Bool => tensor.cast::<bool>(),
        DataType::Int8 => tensor.cast::<i8>(),
        DataType::Uint8 => tensor.cast::<u8>(),
        DataType::Int16 => tensor.cast::<i16>(),
        DataType::Uint16 => tensor.cast::<u16>(),
        DataType::Int32 => tensor.cast::<i32>(),
        DataType::Uint32 => tensor.cast::<u32>(),
        DataType::Int64 => tensor.cast::<i64>(),
        DataType::Uint64 => tensor.cast::<u64>(),
        other => Err(Error::input(format!("elements of type {other:?} cannot be run"))),
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // 53 bits fit a double; the draw is a float32
/// One draw from N(0, 1) by the method of Box and Muller.
fn normal(random: &mut ChaCha8Rng) -> f32 {
    /// 2⁻⁵³: 53 random bits make a double in [0, 1).
    const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
    let mut unit = || (random.next_u64() >> 11) as f64 * STEP;
    let (radius, angle) = (1.0 - unit(), unit());
    ((-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()) as f32
}

#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // below `width`, an axis size
/// One draw from `0..width`; the bias of the multiplication, below 2⁻³² for every table, does not matter here.
fn uniform(random: &mut ChaCha8Rng, width: u64) -> i64 {
    let scaled = (u128::from(random.next_u64()) * u128::from(width)) >> 64;
    scaled as i64
}

/// For each input that ends up as the indices of a table look-up: the number of rows of the smallest such table.
///
/// The way from the input to the `Gather` may lead through casts and changes of shape; the table may be an
/// initializer or a constant, also a quantized one.
pub fn index_bounds(graph: &GraphProto) -> BTreeMap<String, usize> {
    let tables = table_dims(graph);
    let initial: BTreeSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
    let mut sources: BTreeMap<&str, BTreeSet<&str>> = graph
        .input
        .iter()
        .map(ValueInfoProto::name)
        .filter(|name| !initial.contains(name))
        .map(|name| (name, BTreeSet::from([name])))
        .collect();
    let mut bounds: BTreeMap<String, usize> = BTreeMap::new();
    for node in &graph.node {
        let [first, ..] = node.input.as_slice() else { continue };
        if traits::of_node(node).has(CARRIES_IDS)
            && let (Some(from), Some(output)) = (sources.get(first.as_str()).cloned(), node.output.first())
        {
            sources.entry(output).or_default().extend(from);
        }
        if let Some((rows, indices)) = table_look_up(node, &tables) {
            for &input in sources.get(indices).into_iter().flatten() {
                bounds.entry(input.to_owned()).and_modify(|bound| *bound = rows.min(*bound)).or_insert(rows);
            }
        }
    }
    bounds
}

/// Rows of the table that `node` looks up in, and the name of its indices.
fn table_look_up<'a>(node: &'a NodeProto, tables: &BTreeMap<&str, Vec<usize>>) -> Option<(usize, &'a str)> {
    let [table, indices, ..] = node.input.as_slice() else { return None };
    if node.op_type() != "Gather" {
        return None;
    }
    let dims = tables.get(table.as_str())?;
    let axis = node.attribute.iter().find(|attribute| attribute.name() == "axis").map_or(0, AttributeProto::i);
    Some((*dims.get(position(axis, dims.len())?)?, indices))
}

/// Dims of initializers and constants, and of what is a mere change of their type.
fn table_dims(graph: &GraphProto) -> BTreeMap<&str, Vec<usize>> {
    let dims_of = |dims: &[i64]| dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect::<Vec<_>>();
    let mut tables: BTreeMap<&str, Vec<usize>> =
        graph.initializer.iter().map(|tensor| (tensor.name(), dims_of(&tensor.dims))).collect();
    for node in &graph.node {
        let Some(output) = node.output.first() else { continue };
        if node.op_type() == "Constant" {
            let value = node.attribute.iter().find(|attribute| attribute.name() == "value").and_then(|a| a.t.as_ref());
            tables.extend(value.map(|tensor| (output.as_str(), dims_of(&tensor.dims))));
        } else if traits::of_node(node).has(CONVERTS) {
            let dims = node.input.first().and_then(|input| tables.get(input.as_str()).cloned());
            tables.extend(dims.map(|dims| (output.as_str(), dims)));
        }
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::sample_models::*;

    fn probe(graph: &GraphProto, batch: usize, seed: u64) -> Vec<NamedTensor> {
        let sizes = DimSizes { other: 5, ..DimSizes::default() };
        Prober::new(graph, &sizes, seed).unwrap().batch(0, batch).unwrap()
    }

    #[test]
    fn ids_stay_within_the_table_that_they_index() {
        let graph = embedding().graph.unwrap();
        assert_eq!(index_bounds(&graph), BTreeMap::from([("ids".to_owned(), 10)]));
        let inputs = probe(&graph, 200, 1);
        let ids = inputs[0].1.as_slice::<i64>().unwrap();
        assert_eq!((ids.iter().min(), ids.iter().max()), (Some(&0), Some(&9)));
        assert!(inputs[1].1.as_slice::<f32>().unwrap().iter().all(|&mask| mask == 1.0));
    }

    #[test]
    fn the_smallest_table_on_any_axis_bounds_the_ids() {
        let along_rows = node("Gather", &["narrow", "ids32"], &["z"], vec![int("axis", -1)]);
        let mut graph = embedding().graph.unwrap();
        graph.node.push(along_rows);
        graph.initializer.push(weight("narrow", &[50, 7], wavy));
        assert_eq!(index_bounds(&graph)["ids"], 7);
    }

    #[test]
    fn integers_that_index_nothing_are_ones_and_have_no_bound() {
        let mut graph = embedding().graph.unwrap();
        graph.node.remove(1);
        assert!(index_bounds(&graph).is_empty());
        let inputs = probe(&graph, 2, 1);
        assert!(inputs[0].1.as_slice::<i64>().unwrap().iter().all(|&id| id == 1));
    }

    #[test]
    fn a_seed_gives_the_same_samples_at_any_batch_and_another_seed_others() {
        let graph = mlp().graph.unwrap();
        let (few, many) = (probe(&graph, 2, 7), probe(&graph, 6, 7));
        assert_eq!(few[0].1, many[0].1.rows(0, 2).unwrap());
        let later = Prober::new(&graph, &DimSizes::default(), 7).unwrap().batch(4, 2).unwrap();
        assert_eq!(later[0].1, many[0].1.rows(4, 6).unwrap());
        assert_ne!(few, probe(&graph, 2, 8));
        assert_ne!(many[0].1.rows(0, 1).unwrap(), many[0].1.rows(1, 2).unwrap());
    }

    #[test]
    fn batches_respect_a_fixed_batch_axis() {
        let mut graph = mlp().graph.unwrap();
        let rows = |graph: &GraphProto| -> Vec<usize> {
            let batches = probe_batches(graph, &DimSizes::default(), 7, 1).unwrap();
            batches.iter().map(|batch| batch[0].1.shape()[0]).collect()
        };
        assert_eq!(rows(&graph), [2; 4]);
        graph.input[0] = tensor_value("x", DataType::Float, &["3", "3"]);
        assert_eq!(rows(&graph), [3; 3]);
    }

    #[test]
    fn one_pair_comes_before_single_samples() {
        let graph = mlp().graph.unwrap();
        let (pairs, mixed) = (
            probe_batches(&graph, &DimSizes::default(), 4, 1).unwrap(),
            probes(&graph, &DimSizes::default(), 4, 1).unwrap(),
        );
        let shapes: Vec<usize> = mixed.iter().map(|batch| batch[0].1.shape()[0]).collect();
        assert_eq!(shapes, [2, 1, 1]);
        assert_eq!(mixed[0], pairs[0]);
        assert_eq!(mixed[2][0].1, pairs[1][0].1.rows(1, 2).unwrap());
    }

    #[test]
    fn floats_have_mean_zero_and_variance_one() {
        let graph = mlp().graph.unwrap();
        let values = probe(&graph, 4000, 3)[0].1.to_vec::<f64>().unwrap();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        // Twelve thousand draws: the standard errors are 0.009 and 0.013.
        assert!(mean.abs() < 0.04 && (variance - 1.0).abs() < 0.06, "{mean} {variance}");
    }
}
