//! The traps of shape arithmetic and sharing, each one test.

use std::collections::BTreeSet;

use paredown::internals::analysis::Analysis;
use paredown::internals::axes::Role;
use paredown::internals::graph::NodeId;
use paredown::internals::onnx::Model;
use paredown::internals::onnx::proto::{AttributeProto, GraphProto, NodeProto, attribute_proto::AttributeType};
use paredown::internals::onnx::tensor::TensorView;
use paredown::internals::runtime::inputs::DimSizes;

use super::net::{Net, Solved};
use super::support::{declared, dynamic};

#[test]
fn one_against_many_couples_nothing() {
    let net = Net::new(&[("x", 1, &["n", "3"])]).weight("w", &[3, 4]).weight("v", &[3, 1]).weight("u", &[4, 2]);
    let net = net.node("MatMul", &["x", "w"], "a", "").node("MatMul", &["x", "v"], "b", "");
    let net = net.node("Mul", &["a", "b"], "c", "").node("MatMul", &["c", "u"], "y", "").output("y");
    assert_eq!(*net.role("w", 1), Role::Free);
    assert!(net.factors("v", 1).is_empty());
    net.assert_exact(net.factors("w", 1)[0], &[("x", &[2, 3])]);
}

#[test]
fn a_dynamic_axis_freezes_what_broadcasts_against_it() {
    let net = Net::new(&[("x", 1, &["n", "k"]), ("z", 1, &["n", "3"])]).weight("w", &[3, 8]);
    let net = net.node("MatMul", &["z", "w"], "a", "").node("Add", &["a", "x"], "y", "").output("y");
    assert!(matches!(net.role("w", 1), Role::Frozen(_)), "{}", net.reason("w", 1));
}

#[test]
fn a_misaligned_reshape_freezes_with_its_reason() {
    let net = Net::new(&[("x", 1, &["n", "4"])]).weight("w", &[4, 6]).ints("s", &[-1, 4]).weight("u", &[4, 2]);
    let net = net.node("MatMul", &["x", "w"], "a", "").node("Reshape", &["a", "s"], "b", "");
    let net = net.node("MatMul", &["b", "u"], "y", "").output("y");
    assert!(matches!(net.role("w", 1), Role::Frozen(_)));
    assert!(net.reason("w", 1).starts_with("Reshape:b"), "{}", net.reason("w", 1));
    assert_eq!(net.reason("x", 1), "x: graph input");
}

#[test]
fn a_stale_literal_beside_minus_one_does_not_change_the_batch() {
    let net = Net::new(&[("x", 1, &["n", "4", "2", "2"])]).weight("w", &[6, 4, 1, 1]).ints("s", &[-1, 24]);
    let net = net.weight("u", &[24, 3]).node("Conv", &["x", "w"], "a", "").node("Reshape", &["a", "s"], "b", "");
    let net = net.node("MatMul", &["b", "u"], "y", "").output("y");
    assert_eq!(*net.role("w", 0), Role::Free);
    net.assert_exact(net.factors("w", 0)[0], &[("x", &[5, 4, 2, 2])]);
}

#[test]
fn allowzero_keeps_zero_from_copying() {
    let net = Net::new(&[("x", 1, &["n", "4"])]).weight("w", &[4, 6]).ints("s", &[-1, 3, 2]).weight("u", &[2, 3]);
    let net = net.node("MatMul", &["x", "w"], "a", "").node("Reshape", &["a", "s"], "b", "allowzero=1");
    let net = net.node("MatMul", &["b", "u"], "y", "").output("y");
    let outer = net.factors("w", 1)[0];
    assert!(matches!(net.network.solution.factor(outer).role, Role::Frozen(_)), "it reaches the output");
    net.assert_exact(net.factors("w", 1)[1], &[("x", &[5, 4])]);
}

#[test]
fn a_small_constant_shared_by_two_layers_couples_nothing() {
    let net = Net::new(&[("x", 1, &["n", "3"])]).weight("w", &[3, 4]).weight("bias", &[4]).weight("v", &[4, 4]);
    let net = net.weight("u", &[4, 2]).node("MatMul", &["x", "w"], "a", "").node("Add", &["a", "bias"], "b", "");
    let net = net.node("MatMul", &["b", "v"], "c", "").node("Identity", &["bias"], "again", "");
    let net = net.node("Add", &["c", "again"], "d", "").node("MatMul", &["d", "u"], "y", "").output("y");
    assert_ne!(net.factors("w", 1), net.factors("v", 1));
    let pruned = net.assert_exact(net.factors("w", 1)[0], &[("x", &[5, 3])]);
    let sizes: Vec<i64> =
        pruned.graph.unwrap().initializer.iter().filter(|t| t.name().starts_with("bias")).map(|t| t.dims[0]).collect();
    assert_eq!(sizes.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([3, 4]), "one copy for each use");
}

