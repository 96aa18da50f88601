//! Least squares against closed forms and hard cases; repair on the fixtures.

use std::path::Path;

use ndarray::{Array1, Array2, Axis, array};

use super::solve::Evidence;
use super::{Method, repair};
use crate::analysis::Analysis;
use crate::calibrate::Calibration;
use crate::calibrate::data::Dataset;
use crate::calibrate::moments::Moments;
use crate::linalg::default_backend;
use crate::onnx::Model;
use crate::plan::{CostModel, Filter, Group, Quota, Request, Scope, Units, groups, select};
use crate::report::RepairReport;
use crate::rewrite;
use crate::score::{Context, Criterion};

fn noise(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Array2::from_shape_simple_fn((rows, columns), || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(state >> 33).unwrap()) / f64::from(1_u32 << 30) - 1.0
    })
}

#[test]
fn sums_and_rows_are_the_same_evidence() {
    let (x, y, w0) = (noise(9, 9, 5) + 0.7, noise(9, 3, 6), noise(9, 3, 7));
    let mut sums = Moments::new(9, 3);
    sums.add(default_backend(), x.view(), y.view());
    let (primal, dual) = (Evidence::Sums(sums), Evidence::Rows(x, y));
    let (a, b) = (
        primal.weights(default_backend(), &w0, &[1e-2], "x").unwrap().swap_remove(0),
        dual.weights(default_backend(), &w0, &[1e-2], "x").unwrap().swap_remove(0),
    );
    assert!((&a - &b).iter().all(|d| d.abs() < 1e-9));
    let (bias_a, bias_b) = (primal.bias(&a), dual.bias(&a));
    assert!((&bias_a - &bias_b).iter().all(|d| d.abs() < 1e-12));
    let errors = (primal.error(default_backend(), &a, &bias_a), dual.error(default_backend(), &a, &bias_a));
    assert!((errors.0 - errors.1).abs() < 1e-12 && (primal.spread() - dual.spread()).abs() < 1e-12);
}

#[test]
fn constant_and_dead_inputs_leave_the_weights_alone() {
    for value in [3.0, 0.0] {
        let x = Array2::from_elem((50, 4), value);
        let (y, w0) = (noise(50, 2, 8), noise(4, 2, 9));
        let mut sums = Moments::new(4, 2);
        sums.add(default_backend(), x.view(), y.view());
        let evidence = Evidence::Sums(sums);
        let w = evidence.weights(default_backend(), &w0, &[1e-2], "x").unwrap().swap_remove(0);
        assert!((&w - &w0).iter().all(|d| d.abs() < 1e-6), "{value}");
        let expected: Array1<f64> = y.mean_axis(Axis(0)).unwrap() - w.t().dot(&Array1::from_elem(4, value));
        assert!((&evidence.bias(&w) - &expected).iter().all(|d| d.abs() < 1e-9));
    }
}

#[test]
fn one_sample_is_enough_not_to_break() {
    let evidence = Evidence::Rows(array![[1.0, 2.0, 3.0]], array![[1.0]]);
    let w0 = array![[1.0], [0.0], [-1.0]];
    assert_eq!(evidence.weights(default_backend(), &w0, &[1e-2], "x").unwrap().swap_remove(0), w0);
    assert!((evidence.bias(&w0)[0] - 3.0).abs() < 1e-12);
}

/// The fixture pruned by half, repaired on `samples`.
fn repaired(name: &str, method: Method) -> (Vec<RepairReport>, crate::onnx::proto::ModelProto) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let model = Model::load(&fixtures.join(name)).unwrap();
    let data = Dataset::open(&fixtures.join("calib.npz"), model.proto.graph.as_ref().unwrap()).unwrap();
    let analysis = Analysis::new(&model, &Default::default(), &Default::default()).unwrap();
    let subject = analysis.subject();
    let cost = CostModel::new(subject);
    let filter = Filter::new(&[], &["Identity_*".to_owned()], Units::default(), false).unwrap();
    let all = groups(subject, &cost, &filter);
    let open: Vec<&Group> = all.iter().filter(|group| group.is_open(false)).collect();
    let context = Context { subject, groups: &open, seed: 1, data: None };
    let scored = Criterion::by_name("l2").unwrap().score(&context).unwrap();
    let request = Request { quota: Quota::Ratio(0.5), scope: Scope::Layer, min_keep: 1 };
    let selection = select(&scored, &cost, &request).unwrap();
    let pruned = rewrite::prune(subject, &selection).unwrap();
    let (model, reports) = repair(subject, &selection, pruned, Calibration::new(&data, 1), method).unwrap();
    (reports, model)
}

#[test]
fn no_layer_gets_worse_and_every_consumer_gets_better() {
    for name in ["digits_mlp.onnx", "digits_resnet.onnx", "digits_vit.onnx"] {
        for method in [Method::Lstsq, Method::Bias, Method::BatchNorm] {
            let (reports, _) = repaired(name, method);
            assert!(reports.len() >= 2 || method == Method::BatchNorm && name != "digits_resnet.onnx", "{name}");
            for report in &reports {
                assert!(
                    report.after <= report.before,
                    "{name} {}: {:?} {:?}",
                    report.name,
                    report.before,
                    report.after
                );
            }
            if method == Method::Lstsq {
                let (before, after) =
                    reports.iter().fold((0.0, 0.0), |s, r| (s.0 + r.before.unwrap(), s.1 + r.after.unwrap()));
                assert!(after < 0.7 * before, "{name}: {before} {after}");
            }
        }
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| repaired("digits_resnet.onnx", Method::Lstsq).1)
    };
    assert!(run(1) == run(3));
}
