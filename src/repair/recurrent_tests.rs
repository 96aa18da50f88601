//! Repair of recurrent layers, and of nodes that share a weight.

use std::collections::BTreeSet;

use super::{Bases, Method, RepairReport, repair};
use crate::analysis::Analysis;
use crate::axes::Selection;
use crate::calibrate::Calibration;
use crate::calibrate::data::Dataset;
use crate::onnx::Model;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{ModelProto, NodeProto};
use crate::plan::{CostModel, Filter, Units, groups};
use crate::rewrite;
use crate::runtime::sample_models::{attributes, int, integers, model, node, tensor_value, wavy, weight};
use crate::runtime::{RunOptions, Runnable};

/// Units, half of which do the same as the other half.
const UNITS: usize = 12;
const HALF: usize = UNITS / 2;

/// Rows of `width` values for each gate and unit; a unit and its twin have the same.
fn twins(gates: usize, width: usize, shift: usize) -> impl Fn(usize) -> f32 {
    move |at| {
        let (row, column) = (at / width % (gates * UNITS), at % width);
        let (direction, gate, unit) = (at / width / (gates * UNITS), row / UNITS, row % UNITS % HALF);
        0.6 * wavy(((direction * gates + gate) * HALF + unit) * 31 + column * 7 + shift)
    }
}

/// `x [n, 7, 5]` → a recurrent operator → MatMul 3 → `y`.
pub(crate) fn recurrent(op: &str, text: &str, directions: i64) -> ModelProto {
    let gates = match op {
        "LSTM" => 4,
        "GRU" => 3,
        _ => 1,
    };
    let units = UNITS as i64;
    let mut all = attributes(text);
    all.push(int("hidden_size", units));
    let nodes = vec![
        node("Transpose", &["x"], &["steps"], attributes("perm=[1,0,2]")),
        node(op, &["steps", "w", "r", "b"], &["states"], all),
        node("Transpose", &["states"], &["turned"], attributes("perm=[2,0,1,3]")),
        node("Reshape", &["turned", "shape"], &["flat"], vec![]),
        node("MatMul", &["flat", "out"], &["y"], vec![]),
    ];
    let rows = gates as i64 * units;
    let tensors = vec![
        weight("w", &[directions, rows, 5], twins(gates, 5, 0)),
        weight("r", &[directions, rows, units], twins(gates, UNITS, 500)),
        weight("b", &[directions, 2 * rows], twins(2 * gates, 1, 900)),
        weight("out", &[directions * units, 3], wavy),
        integers("shape", &[3], &[0, 0, directions * units]),
    ];
    let input = tensor_value("x", DataType::Float, &["n", "7", "5"]);
    model(vec![input], nodes, tensors, vec![tensor_value("y", DataType::Float, &["n", "7", "3"])])
}

/// Three steps of `h = tanh(x W + h R)` as plain nodes, then MatMul 3.
fn unrolled() -> ModelProto {
    let mut nodes: Vec<NodeProto> = Vec::new();
    let mut before = String::new();
    for step in 0..3 {
        let name = |stem: &str| format!("{stem}{step}");
        nodes.push(node("Gather", &["x", &name("at")], &[&name("x")], vec![int("axis", 1)]));
        nodes.push(node("Gemm", &[&name("x"), "w", "b"], &[&name("i")], vec![]));
        let mut sum = name("i");
        if step > 0 {
            nodes.push(node("Gemm", &[&before, "r", "b"], &[&name("s")], vec![]));
            sum = name("a");
            nodes.push(node("Add", &[&name("i"), &name("s")], &[&sum], vec![]));
        }
        before = name("h");
        nodes.push(node("Tanh", &[&sum], &[&before], vec![]));
    }
    nodes.push(node("MatMul", &[&before, "out"], &["y"], vec![]));
    let units = UNITS as i64;
    let twin = |at: usize| 0.4 * wavy(at / UNITS * 13 + at % UNITS % HALF * 29);
    let mut tensors = vec![
        weight("w", &[5, units], twin),
        weight("r", &[units, units], twin),
        weight("b", &[units], twin),
        weight("out", &[units, 3], wavy),
    ];
    tensors.extend((0..3).map(|step| integers(&format!("at{step}"), &[], &[step])));
    let input = tensor_value("x", DataType::Float, &["n", "3", "5"]);
    model(vec![input], nodes, tensors, vec![tensor_value("y", DataType::Float, &["n", "3"])])
}

/// The model without the twins, repaired; with the squared error of its output and of that without a repair.
fn repaired(proto: ModelProto) -> (Vec<RepairReport>, f64, f64) {
    let model = Model::from_proto(proto);
    let data = Dataset::synthetic(model.proto.graph.as_ref().unwrap(), &Default::default(), 60, 3).unwrap();
    let analysis = Analysis::new(&model, &Default::default(), &Default::default()).unwrap();
    let subject = analysis.subject();
    let filter = Filter::new(&[], &[], Units::default(), false).unwrap();
    let all = groups(subject, &CostModel::new(subject), &filter);
    let open: Vec<_> = all.iter().filter(|group| group.is_open(false) && group.size == UNITS).collect();
    assert_eq!(open.len(), 1);
    let mut selection = Selection::all();
    selection.keep(open[0].factor, (0..UNITS).map(|unit| unit < HALF).collect());
    let pruned = rewrite::prune(subject, &selection).unwrap();
    let calibration = Calibration::new(&data, 1);
    let lstsq = (Method::Lstsq, &mut Bases::default());
    let (fitted, reports) = repair(subject, &selection, pruned.clone(), calibration, lstsq).unwrap();
    let run = |proto: &ModelProto| -> Vec<f32> {
        let runnable = Runnable::new(proto, &RunOptions::default()).unwrap();
        let batches = data.batches(4).map(|batch| runnable.run(&batch.unwrap().inputs).unwrap());
        batches.flat_map(|outputs| outputs[0].1.to_vec::<f32>().unwrap()).collect()
    };
    let wanted = run(&model.proto);
    let error = |proto: &ModelProto| -> f64 {
        run(proto).iter().zip(&wanted).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    (reports, error(&pruned), error(&fitted))
}

/// What a removed unit said, its twin still says: a repair that reads the right rows finds it, in every gate and direction.
#[test]
fn twins_stand_in_for_each_other_in_recurrent_layers() {
    let cases = [
        ("LSTM", "", 1),
        ("LSTM", "direction=bidirectional", 2),
        ("GRU", "linear_before_reset=1", 1),
        ("GRU", "linear_before_reset=0", 1),
        ("GRU", "direction=bidirectional", 2),
        ("RNN", "direction=bidirectional", 2),
    ];
    for (op, text, directions) in cases {
        let (reports, before, after) = repaired(recurrent(op, text, directions));
        let names: Vec<&str> = reports.iter().map(|report| report.name.as_str()).collect();
        assert_eq!(names, [format!("{op}_states").as_str(), "MatMul_y"], "{op} {text}");
        assert!(after < 0.01 * before, "{op} {text}: {before} {after} {reports:?}");
    }
}

/// Nodes with one weight are one layer: one report for each weight, and all nodes read the new one.
#[test]
fn twins_stand_in_for_each_other_in_unrolled_steps() {
    let (reports, before, after) = repaired(unrolled());
    assert_eq!(reports.len(), 2, "{reports:?}");
    let layers: BTreeSet<&str> = reports.iter().map(|report| report.name.as_str()).collect();
    assert!(layers.contains("MatMul_y") && reports.iter().all(|report| report.reason.is_none()), "{reports:?}");
    assert!(after < 0.01 * before, "{before} {after} {reports:?}");
}
