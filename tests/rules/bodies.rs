//! Bodies of If, Loop and Scan: pruned inside, their ends frozen.

use paredown::internals::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, attribute_proto::AttributeType,
};
use paredown::internals::onnx::tensor::from_i64;
use paredown::{Dataset, Model, PruneOptions, prune};

use super::net::{Net, bytes, dims, halved};
use super::support::{declared, dynamic};

const BOOL: i32 = 9;

/// `x → MatMul wide → Relu → MatMul narrow`, as nodes and weights of a body, its hidden width 8.
fn block(net: Net, from: &str, to: &str, stem: &str) -> Net {
    let (wide, narrow) = (format!("{stem}_wide"), format!("{stem}_narrow"));
    let (a, b) = (format!("{stem}_a"), format!("{stem}_b"));
    net.weight(&wide, &[4, 8])
        .weight(&narrow, &[8, 4])
        .node("MatMul", &[from, &wide], &a, "")
        .node("Relu", &[&a], &b, "")
        .node("MatMul", &[&b, &narrow], to, "")
}

pub(crate) fn body(net: Net, outputs: &[&str]) -> GraphProto {
    GraphProto { output: outputs.iter().map(|name| declared(name, 1, None)).collect(), ..net.0 }
}

pub(crate) fn subgraph(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(graph),
        ..AttributeProto::default()
    }
}

pub(crate) fn with_bodies(mut net: Net, bodies: Vec<AttributeProto>) -> ModelProto {
    let control = net.0.node.last_mut().unwrap();
    control.attribute.extend(bodies);
    net.model("y")
}

fn hidden_widths(model: &ModelProto) -> Vec<Vec<i64>> {
    fn collect(nodes: &[NodeProto], widths: &mut Vec<Vec<i64>>) {
        for graph in nodes.iter().flat_map(|node| &node.attribute).filter_map(|a| a.g.as_ref()) {
            widths.extend(graph.initializer.iter().filter(|t| t.dims.len() == 2).map(|t| t.dims.clone()));
            collect(&graph.node, widths);
        }
    }
    let mut widths = Vec::new();
    collect(&model.graph.as_ref().unwrap().node, &mut widths);
    widths
}

/// `y = scan over the sequence of (state, slice) → (state + block(slice), block(slice))`, and the sum after it.
#[test]
fn a_scan_is_pruned_inside() {
    let inner = Net::new(&[("state", 1, &["2", "4"]), ("slice", 1, &["2", "4"])]);
    let inner = block(inner, "slice", "step", "s").node("Add", &["state", "step"], "next", "");
    let inner = body(inner, &["next", "step"]);
    let net = Net::new(&[("x", 1, &["5", "2", "4"]), ("start", 1, &["2", "4"])]);
    let net = net.node("Scan", &["start", "x"], "last,y", "num_scan_inputs=1");
    let (pruned, report) = halved(with_bodies(net, vec![subgraph("body", inner)]), &[]).unwrap();
    assert_eq!(hidden_widths(&pruned), [[4, 4], [4, 4]]);
    assert!(report.verify.exact_max_rel.unwrap() < 1e-5);
    let scan = &pruned.graph.as_ref().unwrap().node[0];
    assert_eq!((scan.op_type(), scan.domain(), scan.input.len()), ("Scan", "", 2));
}

/// Both branches, which use the same names inside, and read an activation of the graph around them.
#[test]
fn branches_are_pruned_inside_and_their_names_kept_apart() {
    let branch = |scale: &str| {
        let inner = block(Net::new(&[]), "h", "r", "b").node("Mul", &["r", scale], "out", "");
        let mut graph = body(inner, &["out"]);
        graph.input.clear();
        graph
    };
    let net = Net::new(&[("x", 1, &["n", "4"]), ("flag", BOOL, &[])]).weight("one", &[4]).weight("other", &[4]);
    let net = net.weight("w", &[4, 4]).node("MatMul", &["x", "w"], "h", "");
    let net = net.node("If", &["flag"], "y", "");
    let bodies = vec![subgraph("then_branch", branch("one")), subgraph("else_branch", branch("other"))];
    let (pruned, report) = halved(with_bodies(net, bodies), &[]).unwrap();
    // The captured activation loses half of its axis too, in both branches.
    assert_eq!(hidden_widths(&pruned), [[2, 4], [4, 4], [2, 4], [4, 4]]);
    assert_eq!(dims(&pruned, "w"), [4, 2]);
    assert!(report.verify.exact_max_rel.unwrap() < 1e-5);
}

