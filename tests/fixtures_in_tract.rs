//! The trained fixtures run in tract as they did where they were trained.

use std::path::{Path, PathBuf};

use paredown::internals::calibrate::data::Dataset;
use paredown::internals::onnx::Model;
use paredown::internals::runtime::inputs::DimSizes;
use paredown::internals::runtime::probes::probe_batches;
use paredown::internals::runtime::{Limits, RunOptions, Runnable};
use paredown::internals::verify::{exactness, faithful};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

#[test]
fn accuracy_on_the_test_images_is_that_of_training() {
    // Right answers out of 597, from the table in fixtures/README.md.
    for (name, right) in [("digits_mlp", 585), ("digits_resnet", 596), ("digits_vit", 590), ("digits_nonneg", 581)] {
        let model = Model::load(fixture(&format!("{name}.onnx"))).unwrap();
        let graph = model.proto.graph.as_ref().unwrap();
        let data = Dataset::open(&fixture("eval.npz"), graph).unwrap();
        let runnable = Runnable::new(&model.proto, &RunOptions::default()).unwrap();
        let found = faithful(&runnable, &runnable, &data, Limits::default()).unwrap();
        assert_eq!((found.samples, found.accuracy.after), (597, Some(f64::from(right) / 597.0)), "{name}");
        assert_eq!((found.rel_l2, found.top1_agreement), (0.0, Some(1.0)), "{name}");
    }
}

#[test]
fn made_up_inputs_move_every_fixture_enough_to_prove_something() {
    for name in ["digits_mlp", "digits_resnet", "digits_vit", "digits_nonneg", "digits_overfit"] {
        let model = Model::load(fixture(&format!("{name}.onnx"))).unwrap();
        let probes = probe_batches(model.proto.graph.as_ref().unwrap(), &DimSizes::default(), 8, 0).unwrap();
        let runnable = Runnable::new(&model.proto, &RunOptions::default()).unwrap();
        let found = exactness(&runnable, &runnable, &probes).unwrap();
        assert!(found.holds() && found.max_rel() == 0.0, "{name}: {found:?}");
    }
}
