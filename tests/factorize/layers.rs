//! One layer: it is found, split and reproduced.

use paredown::internals::calibrate::data::Dataset as Samples;
use paredown::internals::runtime::Tensor;
use paredown::{ConvMode, Dataset, ErrorKind, FactorizeOptions, Model, factorize};
use prost::Message as _;

use crate::graphs::{distance, elements, input_shape, model, node, noise, run, weight, with_ranks};

/// float32 through two products instead of one.
const TOLERANCE: f64 = 1e-5;

fn options() -> FactorizeOptions {
    FactorizeOptions::rank(1)
}

fn assert_reproduced(name: &str, model: &Model, rank: usize, options: &FactorizeOptions) {
    let split = with_ranks(model, &[(name, rank)], options).unwrap();
    let nodes = split.model.proto.graph.as_ref().unwrap().node.len();
    assert!(nodes > model.proto.graph.as_ref().unwrap().node.len());
    let found = distance(model, &split.model);
    assert!(found < TOLERANCE, "{name}: {found}");
}

#[test]
fn full_rank_reproduces_matmul_on_either_side() {
    let right = model(17, &[2, 5, 12], vec![node("MatMul", &["x", "w"], "y", "")], vec![weight("w", &[12, 7])]);
    assert_reproduced("MatMul_y", &right, 7, &options());
    let left = model(17, &[2, 12, 5], vec![node("MatMul", &["w", "x"], "y", "")], vec![weight("w", &[9, 12])]);
    assert_reproduced("MatMul_y", &left, 9, &options());
    let nodes = vec![
        node("Identity", &["w"], "i", ""),
        node("Transpose", &["i"], "t", "perm=[1,0]"),
        node("MatMul", &["x", "t"], "y", ""),
    ];
    let turned = model(17, &[3, 12], nodes, vec![weight("w", &[7, 12])]);
    let split = with_ranks(&turned, &[("MatMul_y", 7)], &options()).unwrap();
    assert!(distance(&turned, &split.model) < TOLERANCE);
    let graph = split.model.proto.graph.as_ref().unwrap();
    assert_eq!(graph.node.len(), 2, "the transposition of the old weight is gone");
    assert!(graph.initializer.iter().all(|t| t.name() != "w"));
}

#[test]
fn full_rank_reproduces_gemm_with_all_attributes() {
    for (trans_a, trans_b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for bias in [None, Some(vec![7]), Some(vec![1]), Some(vec![4, 1]), Some(vec![4, 7])] {
            let settings = format!("transA={trans_a} transB={trans_b} alpha=0.5 beta=-2.0");
            let mut inputs = vec!["x", "w"];
            let dims = if trans_b == 1 { [7, 12] } else { [12, 7] };
            let mut weights = vec![weight("w", &dims)];
            if let Some(dims) = bias {
                inputs.push("c");
                weights.push(weight("c", &dims));
            }
            let x = if trans_a == 1 { [12, 4] } else { [4, 12] };
            let opset = if inputs.len() == 3 { 9 } else { 13 };
            let gemm = model(opset, &x, vec![node("Gemm", &inputs, "y", &settings)], weights);
            assert_reproduced("Gemm_y", &gemm, 7, &options());
            assert_mean_is_kept(&gemm);
        }
    }
}

/// With data, the mean of the outputs over that data stays what it was at any rank, whatever form the bias has.
fn assert_mean_is_kept(model: &Model) {
    let data = Samples::synthetic(
        model.proto.graph.as_ref().unwrap(),
        &paredown::internals::runtime::inputs::DimSizes::default(),
        64,
        1,
    );
    let data = data.unwrap();
    let options = FactorizeOptions::rank(2).align(1).data(Dataset::synthetic(64)).seed(1);
    let split = factorize(model, &options).unwrap();
    let (mut difference, mut size) = (0.0, 0.0);
    let mut count = 0.0;
    for batch in data.batches(64) {
        let x = &batch.unwrap().inputs[0].1;
        let (old, new) = (run(&model.proto, x), run(&split.model.proto, x));
        difference += old.iter().zip(&new).map(|(a, b)| a - b).sum::<f64>();
        size += old.iter().map(|a| a.abs()).sum::<f64>();
        count += old.len() as f64;
    }
    assert!(difference.abs() / count < 1e-4 * size / count, "{difference} {size}");
}

