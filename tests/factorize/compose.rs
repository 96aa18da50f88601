//! Pruning and factorization, in either order.

use paredown::{FactorizeOptions, Model, PruneOptions, factorize, prune};

use crate::graphs::fixture;

#[test]
fn what_was_pruned_can_be_factorized() {
    for name in ["digits_mlp.onnx", "digits_resnet.onnx", "digits_vit.onnx"] {
        let model = Model::load(fixture(name)).unwrap();
        let pruned = prune(&model, &PruneOptions::ratio(0.25)).unwrap();
        let options = FactorizeOptions::params(0.8).data(fixture("calib.npz"));
        let split = factorize(&pruned.model, &options).unwrap();
        assert!(split.report.model.after.params * 10 <= split.report.model.before.params * 8);
    }
}

#[test]
fn the_inner_rank_of_a_split_layer_can_be_pruned() {
    for name in ["digits_mlp.onnx", "digits_resnet.onnx", "digits_vit.onnx"] {
        let model = Model::load(fixture(name)).unwrap();
        let split = factorize(&model, &FactorizeOptions::energy(0.9)).unwrap();
        let pruned = prune(&split.model, &PruneOptions::ratio(0.5)).unwrap();
        let inner = pruned.report.groups.iter().find(|group| {
            group.role == "free"
                && group.members.iter().any(|member| member.tensor.ends_with(".last"))
                && group.members.iter().any(|member| member.tensor.ends_with(".first"))
        });
        let inner = inner.unwrap_or_else(|| panic!("{name}: no group of an inner rank"));
        assert!(inner.kept < inner.size, "{name}: {}", inner.name);
    }
}
