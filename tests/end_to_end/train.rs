//! `tune`, `prune --retrain`, `factorize --retrain`: training from the command line.

use std::fs::{self, File};
use std::path::Path;

use ndarray::{Array1, Array2, Array4};
use ndarray_npy::NpzWriter;
use paredown::internals::onnx::proto::{ModelProto, NodeProto, TensorProto};
use paredown::internals::onnx::{Model, SaveOptions, attributes};

use crate::command::{Folder, Run, fixture, json};

fn tune(model: &str, out: &Path, args: &str) -> Run {
    Run::new("tune").arg(fixture(model)).arg("-o").arg(out).args("--force").args(args)
}

fn without_weights(path: &Path) -> ModelProto {
    let mut proto = Model::load(path).unwrap().proto;
    proto.graph.as_mut().unwrap().initializer.iter_mut().for_each(|tensor| tensor.raw_data = None);
    proto
}

#[test]
fn tuning_changes_weights_and_nothing_else() {
    let folder = Folder::new();
    let (out, report) = (folder.at("out.onnx"), folder.at("report.json"));
    let train = fixture("train_overfit.npz");
    tune("digits_mlp.onnx", &out, "--epochs 3 --report").arg(&report).arg("--data").arg(&train).exits(0);
    assert_eq!(without_weights(&out), without_weights(&fixture("digits_mlp.onnx")));
    assert_ne!(fs::read(&out).unwrap(), fs::read(fixture("digits_mlp.onnx")).unwrap());
    let training = &json(&report)["training"][0];
    assert_eq!((training["tensors"].as_u64(), training["loss"].as_str()), (Some(6), Some("ce")));
    assert_eq!(training["epochs"].as_array().unwrap().len(), 3);
}

/// As some exporters write it: every weight in a `Constant` node of its own.
#[test]
fn weights_in_constant_nodes_are_trained_alike() {
    let folder = Folder::new();
    let (model, out, report) = (folder.at("model.onnx"), folder.at("out.onnx"), folder.at("report.json"));
    let mut written = Model::load(fixture("digits_mlp.onnx")).unwrap();
    let graph = written.proto.graph.as_mut().unwrap();
    let constants = std::mem::take(&mut graph.initializer).into_iter().map(constant).collect::<Vec<_>>();
    graph.node.splice(0..0, constants);
    written.save(&model, &SaveOptions::default()).unwrap();
    let train = fixture("train_overfit.npz");
    let run = Run::new("tune").arg(&model).arg("-o").arg(&out).args("--epochs 2 --report").arg(&report);
    run.arg("--data").arg(&train).exits(0);
    assert_eq!(json(&report)["training"][0]["tensors"].as_u64(), Some(6));
    let stored = folder.at("stored.onnx");
    tune("digits_mlp.onnx", &stored, "--epochs 2 --data").arg(&train).exits(0);
    let (tuned, stored) = (Model::load(&out).unwrap().proto, Model::load(&stored).unwrap().proto);
    let values = tuned.graph.as_ref().unwrap().node.iter().filter_map(|node| node.attribute.first()?.t.as_ref());
    let values: Vec<_> = values.map(|tensor| tensor.raw_data.clone()).collect();
    let expected: Vec<_> = stored.graph.unwrap().initializer.into_iter().map(|tensor| tensor.raw_data).collect();
    assert_eq!(values, expected);
}

fn constant(tensor: TensorProto) -> NodeProto {
    let mut node =
        NodeProto { op_type: Some("Constant".into()), output: vec![tensor.name().to_owned()], ..NodeProto::default() };
    attributes::set_tensor(&mut node, "value", tensor);
    node
}

#[test]
fn training_gives_the_same_bytes_whatever_the_number_of_threads() {
    let folder = Folder::new();
    for name in ["digits_mlp.onnx", "digits_resnet.onnx", "digits_vit.onnx"] {
        let run = |threads: &str| {
            let out = folder.at("out.onnx");
            let tune = tune(name, &out, "--epochs 1 --no-verify --data").arg(fixture("train_overfit.npz"));
            tune.env("RAYON_NUM_THREADS", threads).exits(0);
            fs::read(&out).unwrap()
        };
        assert!(run("1") == run("5"), "{name}");
    }
}

