//! Models that are run at many shapes.

use super::runnable::Runnable;
use super::sample_models::*;
use super::{NamedTensor, RunOptions, Tensor};
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{FunctionProto, ModelProto};
use crate::{ErrorKind, Result};

fn floats(shape: &[usize]) -> Tensor {
    let count = shape.iter().product();
    Tensor::new(shape, &(0..count).map(wavy).collect::<Vec<f32>>()).unwrap()
}

fn run(model: &ModelProto, inputs: &[(&str, Tensor)]) -> Result<Vec<NamedTensor>> {
    let inputs: Vec<NamedTensor> = inputs.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
    Runnable::new(model, &RunOptions::default())?.run(&inputs)
}

/// The multilayer perceptron of [`mlp`], written out.
fn mlp_by_hand(x: &[f32]) -> Vec<f32> {
    let layer = |x: &[f32], rows: usize| -> Vec<f32> {
        (0..rows).map(|o| wavy(o) + x.iter().enumerate().map(|(i, v)| v * wavy(o * x.len() + i)).sum::<f32>()).collect()
    };
    let hidden: Vec<f32> = layer(x, 4).into_iter().map(|h| h.max(0.0)).collect();
    layer(&hidden, 2)
}

#[test]
fn any_batch_runs_and_matches_the_definition() {
    let runnable = Runnable::new(&mlp(), &RunOptions::default()).unwrap();
    for batch in [1, 2, 7] {
        let x = floats(&[batch, 3]);
        let outputs = runnable.run(&[("x".into(), x.clone())]).unwrap();
        assert_eq!((outputs[0].0.as_str(), outputs[0].1.shape()), ("y", &[batch, 2][..]));
        let expected: Vec<f32> = x.as_slice::<f32>().unwrap().chunks(3).flat_map(mlp_by_hand).collect();
        for (found, expected) in outputs[0].1.as_slice::<f32>().unwrap().iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }
}

#[test]
fn taps_follow_the_outputs_and_may_be_inputs_weights_or_inner_values() {
    let options = RunOptions::with_taps(["r", "x", "y", "w2"]);
    let runnable = Runnable::new(&mlp(), &options).unwrap();
    let x = floats(&[2, 3]);
    let outputs = runnable.run(&[("x".into(), x.clone())]).unwrap();
    let names: Vec<&str> = outputs.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["y", "r", "x", "w2"]);
    assert_eq!(outputs[1].1.shape(), [2, 4]);
    assert!(outputs[1].1.as_slice::<f32>().unwrap().iter().all(|&r| r >= 0.0));
    assert_eq!(outputs[2].1, x);
    assert_eq!(outputs[3].1, floats(&[2, 4]));
}

#[test]
fn a_shape_chain_is_a_constant_at_concrete_shapes() {
    for batch in [1, 3] {
        let outputs = run(&conv_reshape(), &[("x", floats(&[batch, 2, 4, 4]))]).unwrap();
        assert_eq!(outputs[0].1.shape(), [batch, 3]);
    }
}

#[test]
fn inputs_are_cast_to_the_declared_type() {
    let ids = Tensor::new(&[1, 2], &[3_i32, 9]).unwrap();
    let outputs = run(&embedding(), &[("mask", floats(&[1, 2, 1])), ("ids", ids)]).unwrap();
    let row = |id: usize, scale: f32| (0..4).map(move |d| wavy(id * 4 + d) * scale);
    let expected: Vec<f32> = row(3, wavy(0)).chain(row(9, wavy(1))).collect();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), expected);
}

#[test]
fn half_precision_runs_as_float32() {
    for (code, bits) in [
        (DataType::Float16, half::f16::from_f32(1.5).to_bits()),
        (DataType::Bfloat16, half::bf16::from_f32(1.5).to_bits()),
    ] {
        let mut scale = weight("s", &[1], |_| 0.0);
        scale.data_type = Some(code as i32);
        scale.raw_data = Some(bits.to_le_bytes().to_vec().into());
        let constant = node("Constant", &[], &["c"], vec![value(scale.clone())]);
        let cast = node("Cast", &["x"], &["h"], vec![int("to", code as i64)]);
        let double = node("Mul", &["h", "s"], &["d"], vec![]);
        let model = model(
            vec![tensor_value("x", DataType::Float, &["n"])],
            vec![constant, cast, double, node("Add", &["d", "c"], &["y"], vec![])],
            vec![scale],
            vec![tensor_value("y", code, &["n"])],
        );
        let outputs = run(&model, &[("x", Tensor::new(&[2], &[0.1_f32, 3.0]).unwrap())]).unwrap();
        assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [0.1_f32 * 1.5 + 1.5, 6.0]);
    }
}

#[test]
fn shape_arithmetic_comes_out_as_int64() {
    let model = model(
        vec![tensor_value("x", DataType::Float, &["n", "3"])],
        vec![node("Shape", &["x"], &["s"], vec![])],
        vec![],
        vec![tensor_value("s", DataType::Int64, &["2"])],
    );
    let outputs = run(&model, &[("x", floats(&[5, 3]))]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<i64>().unwrap(), [5, 3]);
}

#[test]
fn nodes_may_share_a_name() {
    let mut same = mlp();
    same.graph.as_mut().unwrap().node.iter_mut().for_each(|node| node.name = Some("w1".into()));
    assert!(run(&same, &[("x", floats(&[1, 3]))]).is_ok());
    let error = run(&same, &[("x", floats(&[1, 4]))]).unwrap_err();
    assert!(error.to_string().contains("node 'w1': tract cannot plan this Gemm"), "{error}");
}