#[test]
fn a_weight_used_twice_is_one_tensor() {
    let net = Net::new(&[("x", 1, &["n", "3"])]).weight("w", &[3, 4]).weight("u", &[4, 4]).weight("v", &[4, 2]);
    let net = net.node("MatMul", &["x", "w"], "a", "").node("MatMul", &["a", "u"], "b", "");
    let net = net.node("Relu", &["b"], "c", "").node("MatMul", &["c", "u"], "d", "");
    let net = net.node("MatMul", &["d", "v"], "y", "").output("y");
    assert_eq!(net.factors("w", 1), net.factors("u", 0));
    assert_eq!(net.factors("u", 0), net.factors("u", 1));
    net.assert_exact(net.factors("u", 0)[0], &[("x", &[5, 3])]);
}

#[test]
fn an_initializer_that_is_an_input_too_is_not_constant() {
    let net = Net::new(&[("x", 1, &["n", "3"]), ("w", 1, &["3", "4"])]).weight("w", &[3, 4]).weight("u", &[4, 2]);
    let net = net.node("MatMul", &["x", "w"], "a", "").node("MatMul", &["a", "u"], "y", "").output("y");
    assert_eq!(net.reason("u", 0), "w: graph input with a default");
}

#[test]
fn rotary_embeddings_tie_the_head_width_in_halves() {
    let net = Net::new(&[("x", 1, &["n", "3"])]).weight("w", &[3, 8]).weight("u", &[8, 2]);
    let net = net.ints("zero", &[0]).ints("four", &[4]).ints("eight", &[8]).ints("one", &[1]);
    let net = net.node("MatMul", &["x", "w"], "a", "").node("Slice", &["a", "zero", "four", "one"], "left", "");
    let net = net.node("Slice", &["a", "four", "eight", "one"], "right", "").node("Neg", &["right"], "minus", "");
    let net = net.node("Concat", &["minus", "left"], "turned", "axis=1").node("Add", &["a", "turned"], "b", "");
    let net = net.node("MatMul", &["b", "u"], "y", "").output("y");
    let factors = net.factors("w", 1);
    assert_eq!((factors.len(), net.network.solution.size(factors[0])), (1, 4));
    net.assert_exact(factors[0], &[("x", &[5, 3])]);
}

/// Of a table of 20 positions as many as there are tokens: a size that only short sequences change.
#[test]
fn a_clamped_size_is_dynamic() {
    let net = Net::new(&[("ids", 7, &["n", "s"])]).weight("table", &[9, 6]).weight("v", &[6, 8]);
    let net = net.weight("positions", &[20, 6]).weight("w", &[6, 8]).weight("u", &[8, 2]);
    let net = net.ints("zero", &[0]).ints("one", &[1]).ints("two", &[2]).ints("four", &[4]).ints("all", &[20]);
    let net = net.node("Shape", &["ids"], "shape", "").node("Gather", &["shape", "one"], "tokens", "");
    let net = net.node("Min", &["tokens", "all"], "seen", "").node("Slice", &["positions", "zero", "seen"], "p", "");
    let net = net.node("MatMul", &["p", "w"], "q", "").node("Shape", &["p"], "sizes", "");
    let net = net.node("Gather", &["sizes", "zero"], "count", "");
    let net =
        net.node("Concat", &["count", "two", "four"], "apart", "axis=0").node("Reshape", &["q", "apart"], "r", "");
    let net = net.node("ReduceSum", &["r", "zero"], "sum", "keepdims=0").ints("joined", &[8]);
    let net = net.node("Reshape", &["sum", "joined"], "bias", "").node("Gather", &["table", "ids"], "x", "");
    let net = net.node("MatMul", &["x", "v"], "a", "").node("Add", &["a", "bias"], "b", "");
    let net = net.node("MatMul", &["b", "u"], "y", "").output("y");
    for factor in net.factors("w", 1) {
        assert_eq!(net.network.solution.factor(factor).role, Role::Free);
        for tokens in [1, 5, 19, 20, 33] {
            net.assert_exact(factor, &[("ids", &[2, tokens])]);
        }
    }
}

