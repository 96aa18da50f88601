//! What paredown does not understand it names, and leaves alone; nothing else suffers.

use prost::Message as _;

use paredown::internals::onnx::proto::type_proto::Value;
use paredown::internals::onnx::proto::{ModelProto, NodeProto};
use paredown::{GroupReport, InspectOptions, Model, PruneOptions, Report, inspect, prune};

use crate::command::{Folder, Run};
use crate::networks::{foreign, graph, ints, model, node, value, weight};

/// Four dense layers with `middle` between the second and the third.
fn with_middle(middle: Vec<NodeProto>) -> ModelProto {
    let mut nodes =
        vec![node("MatMul", &["x", "w1"], "h1"), node("Relu", &["h1"], "r1"), node("MatMul", &["r1", "w2"], "before")];
    nodes.extend(middle);
    nodes.extend([
        node("MatMul", &["after", "w3"], "h3"),
        node("Relu", &["h3"], "r3"),
        node("MatMul", &["r3", "w4"], "y"),
    ]);
    let weights = [("w1", [6, 16]), ("w2", [16, 10]), ("w3", [10, 24]), ("w4", [24, 4])];
    let weights = weights.iter().map(|(name, dims)| weight(name, dims)).collect();
    model(value("x", &["n", "6"]), nodes, weights, value("y", &["n", "4"]))
}

fn report(proto: &ModelProto) -> Report {
    let model = Model::from_proto(proto.clone());
    inspect(&model, &InspectOptions::new()).unwrap()
}

/// The group of one axis of a tensor.
fn group<'r>(report: &'r Report, tensor: &str, axis: usize) -> &'r GroupReport {
    let holds = |group: &&GroupReport| group.members.iter().any(|m| m.tensor == tensor && m.axis == axis);
    report.groups.iter().find(holds).unwrap_or_else(|| panic!("axis {axis} of {tensor} is in no group"))
}

/// `w1`'s outputs and `w3`'s outputs are free; what touches the middle is frozen by its node.
fn freezes_only_what_it_touches(report: &Report, culprit: &str) {
    for (tensor, axis, coupled) in [("w1", 1, ("w2", 0)), ("w3", 1, ("w4", 0))] {
        let free = group(report, tensor, axis);
        assert_eq!((free.role.as_str(), &free.reason), ("free", &None), "{free:?}");
        assert!(free.members.iter().any(|m| (m.tensor.as_str(), m.axis) == coupled), "{free:?}");
    }
    for (tensor, axis) in [("w2", 1), ("w3", 0)] {
        let frozen = group(report, tensor, axis);
        assert_eq!(frozen.role, "frozen", "{frozen:?}");
        assert!(frozen.reason.as_ref().unwrap().starts_with(culprit), "{frozen:?}");
    }
}

#[test]
fn without_the_middle_everything_is_free() {
    let plain = report(&with_middle(vec![node("Relu", &["before"], "after")]));
    for (tensor, axis) in [("w1", 1), ("w2", 1), ("w3", 1)] {
        assert_eq!(group(&plain, tensor, axis).role, "free");
    }
    assert!(plain.frozen.is_empty(), "{:?}", plain.frozen);
}

#[test]
fn an_unknown_operator_freezes_what_it_touches_and_nothing_else() {
    let mut proto = with_middle(vec![foreign("Mystery", &["before"], "after")]);
    graph(&mut proto).value_info = vec![value("before", &["n", "10"]), value("after", &["n", "10"])];
    let report = report(&proto);
    freezes_only_what_it_touches(&report, "Mystery_after");
    assert_eq!(report.frozen.len(), 1, "{:?}", report.frozen);
    let named = &report.frozen[0];
    assert_eq!((named.node.as_str(), named.op.as_str()), ("Mystery_after", "com.example.Mystery"));
    assert!(!named.reason.is_empty());
}

