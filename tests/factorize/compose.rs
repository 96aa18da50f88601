//! Pruning and factorization, in either order.

use paredown::factorize::{Options, Target, factorize};
use paredown::jobs::prune;
use paredown::onnx::Model;

use crate::graphs::{data, fixture};

#[test]
fn what_was_pruned_can_be_factorized() {
    for name in ["digits_mlp.onnx", "digits_resnet.onnx", "digits_vit.onnx"] {
        let model = Model::load(&fixture(name)).unwrap();
        let pruned = prune::prune(&model, &prune::Options::new(prune::Target::Ratio(0.25)), None).unwrap();
        let calib = data("calib.npz", &pruned.model);
        let target = Target::Params(prune::Remaining::Share(0.8));
        let split = factorize(&pruned.model, &Options::new(target), Some(&calib)).unwrap();
        assert!(split.report.model.after.params * 10 <= split.report.model.before.params * 8);
    }
}

#[test]
fn the_inner_rank_of_a_split_layer_can_be_pruned() {
    for name in ["digits_mlp.onnx", "digits_resnet.onnx", "digits_vit.onnx"] {
        let model = Model::load(&fixture(name)).unwrap();
        let split = factorize(&model, &Options::new(Target::Energy(0.9)), None).unwrap();
        let options = prune::Options::new(prune::Target::Ratio(0.25));
        let pruned = prune::prune(&split.model, &options, None).unwrap();
        let inner = pruned.report.groups.iter().find(|group| {
            group.role == "free"
                && group.members.iter().any(|member| member.tensor.ends_with(".last"))
                && group.members.iter().any(|member| member.tensor.ends_with(".first"))
        });
        let inner = inner.unwrap_or_else(|| panic!("{name}: no group of an inner rank"));
        assert!(inner.kept < inner.size, "{name}: {}", inner.name);
    }
}
