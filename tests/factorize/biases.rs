//! Biases that stay as they are, inputs that do not vary, and layers that are not float32.

use paredown::internals::onnx::proto::{NodeProto, TensorProto, ValueInfoProto, type_proto};
use paredown::internals::onnx::tensor::{ElementType, from_f32, from_f64_as};
use paredown::{Dataset, FactorizeOptions, Model, Outcome, PruneOptions, Repair, factorize, prune};

use super::graphs::{distance, model, node, noise, weight};

/// Splits at rank 4 with synthetic samples.
fn split(model: &Model) -> Outcome {
    factorize(model, &FactorizeOptions::rank(4).align(1).data(Dataset::synthetic(96)).seed(1)).unwrap()
}

fn reads(model: &Model, name: &str) -> bool {
    model.proto.graph.as_ref().unwrap().node.iter().any(|node| node.input.iter().any(|input| input == name))
}

/// `x·w → + b → Relu → ·u`, or the same as a Gemm.
fn layers(add: bool, bias: &[usize]) -> Model {
    let first = if add {
        vec![node("MatMul", &["x", "w"], "h", ""), node("Add", &["h", "b"], "a", "")]
    } else {
        vec![node("Gemm", &["x", "w", "b"], "a", "")]
    };
    let last = [node("Relu", &["a"], "r", ""), node("MatMul", &["r", "u"], "y", "")];
    let nodes: Vec<NodeProto> = first.into_iter().chain(last).collect();
    model(17, &[5, 12], nodes, vec![weight("w", &[12, 16]), weight("b", bias), weight("u", &[16, 10])])
}

/// A stored tensor that is a graph input too: whoever runs the model may give another one.
#[test]
fn a_bias_that_may_be_replaced_is_still_read() {
    for add in [true, false] {
        let mut model = layers(add, &[16]);
        let graph = model.proto.graph.as_mut().unwrap();
        let mut input: ValueInfoProto = graph.input[0].clone();
        input.name = Some("b".to_owned());
        if let Some(type_proto::Value::TensorType(tensor)) = &mut input.r#type.as_mut().unwrap().value {
            tensor.shape = None;
        }
        graph.input.push(input);
        let done = split(&model);
        assert!(reads(&done.model, "b"), "split, add {add}");
        // Half of what the layer in front of the bias reads goes, so that the layer is repaired.
        let graph = model.proto.graph.as_mut().unwrap();
        graph.node.insert(0, node("MatMul", &["x", "first"], "z", ""));
        graph.node[1].input[0] = "z".to_owned();
        graph.initializer.push(weight("first", &[12, 12]));
        for method in [Repair::Lstsq, Repair::Bias] {
            let options = PruneOptions::ratio(0.5).repair(method).data(Dataset::synthetic(96)).seed(1);
            let pruned = prune(&model, &options).unwrap();
            assert!(reads(&pruned.model, "b"), "{method:?}, add {add}");
        }
    }
}

/// `[5, 16] + [1, 1, 16]` has three axes.
#[test]
fn a_bias_of_more_axes_keeps_them() {
    let mut model = layers(true, &[1, 1, 16]);
    let done = split(&model);
    assert!(distance(&model, &done.model).is_finite());
    let graph = model.proto.graph.as_mut().unwrap();
    graph.node.insert(0, node("MatMul", &["x", "first"], "z", ""));
    graph.node[1].input[0] = "z".to_owned();
    graph.initializer.push(weight("first", &[12, 12]));
    let pruned = prune(&model, &PruneOptions::ratio(0.5).data(Dataset::synthetic(96)).seed(1)).unwrap();
    assert!(distance(&model, &pruned.model).is_finite());
}

/// Behind a split layer, one whose inputs are the same for every sample, or always zero.
#[test]
fn inputs_that_do_not_vary_are_no_obstacle() {
    for dead in [0.0, -100.0] {
        let nodes = vec![
            node("MatMul", &["x", "w"], "h", ""),
            node("Mul", &["h", "zero"], "same", ""),
            node("Add", &["same", "b"], "a", ""),
            node("Relu", &["a"], "r", ""),
            node("MatMul", &["r", "u"], "c", ""),
            node("MatMul", &["x", "v"], "d", ""),
            node("Add", &["c", "d"], "y", ""),
        ];
        let shifted: Vec<f32> = noise(5, 16).iter().map(|value| value + dead).collect();
        let weights = vec![
            weight("w", &[12, 16]),
            weight("u", &[16, 10]),
            weight("v", &[12, 10]),
            from_f32("b", &[16], &shifted).unwrap(),
            from_f32("zero", &[1], &[0.0]).unwrap(),
        ];
        let model = model(17, &[5, 12], nodes, weights);
        let done = split(&model);
        assert!(done.report.layers.iter().all(|layer| layer.decision == "split"), "{:?}", done.report.layers);
        assert!(distance(&model, &done.model) < 1.0);
    }
}

/// Time is measured in the type that the layer has.
#[test]
fn layers_of_doubles_are_timed() {
    let double = |name: &str, dims: &[usize]| -> TensorProto {
        let values: Vec<f64> = noise(3, dims.iter().product()).into_iter().map(f64::from).collect();
        from_f64_as(name, dims, &values, ElementType::Double).unwrap()
    };
    let nodes = vec![
        node("Cast", &["x"], "z", "to=11"),
        node("MatMul", &["z", "w"], "h", ""),
        node("MatMul", &["h", "u"], "l", ""),
        node("Cast", &["l"], "y", "to=1"),
    ];
    let model = model(17, &[5, 12], nodes, vec![double("w", &[12, 16]), double("u", &[16, 10])]);
    let done = factorize(&model, &FactorizeOptions::rank(4).align(1).time_layers(true)).unwrap();
    assert_eq!(done.report.layers.len(), 2);
    assert!(done.report.layers.iter().all(|layer| layer.latency_ms.is_some()), "{:?}", done.report.layers);
}

/// A layer that is left alone still costs what it costs.
#[test]
fn a_layer_that_is_left_out_is_listed_with_its_cost() {
    let model = layers(true, &[16]);
    let done = factorize(&model, &FactorizeOptions::rank(4).align(1).exclude("u")).unwrap();
    let kept = done.report.layers.iter().find(|layer| layer.name == "MatMul_y").unwrap();
    assert_eq!((kept.params, kept.macs), (160, 5 * 160));
}