#[test]
fn a_teacher_makes_up_for_labels() {
    let folder = Folder::new();
    let (pruned, out, report) = (folder.at("pruned.onnx"), folder.at("out.onnx"), folder.at("report.json"));
    let calib = fixture("calib.npz");
    Run::prune(&fixture("digits_mlp.onnx"), &pruned).args("--params 20% --no-verify").exits(0);
    let tune = Run::new("tune").arg(&pruned).arg("-o").arg(&out).args("--epochs 3 --report").arg(&report);
    let tune = tune.arg("--data").arg(&calib).arg("--eval").arg(fixture("eval.npz"));
    tune.arg("--teacher").arg(fixture("digits_mlp.onnx")).exits(0);
    let training = &json(&report)["training"][0];
    assert_eq!(training["loss"], "kl");
    let accuracy = &json(&report)["verify"]["accuracy"];
    assert!(accuracy["after"].as_f64() > accuracy["before"].as_f64(), "{accuracy}");
}

#[test]
fn retraining_in_steps_reaches_the_budget_and_says_what_it_did() {
    let folder = Folder::new();
    let (out, report) = (folder.at("out.onnx"), folder.at("report.json"));
    let prune = Run::prune(&fixture("digits_mlp.onnx"), &out).args("--params 10% --steps 2 --retrain 5 --report");
    let said =
        prune.arg(&report).arg("--data").arg(fixture("train.npz")).arg("--eval").arg(fixture("eval.npz")).exits(0);
    assert!(said.out.contains("trained 6 tensors"), "{}", said.out);
    let report = json(&report);
    assert_eq!(report["training"].as_array().unwrap().len(), 2);
    let params = |when: &str| report["model"][when]["params"].as_f64().unwrap();
    assert!(params("after") <= 0.1 * params("before"));
    assert!(report["verify"]["exact_max_rel"].as_f64().unwrap() <= 1e-4);
    assert!(report["verify"]["accuracy"]["after"].as_f64().unwrap() > 0.95, "{}", report["verify"]);
}

#[test]
fn a_factorized_model_is_trained() {
    let folder = Folder::new();
    let (out, report) = (folder.at("out.onnx"), folder.at("report.json"));
    let run = Run::new("factorize").arg(fixture("digits_mlp.onnx")).arg("-o").arg(&out).args("--rank 2 --retrain 3");
    run.arg("--data").arg(fixture("train.npz")).arg("--report").arg(&report).exits(0);
    let training = &json(&report)["training"][0];
    let held_out = |epoch: &serde_json::Value| epoch["held_out"].as_f64().unwrap();
    let best = training["best_epoch"].as_u64().unwrap() as usize;
    assert!(best > 0 && held_out(&training["epochs"][best - 1]) < held_out(&training["before"]), "{training}");
}

fn stepwise(out: &Path, checkpoints: &Path, model: &str) -> Run {
    let prune = Run::prune(&fixture(model), out).args("--params 20% --steps 3 --retrain 2 --force --no-verify");
    prune.arg("--data").arg(fixture("train.npz")).arg("--checkpoint-dir").arg(checkpoints)
}

#[test]
fn an_interrupted_job_goes_on_and_ends_with_the_same_file() {
    let folder = Folder::new();
    let (out, checkpoints) = (folder.at("out.onnx"), folder.at("steps"));
    stepwise(&out, &checkpoints, "digits_mlp.onnx").exits(0);
    let whole = fs::read(&out).unwrap();
    // As if it had been killed while it kept the second step: a model without its record, damaged at that.
    fs::remove_file(checkpoints.join("step-3.json")).unwrap();
    fs::remove_file(checkpoints.join("step-2.json")).unwrap();
    fs::write(checkpoints.join("step-2.onnx"), "half").unwrap();
    fs::remove_file(&out).unwrap();
    stepwise(&out, &checkpoints, "digits_mlp.onnx").exits(0);
    assert!(fs::read(&out).unwrap() == whole);
    // And with everything done already.
    stepwise(&out, &checkpoints, "digits_mlp.onnx").exits(0);
    assert!(fs::read(&out).unwrap() == whole);
    // A step whose weights are not what they were is no finished step.
    let model = checkpoints.join("step-3.onnx");
    let mut bytes = fs::read(&model).unwrap();
    let last = bytes.len() - 200;
    bytes[last] ^= 1;
    fs::write(&model, bytes).unwrap();
    stepwise(&out, &checkpoints, "digits_mlp.onnx").exits(3).complains(&["step-3.onnx", "delete both"]);
    let said = stepwise(&out, &checkpoints, "digits_overfit.onnx").exits(3);
    said.complains(&["step-3.json", "another job"]);
    fs::write(checkpoints.join("step-3.json"), "{}").unwrap();
    stepwise(&out, &checkpoints, "digits_mlp.onnx").exits(3).complains(&["step-3.json"]);
}

