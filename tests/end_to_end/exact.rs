//! Pruned ≡ masked original, in tract and in a second runtime.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;

use paredown::internals::onnx::proto::ModelProto;
use paredown::internals::runtime::inputs::DimSizes;
use paredown::internals::runtime::probes::probe_batches;
use paredown::internals::runtime::{NamedTensor, RunOptions, Runnable};
use paredown::internals::verify::{Exactness, exactness};
use paredown::{Model, Outcome, Plan, PruneOptions, Scope, Units, prune};

use crate::command::{FIXTURES, fixture};
use crate::mask::{is_open, zeroed};

const TOLERANCE: f64 = 1e-4;

pub(crate) fn probes(model: &ModelProto) -> Vec<Vec<NamedTensor>> {
    probe_batches(model.graph.as_ref().unwrap(), &DimSizes::default(), 8, 5).unwrap()
}

pub(crate) fn compare(masked: &ModelProto, pruned: &ModelProto) -> Exactness {
    let runnable = |model| Runnable::new(model, &RunOptions::default()).unwrap();
    exactness(&runnable(masked), &runnable(pruned), &probes(masked)).unwrap()
}

/// The removed units of every group of a plan.
pub(crate) fn removed(plan: &Plan) -> BTreeMap<String, Vec<bool>> {
    let each = plan.groups.iter().map(|group| {
        let kept: BTreeSet<usize> = group.kept.iter().flatten().copied().collect();
        (group.name.clone(), (0..group.size.unwrap()).map(|unit| !kept.contains(&unit)).collect())
    });
    each.collect()
}

/// The program's own proof, as the command line asks for it.
fn proved(pruned: Outcome) -> (Outcome, f64) {
    let pruned = pruned.prove().unwrap();
    let found = pruned.report.verify.exact_max_rel.unwrap();
    (pruned, found)
}

fn outputs_of_rten(model: &ModelProto, inputs: &[NamedTensor]) -> Vec<f32> {
    let model = rten::Model::load(model.encode_to_vec()).unwrap();
    let inputs = inputs.iter().map(|(name, tensor)| {
        let value = rten::Value::from_shape(tensor.shape(), tensor.to_vec::<f32>().unwrap()).unwrap();
        (model.node_id(name).unwrap(), value.into())
    });
    let mut outputs = model.run(inputs.collect(), model.output_ids(), None).unwrap();
    outputs.remove(0).into_shape_vec::<f32, 2>().unwrap().1
}

/// Largest deviation of rten from tract, relative to the largest distance of an output from its mean over samples.
fn deviation_of_rten(model: &ModelProto) -> f64 {
    let runnable = Runnable::new(model, &RunOptions::default()).unwrap();
    let (mut tract, mut rten) = (Vec::new(), Vec::new());
    let mut classes = 0;
    for batch in probes(model) {
        let outputs = runnable.run(&batch).unwrap();
        classes = outputs[0].1.shape()[1];
        tract.extend(outputs[0].1.to_vec::<f32>().unwrap());
        rten.extend(outputs_of_rten(model, &batch));
    }
    assert_eq!(tract.len(), rten.len());
    let samples = (tract.len() / classes) as f32;
    let mean = |class: usize| tract.iter().skip(class).step_by(classes).sum::<f32>() / samples;
    let spread = tract.iter().enumerate().map(|(at, y)| (y - mean(at % classes)).abs()).fold(0.0, f32::max);
    let delta = tract.iter().zip(&rten).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    f64::from(delta / spread)
}

fn options(ratio: f64, scope: Scope) -> PruneOptions {
    PruneOptions::ratio(ratio).align(1).scope(scope)
}