/// Scores `[n, h, i, t]`, read as `[n, h, t, i]`: heads line up, whatever becomes of the rest.
#[test]
fn a_relative_shift_leaves_the_heads_free() {
    let net = Net::new(&[("x", 1, &["n", "s", "4"])]).weight("w", &[4, 8]).weight("v", &[4, 8]).weight("u", &[8, 3]);
    let net = net.ints("zero", &[0]).ints("one", &[1]).ints("two", &[2]).ints("eight", &[8]).ints("most", &[1 << 40]);
    let net = net.ints("apart", &[0, 0, 2, 4]).ints("pads", &[0, 0, 0, 1, 0, 0, 0, 0]).ints("three", &[3]);
    let net = net.node("Shape", &["x"], "shape", "").node("Gather", &["shape", "zero"], "n", "");
    let net = net.node("Gather", &["shape", "one"], "s", "").node("Add", &["s", "one"], "t", "");
    let heads = |net: Net, weight: &str, to: &str| {
        let (product, split) = (format!("{to}1"), format!("{to}2"));
        let net = net.node("MatMul", &["x", weight], &product, "");
        let net = net.node("Reshape", &[&product, "apart"], &split, "");
        net.node("Transpose", &[&split], to, "perm=[0,2,1,3]")
    };
    let net = heads(heads(net, "w", "q"), "v", "values").node("Transpose", &["q"], "k", "perm=[0,1,3,2]");
    let net = net.node("MatMul", &["q", "k"], "scores", "").node("Pad", &["scores", "pads"], "padded", "");
    let net = net.node("Concat", &["n", "two", "t", "s"], "turned", "axis=0");
    let net = net.node("Reshape", &["padded", "turned"], "long", "");
    let net = net.node("Slice", &["long", "one", "most", "two"], "shifted", "");
    let net = net.node("MatMul", &["shifted", "values"], "h", "").node("Transpose", &["h"], "back", "perm=[0,2,1,3]");
    let net = net.node("Concat", &["n", "s", "eight"], "joined", "axis=0");
    let net = net.node("Reshape", &["back", "joined"], "z", "").node("MatMul", &["z", "u"], "y", "").output("y");
    let heads = net.factors("w", 1)[0];
    assert_eq!((net.network.solution.size(heads), net.role("w", 1)), (2, &Role::Free));
    net.assert_exact(heads, &[("x", &[2, 5, 4])]);
}

/// To a multiple of something, for instance: the sequence varies, the features do not.
#[test]
fn padding_that_is_computed_holds_the_padded_axis_only() {
    let net = Net::new(&[("x", 1, &["n", "s", "3"])]).weight("w", &[3, 8]).weight("u", &[8, 2]);
    let net = net.ints("none", &[0]).ints("one", &[1]).node("Shape", &["x"], "shape", "");
    let net = net.node("Gather", &["shape", "one"], "s", "");
    let net = net.node("Concat", &["none", "none", "none", "none", "s", "none"], "pads", "axis=0");
    let net = net.node("MatMul", &["x", "w"], "a", "").node("Pad", &["a", "pads"], "b", "");
    let net = net.node("MatMul", &["b", "u"], "y", "").output("y");
    assert_eq!(*net.role("w", 1), Role::Free, "{}", net.reason("w", 1));
    net.assert_exact(net.factors("w", 1)[0], &[("x", &[2, 5, 3])]);
}

/// TorchScript's `arange`: positions of the ones in a list of ones.
#[test]
fn positions_in_a_list_of_ones_are_known() {
    let net = Net::new(&[("x", 1, &["n", "3"])]).weight("w", &[3, 8]).weight("u", &[8, 2]).ints("size", &[8]);
    let net = net.node("ConstantOfShape", &["size"], "zeros", "").ints("axis", &[0]);
    let net = net.node("Exp", &["zeros"], "ones", "").node("NonZero", &["ones"], "positions", "");
    let net = net.node("Squeeze", &["positions", "axis"], "list", "").node("Cast", &["list"], "bias", "to=1");
    let net = net.node("MatMul", &["x", "w"], "a", "").node("Add", &["a", "bias"], "b", "");
    let net = net.node("MatMul", &["b", "u"], "y", "").output("y");
    assert!(net.facts.gaps.is_empty(), "{:?}", net.facts.gaps);
}

