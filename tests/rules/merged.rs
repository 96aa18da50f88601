//! Which factor of a merged axis is pruned.

use paredown::internals::onnx::proto::ModelProto;
use paredown::{Model, PruneOptions, prune};

use super::net::{Net, dims, halved};

/// `w`, then `multiplier` results of `v` for each of its channels.
fn multiplied(inputs: usize, channels: usize, multiplier: usize) -> ModelProto {
    let count = inputs.to_string();
    let net = Net::new(&[("x", 1, &["n", &count, "4", "4"])]).weight("w", &[channels, inputs, 1, 1]);
    let net = net.weight("v", &[channels * multiplier, 1, 3, 3]).weight("u", &[2, channels * multiplier, 1, 1]);
    let net = net.node("Conv", &["x", "w"], "a", "").node("Conv", &["a", "v"], "b", &format!("group={channels}"));
    net.node("Conv", &["b", "u"], "y", "").model("y")
}

#[test]
fn what_follows_from_few_channels_in_a_group_gives_way_to_the_groups() {
    let (pruned, _) = halved(multiplied(32, 24, 3), &[]).unwrap();
    assert_eq!((dims(&pruned, "w"), dims(&pruned, "v")), (vec![12, 32, 1, 1], vec![36, 1, 3, 3]));
    let (pruned, _) = halved(multiplied(3, 24, 4), &[]).unwrap();
    assert_eq!((dims(&pruned, "w"), dims(&pruned, "v")), (vec![24, 3, 1, 1], vec![48, 1, 3, 3]));
}

/// What is left alone by name is no rival.
#[test]
fn an_excluded_factor_leaves_the_other_one_to_prune() {
    let model = Model::from_proto(multiplied(3, 24, 4));
    let pruned = prune(&model, &PruneOptions::ratio(0.5).align(1).exclude("*channels")).unwrap();
    assert_eq!(dims(&pruned.model.proto, "v"), [48, 1, 3, 3]);
    assert_eq!(dims(&pruned.model.proto, "w"), [12, 3, 1, 1]);
}

/// `((a + b) d)`: `a` and `b` are merged with `d`, but not with each other.
#[test]
fn terms_of_a_sum_are_no_rivals() {
    let net = Net::new(&[("x", 1, &["n", "3", "2", "2"])]).weight("w", &[16, 3, 1, 1]).weight("v", &[8, 3, 1, 1]);
    let net = net.ints("apart", &[-1, 6, 4, 2, 2]).ints("joined", &[-1, 24, 2, 2]).weight("u", &[2, 24, 1, 1]);
    let net = net.node("Conv", &["x", "w"], "a", "").node("Conv", &["x", "v"], "b", "");
    let net = net.node("Concat", &["a", "b"], "c", "axis=1").node("Reshape", &["c", "apart"], "d", "");
    let net = net.node("Relu", &["d"], "e", "").node("Reshape", &["e", "joined"], "f", "");
    let (pruned, _) = halved(net.node("Conv", &["f", "u"], "y", "").model("y"), &[]).unwrap();
    assert_eq!((dims(&pruned, "w"), dims(&pruned, "v")), (vec![8, 3, 1, 1], vec![4, 3, 1, 1]));
}