/// A loop whose body carries a state and captures a value. tract has no `Loop`: ONNX Runtime ran this one in `bench/`.
#[test]
fn a_loop_is_pruned_inside() {
    let mut inner = Net::new(&[("i", 7, &[]), ("go", 9, &[]), ("state", 1, &["2", "4"])]);
    inner = block(inner, "state", "step", "l").node("Add", &["step", "x"], "next", "");
    let inner = inner.node("Identity", &["go"], "on", "");
    let inner = body(inner, &["on", "next"]);
    let mut net = Net::new(&[("x", 1, &["2", "4"])]);
    net.0.initializer.push(from_i64("times", &[], &[3]).unwrap());
    net.0.initializer.push(bytes("flag", &[], BOOL, vec![1]));
    let net = net.node("Loop", &["times", "flag", "x"], "y", "");
    let model = with_bodies(net, vec![subgraph("body", inner)]);
    let refusal = halved(model.clone(), &[]).unwrap_err().to_string();
    assert!(refusal.contains("tract has no operator Loop"), "{refusal}");
    let model = Model::from_proto(model);
    // With samples, that is said before they are run.
    let options = PruneOptions::ratio(0.5).align(1);
    let refusal = prune(&model, &options.clone().data(Dataset::synthetic(4))).unwrap_err().to_string();
    assert!(refusal.contains("tract has no operator Loop"), "{refusal}");
    let pruned = prune(&model, &options).unwrap().model.proto;
    assert_eq!(hidden_widths(&pruned), [[4, 4], [4, 4]]);
}

#[test]
fn the_ends_of_a_body_are_frozen_by_name() {
    let inner = Net::new(&[("state", 1, &["2", "8"]), ("slice", 1, &["2", "8"])]);
    let inner = body(inner.node("Add", &["state", "slice"], "next", ""), &["next"]);
    let net =
        Net::new(&[("x", 1, &["5", "2", "4"]), ("start", 1, &["2", "8"])]).weight("w", &[4, 8]).weight("u", &[8, 3]);
    let net = net.node("MatMul", &["x", "w"], "h", "").node("Scan", &["start", "h"], "last", "num_scan_inputs=1");
    let mut model = with_bodies(net, vec![subgraph("body", inner)]);
    let graph = model.graph.as_mut().unwrap();
    graph.node.push(NodeProto {
        op_type: Some("MatMul".into()),
        input: vec!["last".into(), "u".into()],
        output: vec!["y".into()],
        ..NodeProto::default()
    });
    let error = halved(model, &[]).unwrap_err().to_string();
    assert!(error.contains("If, Loop or Scan"), "{error}");
}

#[test]
fn hoisting_and_nesting_are_inverse() {
    let inner = Net::new(&[("state", 1, &["2", "4"]), ("slice", 1, &["2", "4"])]);
    let inner = block(inner, "slice", "step", "s").node("Add", &["state", "step"], "next", "");
    let mut inner = body(inner, &["next", "step"]);
    inner.value_info.clear();
    let net = Net::new(&[("x", 1, &["5", "2", "4"]), ("start", 1, &["2", "4"])]);
    let net = net.node("Scan", &["start", "x"], "last,y", "num_scan_inputs=1");
    let mut model = with_bodies(net, vec![subgraph("body", inner)]);
    model.graph.as_mut().unwrap().value_info.push(dynamic("last", 1, &["2", "4"]));
    let hoisted = paredown::internals::graph::bodies::hoisted(&model).unwrap();
    assert_eq!(hoisted.graph.as_ref().unwrap().node.len(), 2 + 4 + 1);
    assert_eq!(*paredown::internals::graph::bodies::nested(&hoisted), model);
}
