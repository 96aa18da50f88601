//! A drop with confidence, and the certificate of the result.

use paredown::internals::onnx::Model as File;
use paredown::{ErrorKind, Model, PruneOptions, SaveOptions, VerifyOptions, prune, verify};

use crate::command::{Folder, Run, fixture, json};

#[test]
fn the_bound_is_what_has_to_be_small_enough() {
    let folder = Folder::new();
    let (out, report, model) = (folder.at("out.onnx"), folder.at("report.json"), fixture("digits_mlp.onnx"));
    let run = Run::prune(&model, &out).args("--max-drop 5% --confidence 95% --align 1 --report").arg(&report);
    let said = run.arg("--data").arg(fixture("train.npz")).exits(0);
    let search = json(&report)["search"].clone();
    let (lost, most) = (search["lost"].as_f64().unwrap(), search["bound"]["at_most"].as_f64().unwrap());
    assert!(lost < most && most <= 0.05, "{search}");
    for trial in search["trials"].as_array().unwrap().iter().filter(|trial| trial["at_most"].is_f64()) {
        assert_eq!(trial["fits"], trial["at_most"].as_f64().unwrap() <= 0.05, "{trial}");
    }
    assert!(said.out.contains("at most ") && said.out.contains("points at 95 %"), "{}", said.out);
    // The file carries its certificate.
    let again = || Run::new("verify").arg(&model).arg(&out);
    let said = again().arg("--data").arg(fixture("eval.npz")).exits(0);
    assert!(said.out.contains("the certificate is about these two models: at most"), "{}", said.out);
    Run::new("verify").arg(fixture("digits_overfit.onnx")).arg(&out).exits(5).complains(&["another original"]);
    // Whoever changes a weight invalidates it; a rewrite by paredown has none.
    let mut changed = File::load(&out).unwrap();
    changed
        .proto
        .graph
        .as_mut()
        .unwrap()
        .initializer
        .iter_mut()
        .for_each(|tensor| tensor.doc_string = Some("x".into()));
    let path = folder.at("changed.onnx");
    changed.save(&path, &SaveOptions::default()).unwrap();
    Run::new("verify").arg(&model).arg(&path).exits(5).complains(&["changed after its certificate"]);
    let smaller = prune(&Model::load(&out).unwrap(), &PruneOptions::ratio(0.3).align(1)).unwrap();
    assert!(smaller.model.proto.metadata_props.iter().all(|entry| !entry.key().starts_with("paredown.")));
    assert!(verify(&Model::load(&out).unwrap(), &smaller.model, &VerifyOptions::new()).is_ok());
}

#[test]
fn what_cannot_be_bounded_is_refused() {
    let model = Model::load(fixture("digits_mlp.onnx")).unwrap();
    let fault = |options: PruneOptions| {
        let error = prune(&model, &options.data(fixture("calib.npz"))).unwrap_err();
        (error.kind(), error.to_string())
    };
    // 240 samples are held out.
    let (kind, message) = fault(PruneOptions::max_drop(0.001).confidence(0.95));
    assert!(kind == ErrorKind::Input && message.contains("held-out samples are needed"), "{message}");
    assert_eq!(fault(PruneOptions::ratio(0.5).confidence(0.95)).0, ErrorKind::Usage);
    assert_eq!(fault(PruneOptions::max_drop(0.05).confidence(1.0)).0, ErrorKind::Usage);
}
