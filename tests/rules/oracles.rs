//! What the rules say, held against what tract computes.

use std::collections::BTreeSet;

use paredown::internals::analysis::Subject;
use paredown::internals::axes::{Expr, FactorId, Role, Selection};
use paredown::internals::facts::Facts;
use paredown::internals::graph::Graph;
use paredown::internals::onnx::traits::{self, RANDOM};
use paredown::internals::ops::{Network, is_prunable};
use paredown::internals::rewrite::{masked, prune};
use paredown::internals::runtime::{NamedTensor, RunOptions, Runnable, Tensor, unsupported_nodes};

use super::build::{Built, build};
use super::examples::EXAMPLES;

/// Largest difference that float32 rounding in another order of summation explains, for values around one.
const TOLERANCE: f64 = 1e-5;

struct Case {
    built: Built,
    graph: Graph,
    facts: Facts,
    network: Network,
}

impl Case {
    fn new(built: Built) -> Self {
        let graph = Graph::new(built.model.graph.as_ref().unwrap(), 10).unwrap();
        let (facts, network) = Network::analyse(&built.model, &graph, &Default::default(), &built.ends).unwrap();
        Self { built, graph, facts, network }
    }

    fn subject(&self) -> Subject<'_> {
        Subject { model: &self.built.model, graph: &self.graph, facts: &self.facts, network: &self.network }
    }

    fn axes(&self, name: &str) -> &[Expr] {
        self.graph.value(name).and_then(|value| self.network.value(value)).unwrap_or(&[])
    }

    fn prunable(&self) -> Vec<FactorId> {
        let ids = (0..self.network.solution.factors.len()).map(|i| FactorId(u32::try_from(i).unwrap()));
        ids.filter(|&id| is_prunable(&self.network.solution.factor(id).role, self.network.solution.size(id), true))
            .collect()
    }

    fn is_contracted(&self, factor: FactorId) -> bool {
        let node = paredown::internals::graph::NodeId(0);
        self.network.relations[0].masks.iter().any(|&(operand, axis)| {
            let axes = self.network.operand(&self.graph, node, operand).unwrap_or(&[]);
            axes.get(axis).is_some_and(|expr| expr.mentions(factor))
        })
    }
}

fn run(
    model: &paredown::internals::onnx::proto::ModelProto,
    inputs: &[NamedTensor],
) -> Result<Vec<NamedTensor>, String> {
    let runnable = Runnable::new(model, &RunOptions::default()).map_err(|e| e.to_string())?;
    runnable.run(inputs).map_err(|e| e.to_string())
}

/// The positions of `tensor` that a selection keeps.
fn take(tensor: &Tensor, axes: &[Expr], network: &Network, selection: &Selection) -> Tensor {
    fn typed<T: paredown::internals::runtime::Element + Clone>(
        tensor: &Tensor,
        axes: &[Expr],
        network: &Network,
        selection: &Selection,
    ) -> Option<Tensor> {
        if !tensor.is::<T>() {
            return None;
        }
        let mut array = tensor.to_array::<T>().unwrap();
        for (axis, expr) in axes.iter().enumerate() {
            if let Some(kept) = network.solution.kept(expr, selection) {
                array = array.select(ndarray::Axis(axis), &kept);
            }
        }
        let elements: Vec<T> = array.iter().copied().collect();
        Some(Tensor::new(array.shape(), &elements).unwrap())
    }
    typed::<f32>(tensor, axes, network, selection)
        .or_else(|| typed::<i64>(tensor, axes, network, selection))
        .or_else(|| typed::<u8>(tensor, axes, network, selection))
        .or_else(|| typed::<bool>(tensor, axes, network, selection))
        .or_else(|| typed::<i32>(tensor, axes, network, selection))
        .unwrap_or_else(|| panic!("element type {}", tensor.type_name()))
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    if tensor.is::<bool>() {
        return tensor.to_vec::<bool>().unwrap().into_iter().map(|b| f64::from(u8::from(b))).collect();
    }
    tensor.cast::<f64>().and_then(|t| t.to_vec::<f64>()).unwrap()
}

fn same(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * b.abs().max(1.0)
}

