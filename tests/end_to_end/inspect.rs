//! `inspect` names every group and every frozen axis.

use std::collections::BTreeSet;

use serde_json::Value;

use paredown::internals::onnx::Model;
use paredown::internals::onnx::tensor::TensorView;

use crate::command::{FIXTURES, Run, fixture};

fn inspect(name: &str) -> Value {
    let said = Run::new("inspect").arg(fixture(name)).arg("--json").exits(0);
    serde_json::from_str(&said.out).unwrap()
}

fn groups(report: &Value) -> &Vec<Value> {
    report["groups"].as_array().unwrap()
}

#[test]
fn every_group_is_complete() {
    for name in FIXTURES {
        let report = inspect(name);
        assert_eq!(report["schema_version"], 2);
        let mut names = BTreeSet::new();
        for group in groups(&report) {
            assert!(names.insert(group["name"].as_str().unwrap()), "{name}: {group} is named twice");
            assert!(group["size"].as_u64().unwrap() > 0 && group["kept"] == group["size"], "{name}: {group}");
            assert!(group["params"].as_u64().unwrap() > 0 && group["macs"].is_u64(), "{name}: {group}");
            assert!(!group["axis"].as_str().unwrap().is_empty());
            let role = group["role"].as_str().unwrap();
            assert!(["free", "shifts", "frozen"].contains(&role), "{role}");
            if role != "free" {
                let reason = group["reason"].as_str().unwrap();
                let (node, why) = reason.split_once(": ").unwrap_or_default();
                assert!(!node.is_empty() && !why.is_empty(), "{name}: {group}");
            }
            let members = group["members"].as_array().unwrap();
            assert!(members.iter().all(|m| m["tensor"].is_string() && m["axis"].is_u64()), "{name}: {group}");
            assert!(!members.is_empty(), "{name}: {group}");
        }
    }
}

/// Not one axis of size 2 or more of a stored float tensor is passed over in silence.
#[test]
fn every_axis_of_every_weight_is_in_a_group() {
    for name in FIXTURES {
        let report = inspect(name);
        let listed: BTreeSet<(&str, u64)> = groups(&report)
            .iter()
            .flat_map(|group| group["members"].as_array().unwrap())
            .map(|member| (member["tensor"].as_str().unwrap(), member["axis"].as_u64().unwrap()))
            .collect();
        let model = Model::load(fixture(name)).unwrap();
        for tensor in &model.proto.graph.as_ref().unwrap().initializer {
            let view = TensorView::new(tensor).unwrap();
            for (axis, &size) in view.dims().iter().enumerate() {
                let expected = view.element_type().is_float() && size > 1;
                let found = listed.contains(&(view.name(), axis as u64));
                assert!(found || !expected, "{name}: axis {axis} of {}", view.name());
            }
        }
    }
}

#[test]
fn parameters_are_the_stored_floats_each_counted_once() {
    for name in FIXTURES {
        let model = Model::load(fixture(name)).unwrap();
        let graph = model.proto.graph.as_ref().unwrap();
        let constants = graph.node.iter().filter(|node| node.op_type() == "Constant");
        let constants = constants.flat_map(|node| &node.attribute).filter_map(|attribute| attribute.t.as_ref());
        let views = graph.initializer.iter().chain(constants).map(|tensor| TensorView::new(tensor).unwrap());
        let floats: usize = views.filter(|view| view.element_type().is_float()).map(|view| view.len()).sum();
        assert_eq!(inspect(name)["model"]["before"]["params"], floats, "{name}");
    }
}

/// From the table in `fixtures/README.md`.
#[test]
fn multiply_accumulates_are_those_of_the_table() {
    for (name, macs) in FIXTURES.into_iter().zip([84_480, 763_520, 1_118_848, 50_432, 300_032]) {
        assert_eq!(inspect(name)["model"]["before"]["macs"], macs, "{name}");
    }
}

#[test]
fn attention_heads_are_called_heads() {
    let report = inspect("digits_vit.onnx");
    let heads: Vec<&Value> = groups(&report).iter().filter(|group| group["axis"] == "heads").collect();
    let found: Vec<_> = heads.iter().map(|g| (g["name"].as_str().unwrap(), g["size"].as_u64().unwrap())).collect();
    assert_eq!(found, [("layers.0/query/MatMul heads", 4), ("layers.1/query/MatMul heads", 4)]);
    for group in heads {
        assert_eq!((&group["role"], group["members"].as_array().unwrap().len()), (&"free".into(), 7), "{group}");
    }
    let dims: Vec<&Value> = groups(&report).iter().filter(|group| group["axis"] == "head dims").collect();
    assert_eq!(dims.len(), 4);
    assert!(dims.iter().all(|g| g["reason"].as_str().unwrap().contains("which is pruned instead")));
}

/// Equal initializers that an exporter shared through `Identity` nodes are no group of their own.
#[test]
fn identity_makes_no_group() {
    let report = inspect("digits_resnet.onnx");
    let open: Vec<&str> = groups(&report)
        .iter()
        .filter(|group| group["role"] == "free")
        .map(|group| group["name"].as_str().unwrap())
        .collect();
    let expected = [
        "stem/Conv channels",
        "block1/conv1/Conv channels",
        "block2/conv1/Conv channels",
        "block2/conv2/Conv channels",
        "block3/conv1/Conv channels",
        "block3/conv2/Conv channels",
    ];
    assert_eq!(open, expected);
}

#[test]
fn text_and_json_show_the_same_groups() {
    let report = inspect("digits_vit.onnx");
    let text = Run::new("inspect").arg(fixture("digits_vit.onnx")).arg("--all").exits(0).out;
    for group in groups(&report) {
        assert!(text.contains(group["name"].as_str().unwrap()), "{group}");
        if let Some(reason) = group["reason"].as_str() {
            let node = reason.split(": ").next().unwrap();
            assert!(text.contains(node), "{reason}");
        }
    }
}

/// Nobody can shrink a kernel: its axes are counted, not listed.
#[test]
fn kernel_axes_are_counted() {
    let text = Run::new("inspect").arg(fixture("digits_vit.onnx")).exits(0).out;
    assert!(!text.contains("patch/Conv indices") && text.contains("head/Gemm neurons"), "{text}");
    assert!(
        text.contains("4 frozen axes (of kernels, positions, inputs and outputs) are not listed; --all lists them"),
        "{text}"
    );
}

/// Products of activations grow with the size of a dynamic axis, and the batch multiplies everything.
#[test]
fn dim_sets_the_sizes_that_are_counted() {
    let said = Run::new("inspect").arg(fixture("digits_vit.onnx")).args("--json --dim batch=3").exits(0);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["model"]["before"]["macs"], 3 * 1_118_848);
}