/// Where the file does not say what shape comes out of it, the readers do: a weight tells how wide the matrix is that it
/// is multiplied with, and a declared output of what rank.
#[test]
fn an_unknown_operator_of_unknown_shape_freezes_what_it_touches_and_nothing_else() {
    let report = report(&with_middle(vec![foreign("Mystery", &["before"], "after")]));
    freezes_only_what_it_touches(&report, "Mystery_after");
}

/// If even the rank of what follows stays open, it is frozen, and the report says why.
#[test]
fn an_unknown_operator_of_unknown_rank_leaves_what_comes_before() {
    let mut proto = with_middle(vec![foreign("Mystery", &["before"], "after")]);
    let Some(Value::TensorType(output)) = graph(&mut proto).output[0].r#type.as_mut().unwrap().value.as_mut() else {
        panic!("the output is a tensor")
    };
    output.shape = None;
    let report = report(&proto);
    assert_eq!(group(&report, "w1", 1).role, "free");
    for (tensor, axis) in [("w2", 1), ("w3", 0), ("w3", 1), ("w4", 0)] {
        let frozen = group(&report, tensor, axis);
        assert!(frozen.role == "frozen" && frozen.reason.is_some(), "{frozen:?}");
    }
    assert!(report.frozen.iter().any(|frozen| frozen.node == "Mystery_after"), "{:?}", report.frozen);
}

/// Convolutions behind it lose channels as if its shape were known: the file is that of the same network with an operator
/// that is known.
#[test]
fn convolutions_behind_an_unknown_operator_are_pruned() {
    let with = |middle: NodeProto| {
        let mut nodes = vec![node("Conv", &["x", "k1"], "a"), middle, node("Conv", &["b", "k2"], "c")];
        nodes.extend([node("Relu", &["c"], "d"), node("MaxPool", &["d"], "e"), node("Conv", &["e", "k3"], "f")]);
        nodes[4].attribute = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
        nodes.extend([
            node("GlobalAveragePool", &["f"], "g"),
            node("Flatten", &["g"], "h"),
            node("Gemm", &["h", "w"], "y"),
        ]);
        let weights =
            [("k1", vec![8, 3, 3, 3]), ("k2", vec![12, 8, 3, 3]), ("k3", vec![6, 12, 1, 1]), ("w", vec![6, 4])];
        let weights = weights.iter().map(|(name, dims)| weight(name, dims)).collect();
        model(value("x", &["n", "3", "16", "16"]), nodes, weights, value("y", &["n", "4"]))
    };
    let pruned = |proto: ModelProto, exclude: &str| {
        let model = Model::from_proto(proto);
        let options = PruneOptions::ratio(0.5).align(1).exclude(exclude);
        let initializers = prune(&model, &options).unwrap().model.proto.graph.unwrap().initializer;
        initializers
            .into_iter()
            .map(|tensor| (tensor.name().to_owned(), tensor.dims.clone(), tensor.raw_data))
            .collect::<Vec<_>>()
    };
    let found = pruned(with(foreign("Mystery", &["a"], "b")), "none");
    assert_eq!(found, pruned(with(node("Relu", &["a"], "b")), "k1"));
    let dims: Vec<&[i64]> = found.iter().map(|(_, dims, _)| dims.as_slice()).collect();
    assert_eq!(dims, [&[8, 3, 3, 3][..], &[6, 8, 3, 3], &[3, 6, 1, 1], &[3, 4]]);
}

/// A standard name in another domain is another operator.
#[test]
fn a_relu_of_another_domain_is_unknown() {
    let mut proto = with_middle(vec![foreign("Relu", &["before"], "after")]);
    graph(&mut proto).value_info = vec![value("after", &["n", "10"])];
    freezes_only_what_it_touches(&report(&proto), "Relu_after");
}

/// Beside the main path it freezes what it reads; the path itself is not cut.
#[test]
fn an_unknown_operator_on_a_side_branch() {
    let mut proto = with_middle(vec![node("Relu", &["before"], "after"), foreign("Probe", &["r1"], "probed")]);
    graph(&mut proto).output.push(value("probed", &["n", "16"]));
    let report = report(&proto);
    let frozen = group(&report, "w1", 1);
    assert!(frozen.role == "frozen" && frozen.reason.as_ref().unwrap().contains("Probe"), "{frozen:?}");
    assert_eq!(group(&report, "w2", 1).role, "free");
    assert_eq!(group(&report, "w3", 1).role, "free");
}