fn compare(found: &Tensor, expected: &Tensor, values: bool) -> Result<(), String> {
    if found.shape() != expected.shape() {
        return Err(format!("shape {:?} is not {:?}", found.shape(), expected.shape()));
    }
    let differ = numbers(found).into_iter().zip(numbers(expected)).find(|&(a, b)| values && !same(a, b));
    differ.map_or(Ok(()), |(a, b)| Err(format!("{a} is not {b}")))
}

/// Keeps every index but one in three, the first one gone.
fn thinned(case: &Case, factor: FactorId) -> Selection {
    let size = case.network.solution.size(factor);
    let mut selection = Selection::all();
    selection.keep(factor, (0..size).map(|i| i % 3 != 0).collect());
    selection
}

/// The first oracle: the pruned node on pruned operands computes the kept part of what the masked node computes.
fn pruned_equals_masked(case: &Case, factor: FactorId) -> Result<(), String> {
    let selection = thinned(case, factor);
    let pruned = prune(case.subject(), &selection).map_err(|e| e.to_string())?;
    let inputs: Vec<NamedTensor> = case
        .built
        .inputs
        .iter()
        .map(|(name, tensor)| (name.clone(), take(tensor, case.axes(name), &case.network, &selection)))
        .collect();
    let found = run(&pruned, &inputs)?;
    let whole = run(&masked(case.subject(), &selection).map_err(|e| e.to_string())?, &case.built.inputs)?;
    for ((name, found), (_, whole)) in found.iter().zip(&whole) {
        let expected = take(whole, case.axes(name), &case.network, &selection);
        compare(found, &expected, case.network.solution.factor(factor).role == Role::Free)?;
    }
    Ok(())
}

/// The second oracle: a changed index of the operands changes no other index of the results.
fn index_stays_in_its_place(case: &Case, factor: FactorId) -> Result<(), String> {
    let before = run(&case.built.model, &case.built.inputs)?;
    for index in 0..u32::try_from(case.network.solution.size(factor)).unwrap() {
        let touched = |name: &str, shape: &[usize]| places(case, name, shape, (factor, index));
        let moved = |(name, t): &NamedTensor| (name.clone(), perturbed(t, &touched(name, t.shape())));
        let inputs: Vec<NamedTensor> = case.built.inputs.iter().map(moved).collect();
        let after = run(&case.built.model, &inputs)?;
        for ((name, before), (_, after)) in before.iter().zip(&after) {
            let may_change = touched(name, before.shape());
            for (position, (a, b)) in numbers(before).into_iter().zip(numbers(after)).enumerate() {
                if !same(a, b) && !may_change[position] {
                    return Err(format!("index {index} reaches {name}[{position}]"));
                }
            }
        }
    }
    Ok(())
}

/// For every element of a tensor, whether it belongs to an index of a factor.
fn places(case: &Case, name: &str, shape: &[usize], (factor, index): (FactorId, u32)) -> Vec<bool> {
    let mut flags = vec![false];
    for (axis, &size) in shape.iter().enumerate() {
        let expr = case.axes(name).get(axis);
        let positions = expr.and_then(|e| case.network.solution.positions_of(e, factor));
        let along = positions.unwrap_or_else(|| vec![None; size]);
        flags = flags.iter().flat_map(|&f| along.iter().map(move |&p| f || p == Some(index))).collect();
    }
    flags
}

fn perturbed(tensor: &Tensor, places: &[bool]) -> Tensor {
    let Some(elements) = tensor.as_slice::<f32>() else { return tensor.clone() };
    let moved: Vec<f32> = elements.iter().zip(places).map(|(&x, &here)| if here { 1.0 - x } else { x }).collect();
    Tensor::new(tensor.shape(), &moved).unwrap()
}

