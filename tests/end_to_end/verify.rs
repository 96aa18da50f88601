//! The proof is repeated later, from files alone.

use crate::command::{Folder, Run, fixture, json};

/// Up to the rounding of decimal digits.
fn close(found: &serde_json::Value, expected: f64) -> bool {
    (found.as_f64().unwrap() - expected).abs() < 1e-12
}

#[test]
fn a_pruned_file_is_proved_again_with_its_plan() {
    let folder = Folder::new();
    let original = fixture("digits_vit.onnx");
    let (out, plan, report) = (folder.at("out.onnx"), folder.at("plan.json"), folder.at("report.json"));
    Run::prune(&original, &out).args("--ratio 0.25 --plan-out").arg(&plan).exits(0);
    let verify = || Run::new("verify").arg(&original).arg(&out).arg("--data").arg(fixture("eval.npz"));
    verify().arg("--plan").arg(&plan).arg("--report").arg(&report).exits(0);
    let proved = json(&report);
    assert_eq!(proved["schema_version"], 2);
    assert_eq!(proved["verify"]["valid"], true);
    assert!(proved["verify"]["exact_max_rel"].as_f64().unwrap() <= 1e-4, "{proved}");
    assert!(close(&proved["verify"]["accuracy"]["before"], 590.0 / 597.0), "{proved}");
    assert!(proved["model"]["after"]["latency_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(proved["model"]["after"]["bytes"], std::fs::metadata(&out).unwrap().len());
    verify().args("--max-rel-l2 2").exits(0);
    let said = verify().args("--max-rel-l2 1e-9").exits(5);
    assert!(said.err.contains("--max-rel-l2") && said.err.contains("out.onnx"), "{}", said.err);
}

#[test]
fn another_plan_than_the_one_carried_out_fails() {
    let folder = Folder::new();
    let original = fixture("digits_resnet.onnx");
    let (out, plan) = (folder.at("out.onnx"), folder.at("plan.json"));
    Run::prune(&original, &out).args("--ratio 0.5").exits(0);
    let dry = || Run::new("prune").arg(&original).args("--dry-run --no-verify --plan-out").arg(&plan);
    let verify = || Run::new("verify").arg(&original).arg(&out).arg("--plan").arg(&plan);
    dry().args("--ratio 0.5").exits(0);
    verify().exits(0);
    dry().args("--ratio 0.5 --criterion random").exits(0);
    verify().exits(5).complains(&["out.onnx", "differs from the masked original"]);
    dry().args("--ratio 0.25").exits(0);
    verify().exits(5).complains(&["out.onnx"]);
}

/// The removal is carried out again; what the file's own weights are is not part of the plan.
#[test]
fn a_repaired_file_is_proved_with_its_plan() {
    let folder = Folder::new();
    let (original, calib) = (fixture("digits_mlp.onnx"), fixture("calib.npz"));
    let (out, plan, report) = (folder.at("out.onnx"), folder.at("plan.json"), folder.at("report.json"));
    let prune =
        |options: &str| Run::prune(&original, &out).args("--force --ratio 0.5 --data").arg(&calib).args(options);
    let verify = || Run::new("verify").arg(&original).arg(&out).arg("--plan").arg(&plan);
    for options in ["", "--repair bias", "--retrain 1"] {
        prune(options).args("--plan-out").arg(&plan).exits(0);
        let said = verify().arg("--report").arg(&report).exits(0);
        assert!(said.out.contains("repaired or trained"), "{options}: {}", said.out);
        assert!(json(&report)["verify"]["exact_max_rel"].as_f64().unwrap() <= 1e-4);
    }
    Run::prune(&original, &out).args("--force --ratio 0.25 --data").arg(&calib).exits(0);
    verify().exits(5).complains(&["out.onnx", "shape", "another plan"]);
    // As the removal left it, so that the file itself is proved.
    prune("--repair none --plan-out").arg(&plan).exits(0);
    let said = verify().exits(0);
    assert!(!said.out.contains("repaired or trained"), "{}", said.out);
    prune("--seed 1").exits(0);
    verify().exits(5).complains(&["changed afterwards", "--plan"]);
}

#[test]
fn a_plan_of_ranks_has_no_removal_to_prove() {
    let folder = Folder::new();
    let original = fixture("digits_mlp.onnx");
    let (out, plan) = (folder.at("out.onnx"), folder.at("plan.json"));
    Run::new("factorize").arg(&original).arg("-o").arg(&out).args("--rank 16 --plan-out").arg(&plan).exits(0);
    let said = Run::new("verify").arg(&original).arg(&out).arg("--plan").arg(&plan).exits(0);
    assert!(said.out.contains("the plan of `prune`"), "{}", said.out);
    let text = std::fs::read_to_string(&plan).unwrap().replace(":16", ":15");
    std::fs::write(&plan, text).unwrap();
    let verify = Run::new("verify").arg(&original).arg(&out).arg("--plan").arg(&plan);
    verify.exits(5).complains(&["out.onnx", "not split at rank 15"]);
}

#[test]
fn a_file_of_another_signature_fails() {
    let (digits, other) = (fixture("digits_mlp.onnx"), Folder::new());
    let small = other.write("small.onnx", prost::Message::encode_to_vec(&crate::networks::mlp()));
    Run::new("verify").arg(&digits).arg(&small).exits(5).complains(&["small.onnx", "input"]);
}

#[test]
fn accuracy_on_labelled_data_is_reported_before_and_after() {
    let folder = Folder::new();
    let report = folder.at("report.json");
    let prune = Run::prune(&fixture("digits_resnet.onnx"), &folder.at("out.onnx")).args("--ratio 0.1");
    let said = prune.arg("--data").arg(fixture("eval.npz")).arg("--report").arg(&report).exits(0);
    assert!(said.out.contains("accuracy"), "{}", said.out);
    let accuracy = &json(&report)["verify"]["accuracy"];
    assert!(close(&accuracy["before"], 596.0 / 597.0), "{accuracy}");
    assert!(accuracy["after"].as_f64().unwrap() > 0.1, "{accuracy}");
}

#[test]
fn data_that_does_not_fit_exits_with_3() {
    let folder = Folder::new();
    let wrong = folder.write("wrong.npz", "not an archive");
    let prune = || Run::prune(&fixture("digits_mlp.onnx"), &folder.at("out.onnx")).args("--ratio 0.5 --data");
    prune().arg(&wrong).exits(3).complains(&["wrong.npz"]);
    prune().arg(folder.at("nowhere.npz")).exits(3).complains(&["nowhere.npz"]);
    prune().arg(fixture("nmf_reference.npz")).exits(3).complains(&["nmf_reference.npz", "input"]);
    assert_eq!(folder.names(), ["wrong.npz"]);
}
