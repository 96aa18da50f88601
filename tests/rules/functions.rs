//! Functions of the model: inlined, or frozen and named; never taken for the operator of the same name.

use paredown::internals::axes::Role;
use paredown::internals::onnx::proto::{
    AttributeProto, FunctionProto, ModelProto, NodeProto, OperatorSetIdProto, attribute_proto::AttributeType,
};
use paredown::internals::runtime::{RunOptions, Runnable, Tensor};

use super::examples::OPSET;
use super::net::{Net, Solved, dims, halved};
use super::support::{self, attributes};

fn node(op: &str, inputs: &[&str], outputs: &[&str], settings: &str) -> NodeProto {
    let name = Some(format!("{op}:{}", outputs[0]));
    NodeProto { name, ..support::node(op, inputs, outputs, attributes(settings)) }
}

fn function(domain: &str, name: &str, inputs: &[&str], outputs: &[&str], nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        domain: Some(domain.into()),
        name: Some(name.into()),
        input: inputs.iter().map(|&i| i.into()).collect(),
        output: outputs.iter().map(|&o| o.into()).collect(),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
        node: nodes,
        ..FunctionProto::default()
    }
}

/// `y = f(x w) u`, where `f` is an operator of `domain`.
fn around(domain: &str, op: &str, functions: Vec<FunctionProto>) -> ModelProto {
    let net = Net::new(&[("x", 1, &["n", "5"])]).weight("w", &[5, 8]).weight("u", &[8, 3]);
    let net = net.node("MatMul", &["x", "w"], "a", "").node(op, &["a"], "b", "");
    let mut model = net.node("MatMul", &["b", "u"], "y", "").model("y");
    model.graph.as_mut().unwrap().node[1].domain = Some(domain.into());
    model.functions = functions;
    model
}

fn run(model: &ModelProto) -> Vec<f32> {
    let x: Vec<f32> = (0..10).map(|i| i as f32 / 7.0 - 0.6).collect();
    let feeds = [("x".to_owned(), Tensor::new(&[2, 5], &x).unwrap())];
    Runnable::new(model, &RunOptions::default()).unwrap().run(&feeds).unwrap()[0].1.to_vec().unwrap()
}

/// `relu(2 v) - v` in two levels, the outer one with an attribute that it hands on.
fn two_levels() -> Vec<FunctionProto> {
    let mut leaky = node("LeakyRelu", &["twice"], &["r"], "");
    leaky.attribute.push(AttributeProto {
        name: Some("alpha".into()),
        r#type: Some(AttributeType::Float as i32),
        ref_attr_name: Some("slope".into()),
        ..AttributeProto::default()
    });
    let mut inner = function("local", "Inner", &["v"], &["r"], vec![node("Add", &["v", "v"], &["twice"], ""), leaky]);
    inner.attribute = vec!["slope".into()];
    let mut call = node("Inner", &["v"], &["i"], "slope=0.25");
    call.domain = Some("local".into());
    let outer = function("local", "Outer", &["v"], &["o"], vec![call, node("Sub", &["i", "v"], &["o"], "")]);
    vec![outer, inner]
}

#[test]
fn calls_are_inlined_and_pruned_through() {
    let model = around("local", "Outer", two_levels());
    let (pruned, report) = halved(model, &[]).unwrap();
    assert_eq!((dims(&pruned, "w"), dims(&pruned, "u")), (vec![5, 4], vec![4, 3]));
    assert!(pruned.functions.is_empty());
    assert!(report.verify.exact_max_rel.unwrap() < 1e-5);
    assert!(report.notes.iter().any(|note| note.contains("inlined")), "{:?}", report.notes);
}

#[test]
fn inlining_keeps_the_values() {
    let model = around("local", "Outer", two_levels());
    let inlined = paredown::internals::graph::inlined(&model).unwrap();
    assert_eq!(inlined.calls, 2);
    let expected = around("", "Relu", vec![]);
    // leaky(2 v) - v with slope 1/4: v for positive v, -v/2 for negative ones.
    let by_hand = {
        let mut model = expected;
        let graph = model.graph.as_mut().unwrap();
        graph.node[1] = node("LeakyRelu", &["a"], &["b"], "alpha=-0.5");
        model
    };
    for (a, b) in run(&inlined.model).iter().zip(run(&by_hand)) {
        assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    }
}

/// A function called `Relu` in the standard domain that flips signs: the runtime's Relu would be wrong.
#[test]
fn a_function_goes_before_the_operator_of_its_name() {
    let shadow = function("", "Relu", &["v"], &["o"], vec![node("Neg", &["v"], &["o"], "")]);
    let shadowed = paredown::internals::graph::inlined(&around("", "Relu", vec![shadow.clone()])).unwrap();
    assert_eq!(run(&shadowed.model), run(&around("", "Neg", vec![])));
    let (pruned, _) = halved(around("", "Relu", vec![shadow]), &[]).unwrap();
    assert!(pruned.graph.unwrap().node.iter().any(|node| node.op_type() == "Neg"));
}

#[test]
fn a_function_of_another_operator_set_freezes_by_name() {
    let mut old = function("local", "Old", &["v"], &["o"], vec![node("Relu", &["v"], &["o"], "")]);
    old.opset_import[0].version = Some(7);
    let mut model = around("local", "Old", vec![old]);
    model.graph.as_mut().unwrap().value_info.push(super::support::dynamic("b", 1, &["n", "8"]));
    let net = Solved::new(model);
    assert!(matches!(net.role("w", 1), Role::Frozen(_)));
    assert!(net.reason("w", 1).contains("version 7"), "{}", net.reason("w", 1));
}

#[test]
fn one_that_cannot_be_inlined_under_a_standard_name_is_refused() {
    let mut old = function("", "Relu", &["v"], &["o"], vec![node("Neg", &["v"], &["o"], "")]);
    old.opset_import[0].version = Some(7);
    let error = halved(around("", "Relu", vec![old]), &[]).unwrap_err();
    assert!(error.to_string().contains("function 'Relu' takes the place of the standard operator"), "{error}");
}

#[test]
fn a_function_that_calls_itself_ends() {
    let mut call = node("Again", &["v"], &["o"], "");
    call.domain = Some("local".into());
    let error = halved(around("local", "Again", vec![function("local", "Again", &["v"], &["o"], vec![call])]), &[]);
    assert!(error.unwrap_err().to_string().contains("Again"));
}