#[test]
fn softmax_before_opset_13_flattens() {
    let net = |opset| {
        let net = Net::new(&[("x", 1, &["n", "3"])]).weight("w", &[3, 6]).ints("s", &[-1, 2, 3]).weight("u", &[2, 2]);
        let net = net.node("MatMul", &["x", "w"], "a", "").node("Reshape", &["a", "s"], "b", "");
        let net = net.node("Softmax", &["b"], "c", "axis=1").node("Transpose", &["c"], "d", "perm=[0,2,1]");
        net.node("MatMul", &["d", "u"], "y", "").at_opset("y", opset)
    };
    let why = |net: &Solved, factor: usize| {
        let factor = net.network.solution.factor(net.factors("w", 1)[factor]);
        factor.role.name().to_owned()
    };
    assert_eq!((why(&net(11), 0), why(&net(11), 1)), ("shifts".into(), "frozen".into()));
    let later = net(13);
    assert_eq!(later.role("c", 1).name(), "shifts");
}

#[test]
fn a_sum_is_exact_and_a_mean_is_not() {
    let net = |op: &str| {
        let net = Net::new(&[("x", 1, &["n", "3"])]).weight("w", &[3, 4]).ints("axes", &[1]);
        net.node("MatMul", &["x", "w"], "a", "").node(op, &["a", "axes"], "y", "").output("y")
    };
    assert_eq!(*net("ReduceSum").role("w", 1), Role::Free);
    assert_eq!(net("ReduceMean").reason("w", 1), "ReduceMean:y: ReduceMean over this axis");
    let sum = net("ReduceSum");
    sum.assert_exact(sum.factors("w", 1)[0], &[("x", &[5, 3])]);
}

#[test]
fn grouped_convolutions_keep_their_groups_in_step() {
    let net = Net::new(&[("x", 1, &["n", "3", "4", "4"])]).weight("w", &[8, 3, 1, 1]).weight("v", &[8, 1, 3, 3]);
    let net = net.weight("u", &[2, 8, 1, 1]).node("Conv", &["x", "w"], "a", "");
    let net = net.node("Conv", &["a", "v"], "b", "group=8").node("Conv", &["b", "u"], "y", "").output("y");
    assert_eq!(net.factors("w", 0), net.factors("v", 0));
    let pruned = net.assert_exact(net.factors("w", 0)[0], &[("x", &[2, 3, 4, 4])]);
    let group = pruned.graph.unwrap().node[1].attribute.iter().find(|a| a.name() == "group").unwrap().i();
    assert_eq!(group, 7);
}

#[test]
fn a_channel_shuffle_spells_the_channels_out() {
    let net = Net::new(&[("x", 1, &["n", "3", "2", "2"])]).weight("w", &[4, 3, 1, 1]).weight("v", &[4, 3, 1, 1]);
    let net = net.weight("u", &[2, 8, 1, 1]).ints("apart", &[-1, 2, 4, 2, 2]).ints("joined", &[-1, 8, 2, 2]);
    let net = net.node("Conv", &["x", "w"], "a", "").node("Conv", &["x", "v"], "b", "");
    let net = net.node("Concat", &["a", "b"], "c", "axis=1").node("Reshape", &["c", "apart"], "d", "");
    let net = net.node("Transpose", &["d"], "e", "perm=[0,2,1,3,4]").node("Reshape", &["e", "joined"], "f", "");
    let net = net.node("Conv", &["f", "u"], "y", "").output("y");
    assert_eq!(*net.role("w", 0), Role::Free, "{}", net.reason("w", 0));
    net.assert_exact(net.factors("w", 0)[0], &[("x", &[3, 3, 2, 2])]);
}

#[test]
fn strided_slices_of_a_pruned_axis_become_gathers() {
    let net = Net::new(&[("x", 1, &["n", "3"])]).weight("w", &[3, 6]).weight("u", &[3, 2]).weight("v", &[3, 2]);
    let net = net.ints("zero", &[0]).ints("one", &[1]).ints("two", &[2]).ints("six", &[6]);
    let net = net.node("MatMul", &["x", "w"], "a", "");
    let net = net.node("Slice", &["a", "zero", "six", "one", "two"], "even", "");
    let net = net.node("Slice", &["a", "one", "six", "one", "two"], "odd", "");
    let net = net.node("MatMul", &["even", "u"], "b", "").node("MatMul", &["odd", "v"], "c", "");
    let net = net.node("Add", &["b", "c"], "y", "").output("y");
    for factor in net.factors("w", 1) {
        assert_eq!(net.network.solution.factor(factor).role, Role::Free);
        net.assert_exact(factor, &[("x", &[5, 3])]);
    }
}

