//! Small models, and ways to run them.

use std::path::PathBuf;

use paredown::internals::factorize::Target;
use paredown::internals::onnx::proto::{ModelProto, NodeProto, TensorProto, tensor_shape_proto, type_proto};
use paredown::internals::onnx::tensor::from_f32;
use paredown::internals::runtime::{RunOptions, Runnable, Tensor};
use paredown::{FactorizeOptions, Model, Outcome, Plan, Result, factorize};

use super::support::{self, attributes, declared};

/// A node with one result and attributes from text.
pub(crate) fn node(op: &str, inputs: &[&str], output: &str, settings: &str) -> NodeProto {
    support::node(op, inputs, &[output], attributes(settings))
}

/// Values in (−1, 1) that look random: a fixed congruential sequence.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
        })
        .collect()
}

pub(crate) fn weight(name: &str, dims: &[usize]) -> TensorProto {
    let seed = name.bytes().map(u64::from).sum::<u64>() + dims.iter().sum::<usize>() as u64;
    from_f32(name, dims, &noise(seed, dims.iter().product())).unwrap()
}

/// A model with the input `x` and the output `y`.
pub(crate) fn model(opset: i64, input: &[usize], nodes: Vec<NodeProto>, weights: Vec<TensorProto>) -> Model {
    let (x, y) = (declared("x", 1, Some(input)), declared("y", 1, None));
    let mut model = support::model(vec![x], nodes, weights, vec![y]);
    model.opset_import[0].version = Some(opset);
    Model::from_proto(model)
}

pub(crate) fn input_shape(model: &Model) -> Vec<usize> {
    let graph = model.proto.graph.as_ref().unwrap();
    let Some(type_proto::Value::TensorType(tensor)) = &graph.input[0].r#type.as_ref().unwrap().value else {
        panic!("the input is a tensor")
    };
    let size = |dim: &tensor_shape_proto::Dimension| match dim.value {
        Some(tensor_shape_proto::dimension::Value::DimValue(size)) => size as usize,
        _ => 1,
    };
    tensor.shape.as_ref().unwrap().dim.iter().map(size).collect()
}

/// The output on `x`, in tract.
pub(crate) fn run(model: &ModelProto, x: &Tensor) -> Vec<f64> {
    let runnable = Runnable::new(model, &RunOptions::default()).unwrap();
    let name = model.graph.as_ref().unwrap().input[0].name().to_owned();
    let outputs = runnable.run(&[(name, x.clone())]).unwrap();
    outputs[0].1.to_vec::<f64>().unwrap()
}

/// Largest difference of the outputs of two models on one input, relative to the largest output.
pub(crate) fn distance(before: &Model, after: &Model) -> f64 {
    let shape = input_shape(before);
    let x = Tensor::new(&shape, &noise(77, shape.iter().product())).unwrap();
    let (old, new) = (run(&before.proto, &x), run(&after.proto, &x));
    assert_eq!(old.len(), new.len());
    let largest = old.iter().fold(0.0_f64, |m, y| m.max(y.abs()));
    assert!(largest > 1e-3, "the output is almost nothing");
    old.iter().zip(&new).fold(0.0_f64, |m, (a, b)| m.max((a - b).abs())) / largest
}

/// Factorizes with ranks by layer.
pub(crate) fn with_ranks(model: &Model, ranks: &[(&str, usize)], options: &FactorizeOptions) -> Result<Outcome> {
    let ranks = ranks.iter().map(|&(name, rank)| (name.to_owned(), rank)).collect();
    let plan = Target::Plan(Plan::of_ranks(ranks));
    factorize(model, &options.clone().target(plan))
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Elements of the initializers whose name starts with `stem`.
pub(crate) fn elements(model: &Model, stem: &str) -> i64 {
    let graph = model.proto.graph.as_ref().unwrap();
    graph.initializer.iter().filter(|t| t.name().starts_with(stem)).map(|t| t.dims.iter().product::<i64>()).sum()
}