#[test]
fn full_rank_reproduces_convolutions() {
    type Case<'a> = (&'a [usize], &'a [usize], &'a str);
    let cases: [Case<'_>; 8] = [
        (&[2, 4, 19], &[6, 4, 5], "strides=[2] dilations=[2] pads=[3,1]"),
        (&[2, 4, 9, 8], &[8, 4, 3, 3], "pads=[1,0,2,1] strides=[2,1]"),
        (&[2, 4, 9, 11], &[8, 2, 3, 2], "group=2 dilations=[2,3] kernel_shape=[3,2]"),
        (&[2, 4, 9, 8], &[8, 4, 3, 4], "auto_pad=SAME_UPPER strides=[2,3]"),
        (&[2, 4, 9, 8], &[8, 4, 4, 3], "auto_pad=SAME_LOWER strides=[2,1]"),
        (&[2, 4, 9, 8], &[8, 4, 3, 3], "auto_pad=VALID"),
        (&[2, 6, 5, 5], &[8, 6, 1, 1], "strides=[2,2]"),
        (&[1, 3, 5, 6, 7], &[6, 3, 2, 3, 3], "strides=[1,2,1] pads=[1,0,1,0,2,1]"),
    ];
    for (x, kernel, settings) in cases {
        let conv = model(
            13,
            x,
            vec![node("Conv", &["x", "w", "b"], "y", settings)],
            vec![weight("w", kernel), weight("b", &kernel[..1])],
        );
        let groups = x[1] / kernel[1];
        let (k, n) = (kernel[1..].iter().product::<usize>(), kernel[0] / groups);
        assert_reproduced("Conv_y", &conv, k.min(n), &options());
        let spatial = match kernel {
            [_, i, h, w] if h * w > 1 => (i * h).min(n * w),
            _ => k.min(n),
        };
        assert_reproduced("Conv_y", &conv, spatial, &options().conv(ConvMode::Spatial));
        let tucker = if kernel[2..].iter().all(|&k| k == 1) { k.min(n) } else { n };
        assert_reproduced("Conv_y", &conv, tucker, &options().conv(ConvMode::Tucker2));
    }
}

#[test]
fn a_thousand_squared_at_rank_100_has_exactly_200_000_weights() {
    let gemm = model(
        17,
        &[1, 1000],
        vec![node("Gemm", &["x", "w", "b"], "y", "")],
        vec![weight("w", &[1000, 1000]), weight("b", &[1000])],
    );
    let split = factorize(&gemm, &FactorizeOptions::rank(100)).unwrap();
    assert_eq!(elements(&split.model, "w"), 200_000);
    assert_eq!(split.report.model.after.params, 201_000);
    assert_eq!(split.report.model.after.macs, 200_000);
    assert_eq!(split.report.layers[0].params, 200_000);
}

/// The share of the variance of the outputs (N values) that a split at rank 6 loses on the samples it was made with, and what
/// the report says.
fn losses(model: &Model, n: usize) -> (f64, f64) {
    let data = Samples::synthetic(model.proto.graph.as_ref().unwrap(), &Default::default(), 256, 3).unwrap();
    let options = FactorizeOptions::rank(6).align(1).data(Dataset::synthetic(256)).seed(3);
    let aware = factorize(model, &options).unwrap();
    let x = &data.batches(256).next().unwrap().unwrap().inputs[0].1;
    let (old, new) = (run(&model.proto, x), run(&aware.model.proto, x));
    let mean = |j: usize| old.iter().skip(j).step_by(n).sum::<f64>() / 256.0;
    let means: Vec<f64> = (0..n).map(mean).collect();
    let spread: f64 = old.iter().enumerate().map(|(i, y)| (y - means[i % n]).powi(2)).sum();
    let measured = old.iter().zip(&new).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / spread;
    (measured, aware.report.layers.last().unwrap().error.unwrap())
}

