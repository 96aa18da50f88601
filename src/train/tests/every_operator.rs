//! At least one case for every row of the table.

use std::collections::BTreeSet;

use super::case::Case;
use crate::train::differentiable;

fn unary(op: &str, low: f64, high: f64) -> Case {
    Case::new(op).real_in(&[2, 3], low, high)
}

fn binary(op: &str) -> Case {
    Case::new(op).real(&[2, 3]).real_in(&[3], 0.4, 1.5)
}

fn reduce(op: &str) -> Case {
    Case::new(op).real_in(&[2, 3, 4], 0.3, 1.4).list(&[0, -1]).int("keepdims", 0)
}

fn norm(op: &str) -> Case {
    Case::new(op).real(&[2, 3, 4]).real(&[4])
}

fn scalars_and_reductions() -> Vec<(&'static str, Case)> {
    let wide = ["Abs", "Atan", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "LeakyRelu"];
    let wide = wide.into_iter().chain([
        "Mish",
        "Neg",
        "Relu",
        "Selu",
        "Shrink",
        "Sigmoid",
        "Sin",
        "Sinh",
        "Softplus",
        "Softsign",
        "Swish",
        "Tanh",
        "ThresholdedRelu",
        "Asinh",
        "Identity",
        "Ceil",
        "Floor",
        "Round",
        "Sign",
        "Dropout",
        "com.microsoft.QuickGelu",
        "com.microsoft.Gelu",
        "com.microsoft.FastGelu",
        "Gelu",
        "IsNaN",
        "IsInf",
        "Not",
    ]);
    let mut cases: Vec<(&str, Case)> = wide.map(|op| (op, unary(op, -3.5, 3.5))).collect();
    for op in ["Acos", "Asin", "Atanh", "Tan"] {
        cases.push((op, unary(op, -0.9, 0.9)));
    }
    for op in ["Log", "Reciprocal", "Sqrt"] {
        cases.push((op, unary(op, 0.3, 2.0)));
    }
    cases.push(("Acosh", unary("Acosh", 1.2, 2.0)));
    for op in ["Add", "Div", "Max", "Min", "Mul", "Sub", "PRelu", "Sum", "Mean", "Equal", "Greater", "GreaterOrEqual"] {
        cases.push((op, binary(op)));
    }
    for op in ["Less", "LessOrEqual", "And", "Or", "Xor"] {
        cases.push((op, binary(op)));
    }
    for op in ["ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"] {
        cases.push((op, reduce(op)));
    }
    for op in ["ReduceProd", "ReduceSum", "ReduceSumSquare"] {
        cases.push((op, reduce(op)));
    }
    cases
}

/// Data of 3 steps, 2 samples and 4 values; two directions of 3 hidden values and `gates` gates each.
fn recurrent(op: &str, gates: usize) -> Case {
    let rows = gates * 3;
    let case = Case::new(op).real(&[3, 2, 4]).real(&[2, rows, 4]).real(&[2, rows, 3]).real(&[2, 2 * rows]);
    case.int("hidden_size", 3).text("direction", "bidirectional")
}

fn recurrences() -> Vec<(&'static str, Case)> {
    vec![
        ("RNN", recurrent("RNN", 1).results(2)),
        ("GRU", recurrent("GRU", 3).absent().real(&[2, 2, 3]).results(2)),
        ("GRU", recurrent("GRU", 3).int("linear_before_reset", 1)),
        ("LSTM", recurrent("LSTM", 4).results(3)),
        ("LSTM", recurrent("LSTM", 4).absent().real(&[2, 2, 3]).real(&[2, 2, 3]).real(&[2, 9]).results(3)),
    ]
}

const IMAGE: [usize; 4] = [2, 4, 5, 6];

