//! Repair on the fixtures.

use std::path::Path;

use super::{Bases, Method, RepairReport, repair};
use crate::analysis::Analysis;
use crate::calibrate::Calibration;
use crate::calibrate::data::Dataset;
use crate::onnx::Model;
use crate::plan::{CostModel, Filter, Group, Quota, Request, Scope, Units, groups, select};
use crate::rewrite;
use crate::score::{Context, Criterion};

/// The fixture pruned by half, repaired on `samples`.
fn repaired(name: &str, method: Method) -> (Vec<RepairReport>, crate::onnx::proto::ModelProto) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let model = Model::load(fixtures.join(name)).unwrap();
    let data = Dataset::open(&fixtures.join("calib.npz"), model.proto.graph.as_ref().unwrap()).unwrap();
    let analysis = Analysis::new(&model, &Default::default(), &Default::default()).unwrap();
    let subject = analysis.subject();
    let cost = CostModel::new(subject);
    let filter = Filter::new(&[], &["Identity_*".to_owned()], Units::default(), false).unwrap();
    let all = groups(subject, &cost, &filter);
    let open: Vec<&Group> = all.iter().filter(|group| group.is_open(false)).collect();
    let context = Context::without_data(subject, &open, 1);
    let scored = Criterion::by_name("l2").unwrap().score(&context).unwrap();
    let request = Request { quota: Quota::Ratio(0.5), scope: Scope::Layer, min_keep: 1, whole_blocks: false };
    let selection = select(&scored, &cost, &request).unwrap();
    let pruned = rewrite::prune(subject, &selection).unwrap();
    let (model, reports) =
        repair(subject, &selection, pruned, Calibration::new(&data, 1), (method, &mut Bases::default())).unwrap();
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
                let errors = reports.iter().filter_map(|report| report.before.zip(report.after));
                let (before, after) = errors.fold((0.0, 0.0), |sum, errors| (sum.0 + errors.0, sum.1 + errors.1));
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