/// A layer with this many inputs is split by sums over its outputs.
#[test]
fn the_measured_error_of_a_very_wide_layer_is_the_predicted_one() {
    let wide = model(17, &[256, 9000], vec![node("MatMul", &["x", "w"], "y", "")], vec![weight("w", &[9000, 16])]);
    let (measured, predicted) = losses(&wide, 16);
    assert!((measured - predicted).abs() < 1e-3 * predicted, "{measured} {predicted}");
}

/// The split of the first layer changes the inputs of the second one, whose split is fitted to them.
#[test]
fn a_very_wide_layer_is_fitted_to_its_changed_inputs() {
    let nodes =
        vec![node("MatMul", &["x", "v"], "h", ""), node("Relu", &["h"], "r", ""), node("MatMul", &["r", "w"], "y", "")];
    let two = model(17, &[256, 20], nodes, vec![weight("v", &[20, 9000]), weight("w", &[9000, 16])]);
    let (measured, predicted) = losses(&two, 16);
    assert!((measured - predicted).abs() < 1e-2 * predicted, "{measured} {predicted}");
    let options = FactorizeOptions::rank(6).align(1);
    let blind = distance(&two, &factorize(&two, &options).unwrap().model);
    let aware = options.data(Dataset::synthetic(256)).seed(3);
    let fitted = distance(&two, &factorize(&two, &aware).unwrap().model);
    assert!(fitted < blind, "on other samples: {fitted} {blind}");
}

#[test]
fn the_measured_error_is_the_predicted_one() {
    let mlp = model(17, &[256, 24], vec![node("MatMul", &["x", "w"], "y", "")], vec![weight("w", &[24, 40])]);
    let plain = factorize(&mlp, &FactorizeOptions::rank(6)).unwrap();
    let (measured, predicted) = losses(&mlp, 40);
    assert!((measured - predicted).abs() < 1e-4 * predicted, "{measured} {predicted}");

    let parts: Vec<(Vec<usize>, Vec<f64>)> =
        ["w.first", "w.last"].iter().map(|name| stored(&plain.model, name)).collect();
    let (_, w) = stored(&mlp, "w");
    let r = parts[0].0[1];
    let mut error = 0.0;
    for i in 0..24 {
        for j in 0..40 {
            let product: f64 = (0..r).map(|k| parts[0].1[i * r + k] * parts[1].1[k * 40 + j]).sum();
            error += (w[i * 40 + j] - product).powi(2);
        }
    }
    let relative = error / w.iter().map(|x| x * x).sum::<f64>();
    let predicted = plain.report.layers[0].error.unwrap();
    assert!((relative - predicted).abs() < 1e-4 * predicted, "{relative} {predicted}");
}

fn stored(model: &Model, name: &str) -> (Vec<usize>, Vec<f64>) {
    let graph = model.proto.graph.as_ref().unwrap();
    let tensor = graph.initializer.iter().find(|t| t.name() == name).unwrap();
    let view = paredown::internals::onnx::tensor::TensorView::new(tensor).unwrap();
    (view.dims().to_vec(), view.to_f64().unwrap())
}

#[test]
fn a_shared_weight_is_split_once() {
    let nodes =
        vec![node("MatMul", &["x", "w"], "h", ""), node("Relu", &["h"], "r", ""), node("MatMul", &["r", "w"], "y", "")];
    let twice = model(17, &[3, 16], nodes, vec![weight("w", &[16, 16])]);
    let split = factorize(&twice, &FactorizeOptions::rank(4)).unwrap();
    assert_eq!(elements(&split.model, "w"), 2 * 4 * 16);
    assert_eq!(split.report.layers.len(), 1);
    assert_eq!(split.report.model.after.macs, 3 * 2 * 2 * 4 * 16);
    let whole = with_ranks(&twice, &[("MatMul_h", 16)], &options()).unwrap();
    assert!(distance(&twice, &whole.model) < TOLERANCE);
}

