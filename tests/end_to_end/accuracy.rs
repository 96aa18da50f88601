//! What samples are good for: attention that is fitted again, a bound on what is lost, and samples that are no good.

use std::path::Path;

use ndarray::Array4;
use ndarray_npy::NpzWriter;
use paredown::Report;

use crate::command::{Folder, Run, fixture, json};

fn report(run: Run, folder: &Folder) -> Report {
    let path = folder.at("report.json");
    run.arg("--report").arg(&path).exits(0);
    serde_json::from_value(json(&path)).unwrap()
}

fn images(folder: &Folder, name: &str, count: usize, pixel: impl Fn(usize) -> f32) -> std::path::PathBuf {
    let path = folder.at(name);
    let mut archive = NpzWriter::new(std::fs::File::create(&path).unwrap());
    let values = Array4::from_shape_fn((count, 1, 8, 8), |(n, _, i, j)| pixel(n * 64 + i * 8 + j));
    archive.add_array("input", &values).unwrap();
    archive.finish().unwrap();
    path
}

fn prune(name: &str, folder: &Folder, data: &Path) -> Run {
    Run::prune(&fixture(name), &folder.at("out.onnx")).args("--force --quiet --data").arg(data)
}

#[test]
fn attention_that_lost_heads_is_fitted_whole() {
    let folder = Folder::new();
    let run = prune("digits_vit.onnx", &folder, &fixture("calib.npz"));
    let report = report(run.args("--ratio 0.5 --unit heads --eval").arg(fixture("eval.npz")), &folder);
    let layers = report.calibration.unwrap().layers;
    let blocks: Vec<_> = layers.iter().filter(|layer| !layer.with.is_empty()).collect();
    assert_eq!(blocks.len(), 2, "{layers:?}");
    for block in blocks {
        assert_eq!(block.with.len(), 3, "{block:?}");
        // As it is, the block is off by 0.4.
        assert!(block.after.unwrap() < 0.16, "{block:?}");
    }
    let accuracy = report.verify.accuracy;
    assert!(accuracy.after.unwrap() > accuracy.before.unwrap() - 0.025, "{accuracy:?}");
}

/// Half of all dimensions of heads, ordered by a change of basis, and half of all neurons.
#[test]
fn dimensions_go_from_all_heads_at_next_to_no_cost() {
    let folder = Folder::new();
    let run = prune("digits_vit.onnx", &folder, &fixture("calib.npz"));
    let report = report(run.args("--ratio 0.5 --eval").arg(fixture("eval.npz")), &folder);
    for group in &report.groups {
        match group.axis.as_str() {
            "heads" => assert_eq!((group.kept, group.size), (4, 4), "{group:?}"),
            "head dims" => assert_eq!((group.kept, group.size), (8, 16), "{group:?}"),
            _ => {}
        }
    }
    assert!(report.calibration.unwrap().layers.iter().all(|layer| layer.with.is_empty()));
    let accuracy = report.verify.accuracy;
    assert!(accuracy.after.unwrap() > accuracy.before.unwrap() - 0.006, "{accuracy:?}");
    assert!(report.verify.exact_max_rel.unwrap() <= 1e-4, "{:?}", report.verify);
}

/// A plan counts dimensions in the basis that the samples gave: with the same samples it gives the same file, without them none.
#[test]
fn a_plan_of_dimensions_needs_the_samples_that_ordered_them() {
    let folder = Folder::new();
    let (plan, first, second) = (folder.at("plan.json"), folder.at("first.onnx"), folder.at("second.onnx"));
    let vit = fixture("digits_vit.onnx");
    let run = |out: &Path| Run::prune(&vit, out).args("--force --quiet --data").arg(fixture("calib.npz"));
    run(&first).args("--ratio 0.5 --plan-out").arg(&plan).exits(0);
    run(&second).arg("--plan").arg(&plan).env("RAYON_NUM_THREADS", "1").exits(0);
    assert!(std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap());
    Run::prune(&vit, &second).args("--force --plan").arg(&plan).exits(2).complains(&["basis", "--data"]);
    Run::new("verify").arg(&vit).arg(&first).arg("--plan").arg(&plan).exits(0);
}

