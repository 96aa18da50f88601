//! The inputs' share of recurrent operators, split.

use crate::onnx::Model;
use crate::onnx::proto::ModelProto;
use crate::onnx::proto::tensor_proto::DataType;
use crate::runtime::sample_models::{attributes, int, model, node, tensor_value, wavy, weight};
use crate::runtime::{NamedTensor, RunOptions, Runnable, Tensor};
use crate::{Dataset, FactorizeOptions, factorize};

const INPUTS: usize = 8;
const UNITS: usize = 6;
const STEPS: usize = 5;
const SAMPLES: usize = 12;

/// `x [5, n, 8]`, times `slope`, plus values about 1 → a recurrent operator → `y`. The matrix of all gates has rank 2 where that is asked
/// for.
fn recurrent(op: &str, text: &str, gates: usize, slope: f32, is_low: bool) -> ModelProto {
    let directions = if text.contains("bidirectional") { 2 } else { 1 };
    let rows = gates * UNITS;
    let mut all = attributes(text);
    all.push(int("hidden_size", UNITS as i64));
    let nodes = vec![
        node("Mul", &["x", "slope"], &["small"], vec![]),
        node("Add", &["small", "level"], &["steps"], vec![]),
        node(op, &["steps", "w", "r", "b"], &["y"], all),
    ];
    let factor = |at: usize, rank: usize| wavy(at * 7 + rank * 131);
    let low = move |at: usize| {
        let (row, column) = (at / INPUTS, at % INPUTS);
        (0..2).map(|rank| factor(row, rank) * factor(column + 1000, rank)).sum::<f32>()
    };
    let of_w = move |at: usize| if is_low { low(at) } else { wavy(at * 13) };
    let [d, rows, units, inputs] = [i64::from(directions), rows as i64, UNITS as i64, INPUTS as i64];
    let tensors = vec![
        weight("slope", &[], move |_| slope),
        weight("level", &[inputs], |at| 1.0 + 0.5 * wavy(at * 3)),
        weight("w", &[d, rows, inputs], of_w),
        weight("r", &[d, rows, units], |at| 0.5 * wavy(at * 5 + 77)),
        weight("b", &[d, 2 * rows], |at| wavy(at * 11 + 5)),
    ];
    let input = tensor_value("x", DataType::Float, &["5", "n", "8"]);
    let result = tensor_value("y", DataType::Float, &["5", &d.to_string(), "n", "6"]);
    model(vec![input], nodes, tensors, vec![result])
}

fn inputs() -> NamedTensor {
    let values: Vec<f32> = (0..STEPS * SAMPLES * INPUTS).map(|at| wavy(at * 17)).collect();
    ("x".to_owned(), Tensor::new(&[STEPS, SAMPLES, INPUTS], &values).unwrap())
}

/// `‖y' − y‖ / ‖y‖` of the model split at `rank`.
fn error(proto: &ModelProto, rank: usize, with_data: bool) -> f32 {
    let model = Model::from_proto(proto.clone());
    let options = FactorizeOptions::rank(rank);
    let options = if with_data { options.data(Dataset::synthetic(64)) } else { options };
    let split = factorize(&model, &options).unwrap();
    let nodes = &split.model.proto.graph.as_ref().unwrap().node;
    assert!(nodes.iter().any(|node| node.op_type() == "MatMul"));
    let run = |proto: &ModelProto| {
        let outputs = Runnable::new(proto, &RunOptions::default()).unwrap().run(&[inputs()]).unwrap();
        outputs[0].1.to_vec::<f32>().unwrap()
    };
    let (y, other) = (run(proto), run(&split.model.proto));
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>();
    (square(&mut y.iter().zip(&other).map(|(a, b)| a - b)) / square(&mut y.iter().copied())).sqrt()
}

const OPERATORS: [(&str, &str, usize); 4] = [
    ("LSTM", "", 4),
    ("LSTM", "direction=bidirectional", 4),
    ("GRU", "linear_before_reset=1", 3),
    ("RNN", "direction=bidirectional", 1),
];

#[test]
fn a_weight_of_low_rank_is_split_without_an_error() {
    for (op, text, gates) in OPERATORS {
        let proto = recurrent(op, text, gates, 1.0, true);
        for with_data in [false, true] {
            let error = error(&proto, 2, with_data);
            assert!(error < 1e-4, "{op} {text} {with_data}: {error}");
        }
    }
}

/// On samples that are nearly the same, a split of their outputs keeps what the gates add up to.
#[test]
fn what_a_split_shifts_goes_into_the_bias_of_the_inputs() {
    for (op, text, gates) in OPERATORS {
        let proto = recurrent(op, text, gates, 0.01, false);
        let [without, with] = [false, true].map(|with_data| error(&proto, 2, with_data));
        assert!(with < 0.02 && without > 5.0 * with, "{op} {text}: {without} {with}");
    }
}
