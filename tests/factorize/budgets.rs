//! Whole models under a budget.

use paredown::ErrorKind;
use paredown::analysis::Analysis;
use paredown::factorize::{ConvMode, Factorized, Method, Options, Target, factorize};
use paredown::jobs::prune::{Comparison, Remaining};
use paredown::onnx::Model;

use crate::graphs::{data, fixture};

/// Accuracy before and after, on the held-out samples.
fn accuracy(model: &Model, split: &mut Factorized<'_>) -> (f64, f64) {
    let eval = data("eval.npz", model);
    let comparison = Comparison {
        analysis: &split.analysis,
        rewritten: &split.model.proto,
        thaw: &[],
        data: Some(&eval),
        dims: &Default::default(),
        seed: 0,
    };
    comparison.prove(&mut split.report).unwrap();
    let accuracy = split.report.verify.accuracy;
    (accuracy.before.unwrap(), accuracy.after.unwrap())
}

#[test]
fn half_of_the_macs_of_the_residual_network_cost_little_accuracy() {
    let model = Model::load(&fixture("digits_resnet.onnx")).unwrap();
    let calib = data("calib.npz", &model);
    for conv in [ConvMode::Channel, ConvMode::Spatial] {
        let options = Options { conv, ..Options::new(Target::Macs(Remaining::Share(0.5))) };
        let mut split = factorize(&model, &options, Some(&calib)).unwrap();
        let (before, after) = (split.report.model.before.macs, split.report.model.after.macs);
        assert!(after <= before / 2 && after * 100 >= before * 45, "{before} {after}");
        let (old, new) = accuracy(&model, &mut split);
        assert!(new >= old - 0.013, "{conv:?}: {old} {new}");
    }
}

#[test]
fn a_budget_of_parameters_is_met_and_the_table_adds_up() {
    let model = Model::load(&fixture("digits_mlp.onnx")).unwrap();
    let calib = data("calib.npz", &model);
    for data in [None, Some(&calib)] {
        let target = Target::Params(Remaining::Share(0.5));
        let split = factorize(&model, &Options::new(target), data).unwrap();
        let figures = split.report.model;
        assert!(figures.after.params * 2 <= figures.before.params, "{figures:?}");
        assert!(figures.after.params * 100 >= figures.before.params * 45, "{figures:?}");
        let layers: u64 = split.report.layers.iter().map(|layer| layer.params).sum();
        let biases = 256 + 256 + 10;
        assert_eq!(layers + biases, figures.after.params);
        let again = Target::Plan(split.plan.clone());
        let again = factorize(&model, &Options::new(again), data).unwrap();
        assert_eq!(again.model.proto, split.model.proto, "a plan gives the same model");
    }
}

#[test]
fn calibration_beats_the_plain_split() {
    let model = Model::load(&fixture("digits_mlp.onnx")).unwrap();
    let calib = data("calib.npz", &model);
    let target = Target::Params(Remaining::Share(0.2));
    let options = Options { align: 1, ..Options::new(target) };
    let mut plain = factorize(&model, &options, None).unwrap();
    let mut aware = factorize(&model, &options, Some(&calib)).unwrap();
    let ((_, plain), (_, aware)) = (accuracy(&model, &mut plain), accuracy(&model, &mut aware));
    assert!(aware >= plain, "{aware} {plain}");
}

#[test]
fn nonnegative_weights_are_split_nonnegatively() {
    let model = Model::load(&fixture("digits_nonneg.onnx")).unwrap();
    let options = Options { method: Method::Nmf, ..Options::new(Target::Rank(8)) };
    let split = factorize(&model, &options, None).unwrap();
    let graph = split.model.proto.graph.as_ref().unwrap();
    let factors: Vec<_> =
        graph.initializer.iter().filter(|t| t.name().ends_with(".first") || t.name().ends_with(".last")).collect();
    assert!(factors.len() >= 4);
    for factor in factors {
        let values = paredown::onnx::tensor::TensorView::new(factor).unwrap().to_f64().unwrap();
        assert!(values.iter().all(|&x| x >= 0.0), "{}", factor.name());
    }
    let signed = Model::load(&fixture("digits_mlp.onnx")).unwrap();
    let error = factorize(&signed, &options, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("--method semi-nmf"), "{error}");
    let semi = Options { method: Method::SemiNmf, ..options };
    let plain = factorize(&signed, &Options::new(Target::Rank(7)), None).unwrap();
    let semi = factorize(&signed, &semi, None).unwrap();
    for (worse, better) in plain.report.layers.iter().zip(&semi.report.layers) {
        if let (Some(svd), Some(semi)) = (worse.error, better.error) {
            assert!(semi <= svd * (1.0 + 1e-9), "{}: {semi} {svd}", better.name);
        }
    }
}

#[test]
fn the_original_is_analysed_like_the_result() {
    let model = Model::load(&fixture("digits_vit.onnx")).unwrap();
    let split = factorize(&model, &Options::new(Target::Energy(0.9)), None).unwrap();
    let again = Analysis::new(&split.model, &Default::default(), &Default::default()).unwrap();
    assert!(again.facts.gaps.is_empty());
}