/// Two inputs, one known and one not: both are touched.
#[test]
fn a_weight_that_an_unknown_operator_reads_is_frozen() {
    let mut proto = with_middle(vec![foreign("Blend", &["before", "table"], "after")]);
    graph(&mut proto).initializer.push(weight("table", &[10, 10]));
    graph(&mut proto).value_info = vec![value("after", &["n", "10"])];
    let report = report(&proto);
    freezes_only_what_it_touches(&report, "Blend_after");
    for axis in [0, 1] {
        assert_eq!(group(&report, "table", axis).role, "frozen");
    }
}

#[test]
fn inspect_names_it_in_text_and_prune_needs_no_verify() {
    let folder = Folder::new();
    let mut proto = with_middle(vec![foreign("Mystery", &["before"], "after")]);
    graph(&mut proto).value_info = vec![value("after", &["n", "10"])];
    let file = folder.write("model.onnx", proto.encode_to_vec());
    let said = Run::new("inspect").arg(&file).exits(0);
    assert!(said.out.contains("Mystery_after") && said.out.contains("com.example"), "{}", said.out);
    let out = folder.at("out.onnx");
    let refused = Run::prune(&file, &out).args("--ratio 0.5").exits(5);
    refused.complains(&["model.onnx", "Mystery_after", "com.example.Mystery", "--no-verify"]);
    assert_eq!(folder.names(), ["model.onnx"]);
    let said = Run::prune(&file, &out).args("--ratio 0.5 --align 1 --no-verify").exits(0);
    assert!(said.out.contains("not proved"), "{}", said.out);
    let written = Model::load(&out).unwrap().proto.graph.unwrap();
    let dims = |name: &str| written.initializer.iter().find(|t| t.name() == name).unwrap().dims.clone();
    assert_eq!([dims("w1"), dims("w2"), dims("w3"), dims("w4")], [[6, 8], [8, 10], [10, 12], [12, 4]]);
    assert_eq!(written.node[3], proto.graph.unwrap().node[3], "the unknown node is untouched");
}

#[test]
fn where_nothing_can_go_the_nodes_are_named() {
    let single = model(
        value("x", &["n", "6"]),
        vec![node("Gemm", &["x", "w"], "y")],
        vec![weight("w", &[6, 4])],
        value("y", &["n", "4"]),
    );
    let walled = {
        let nodes =
            vec![node("Gemm", &["x", "w1"], "h"), foreign("Mystery", &["h"], "m"), node("Gemm", &["m", "w2"], "y")];
        let mut proto = model(
            value("x", &["n", "6"]),
            nodes,
            vec![weight("w1", &[6, 16]), weight("w2", &[16, 4])],
            value("y", &["n", "4"]),
        );
        graph(&mut proto).value_info = vec![value("m", &["n", "16"])];
        proto
    };
    let folder = Folder::new();
    for (proto, names) in [
        (single, vec!["x: graph input", "y: graph output"]),
        (walled, vec!["Mystery_m", "x: graph input", "y: graph output"]),
    ] {
        let file = folder.write("model.onnx", proto.encode_to_vec());
        let said = Run::prune(&file, &folder.at("out.onnx")).args("--ratio 0.5").exits(4);
        for name in names {
            assert!(said.err.contains(name), "{name} is not in {}", said.err);
        }
        assert_eq!(folder.names(), ["model.onnx"]);
    }
}

/// A factor is never emptied, whatever the ratio.
#[test]
fn one_unit_stays() {
    let proto = with_middle(vec![node("Relu", &["before"], "after")]);
    let model = Model::from_proto(proto);
    let pruned = prune(&model, &PruneOptions::ratio(0.999).align(1)).unwrap();
    assert!(pruned.plan.groups.iter().all(|group| group.kept.as_ref().unwrap().len() == 1), "{:?}", pruned.plan);
}
