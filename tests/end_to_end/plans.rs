//! A plan is saved, replayed byte for byte, and edited by hand.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::command::{FIXTURES, Folder, Run, fixture, json as read_json};

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut plan = read_json(path);
    change(&mut plan);
    fs::write(path, plan.to_string()).unwrap();
}

#[test]
fn a_replayed_plan_gives_the_same_bytes() {
    let folder = Folder::new();
    for name in FIXTURES {
        let (plan, first, second) = (folder.at("plan.json"), folder.at("first.onnx"), folder.at("second.onnx"));
        let options = "--macs 60% --criterion l1 --force";
        Run::prune(&fixture(name), &first).args(options).arg("--plan-out").arg(&plan).exits(0);
        Run::prune(&fixture(name), &second).args("--force --plan").arg(&plan).exits(0);
        assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap(), "{name}");
        let again = folder.at("again.json");
        Run::prune(&fixture(name), &second).args("--dry-run --plan").arg(&plan).arg("--plan-out").arg(&again).exits(0);
        assert_eq!(fs::read_to_string(&plan).unwrap(), fs::read_to_string(&again).unwrap(), "{name}");
    }
}

/// One line a group, names as `inspect` shows them.
#[test]
fn a_plan_is_readable() {
    let folder = Folder::new();
    let plan = folder.at("plan.json");
    Run::new("prune").arg(fixture("digits_vit.onnx")).args("--dry-run --ratio 0.5 --plan-out").arg(&plan).exits(0);
    let text = fs::read_to_string(&plan).unwrap();
    let line = text.lines().find(|line| line.contains("layers.1/query/MatMul heads")).unwrap();
    assert!(line.contains("\"size\":4,\"kept\":["), "{line}");
    assert_eq!(text.lines().count(), 4 + 4 + 1, "{text}");
}

#[test]
fn a_ratio_written_by_hand_is_carried_out() {
    let folder = Folder::new();
    let plan = folder.write(
        "plan.json",
        r#"{"version": 1, "groups": [{"name": "1/Gemm neurons", "ratio": 0.25}, {"name": "3/Gemm neurons", "kept": [7, 3]}]}"#,
    );
    let (out, report) = (folder.at("out.onnx"), folder.at("report.json"));
    Run::prune(&fixture("digits_mlp.onnx"), &out).arg("--plan").arg(&plan).arg("--report").arg(&report).exits(0);
    let kept = |name: &str| {
        let report = read_json(&report);
        let groups = report["groups"].as_array().unwrap();
        groups.iter().find(|group| group["name"] == name).unwrap()["kept"].as_u64().unwrap()
    };
    assert_eq!((kept("1/Gemm neurons"), kept("3/Gemm neurons")), (192, 2));
    let params = (64 * 192 + 192) + (192 * 2 + 2) + (2 * 10 + 10);
    assert_eq!(read_json(&report)["model"]["after"]["params"], params);
}

#[test]
fn a_plan_that_does_not_fit_is_refused_with_the_group() {
    let folder = Folder::new();
    let plan = folder.at("plan.json");
    let out = folder.at("out.onnx");
    let prune = |model: &str| Run::prune(&fixture(model), &out).arg("--plan").arg(&plan);
    let save = || {
        Run::new("prune").arg(fixture("digits_mlp.onnx")).args("--dry-run --ratio 0.5 --plan-out").arg(&plan).exits(0)
    };
    save();
    prune("digits_vit.onnx").exits(3).complains(&["1/Gemm neurons", "no such group"]);
    edit(&plan, |plan| plan["groups"][0]["size"] = json!(255));
    prune("digits_mlp.onnx").exits(3).complains(&["1/Gemm neurons", "256, not 255"]);
    for (kept, reason) in [
        (json!([]), "at least one index must be kept"),
        (json!([1, 256]), "index 256 is out of range for size 256"),
        (json!([1, 1]), "index 1 is kept twice"),
        (json!([-1]), "this is not a plan"),
        (json!("all"), "this is not a plan"),
    ] {
        save();
        edit(&plan, |plan| plan["groups"][0]["kept"] = kept);
        prune("digits_mlp.onnx").exits(3).complains(&[reason]);
    }
    save();
    edit(&plan, |plan| plan["groups"][0]["ratio"] = json!(0.5));
    prune("digits_mlp.onnx").exits(3).complains(&["either 'kept' or 'ratio'"]);
    edit(&plan, |plan| plan["groups"][0] = json!({"name": "5/Gemm neurons", "ratio": 0.5}));
    prune("digits_mlp.onnx").exits(3).complains(&["5/Gemm neurons", "frozen", "logits: graph output"]);
    edit(&plan, |plan| plan["version"] = json!(2));
    prune("digits_mlp.onnx").exits(3).complains(&["plan.json", "version 2 is not supported"]);
    folder.write("plan.json", "{");
    prune("digits_mlp.onnx").exits(3).complains(&["plan.json", "this is not a plan"]);
    fs::remove_file(&plan).unwrap();
    prune("digits_mlp.onnx").exits(3).complains(&["plan.json"]);
    assert!(folder.names().is_empty());
}