fn contractions() -> Vec<(&'static str, Case)> {
    vec![
        ("Pow", Case::new("Pow").real_in(&[2, 3], 0.3, 2.0).real_in(&[1], 2.0, 3.0)),
        ("Where", Case::new("Where").flags(&[1, 0, 1]).real(&[2, 3]).real(&[3])),
        ("Clip", unary("Clip", -3.0, 3.0).real_in(&[1], -1.0, -0.5).real_in(&[1], 0.5, 1.0)),
        ("Clip", unary("Clip", -3.0, 3.0).float("min", -1.0).float("max", 1.2).opset(6)),
        ("Cast", unary("Cast", -3.0, 3.0).int("to", 11)),
        ("Gelu", unary("Gelu", -3.0, 3.0).text("approximate", "tanh")),
        ("com.microsoft.BiasGelu", Case::new("com.microsoft.BiasGelu").real(&[2, 3]).real(&[3])),
        ("MatMul", Case::new("MatMul").real(&[2, 3, 4]).real(&[4, 5])),
        ("Einsum", Case::new("Einsum").real(&[2, 3, 4]).real(&[4, 5]).text("equation", "bij,jk->bik")),
        ("Einsum", Case::new("Einsum").real(&[2, 3, 4]).real(&[2, 5, 4]).text("equation", "bhd,bkd->kbh")),
        ("Einsum", Case::new("Einsum").real(&[3, 4]).text("equation", "ij->j")),
        ("Einsum", {
            let case = Case::new("Einsum").real(&[4, 3]).real(&[4, 3, 2]).real(&[2, 5]);
            case.text("equation", "...i,...ij,jk->...k")
        }),
        ("com.microsoft.FusedMatMul", {
            Case::new("com.microsoft.FusedMatMul").real(&[2, 4, 3]).real(&[2, 5, 4]).int("transA", 1).int("transB", 1)
        }),
        ("Gemm", Case::new("Gemm").real(&[3, 4]).real(&[5, 4]).real(&[5]).int("transB", 1).float("alpha", 0.5)),
        ("Gemm", Case::new("Gemm").real(&[4, 3]).real(&[4, 5]).real(&[3, 1]).int("transA", 1).float("beta", 2.0)),
        (
            "Conv",
            Case::new("Conv").real(&IMAGE).real(&[6, 2, 3, 3]).real(&[6]).int("group", 2).ints("pads", &[1, 0, 1, 2]),
        ),
        ("ConvTranspose", {
            let case = Case::new("ConvTranspose").real(&IMAGE).real(&[4, 3, 3, 2]).real(&[3]).ints("strides", &[2, 1]);
            case.ints("pads", &[1, 0, 0, 1]).ints("output_padding", &[1, 0])
        }),
        ("MaxPool", Case::new("MaxPool").real(&IMAGE).ints("kernel_shape", &[3, 2]).ints("strides", &[2, 1])),
        ("AveragePool", {
            let case = Case::new("AveragePool").real(&IMAGE).ints("kernel_shape", &[3, 3]).ints("strides", &[2, 2]);
            case.ints("pads", &[1, 1, 1, 1])
        }),
        ("AveragePool", {
            let case = Case::new("AveragePool").real(&IMAGE).ints("kernel_shape", &[3, 3]).int("count_include_pad", 1);
            case.ints("pads", &[1, 1, 1, 1])
        }),
    ]
}

fn statistics() -> Vec<(&'static str, Case)> {
    vec![
        ("GlobalAveragePool", Case::new("GlobalAveragePool").real(&IMAGE)),
        ("GlobalMaxPool", Case::new("GlobalMaxPool").real(&IMAGE)),
        ("BatchNormalization", {
            let case = Case::new("BatchNormalization").real(&IMAGE).real(&[4]).real(&[4]).real(&[4]);
            case.real_in(&[4], 0.5, 1.5)
        }),
        ("LayerNormalization", norm("LayerNormalization").real(&[4])),
        ("RMSNormalization", norm("RMSNormalization").opset(23)),
        ("SimplifiedLayerNormalization", norm("SimplifiedLayerNormalization")),
        ("com.microsoft.SimplifiedLayerNormalization", norm("com.microsoft.SimplifiedLayerNormalization")),
        ("com.microsoft.SkipLayerNormalization", {
            let case = Case::new("com.microsoft.SkipLayerNormalization").real(&[2, 3, 4]).real(&[2, 3, 4]);
            case.real(&[4]).real(&[4]).real(&[4])
        }),
        ("com.microsoft.SkipSimplifiedLayerNormalization", {
            Case::new("com.microsoft.SkipSimplifiedLayerNormalization").real(&[2, 3, 4]).real(&[2, 3, 4]).real(&[4])
        }),
        ("InstanceNormalization", Case::new("InstanceNormalization").real(&IMAGE).real(&[4]).real(&[4])),
        ("GroupNormalization", Case::new("GroupNormalization").real(&IMAGE).real(&[4]).real(&[4]).int("num_groups", 2)),
        ("LpNormalization", Case::new("LpNormalization").real(&[2, 3, 4]).int("axis", 1)),
        ("Softmax", Case::new("Softmax").real(&[2, 3, 4]).int("axis", 1)),
        ("Softmax", Case::new("Softmax").real(&[2, 3, 4]).opset(11)),
        ("LogSoftmax", Case::new("LogSoftmax").real(&[2, 3, 4])),
    ]
}