#[test]
fn forms_of_old_opsets_are_understood() {
    let net = Net::new(&[("x", 1, &["n", "3"])]).weight("w", &[3, 6]).weight("u", &[2, 2]).weight("v", &[4, 2]);
    let net = net.node("MatMul", &["x", "w"], "a", "").node("Unsqueeze", &["a"], "b", "axes=[1]");
    let net = net.node("Clip", &["b"], "c", "min=-9.0 max=9.0").node("Squeeze", &["c"], "d", "axes=[1]");
    let net = net.node("Split", &["d"], "e,f", "axis=1 split=[2,4]").node("ReduceSum", &["f"], "g", "axes=[1]");
    let net = net.node("Slice", &["f"], "h", "axes=[1] starts=[0] ends=[4]").node("Pad", &["h"], "i", "pads=[0,0,0,0]");
    let net = net.node("MatMul", &["e", "u"], "j", "").node("MatMul", &["i", "v"], "k", "");
    let net = net.node("Add", &["j", "k"], "l", "").node("Add", &["l", "g"], "y", "").at_opset("y", 9);
    assert_eq!(net.network.refusals, []);
    for factor in net.factors("w", 1) {
        assert_eq!(net.network.solution.factor(factor).role, Role::Free);
        net.assert_exact(factor, &[("x", &[5, 3])]);
    }
}

#[test]
fn an_unknown_operator_freezes_what_it_touches_and_nothing_else() {
    let net = Net::new(&[("x", 1, &["n", "3"])]).weight("w", &[3, 6]).weight("u", &[6, 5]).weight("v", &[5, 2]);
    let mut net = net.node("MatMul", &["x", "w"], "a", "").node("Mystery", &["a"], "b", "");
    net.0.node[1].domain = Some("somewhere".into());
    net.0.value_info.push(dynamic("b", 1, &["n", "6"]));
    let net = net.node("MatMul", &["b", "u"], "c", "").node("MatMul", &["c", "v"], "y", "").output("y");
    assert_eq!(net.reason("w", 1), "Mystery:b: operator somewhere.Mystery has no rule");
    assert_eq!(net.reason("u", 0), "Mystery:b: operator somewhere.Mystery has no rule");
    assert_eq!(*net.role("u", 1), Role::Free);
}

#[test]
fn what_a_subgraph_captures_freezes() {
    let net = Net::new(&[("x", 1, &["n", "3"]), ("c", 9, &[])]).weight("w", &[3, 6]).weight("u", &[6, 2]);
    let mut net = net.node("MatMul", &["x", "w"], "a", "").node("If", &["c"], "b", "");
    let branch = |name: &str, output: &str| {
        let node = NodeProto {
            op_type: Some("Relu".into()),
            input: vec!["a".into()],
            output: vec![output.into()],
            ..NodeProto::default()
        };
        let graph = GraphProto {
            name: Some(name.into()),
            node: vec![node],
            output: vec![declared(output, 1, None)],
            ..GraphProto::default()
        };
        AttributeProto {
            name: Some(name.into()),
            g: Some(graph),
            r#type: Some(AttributeType::Graph as i32),
            ..AttributeProto::default()
        }
    };
    net.0.node[1].attribute = vec![branch("then_branch", "t"), branch("else_branch", "e")];
    let net = net.node("MatMul", &["b", "u"], "y", "").output("y");
    assert_eq!(net.reason("w", 1), "If:b: captured by a subgraph");
    assert_eq!(net.reason("x", 1), "x: graph input");
}

#[test]
fn declared_shapes_follow_or_go() {
    let net = Net::new(&[("x", 1, &["n", "3"])]).weight("w", &[3, 4]).weight("bias", &[4]).weight("u", &[4, 2]);
    let mut net = net.node("MatMul", &["x", "w"], "a", "").node("Add", &["a", "bias"], "b", "");
    for (name, dims) in [("w", &["3", "4"][..]), ("bias", &["4"]), ("a", &["n", "4"]), ("b", &["n", "4"])] {
        net.0.value_info.push(dynamic(name, 1, dims));
    }
    let net = net.node("MatMul", &["b", "u"], "y", "").output("y");
    let pruned = net.assert_exact(net.factors("w", 1)[0], &[("x", &[5, 3])]).graph.unwrap();
    for info in &pruned.value_info {
        let text = format!("{info:?}");
        assert!(!text.contains("DimValue(4)"), "{} still says 4", info.name());
    }
}