#[test]
fn every_row_computes_what_it_claims() {
    let (mut proved, mut not_run, mut wrong) = (0, BTreeSet::new(), Vec::new());
    for &example in EXAMPLES {
        let case = Case::new(build(example));
        let what = format!("{} {} {}", example.0, example.1, example.2);
        if !unsupported_nodes(&case.built.model).is_empty() || run(&case.built.model, &case.built.inputs).is_err() {
            not_run.insert(example.0);
            continue;
        }
        for factor in case.prunable() {
            let what = format!("{what}, f{}", factor.0);
            let mut outcome = pruned_equals_masked(&case, factor);
            let is_free = case.network.solution.factor(factor).role == Role::Free;
            if is_free && !case.is_contracted(factor) {
                outcome = outcome.and_then(|()| index_stays_in_its_place(&case, factor));
            }
            match outcome {
                Ok(()) => proved += 1,
                Err(_) if SHAPES_DIFFER.contains(&example.0) => {}
                Err(why) => wrong.push(format!("{what}: {why}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut listed: BTreeSet<&str> = NOT_IN_TRACT.iter().copied().collect();
    if cfg!(debug_assertions) {
        listed.insert("BitShift"); // tract's shift overflows, which only a build with checks notices
    }
    assert_eq!(not_run, listed);
    assert!(proved > 200, "{proved}");
}

#[test]
fn what_tract_runs_in_float32_it_runs_in_float64() {
    let (mut alike, mut not_run) = (0, BTreeSet::new());
    for &example in EXAMPLES {
        let case = Case::new(build(example));
        let (model, inputs) = (&case.built.model, &case.built.inputs);
        let Ok(single) = run(model, inputs) else { continue };
        let mut nodes = model.graph.iter().flat_map(|graph| &graph.node);
        if nodes.any(|node| traits::of(node.domain(), node.op_type()).has(RANDOM)) {
            continue;
        }
        let double = Runnable::new(model, &RunOptions::double()).and_then(|model| model.run(inputs));
        let Ok(double) = double else {
            not_run.insert(example.0);
            continue;
        };
        for ((name, single), (_, double)) in single.iter().zip(&double) {
            compare(double, single, true).unwrap_or_else(|why| panic!("{example:?}, {name}: {why}"));
        }
        alike += 1;
    }
    assert_eq!(not_run.into_iter().collect::<Vec<_>>(), NOT_IN_DOUBLE);
    assert!(alike > 150, "{alike}");
}

/// Quantizers: a quantized model is proved without them.
const NOT_IN_DOUBLE: [&str; 3] = ["DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"];

/// tract takes the width of the values to be that of the queries.
const SHAPES_DIFFER: [&str; 1] = ["com.microsoft.MultiHeadAttention"];

/// Examples that tract cannot run: their rows are proved by ONNX Runtime in `bench/` only.
const NOT_IN_TRACT: &[&str] = &[
    "Bernoulli",
    "Col2Im",
    "Compress",
    "DeformConv",
    "DequantizeLinear",
    "LpPool",
    "MaxRoiPool",
    "MaxUnpool",
    "NonMaxSuppression",
    "OneHot",
    "QLinearConv",
    "QLinearMatMul",
    "RandomNormalLike",
    "RandomUniformLike",
    "ReverseSequence",
    "RoiAlign",
    "Unique",
    "Upsample",
    "ai.onnx.ml.Binarizer",
    "ai.onnx.ml.CastMap",
    "ai.onnx.ml.CategoryMapper",
    "ai.onnx.ml.DictVectorizer",
    "ai.onnx.ml.FeatureVectorizer",
    "ai.onnx.ml.Imputer",
    "ai.onnx.ml.LabelEncoder",
    "ai.onnx.ml.LinearClassifier",
    "ai.onnx.ml.LinearRegressor",
    "ai.onnx.ml.OneHotEncoder",
    "ai.onnx.ml.SVMClassifier",
    "ai.onnx.ml.SVMRegressor",
    "ai.onnx.ml.TreeEnsemble",
    "ai.onnx.ml.TreeEnsembleClassifier",
    "ai.onnx.ml.TreeEnsembleRegressor",
    "ai.onnx.ml.ZipMap",
    "com.microsoft.Attention",
    "com.microsoft.DequantizeLinear",
    "com.microsoft.DynamicQuantizeMatMul",
    "com.microsoft.EmbedLayerNormalization",
    "com.microsoft.FusedConv",
    "com.microsoft.FusedGemm",
    "com.microsoft.FusedMatMul",
    "com.microsoft.GroupQueryAttention",
    "com.microsoft.MatMulIntegerToFloat",
    "com.microsoft.MatMulNBits",
    "com.microsoft.QAttention",
    "com.microsoft.QGemm",
    "com.microsoft.QLinearAdd",
    "com.microsoft.QuantizeLinear",
    "com.microsoft.SimplifiedLayerNormalization",
];