#[test]
fn an_input_may_be_a_shape() {
    let model = model(
        vec![tensor_value("x", DataType::Float, &["n", "6"]), tensor_value("s", DataType::Int64, &["2"])],
        vec![node("Reshape", &["x", "s"], &["y"], vec![])],
        vec![],
        vec![tensor_value("y", DataType::Float, &["a", "b"])],
    );
    let runnable = Runnable::new(&model, &RunOptions::default()).unwrap();
    for shape in [[3, 4], [2, 6], [3, 4]] {
        let s = Tensor::new(&[2], &shape.map(|size| i64::try_from(size).unwrap())).unwrap();
        let outputs = runnable.run(&[("x".into(), floats(&[2, 6])), ("s".into(), s)]).unwrap();
        assert_eq!(outputs[0].1, floats(&shape));
    }
}

#[test]
fn a_function_of_the_model_is_not_run() {
    let mut local = mlp();
    let function = FunctionProto { name: Some("Relu".into()), domain: Some(String::new()), ..Default::default() };
    local.functions.push(function);
    let error = Runnable::new(&local, &RunOptions::default()).unwrap_err();
    assert_eq!(error.node(), Some("Relu_r"));
    assert!(error.to_string().contains("does not run functions of the model such as Relu"), "{error}");
}

#[test]
fn long_constants_are_weights() {
    let table = node("Constant", &[], &["w"], vec![value(weight("", &[300, 2], wavy))]);
    let model = model(
        vec![tensor_value("x", DataType::Float, &["n", "300"])],
        vec![table, node("MatMul", &["x", "w"], &["y"], vec![])],
        vec![],
        vec![tensor_value("y", DataType::Float, &["n", "2"])],
    );
    let outputs = run(&model, &[("x", Tensor::new(&[1, 300], &[1_f32; 300]).unwrap())]).unwrap();
    let expected: f32 = (0..300).map(|i| wavy(2 * i)).sum();
    assert!((outputs[0].1.as_slice::<f32>().unwrap()[0] - expected).abs() < 1e-4);
}

#[test]
fn failures_say_what_and_where() {
    let error = run(&mlp(), &[]).unwrap_err();
    assert_eq!((error.kind(), error.to_string().contains("input 'x'")), (ErrorKind::Input, true));

    let mut missing = mlp();
    missing.graph.as_mut().unwrap().initializer.remove(2);
    let error = run(&missing, &[("x", floats(&[1, 3]))]).unwrap_err();
    assert_eq!((error.kind(), error.node()), (ErrorKind::Input, Some("Gemm_y")));
    assert!(error.to_string().contains("'w2' is used but never defined"), "{error}");

    let mut short = mlp();
    short.graph.as_mut().unwrap().initializer[0].raw_data = Some(vec![0; 40].into());
    let error = run(&short, &[("x", floats(&[1, 3]))]).unwrap_err();
    assert!(error.to_string().contains("40 bytes of data cannot have shape [4, 3]"), "{error}");

    let error = run(&mlp(), &[("x", floats(&[1, 5]))]).unwrap_err();
    assert_eq!((error.kind(), error.node()), (ErrorKind::Runtime, Some("Gemm_h")), "{error}");

    let options = RunOptions::with_taps(["nowhere"]);
    assert_eq!(Runnable::new(&mlp(), &options).unwrap_err().kind(), ErrorKind::Input);
}

#[test]
fn an_operator_of_another_domain_is_not_the_standard_one() {
    let mut foreign = mlp();
    foreign.graph.as_mut().unwrap().node[1].domain = Some("com.example".into());
    let error = Runnable::new(&foreign, &RunOptions::default()).unwrap_err();
    assert_eq!((error.kind(), error.node()), (ErrorKind::Runtime, Some("Relu_r")));
    assert!(error.to_string().contains("com.example.Relu"), "{error}");
}

#[test]
fn absurd_sizes_are_refused_before_they_are_allocated() {
    let huge = 1_i64 << 30;
    let fill = |nodes: Vec<_>, initializers| {
        model(
            vec![tensor_value("x", DataType::Float, &["n"])],
            nodes,
            initializers,
            vec![tensor_value("y", DataType::Float, &["m"])],
        )
    };
    let filled = fill(
        vec![node("ConstantOfShape", &["size"], &["z"], vec![]), node("Add", &["x", "z"], &["y"], vec![])],
        vec![integers("size", &[1], &[huge])],
    );
    let expanded = fill(vec![node("Expand", &["x", "size"], &["y"], vec![])], vec![integers("size", &[2], &[huge, 1])]);
    let counted = fill(
        vec![
            node("Range", &["start", "end", "step"], &["i"], vec![]),
            node("Cast", &["i"], &["f"], vec![int("to", DataType::Float as i64)]),
            node("Add", &["x", "f"], &["y"], vec![]),
        ],
        vec![integers("start", &[], &[0]), integers("end", &[], &[huge]), integers("step", &[], &[1])],
    );
    let tiled = fill(vec![node("Tile", &["x", "size"], &["y"], vec![])], vec![integers("size", &[1], &[huge])]);
    for model in [filled, expanded, counted, tiled] {
        let error = run(&model, &[("x", floats(&[1]))]).unwrap_err();
        assert!(error.to_string().contains("exceeds the limit"), "{error}");
    }
}

#[test]
fn a_long_chain_does_not_overflow_the_stack() {
    let name = |i: usize| format!("v{i}");
    let nodes = (0..3000).map(|i| node("Relu", &[&name(i)], &[&name(i + 1)], vec![])).collect();
    let model = model(
        vec![tensor_value("v0", DataType::Float, &["n"])],
        nodes,
        vec![],
        vec![tensor_value("v3000", DataType::Float, &["n"])],
    );
    let outputs = run(&model, &[("v0", Tensor::new(&[2], &[-1_f32, 2.0]).unwrap())]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [0.0, 2.0]);
}