#[test]
fn layers_that_stay_are_listed_with_the_reason() {
    let nodes = vec![
        node("Conv", &["x", "depthwise"], "a", "group=8 pads=[1,1,1,1]"),
        node("Flatten", &["a"], "f", ""),
        node("MatMul", &["f", "w"], "h", ""),
        node("Transpose", &["h"], "t", ""),
        node("MatMul", &["h", "t"], "s", ""),
        node("MatMul", &["s", "tied"], "u", ""),
        node("Add", &["u", "tied"], "y", ""),
    ];
    let weights = vec![weight("depthwise", &[8, 1, 3, 3]), weight("w", &[8 * 16, 32]), weight("tied", &[2, 2])];
    let mixed = model(17, &[2, 8, 4, 4], nodes, weights);
    let split = factorize(&mixed, &FactorizeOptions::rank(4)).unwrap();
    let reason = |name: &str| {
        let layer = split.report.layers.iter().find(|layer| layer.name == name).unwrap();
        layer.reason.clone().unwrap_or_default()
    };
    assert!(reason("Conv_a").contains("depthwise"), "{}", reason("Conv_a"));
    assert!(reason("MatMul_s").contains("no stored matrix"), "{}", reason("MatMul_s"));
    assert!(reason("MatMul_u").contains("read by Add"), "{}", reason("MatMul_u"));
    assert_eq!(reason("MatMul_h"), "");
}

#[test]
fn wrong_ranks_and_weights_are_refused() {
    let gemm = model(17, &[4, 12], vec![node("MatMul", &["x", "w"], "y", "")], vec![weight("w", &[12, 8])]);
    let kind = |options: FactorizeOptions| factorize(&gemm, &options).unwrap_err().kind();
    assert_eq!(kind(FactorizeOptions::rank(0)), ErrorKind::Usage);
    assert_eq!(kind(FactorizeOptions::rank(9)), ErrorKind::Usage);
    assert_eq!(kind(FactorizeOptions::rank(8)), ErrorKind::Nothing);
    for energy in [0.0, 1.5, f64::NAN] {
        assert_eq!(kind(FactorizeOptions::energy(energy)), ErrorKind::Usage);
    }
    assert_eq!(kind(FactorizeOptions::params(0.01)), ErrorKind::Nothing);
    assert_eq!(with_ranks(&gemm, &[("none", 3)], &options()).unwrap_err().kind(), ErrorKind::Input);
    let mut broken = weight("w", &[12, 8]);
    let mut bytes = broken.raw_data.take().unwrap().to_vec();
    bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    broken.raw_data = Some(bytes.into());
    let broken = model(17, &[4, 12], vec![node("MatMul", &["x", "w"], "y", "")], vec![broken]);
    let error = factorize(&broken, &FactorizeOptions::rank(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("'w'"), "{error}");
}

#[test]
fn both_runtimes_agree_on_the_split_model() {
    let nodes = vec![
        node("Conv", &["x", "k", "kb"], "c", "pads=[1,1,1,1] strides=[2,2]"),
        node("Relu", &["c"], "r", ""),
        node("Flatten", &["r"], "f", ""),
        node("Gemm", &["f", "w", "b"], "y", "transB=1"),
    ];
    let weights =
        vec![weight("k", &[16, 8, 3, 3]), weight("kb", &[16]), weight("w", &[10, 16 * 9]), weight("b", &[10])];
    let net = model(17, &[2, 8, 6, 6], nodes, weights);
    let split = factorize(&net, &FactorizeOptions::rank(4).align(1)).unwrap();
    assert!(split.report.layers.iter().all(|layer| layer.decision == "split"));
    let shape = input_shape(&net);
    let values = noise(5, shape.iter().product());
    let tract = run(&split.model.proto, &Tensor::new(&shape, &values).unwrap());
    let rten = rten::Model::load(split.model.proto.encode_to_vec()).unwrap();
    let x = rten::Value::from_shape(&shape[..], values).unwrap();
    let inputs = vec![(rten.node_id("x").unwrap(), rten::ValueOrView::from(x))];
    let output = rten.run(inputs, &[rten.node_id("y").unwrap()], None).unwrap().remove(0);
    let (_, found) = output.into_shape_vec::<f32, 2>().unwrap();
    let largest = tract.iter().fold(0.0_f64, |m, y| m.max(y.abs()));
    for (a, b) in tract.iter().zip(&found) {
        assert!((a - f64::from(*b)).abs() < TOLERANCE * largest, "{a} {b}");
    }
}
