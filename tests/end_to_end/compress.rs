//! One budget over all means, from file to file.

use paredown::{CompressOptions, ErrorKind, Means, Model, Plan, VerifyOptions, compress, verify};

use crate::command::{Folder, Run, fixture};

fn options(macs: f64) -> CompressOptions {
    CompressOptions::macs(macs).data(fixture("calib.npz")).eval(fixture("eval.npz"))
}

/// The result meets the budget, is the candidate that loses least, is proved, and is proved again from its files.
#[test]
fn the_best_of_all_means_meets_the_budget_and_is_proved_again() {
    for (name, samples) in [("digits_resnet.onnx", "calib.npz"), ("digits_vit.onnx", "train_overfit.npz")] {
        let (model, folder) = (Model::load(fixture(name)).unwrap(), Folder::new());
        let mut small = compress(&model, &options(0.25).align(1).data(fixture(samples))).unwrap().prove().unwrap();
        let report = &small.report;
        assert!(report.model.after.macs * 4 <= report.model.before.macs, "{name}");
        assert!(report.verify.exact_max_rel.is_none_or(|deviation| deviation <= 1e-4), "{name}");
        let losses: Vec<f64> = report.candidates.iter().filter_map(|tried| tried.loss).collect();
        let chosen: Vec<f64> =
            report.candidates.iter().filter(|tried| tried.is_chosen).filter_map(|tried| tried.loss).collect();
        assert!(losses.len() >= 3 && chosen.len() == 1, "{name}: {:?}", report.candidates);
        assert!(losses.iter().all(|loss| chosen[0] <= *loss), "{name}: {losses:?}");
        small.save(folder.at("small.onnx")).unwrap();
        small.plan.save(folder.at("plan.json")).unwrap();
        let written = Model::load(folder.at("small.onnx")).unwrap();
        let plan = Plan::load(folder.at("plan.json")).unwrap();
        let again = verify(&model, &written, &VerifyOptions::new().plan(plan)).unwrap();
        assert_eq!(again.verify.valid, Some(true), "{name}");
        assert_eq!(again.model.after.macs, small.report.model.after.macs, "{name}");
    }
}

/// Every choice of means gives candidates of these means only.
#[test]
fn means_are_narrowed() {
    let model = Model::load(fixture("digits_vit.onnx")).unwrap();
    let options = |macs| options(macs).data(fixture("train_overfit.npz"));
    let small = compress(&model, &options(0.6).means([Means::Rank])).unwrap();
    assert!(small.plan.groups.is_empty() && !small.plan.ranks.is_empty());
    let small = compress(&model, &options(0.6).means([Means::Prune])).unwrap();
    assert!(!small.plan.groups.is_empty() && small.plan.ranks.is_empty());
    assert!(small.report.groups.iter().filter(|group| group.axis == "head dims").all(|group| group.kept == group.size));
    let small = compress(&model, &options(0.9).means([Means::Dims])).unwrap();
    let narrower: Vec<_> = small.report.groups.iter().filter(|group| group.kept < group.size).collect();
    assert!(!narrower.is_empty() && narrower.iter().all(|group| group.axis == "head dims"));
    let error = compress(&model, &options(0.6).means([])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

/// A plan of widths and ranks is carried out again, to the same bytes.
#[test]
fn a_plan_of_both_parts_replays_to_the_same_bytes() {
    let folder = Folder::new();
    let (first, second, plan) = (folder.at("first.onnx"), folder.at("second.onnx"), folder.at("plan.json"));
    let run = |out: &std::path::Path| {
        Run::new("compress")
            .arg(fixture("digits_resnet.onnx"))
            .arg("-o")
            .arg(out)
            .arg("--data")
            .arg(fixture("train_overfit.npz"))
    };
    run(&first).args("--macs 8% --align 1 --quiet --plan-out").arg(&plan).exits(0);
    let read = Plan::load(&plan).unwrap();
    assert!(!read.groups.is_empty() && !read.ranks.is_empty(), "{}", read.to_text());
    run(&second).args("--align 1 --quiet --plan").arg(&plan).exits(0);
    assert!(std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap());
    Run::new("verify").arg(fixture("digits_resnet.onnx")).arg(&first).arg("--plan").arg(&plan).exits(0);
}

#[test]
fn what_cannot_be_compared_or_reached_is_refused() {
    let model = Model::load(fixture("digits_mlp.onnx")).unwrap();
    let error = compress(&model, &CompressOptions::macs(0.5)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("`data`"), "{error}");
    let error = compress(&model, &options(1e-5)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Nothing);
    assert!(error.to_string().contains("ranks:"), "{error}");
}