fn prove_everywhere(name: &str) {
    let model = Model::load(fixture(name)).unwrap();
    for scope in [Scope::Layer, Scope::Global] {
        for ratio in [0.25, 0.5, 0.75] {
            let case = format!("{name} {scope:?} {ratio}");
            let (pruned, found) = proved(prune(&model, &options(ratio, scope)).unwrap());
            assert!(found <= TOLERANCE, "{case}");
            let masked = zeroed(&model.proto, &pruned.report, &removed(&pruned.plan));
            let found = compare(&masked, &pruned.model.proto);
            assert!(found.max_rel() <= TOLERANCE, "{case}: {found:?}");
            // What is left of a network after 75 % may be deaf; then there is nothing to compare.
            assert!(found.proves() || ratio > 0.5, "{case}: {found:?}");
            let deviation = deviation_of_rten(&pruned.model.proto);
            assert!(deviation <= TOLERANCE || !found.proves(), "{case}: rten deviates by {deviation:e}");
        }
    }
}

#[test]
fn the_dense_network_is_exact() {
    prove_everywhere("digits_mlp.onnx");
    prove_everywhere("digits_nonneg.onnx");
    prove_everywhere("digits_overfit.onnx");
}

#[test]
fn the_residual_network_is_exact() {
    prove_everywhere("digits_resnet.onnx");
}

#[test]
fn the_vision_transformer_is_exact() {
    prove_everywhere("digits_vit.onnx");
}

/// Of `n` units `round(n · (1 − ratio))` stay, in every group that may lose any.
#[test]
fn a_ratio_removes_that_share_of_every_group() {
    for name in FIXTURES {
        let model = Model::load(fixture(name)).unwrap();
        for ratio in [0.25, 0.5, 0.75] {
            let pruned = prune(&model, &options(ratio, Scope::Layer)).unwrap();
            let open: Vec<_> = pruned.report.groups.iter().filter(|group| is_open(group)).collect();
            assert!(!open.is_empty());
            for group in open {
                let expected = (group.size as f64 * (1.0 - ratio)).round() as usize;
                assert_eq!(group.kept, expected.max(1), "{name} {ratio}: {}", group.name);
            }
        }
    }
}

#[test]
fn a_global_ratio_removes_that_share_of_all_units() {
    for name in FIXTURES {
        let model = Model::load(fixture(name)).unwrap();
        for ratio in [0.25, 0.5, 0.75] {
            let pruned = prune(&model, &options(ratio, Scope::Global)).unwrap();
            let open: Vec<_> = pruned.report.groups.iter().filter(|group| is_open(group)).collect();
            let sizes: usize = open.iter().map(|group| group.size).sum();
            let kept: usize = open.iter().map(|group| group.kept).sum();
            assert_eq!(kept, (sizes as f64 * (1.0 - ratio)).round() as usize, "{name} {ratio}");
            assert!(open.iter().all(|group| group.kept > 0));
        }
    }
}

#[test]
fn head_dimensions_and_both_are_exact_too() {
    let model = Model::load(fixture("digits_vit.onnx")).unwrap();
    for units in [Units::Dims, Units::Both] {
        let (pruned, found) = proved(prune(&model, &options(0.5, Scope::Layer).units(units)).unwrap());
        assert!(found <= TOLERANCE, "{units:?}");
        assert!(deviation_of_rten(&pruned.model.proto) <= TOLERANCE, "{units:?}");
        let kept = |kind: &str| -> Vec<usize> {
            pruned.report.groups.iter().filter(|g| g.axis == kind && g.role == "free").map(|g| g.kept).collect()
        };
        assert_eq!(kept("head dims"), [8; 4]);
        assert_eq!(kept("heads"), if units == Units::Both { [2, 2] } else { [4, 4] });
    }
}

/// The width that every LayerNormalization sees: valid and faithful, the exact part proved by itself.
#[test]
fn shifting_removals_are_valid_and_marked() {
    let model = Model::load(fixture("digits_vit.onnx")).unwrap();
    let (pruned, found) = proved(prune(&model, &options(0.25, Scope::Layer).allow_shifts(true)).unwrap());
    assert!(found <= TOLERANCE);
    assert_eq!(pruned.report.verify.valid, Some(true));
    let width = pruned.report.groups.iter().find(|group| group.role == "shifts").unwrap();
    assert_eq!((width.size, width.kept), (64, 48));
    assert!(pruned.report.notes.iter().any(|note| note.contains(&width.name)), "{:?}", pruned.report.notes);
    assert!(deviation_of_rten(&pruned.model.proto) <= TOLERANCE);
}