#[cfg(unix)]
#[test]
fn a_job_killed_at_any_moment_ends_with_the_same_file() {
    let folder = Folder::new();
    let out = folder.at("out.onnx");
    stepwise(&out, &folder.at("whole"), "digits_mlp.onnx").exits(0);
    let whole = fs::read(&out).unwrap();
    fs::remove_file(&out).unwrap();
    let checkpoints = folder.at("steps");
    for delay in [100, 400, 900] {
        let mut child = stepwise(&out, &checkpoints, "digits_mlp.onnx").spawn();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    stepwise(&out, &checkpoints, "digits_mlp.onnx").exits(0);
    assert!(fs::read(&out).unwrap() == whole);
}

#[test]
fn a_loss_that_is_no_number_keeps_the_last_good_weights_and_says_so() {
    let folder = Folder::new();
    let out = folder.at("out.onnx");
    let said =
        tune("digits_mlp.onnx", &out, "--epochs 3 --lr 1e30 --no-verify --data").arg(fixture("train.npz")).exits(0);
    assert!(said.out.contains("no longer a number") && said.out.contains("epoch 0"), "{}", said.out);
    let weights = |path: &Path| Model::load(path).unwrap().proto.graph.unwrap().initializer;
    assert_eq!(weights(&out), weights(&fixture("digits_mlp.onnx")));
}

#[test]
fn training_that_diverges_starts_again_with_smaller_steps() {
    let folder = Folder::new();
    let (out, report) = (folder.at("out.onnx"), folder.at("report.json"));
    let tune = tune("digits_overfit.onnx", &out, "--epochs 2 --lr 3 --no-verify --report").arg(&report);
    let said = tune.arg("--data").arg(fixture("train_overfit.npz")).exits(0);
    assert!(said.out.contains("started again"), "{}", said.out);
    let training = &json(&report)["training"][0];
    let (restarts, rate) = (training["restarts"].as_i64().unwrap(), training["rate"].as_f64().unwrap());
    assert!((1..=4).contains(&restarts) && (rate - 3.0 / 4f64.powi(restarts as i32)).abs() < 1e-12, "{training}");
}

/// Labels are there and not followed; splits leave the widths of the residual sums, so these are followed.
#[test]
fn finishing_follows_the_original_without_labels() {
    let folder = Folder::new();
    let (out, report) = (folder.at("out.onnx"), folder.at("report.json"));
    let split = Run::new("factorize").arg(fixture("digits_resnet.onnx")).arg("-o").arg(&out);
    let said =
        split.args("--params 50% --finish 0.1 --report").arg(&report).arg("--data").arg(fixture("train.npz")).exits(0);
    assert!(said.out.contains("residual sums of the original"), "{}", said.out);
    let training = &json(&report)["training"][0];
    assert_eq!(training["loss"], "kl");
    assert!(training["residual_sums"].as_u64().unwrap() > 0, "{training}");
    // How far it gets depends on the machine; it is never worse than before.
    let held_out = |epoch: &serde_json::Value| epoch["held_out"].as_f64().unwrap();
    let epochs = training["epochs"].as_array().unwrap();
    let best = training["best_epoch"].as_u64().unwrap() as usize;
    let kept = if best == 0 { &training["before"] } else { &epochs[best - 1] };
    assert!(!epochs.is_empty() && held_out(kept) <= held_out(&training["before"]), "{training}");
}

#[test]
fn mistakes_are_told_before_any_work() {
    let folder = Folder::new();
    let out = folder.at("out.onnx");
    let (calib, train) = (fixture("calib.npz"), fixture("train.npz"));
    let run = |args: &str| tune("digits_mlp.onnx", &out, args);
    run("--epochs 1").exits(2).complains(&["--data"]);
    run("--epochs 1 --data").arg(&calib).exits(2).complains(&["nothing to learn from", "--teacher"]);
    run("--epochs 1 --no-labels --data").arg(&train).exits(2).complains(&["--teacher"]);
    run("--epochs 0 --data").arg(&train).exits(2).complains(&["epoch"]);
    run("--epochs 1 --lr -1 --data").arg(&train).exits(2);
    run("--epochs 1 --weight-decay nan --data").arg(&train).exits(2).complains(&["--weight-decay"]);
    run("--epochs 1 --weight-decay -1 --data").arg(&train).exits(2);
    run("--epochs 1 --loss ce --data").arg(&train).exits(2).complains(&["ce", "kl"]);
    run("--epochs 1 --loss hinge --data").arg(&train).exits(2).complains(&["hinge", "cosine"]);
    run("--epochs 1 --include nothing* --data").arg(&train).exits(3).complains(&["trained"]);
    let prune = |args: &str| Run::prune(&fixture("digits_mlp.onnx"), &out).args(args);
    prune("--ratio 0.5 --retrain 1").exits(2).complains(&["--data"]);
    prune("--ratio 0.5 --finish 0 --data").arg(&train).exits(2).complains(&["minutes"]);
    prune("--ratio 0.5 --finish 1 --retrain 1 --data").arg(&train).exits(2).complains(&["--finish", "--retrain"]);
    prune("--ratio 0.5 --retrain 0 --data").arg(&train).exits(2).complains(&["--retrain"]);
    prune("--ratio 0.5 --checkpoint-dir steps --data").arg(&train).exits(2).complains(&["--retrain"]);
    prune("--ratio 0.5 --lr 0.1 --data").arg(&train).exits(2).complains(&["--lr", "--retrain"]);
    assert!(!out.exists());
}

#[test]
fn what_is_read_is_not_overwritten() {
    let folder = Folder::new();
    let (teacher, data) = (folder.at("teacher.onnx"), folder.at("data.npz"));
    fs::copy(fixture("digits_mlp.onnx"), &teacher).unwrap();
    fs::copy(fixture("train.npz"), &data).unwrap();
    for read in [&teacher, &data] {
        let before = fs::read(read).unwrap();
        let run = tune("digits_mlp.onnx", read, "--epochs 1 --teacher").arg(&teacher).arg("--data").arg(&data);
        run.exits(2).complains(&["--output", "this run reads that file"]);
        assert!(fs::read(read).unwrap() == before);
    }
}

/// Samples for the digits' networks, of which all have the same label.
fn samples(path: &Path, count: usize, label: i64) {
    let mut npz = NpzWriter::new(File::create(path).unwrap());
    npz.add_array("input", &Array4::from_shape_fn((count, 1, 8, 8), |(n, _, y, x)| ((n + y * x) % 7) as f32)).unwrap();
    npz.add_array("labels", &Array1::from_elem(count, label)).unwrap();
    npz.finish().unwrap();
}

/// Samples whose label is a real number for each output: the first `width` pixels.
fn measurements(path: &Path, count: usize, width: usize) {
    let mut npz = NpzWriter::new(File::create(path).unwrap());
    let images = Array4::from_shape_fn((count, 1, 8, 8), |(n, _, y, x)| ((n * (x + 3) + 5 * y * x) % 17) as f32);
    let labels = Array2::from_shape_fn((count, width), |(n, i)| images[[n, 0, i / 8, i % 8]] / 4.0);
    npz.add_array("input", &images).unwrap();
    npz.add_array("labels", &labels).unwrap();
    npz.finish().unwrap();
}

#[test]
fn real_valued_labels_are_learned_by_their_squared_error() {
    let folder = Folder::new();
    let (out, report, data) = (folder.at("out.onnx"), folder.at("report.json"), folder.at("data.npz"));
    measurements(&data, 200, 10);
    let said = tune("digits_mlp.onnx", &out, "--epochs 40 --lr 0.01 --mixup 0 --report")
        .arg(&report)
        .arg("--data")
        .arg(&data)
        .exits(0);
    assert!(said.out.contains("R² on labels"), "{}", said.out);
    let report = json(&report);
    let training = &report["training"][0];
    assert_eq!(training["loss"], "mse");
    let (before, after) = (&report["verify"]["r2"][0], &report["verify"]["r2"][1]);
    assert!(after.as_f64().unwrap() > 0.9 && before.as_f64().unwrap() < 0.0, "{before} {after}");
    // The held-out loss is the share of variance that is not explained.
    let best = training["best_epoch"].as_u64().unwrap() as usize;
    assert!(training["epochs"][best - 1]["held_out"].as_f64().unwrap() < 0.1, "{training}");
}

#[test]
fn real_valued_labels_that_no_output_has_are_told() {
    let folder = Folder::new();
    let (out, data) = (folder.at("out.onnx"), folder.at("data.npz"));
    measurements(&data, 40, 3);
    let said = tune("digits_mlp.onnx", &out, "--epochs 1 --data").arg(&data).exits(2);
    said.complains(&["nothing to learn from"]);
    let said = tune("digits_mlp.onnx", &out, "--epochs 1 --no-verify --data").arg(&data).arg("--teacher");
    let said = said.arg(fixture("digits_mlp.onnx")).exits(0);
    assert!(said.out.contains("[40, 3]"), "{}", said.out);
}

#[test]
fn training_stops_when_nothing_gets_better() {
    let folder = Folder::new();
    let (out, report) = (folder.at("out.onnx"), folder.at("report.json"));
    let tune = tune("digits_overfit.onnx", &out, "--epochs 40 --lr 0.1 --patience 2 --no-verify --report").arg(&report);
    let said = tune.arg("--data").arg(fixture("train_overfit.npz")).exits(0);
    assert!(said.out.contains("stopped after epoch"), "{}", said.out);
    let training = &json(&report)["training"][0];
    let held_out = |epoch: &serde_json::Value| epoch["held_out"].as_f64().unwrap();
    let epochs: Vec<f64> = training["epochs"].as_array().unwrap().iter().map(held_out).collect();
    let lowest = (0..epochs.len()).min_by(|&a, &b| epochs[a].total_cmp(&epochs[b])).unwrap() + 1;
    assert!(epochs.len() == lowest + 2 && epochs.len() < 40, "{epochs:?}");
    // The start counts too when weights are chosen.
    let kept = training["best_epoch"].as_u64().unwrap();
    let is_start = held_out(&training["before"]) <= epochs[lowest - 1];
    assert_eq!(kept, if is_start { 0 } else { lowest as u64 }, "{training}");
}

#[test]
fn labels_must_be_classes_and_samples_enough() {
    let folder = Folder::new();
    let (out, data) = (folder.at("out.onnx"), folder.at("data.npz"));
    samples(&data, 40, 10);
    tune("digits_mlp.onnx", &out, "--epochs 1 --data").arg(&data).exits(3).complains(&["data.npz", "is 10", "0 to 9"]);
    samples(&data, 5, 1);
    tune("digits_mlp.onnx", &out, "--epochs 1 --data").arg(&data).exits(3).complains(&["samples"]);
    assert!(!out.exists());
}

#[test]
fn criteria_by_gradients_choose_units() {
    let folder = Folder::new();
    let report = folder.at("report.json");
    let resnet = ("digits_resnet.onnx", "train_overfit.npz", "");
    let vit = ("digits_vit.onnx", "calib.npz", "--repair none");
    for (model, data, repair) in [resnet, vit] {
        for criterion in ["taylor", "fisher", "obd-loss"] {
            let run = Run::new("prune").arg(fixture(model)).args("--dry-run --ratio 0.5 --force").args(repair);
            let run = run.arg("--criterion").arg(criterion).arg("--data").arg(fixture(data));
            run.arg("--report").arg(&report).exits(0);
            let exact = json(&report)["verify"]["exact_max_rel"].as_f64().unwrap();
            assert!(exact <= 1e-4, "{model} {criterion}: {exact}");
        }
    }
}