#[test]
fn shape_arithmetic_keeps_the_old_sizes() {
    // The square root of the head width, computed from a Shape, is a scale: it must not move with the heads.
    let net = Net::new(&[("x", 1, &["n", "3"])]).weight("w", &[3, 6]).weight("u", &[6, 2]).ints("one", &[1]);
    let net = net.node("MatMul", &["x", "w"], "a", "").node("Shape", &["a"], "s", "");
    let net = net.node("Gather", &["s", "one"], "width", "").node("Cast", &["width"], "f", "to=1");
    let net = net.node("Sqrt", &["f"], "root", "").node("Div", &["a", "root"], "b", "");
    let net = net.node("MatMul", &["b", "u"], "y", "").output("y");
    let pruned = net.assert_exact(net.factors("w", 1)[0], &[("x", &[5, 3])]);
    let kept = pruned
        .graph
        .unwrap()
        .initializer
        .iter()
        .find(|t| t.name() == "w")
        .map(|t| TensorView::new(t).unwrap().dims().to_vec());
    assert_eq!(kept.map(|dims| dims[1]), Some(5));
}

#[test]
fn a_factor_never_loses_its_last_index() {
    assert!(!paredown::internals::ops::is_prunable(&Role::Free, 1, true));
}

#[test]
fn graph_ends_name_themselves_as_the_reason() {
    let net = Net::new(&[("x", 1, &["n", "3"])]).weight("w", &[3, 4]);
    let net = net.node("MatMul", &["x", "w"], "y", "").output("y");
    assert_eq!((net.reason("w", 0), net.reason("w", 1)), ("x: graph input".into(), "y: graph output".into()));
    assert_eq!(net.graph.node(NodeId(0)).name, "MatMul:y");
}

/// A residual block whose hidden axis is split in two by `split` and merged by `merge`, on rows of five.
fn split_and_merged(split: &[i64], merge: &[i64]) -> Model {
    let net = Net::new(&[("x", 1, &["n", "5", "8"])]).weight("w", &[8, 6]).weight("u", &[6, 8]);
    let net = net.ints("split", split).ints("merge", merge);
    let net = net.node("MatMul", &["x", "w"], "h", "").node("Reshape", &["h", "split"], "heads", "");
    let net = net.node("Reshape", &["heads", "merge"], "whole", "").node("MatMul", &["whole", "u"], "d", "");
    Model::from_proto(net.node("Add", &["x", "d"], "y", "").model("y"))
}

/// A transformer that was exported with a batch of one in its shapes, and a batch axis that is declared dynamic: all of its
/// attention was frozen, and without samples it was refused.
#[test]
fn a_dimension_at_which_one_size_runs_is_not_dynamic() {
    let baked = split_and_merged(&[1, 5, 2, 3], &[1, 5, 6]);
    let open = split_and_merged(&[0, 5, 2, 3], &[0, 5, 6]);
    for (model, expected) in [(&baked, vec![("n", 1)]), (&open, vec![])] {
        let analysis = Analysis::new(model, &DimSizes::default(), &BTreeSet::new()).unwrap();
        assert_eq!(analysis.facts.fixed().collect::<Vec<_>>(), expected);
        assert!(analysis.network.refusals.is_empty(), "{:?}", analysis.network.refusals);
        assert_eq!(analysis.model.warnings.len(), expected.len(), "{:?}", analysis.model.warnings);
        let probes = analysis.probe_sizes(&DimSizes::default());
        assert_eq!(probes.named.get("n").copied(), expected.first().map(|&(_, size)| size));
    }
}

/// Rows of all samples, to which the positions of one sample are added.
#[test]
fn a_batch_that_shows_in_an_addition_only_is_found() {
    let net = Net::new(&[("x", 1, &["n", "5", "8"])]).weight("w", &[8, 6]).weight("u", &[6, 8]);
    let net = net.weight("positions", &[5, 6]).ints("rows", &[-1, 6]);
    let net = net.node("MatMul", &["x", "w"], "h", "").node("Reshape", &["h", "rows"], "r", "");
    let net = net.node("Add", &["r", "positions"], "s", "").node("MatMul", &["s", "u"], "y", "");
    let model = Model::from_proto(net.model("y"));
    let analysis = Analysis::new(&model, &DimSizes::default(), &BTreeSet::new()).unwrap();
    assert_eq!(analysis.facts.fixed().collect::<Vec<_>>(), [("n", 1)]);
}