#[test]
fn few_samples_repair_with_a_warning_and_one_does_not() {
    let folder = Folder::new();
    let noise = |i: usize| ((i * 7919) % 101) as f32 / 101.0;
    let said = |count: usize| {
        let data = images(&folder, "few.npz", count, noise);
        Run::prune(&fixture("digits_mlp.onnx"), &folder.at("out.onnx")).args("--force --ratio 0.5 --data").arg(data)
    };
    let few = said(40).exits(0).out;
    assert!(few.contains("2 of 2 layers repaired"), "{few}");
    assert!(few.contains("warning: /3/Gemm, /5/Gemm: 40 rows of data for 128 inputs"), "{few}");
    let one = said(1).exits(0).out;
    assert!(one.contains("0 of 2 layers repaired"), "{one}");
    assert!(one.contains("not repaired: /3/Gemm, /5/Gemm: too few samples to repair and to check"), "{one}");
}

#[test]
fn max_drop_removes_what_it_may_and_says_what_it_tried() {
    let folder = Folder::new();
    let run = prune("digits_mlp.onnx", &folder, &fixture("train.npz"));
    let report = report(run.args("--max-drop 1% --eval").arg(fixture("eval.npz")), &folder);
    let figures = &report.model;
    assert!(figures.after.macs * 2 < figures.before.macs, "{figures:?}");
    let search = report.search.unwrap();
    assert_eq!((search.figure.as_str(), search.samples), ("accuracy", Some(240)));
    assert!(search.trials.iter().any(|trial| trial.macs == 0.5 && trial.lost.is_some()), "{search:?}");
    let accuracy = report.verify.accuracy;
    assert!(accuracy.after.unwrap() > accuracy.before.unwrap() - 0.03, "{accuracy:?}");
}

#[test]
fn max_drop_goes_with_steps_and_without_labels() {
    let folder = Folder::new();
    let run = prune("digits_mlp.onnx", &folder, &fixture("calib.npz"));
    let report = report(run.args("--max-drop 2% --steps 2"), &folder);
    assert_eq!(report.search.unwrap().figure, "top-1 agreement");
}

#[test]
fn a_bound_that_no_removal_keeps_is_nothing_to_do() {
    let folder = Folder::new();
    let out = folder.at("out.onnx");
    // Whole layers lose three quarters of their width before a budget of 99 % lets one unit go.
    let run = Run::prune(&fixture("digits_vit.onnx"), &out).arg("--data").arg(fixture("calib.npz"));
    let said = run.args("--max-drop 0% --align 96 --scope layer --criterion l1 --repair none").exits(4);
    said.complains(&["even the smallest removal loses more than 0.00 %", "of the MACs"]);
    assert!(!out.exists());
    Run::prune(&fixture("digits_vit.onnx"), &out).args("--max-drop 1%").exits(2).complains(&["--data"]);
}

#[test]
fn one_sample_or_the_same_sample_again_is_survived() {
    let folder = Folder::new();
    let one = images(&folder, "one.npz", 1, |at| (at % 7) as f32 / 7.0);
    let same = images(&folder, "same.npz", 40, |_| 0.5);
    for name in ["digits_mlp.onnx", "digits_resnet.onnx", "digits_vit.onnx"] {
        for data in [&one, &same] {
            let report = report(prune(name, &folder, data).args("--ratio 0.5"), &folder);
            assert!(report.verify.rel_l2.is_some_and(f64::is_finite), "{name}");
            for layer in report.calibration.unwrap().layers {
                // A target that never varies has no error to be a share of.
                let grew = layer.after.zip(layer.before).is_some_and(|(after, before)| after > before);
                assert!(!grew, "{name}: {layer:?}");
            }
        }
    }
}
