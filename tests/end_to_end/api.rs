//! The library from a program: samples in memory, cancelling, defects, and the report as a whole.

use std::sync::{Arc, Mutex};

use paredown::{
    Array, Cancel, Dataset, ErrorKind, FactorizeOptions, Model, PruneOptions, Report, Training, TuneOptions, factorize,
    prune, tune,
};
use serde_json::Value;

use crate::command::{Folder, Run, fixture};

/// Rows of noise as images for the fixtures, always the same ones.
fn images(rows: std::ops::Range<usize>) -> Array {
    let mut state = 7_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32
    });
    let values: Vec<f32> = noise.skip(64 * rows.start).take(64 * rows.len()).collect();
    Array::new(&[rows.len(), 1, 8, 8], values).unwrap()
}

/// What a model is pruned to does not depend on how its samples came in.
#[test]
fn samples_from_memory_are_those_of_a_file() {
    let model = Model::load(fixture("digits_resnet.onnx")).unwrap();
    let whole = Dataset::from_arrays([("input", images(0..40))]).unwrap();
    let pruned = |data: Dataset| prune(&model, &PruneOptions::ratio(0.5).data(data)).unwrap();
    let from_memory = pruned(whole);
    assert_eq!(from_memory.report.calibration.as_ref().unwrap().samples, 40);
    let batches = [0..32, 32..40].map(|rows| [("input", images(rows))]);
    let from_batches = pruned(Dataset::from_batches(batches).unwrap());
    assert_eq!(from_memory.model.proto, from_batches.model.proto);
}

#[test]
fn samples_that_do_not_fit_are_refused() {
    let model = Model::load(fixture("digits_resnet.onnx")).unwrap();
    let data = Dataset::from_arrays([("pixels", images(0..4))]).unwrap();
    let error = prune(&model, &PruneOptions::ratio(0.5).data(data)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("no array for input 'input'"), "{error}");
}

/// A job looks at the flag between stages and between batches, and says what it was.
#[test]
fn a_cancelled_job_ends_as_interrupted() {
    let model = Model::load(fixture("digits_mlp.onnx")).unwrap();
    for stage in ["analysing", "scoring", "repairing"] {
        let cancel = Cancel::new();
        let flag = cancel.clone();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let told = heard.clone();
        let options = PruneOptions::ratio(0.5).data(fixture("calib.npz")).cancel(&cancel).progress(move |doing| {
            told.lock().unwrap().push(doing.to_owned());
            if doing.ends_with(stage) {
                flag.cancel();
            }
        });
        let error = prune(&model, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{stage}: {error}");
        assert!(heard.lock().unwrap().last().unwrap().ends_with(stage), "{stage}: {heard:?}");
    }
    let cancel = Cancel::new();
    cancel.cancel();
    let options = TuneOptions::new(Training::epochs(5)).data(fixture("train.npz")).cancel(&cancel);
    assert_eq!(tune(&model, &options).unwrap_err().kind(), ErrorKind::Interrupted);
}

/// A panic inside of a job is an error of the job that says where it was.
#[test]
fn a_panic_in_a_job_is_a_defect_with_its_phase() {
    let model = Model::load(fixture("digits_mlp.onnx")).unwrap();
    let options = PruneOptions::ratio(0.5).progress(|doing| assert!(!doing.ends_with("scoring"), "injected"));
    let error = prune(&model, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Defect);
    let told = error.to_string();
    assert!(told.contains("a defect in paredown while scoring: injected"), "{told}");
}

/// The program ends with its own exit code, one message and no file.
#[test]
fn a_defect_exits_with_70_and_writes_nothing() {
    let folder = Folder::new();
    let out = folder.at("out.onnx");
    let run = Run::prune(&fixture("digits_mlp.onnx"), &out).args("--ratio 0.5 --data").arg(fixture("calib.npz"));
    let said = run.env("PAREDOWN_PANIC_WHILE", "repairing").exits(70);
    said.complains(&["digits_mlp.onnx", "a defect in paredown while repairing", "no file was written", "report it"]);
    assert!(folder.names().is_empty());
}

/// A plan says what it was allowed to do, so that it can be carried out and proved by itself.
#[test]
fn a_plan_brings_what_it_needs() {
    let model = Model::load(fixture("digits_vit.onnx")).unwrap();
    let pruned = prune(&model, &PruneOptions::ratio(0.25).allow_shifts(true)).unwrap();
    assert!(pruned.plan.allow_shifts);
    let again = prune(&model, &PruneOptions::plan(pruned.plan.clone())).unwrap();
    assert_eq!(again.model.proto, pruned.model.proto);
    assert_eq!(again.plan, pruned.plan);
}

/// With the feature `lapack` a job computes with the system's LAPACK, and says so.
#[test]
fn the_report_names_the_linear_algebra_of_the_feature() {
    let model = Model::load(fixture("digits_mlp.onnx")).unwrap();
    let split = factorize(&model, &FactorizeOptions::rank(16).data(fixture("calib.npz"))).unwrap();
    let expected = if cfg!(feature = "lapack") { "lapack" } else { "faer" };
    assert_eq!(split.report.linear_algebra, expected);
    assert!(split.report.layers.iter().any(|layer| layer.rank == Some(16)));
}

/// The report without what depends on the machine and the features: real numbers, times, memory, other runtimes, the linear
/// algebra.
fn stable(report: &Report) -> String {
    fn blank(value: &mut Value) {
        match value {
            Value::Number(number) if number.is_f64() => *value = Value::from("real"),
            Value::Array(values) => values.iter_mut().for_each(blank),
            Value::Object(fields) => fields.values_mut().for_each(blank),
            _ => {}
        }
    }
    let mut json: Value = serde_json::from_str(&report.to_json()).unwrap();
    blank(&mut json);
    for field in ["linear_algebra", "memory", "latencies"] {
        json[field] = "any".into();
    }
    let is_of_machine = |note: &Value| note.as_str().is_some_and(|note| note.contains("ONNX Runtime"));
    json["notes"].as_array_mut().unwrap().retain(|note| !is_of_machine(note));
    serde_json::to_string_pretty(&json).unwrap()
}

/// Whoever reads reports by program relies on these fields: when one changes, so does `SCHEMA_VERSION`.
#[test]
fn the_whole_report() {
    let model = Model::load(fixture("digits_mlp.onnx")).unwrap();
    let options = PruneOptions::max_drop(0.5).data(fixture("calib.npz")).eval(fixture("eval.npz"));
    let pruned = prune(&model, &options.retrain(Training::epochs(1))).unwrap().prove().unwrap();
    insta::assert_snapshot!("prune", stable(&pruned.report));
    let options = FactorizeOptions::params(0.5).time_layers(true);
    let split = factorize(&model, &options).unwrap();
    insta::assert_snapshot!("factorize", stable(&split.report));
}
