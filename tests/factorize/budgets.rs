//! Whole models under a budget.

use paredown::internals::analysis::Analysis;
use paredown::{ConvMode, ErrorKind, Factorization, FactorizeOptions, Model, factorize};

use crate::graphs::fixture;

/// Accuracy before and after, on the held-out samples.
fn accuracy(model: &Model, options: &FactorizeOptions) -> (f64, f64) {
    let options = options.clone().eval(fixture("eval.npz"));
    let accuracy = factorize(model, &options).unwrap().prove().unwrap().report.verify.accuracy;
    (accuracy.before.unwrap(), accuracy.after.unwrap())
}

#[test]
fn half_of_the_macs_of_the_residual_network_cost_little_accuracy() {
    let model = Model::load(fixture("digits_resnet.onnx")).unwrap();
    for conv in [ConvMode::Channel, ConvMode::Spatial] {
        let options = FactorizeOptions::macs(0.5).conv(conv).data(fixture("calib.npz")).eval(fixture("eval.npz"));
        let split = factorize(&model, &options).unwrap().prove().unwrap();
        let (before, after) = (split.report.model.before.macs, split.report.model.after.macs);
        assert!(after <= before / 2 && after * 100 >= before * 45, "{before} {after}");
        let accuracy = split.report.verify.accuracy;
        let (old, new) = (accuracy.before.unwrap(), accuracy.after.unwrap());
        assert!(new >= old - 0.013, "{conv:?}: {old} {new}");
    }
}

#[test]
fn a_budget_of_parameters_is_met_and_the_table_adds_up() {
    let model = Model::load(fixture("digits_mlp.onnx")).unwrap();
    for with_data in [false, true] {
        let given = |options: FactorizeOptions| if with_data { options.data(fixture("calib.npz")) } else { options };
        let split = factorize(&model, &given(FactorizeOptions::params(0.5))).unwrap();
        let figures = split.report.model;
        assert!(figures.after.params * 2 <= figures.before.params, "{figures:?}");
        assert!(figures.after.params * 100 >= figures.before.params * 45, "{figures:?}");
        let layers: u64 = split.report.layers.iter().map(|layer| layer.params).sum();
        let biases = 256 + 256 + 10;
        assert_eq!(layers + biases, figures.after.params);
        let again = factorize(&model, &given(FactorizeOptions::plan(split.plan.clone()))).unwrap();
        assert_eq!(again.model.proto, split.model.proto, "a plan gives the same model");
    }
}

#[test]
fn calibration_beats_the_plain_split() {
    let model = Model::load(fixture("digits_mlp.onnx")).unwrap();
    let plain = FactorizeOptions::params(0.2).align(1);
    let aware = plain.clone().data(fixture("calib.npz"));
    let ((_, plain), (_, aware)) = (accuracy(&model, &plain), accuracy(&model, &aware));
    assert!(aware >= plain, "{aware} {plain}");
}

#[test]
fn nonnegative_weights_are_split_nonnegatively() {
    let model = Model::load(fixture("digits_nonneg.onnx")).unwrap();
    let options = FactorizeOptions::rank(8).method(Factorization::Nmf);
    let split = factorize(&model, &options).unwrap();
    let graph = split.model.proto.graph.as_ref().unwrap();
    let factors: Vec<_> =
        graph.initializer.iter().filter(|t| t.name().ends_with(".first") || t.name().ends_with(".last")).collect();
    assert!(factors.len() >= 4);
    for factor in factors {
        let values = paredown::internals::onnx::tensor::TensorView::new(factor).unwrap().to_f64().unwrap();
        assert!(values.iter().all(|&x| x >= 0.0), "{}", factor.name());
    }
    let signed = Model::load(fixture("digits_mlp.onnx")).unwrap();
    let error = factorize(&signed, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("`method` semi-nmf"), "{error}");
    let plain = factorize(&signed, &FactorizeOptions::rank(7)).unwrap();
    let semi = factorize(&signed, &options.method(Factorization::SemiNmf)).unwrap();
    for (worse, better) in plain.report.layers.iter().zip(&semi.report.layers) {
        if let (Some(svd), Some(semi)) = (worse.error, better.error) {
            assert!(semi <= svd * (1.0 + 1e-9), "{}: {semi} {svd}", better.name);
        }
    }
}

#[test]
fn the_original_is_analysed_like_the_result() {
    let model = Model::load(fixture("digits_vit.onnx")).unwrap();
    let split = factorize(&model, &FactorizeOptions::energy(0.9)).unwrap();
    let again = Analysis::new(&split.model, &Default::default(), &Default::default()).unwrap();
    assert!(again.facts.gaps.is_empty());
}
