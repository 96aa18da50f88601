//! Tables of embeddings: a `Gather` becomes one of a narrower table, and a product.

use paredown::internals::onnx::proto::{NodeProto, TensorProto};
use paredown::internals::onnx::tensor::from_f32;
use paredown::internals::runtime::{RunOptions, Runnable, Tensor};
use paredown::{Array, Dataset, ErrorKind, FactorizeOptions, Model, factorize};

use crate::graphs::{node, noise, weight, with_ranks};
use crate::support::{self, declared};

const ROWS: usize = 40;
const COLUMNS: usize = 6;

/// Indices `x`, 2×5, and the output `y`.
fn model(nodes: Vec<NodeProto>, weights: Vec<TensorProto>) -> Model {
    let (x, y) = (declared("x", 7, Some(&[2, 5])), declared("y", 1, None));
    let mut model = support::model(vec![x], nodes, weights, vec![y]);
    model.opset_import[0].version = Some(17);
    Model::from_proto(model)
}

fn gather(weight: TensorProto) -> Model {
    model(vec![node("Gather", &["w", "x"], "y", "")], vec![weight])
}

/// Squared distance of the outputs on these indices, as a share of the original's square.
fn error(before: &Model, after: &Model, indices: &[i64]) -> f64 {
    let x = Tensor::new(&[2, 5], indices).unwrap();
    let run = |model: &Model| {
        let runnable = Runnable::new(&model.proto, &RunOptions::default()).unwrap();
        runnable.run(&[("x".to_owned(), x.clone())]).unwrap()[0].1.to_vec::<f64>().unwrap()
    };
    let (old, new) = (run(before), run(after));
    let square: f64 = old.iter().map(|y| y * y).sum();
    old.iter().zip(&new).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / square
}

#[test]
fn full_rank_reproduces_the_table() {
    let table = gather(weight("w", &[ROWS, COLUMNS]));
    let split = with_ranks(&table, &[("Gather_y", COLUMNS)], &FactorizeOptions::rank(1)).unwrap();
    let ops: Vec<&str> = split.model.proto.graph.as_ref().unwrap().node.iter().map(NodeProto::op_type).collect();
    assert_eq!(ops, ["Gather", "MatMul"]);
    assert!(error(&table, &split.model, &[0, 3, 39, 7, 7, 12, -1, 25, 1, 30]) < 1e-10);
}

/// The rows that the samples pick lie in a plane. With samples, two columns hold them; without, the other rows count as much.
#[test]
fn rows_count_by_how_often_samples_pick_them() {
    let mut values = noise(5, ROWS * COLUMNS);
    for row in values.chunks_mut(COLUMNS).take(8) {
        row[2..].fill(0.0);
    }
    let table = gather(from_f32("w", &[ROWS, COLUMNS], &values).unwrap());
    let picked: Vec<i64> = (0..16 * 10).map(|i| (i * 7 + i / 5) % 8).collect();
    let data = Dataset::from_arrays([("x", Array::new(&[32, 5], picked.clone()).unwrap())]).unwrap();
    let split = |options: FactorizeOptions| with_ranks(&table, &[("Gather_y", 2)], &options).unwrap().model;
    let (with, without) = (split(FactorizeOptions::rank(1).data(data)), split(FactorizeOptions::rank(1)));
    assert!(error(&table, &with, &picked[..10]) < 1e-6, "{}", error(&table, &with, &picked[..10]));
    assert!(error(&table, &without, &picked[..10]) > 1e-2, "{}", error(&table, &without, &picked[..10]));
}

/// A budget of parameters splits a table; one of multiply–accumulates leaves it alone and says why.
#[test]
fn a_table_saves_parameters_only() {
    let table = gather(weight("w", &[ROWS, COLUMNS]));
    let split = factorize(&table, &FactorizeOptions::params(0.6).align(1)).unwrap();
    assert!(split.report.model.after.params * 10 <= split.report.model.before.params * 6);
    let error = factorize(&table, &FactorizeOptions::macs(0.6)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Nothing);
    assert!(error.to_string().contains("no multiply–accumulates"), "{error}");
}

/// A table that a product reads too stays whole.
#[test]
fn a_tied_table_is_refused() {
    let nodes = vec![
        node("Gather", &["w", "x"], "e", ""),
        node("Transpose", &["w"], "t", "perm=[1,0]"),
        node("MatMul", &["e", "t"], "y", ""),
    ];
    let tied = model(nodes, vec![weight("w", &[ROWS, COLUMNS])]);
    let error = factorize(&tied, &FactorizeOptions::rank(2)).unwrap_err();
    assert!(error.to_string().contains("used differently"), "{error}");
}