fn layout() -> Vec<(&'static str, Case)> {
    vec![
        ("Concat", Case::new("Concat").real(&[2, 3]).real(&[2, 1]).int("axis", -1)),
        ("Expand", Case::new("Expand").real(&[3, 1]).list(&[2, 1, 4])),
        ("Flatten", Case::new("Flatten").real(&[2, 3, 4]).int("axis", 2)),
        ("Gather", Case::new("Gather").real(&[3, 4]).list(&[1, -1, 1]).int("axis", 1)),
        ("Pad", Case::new("Pad").real(&[3, 4]).list(&[1, 0, 0, 2])),
        ("Pad", Case::new("Pad").real(&[3, 4]).list(&[1, 2, 2, 0]).text("mode", "reflect")),
        ("Reshape", Case::new("Reshape").real(&[2, 3, 4]).list(&[0, -1, 2])),
        ("Resize", {
            let case = Case::new("Resize").real(&[1, 2, 3, 4]).absent().absent().list(&[1, 2, 6, 8]);
            case.text("mode", "linear")
        }),
        ("Resize", {
            let case = Case::new("Resize").real(&[1, 2, 3, 4]).absent().absent().list(&[1, 2, 5, 8]);
            case.text("coordinate_transformation_mode", "asymmetric").text("nearest_mode", "floor")
        }),
        ("Upsample", Case::new("Upsample").real(&[1, 2, 3]).floats("scales", &[1.0, 1.0, 2.0]).opset(7)),
        ("Slice", Case::new("Slice").real(&[4, 5]).list(&[-1, 1]).list(&[-5, 4]).list(&[0, 1]).list(&[-2, 1])),
        ("Split", Case::new("Split").real(&[2, 5]).list(&[2, 3]).int("axis", 1).results(2)),
        ("Squeeze", Case::new("Squeeze").real(&[2, 1, 3]).list(&[1])),
        ("Tile", Case::new("Tile").real(&[2, 3]).list(&[2, 2])),
        ("Transpose", Case::new("Transpose").real(&[2, 3, 4]).ints("perm", &[2, 0, 1])),
        ("Unsqueeze", Case::new("Unsqueeze").real(&[2, 3]).list(&[0, -1])),
        ("DepthToSpace", Case::new("DepthToSpace").real(&[1, 8, 2, 3]).int("blocksize", 2)),
        ("DepthToSpace", Case::new("DepthToSpace").real(&[1, 8, 2, 3]).int("blocksize", 2).text("mode", "CRD")),
        ("SpaceToDepth", Case::new("SpaceToDepth").real(&[1, 2, 4, 6]).int("blocksize", 2)),
    ]
}

fn cases() -> Vec<(&'static str, Case)> {
    [scalars_and_reductions(), contractions(), recurrences(), statistics(), layout()].concat()
}

#[test]
fn every_gradient_is_that_of_central_differences() {
    cases().iter().for_each(|(_, case)| case.check());
}

/// Not held against tract, whose one direction disagrees with the second of its two.
#[test]
fn one_direction_may_go_backward() {
    let case = Case::new("RNN").real(&[3, 2, 4]).real(&[1, 3, 4]).real(&[1, 3, 3]);
    case.int("hidden_size", 3).text("direction", "reverse").check();
}

/// In tract an ellipsis is one axis and does not broadcast.
#[test]
fn the_axes_of_an_ellipsis_broadcast() {
    let case = |x: &[usize]| Case::new("Einsum").real(x).real(&[4, 3, 2]).real(&[2, 5]);
    for x in [[2, 1, 3], [2, 4, 3]] {
        case(&x).text("equation", "...i,...ij,jk->...k").check();
    }
}

#[test]
fn every_row_has_a_case() {
    let tested: BTreeSet<String> = cases().iter().map(|(op, _)| (*op).to_owned()).collect();
    assert_eq!(tested, differentiable().into_iter().collect());
}

#[test]
fn the_table_is_sorted() {
    let rows = crate::train::ops::rows();
    assert!(rows.is_sorted());
}

#[test]
fn every_value_is_that_of_tract() {
    // tract has none of these, takes truth values where the tape has numbers, or (BatchNormalization, which the fixtures
    // cover) wants stored operands.
    let not_in_tract = [
        "And",
        "BatchNormalization",
        "Cast",
        "Celu",
        "Dropout",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "Mean",
        "Mish",
        "Not",
        "Or",
        "Swish",
        "Upsample",
        "Xor",
    ];
    let is_known = |op: &str| !op.contains('.') && !not_in_tract.contains(&op);
    let known: Vec<(&str, Case)> = cases().into_iter().filter(|(op, _)| is_known(op)).collect();
    assert!(known.len() > 90, "{}", known.len());
    known.iter().for_each(|(_, case)| case.check_forward());
}

#[test]
fn the_documentation_lists_every_operator() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/TRAINING.md")).unwrap();
    for operator in differentiable() {
        assert!(page.contains(&format!("`{operator}`")), "{operator} is not in docs/TRAINING.md");
    }
}
