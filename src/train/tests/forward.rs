//! Whole networks on the tape give what tract gives.

use std::path::Path;

use crate::onnx::Model;
use crate::runtime::inputs::DimSizes;
use crate::runtime::probes::probe_batches;
use crate::runtime::{RunOptions, Runnable};
use crate::train::{Program, Wanted};

/// Largest difference of all outputs, relative to the largest value.
fn distance(path: &Path, sizes: &DimSizes) -> f64 {
    let model = Model::load(path).unwrap();
    let graph = model.proto.graph.as_ref().unwrap();
    let runnable = Runnable::new(&model.proto, &RunOptions::default()).unwrap();
    let program: Program = Program::new(&model.proto, Wanted::Parameters(&|_| true)).unwrap();
    let mut worst = 0_f64;
    for batch in probe_batches(graph, sizes, 4, 1).unwrap() {
        let expected = runnable.run(&batch).unwrap();
        let samples = batch[0].1.shape()[0];
        for (name, found) in program.run(&batch, samples).unwrap().outputs {
            let (_, expected) = expected.iter().find(|(known, _)| *known == name).unwrap();
            assert_eq!(found.dims(), expected.shape());
            let expected = expected.to_vec::<f32>().unwrap();
            let largest = expected.iter().fold(0_f32, |m, y| m.max(y.abs()));
            let delta = found.data().iter().zip(&expected).fold(0_f32, |m, (a, b)| m.max((a - b).abs()));
            worst = worst.max(f64::from(delta / largest));
        }
    }
    worst
}

#[test]
fn the_fixtures_give_what_tract_gives() {
    for name in ["digits_mlp", "digits_resnet", "digits_vit", "digits_nonneg", "digits_overfit"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/{name}.onnx"));
        let distance = distance(&path, &DimSizes::default());
        assert!(distance < 1e-4, "{name}: {distance}");
    }
}
