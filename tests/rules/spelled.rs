//! Sizes, positions and numbers that a file spells out, and the form in which it does.

use paredown::internals::axes::{Role, Selection};
use paredown::internals::onnx::proto::attribute_proto::AttributeType;
use paredown::internals::onnx::proto::{AttributeProto, ModelProto, TensorProto};
use paredown::internals::onnx::tensor::TensorView;
use paredown::internals::rewrite::prune;

use super::build::model;
use super::net::{Net, Solved, bytes, dims, halved};
use super::support::{attribute, declared};

const INT4: i32 = 22;

/// Half of every group gone, exactly, with so much of `w` left.
fn assert_halved(model: ModelProto, left: &[i64]) {
    let (pruned, report) = halved(model, &[]).unwrap();
    assert_eq!(dims(&pruned, "w"), left);
    assert!(report.verify.exact_max_rel.unwrap() < 1e-5, "{:?}", report.verify);
}

/// `t = x·w` of shape `[n, s, 8]`, `e` its maximum over `s` or itself, expanded.
fn expanded(pooled: bool, sizes: impl Fn(Net) -> Net) -> ModelProto {
    let net = Net::new(&[("x", 1, &["n", "s", "3"])]).weight("w", &[3, 8]).weight("u", &[8, 4]);
    let net = net.ints("middle", &[1]).node("MatMul", &["x", "w"], "t", "");
    let net = net.node("ReduceMax", &["t", "middle"], "m", "keepdims=1");
    let net = sizes(net).node("Expand", &[if pooled { "m" } else { "t" }, "sizes"], "e", "");
    net.node("Add", &["t", "e"], "a", "").node("MatMul", &["a", "u"], "y", "").model("y")
}

/// A 1 and a missing size leave the axis as the data has it, and what nothing is removed from stays as it is written.
#[test]
fn a_list_of_sizes_to_expand_to_is_rebuilt_where_it_must_be() {
    for sizes in [&[1, 1, 8][..], &[1, 8], &[8], &[1, 1, 1], &[1]] {
        assert_halved(expanded(false, |net| net.ints("sizes", sizes)), &[3, 4]);
    }
    for last in [1, 8] {
        let counted = |net: Net| {
            let net = net.ints("one", &[1]).ints("last", &[last]).node("Shape", &["x"], "shape", "");
            let net = net.node("Gather", &["shape", "one"], "s", "");
            net.node("Concat", &["one", "s", "last"], "sizes", "axis=0")
        };
        assert_halved(expanded(true, counted), &[3, 4]);
    }
}

/// PyTorch's `expand(-1, -1)`, written as `Where(sizes == -1, 1, sizes)`, of heads that are merged with the batch.
#[test]
fn a_computed_one_among_sizes_to_expand_to_stays() {
    let net = Net::new(&[("x", 1, &["n", "3"])]).weight("w", &[3, 8]).weight("u", &[8, 2]);
    let net = net.ints("apart", &[-1, 4]).ints("joined", &[-1, 8]).ints("kept", &[-1, -1]).ints("all", &[-1]);
    let net = net.ints("one", &[1]).node("MatMul", &["x", "w"], "a", "").node("Reshape", &["a", "apart"], "b", "");
    let net =
        net.node("Equal", &["kept", "all"], "is_kept", "").node("Where", &["is_kept", "one", "kept"], "sizes", "");
    let net = net.node("Expand", &["b", "sizes"], "c", "").node("Reshape", &["c", "joined"], "d", "");
    assert_halved(net.node("MatMul", &["d", "u"], "y", "").model("y"), &[3, 4]);
}

#[test]
fn sizes_of_some_axes_to_resize_to_are_left_alone() {
    let cases = [("[2,3]", &[6, 8][..], &[6, 8][..]), ("[-1]", &[8], &[8]), ("[1,2,3]", &[8, 6, 8], &[4, 6, 8])];
    for (axes, sizes, expected) in cases {
        let net = Net::new(&[("x", 1, &["n", "3", "4", "4"])]).weight("w", &[8, 3, 1, 1]).weight("u", &[4, 8, 1, 1]);
        let net = net.ints("sizes", sizes).node("Conv", &["x", "w"], "h", "");
        let net = net.node("Resize", &["h", "", "", "sizes"], "r", &format!("mode=nearest axes={axes}"));
        let net = net.node("Conv", &["r", "u"], "y", "").at_opset("y", 18);
        let channels = net.factors("w", 0)[0];
        assert_eq!(*net.role("w", 0), Role::Free, "{}", net.reason("w", 0));
        let mut half = Selection::all();
        half.keep(channels, (0..8).map(|i| i % 2 == 0).collect());
        let pruned = prune(net.subject(), &half).unwrap();
        assert_eq!(ints(&pruned, &pruned.graph.as_ref().unwrap().node[1].input[3]), expected);
    }
}

/// A stored list of integers.
fn ints(model: &ModelProto, name: &str) -> Vec<i64> {
    let stored = model.graph.iter().flat_map(|graph| &graph.initializer).find(|tensor| tensor.name() == name).unwrap();
    TensorView::new(stored).unwrap().to_i64().unwrap()
}

/// `(h d)` before, `(d h)` behind: one of the two is pruned, not none because of the other.
#[test]
fn a_channel_shuffle_leaves_one_of_its_factors_to_prune() {
    let net = Net::new(&[("x", 1, &["n", "3", "2", "2"])]).weight("w", &[8, 3, 1, 1]).weight("u", &[2, 8, 1, 1]);
    let net = net.ints("apart", &[-1, 2, 4, 2, 2]).ints("joined", &[-1, 8, 2, 2]).node("Conv", &["x", "w"], "c", "");
    let net = net.node("Reshape", &["c", "apart"], "d", "").node("Transpose", &["d"], "e", "perm=[0,2,1,3,4]");
    let net = net.node("Reshape", &["e", "joined"], "f", "").node("Conv", &["f", "u"], "y", "");
    assert_halved(net.model("y"), &[4, 3, 1, 1]);
}

/// Padding of some axes; tract tells the sizes of those alone.
#[test]
fn padding_of_some_axes_leaves_the_channels_free() {
    for (axes, pads) in [(&[2, 3][..], &[1, 0, 1, 2][..]), (&[-1], &[1, 1]), (&[3, 1], &[0, 2, 0, 1])] {
        let net = Net::new(&[("x", 1, &["n", "3", "4", "4"])]).weight("w", &[8, 3, 1, 1]);
        let net = net.weight("u", &[2, if axes.contains(&1) { 11 } else { 8 }, 1, 1]);
        let net = net.ints("pads", pads).ints("axes", axes).node("Conv", &["x", "w"], "a", "");
        let net = net.node("Pad", &["a", "pads", "", "axes"], "b", "").node("Conv", &["b", "u"], "y", "");
        assert_halved(net.model("y"), &[4, 3, 1, 1]);
    }
}

#[test]
fn positions_of_maxima_hold_the_channels() {
    let pooled = |outputs: &str| {
        let net = Net::new(&[("x", 1, &["n", "3", "4", "4"])]).weight("w", &[8, 3, 1, 1]).weight("u", &[2, 8, 1, 1]);
        let net = net.node("Conv", &["x", "w"], "a", "").node("MaxPool", &["a"], outputs, "kernel_shape=[2,2]");
        net.node("Conv", &["b", "u"], "y", "")
    };
    let with_positions = pooled("b,at").node("Cast", &["at"], "z", "to=1").output("y");
    assert!(with_positions.reason("w", 0).contains("positions of maxima"), "{}", with_positions.reason("w", 0));
    assert_halved(pooled("b").model("y"), &[4, 3, 1, 1]);
}

/// One tensor that cannot be cut holds what it meets, and nothing else.
#[test]
fn elements_smaller_than_a_byte_are_held_by_name() {
    let mut net = Net::new(&[("x", 1, &["n", "4"])]).weight("w", &[4, 8]).weight("v", &[8, 6]).weight("scale", &[6]);
    net.0.initializer.push(bytes("packed", &[6, 5], INT4, vec![0x21; 15]));
    let net = net.weight("each", &[5]).node("MatMul", &["x", "w"], "a", "").node("Relu", &["a"], "b", "");
    let net = net.node("MatMul", &["b", "v"], "c", "").node("DequantizeLinear", &["packed", "each"], "d", "axis=1");
    let mut model = net.node("MatMul", &["c", "d"], "y", "").model("y");
    model.opset_import[0].version = Some(21);
    let solved = Solved::new(model);
    assert!(solved.reason("packed", 0).contains("packed: stored as int4"), "{}", solved.reason("packed", 0));
    assert_eq!(solved.reason("v", 1), solved.reason("packed", 0));
    assert_eq!(*solved.role("w", 1), Role::Free);
}

/// A bias in `value_floats` of its `Constant`.
#[test]
fn numbers_that_a_constant_lists_are_cut() {
    let net = Net::new(&[("x", 1, &["n", "4"])]).weight("w", &[4, 8]).weight("u", &[8, 3]);
    let net = net.node("MatMul", &["x", "w"], "a", "").node("Constant", &[], "bias", "");
    let mut net =
        net.node("Add", &["a", "bias"], "b", "").node("Relu", &["b"], "c", "").node("MatMul", &["c", "u"], "y", "");
    let values = (0..8).map(|i| i as f32 / 8.0).collect();
    net.0.node[1].attribute = vec![floats("value_floats", values)];
    assert_halved(net.model("y"), &[4, 4]);
}

fn floats(name: &str, values: Vec<f32>) -> AttributeProto {
    let mut list = attribute("list=[0]");
    list.name = Some(name.into());
    list.r#type = Some(AttributeType::Floats as i32);
    list.ints = Vec::new();
    list.floats = values;
    list
}

/// Values are as wide as queries and keys: what is gone from a head must not count in the scores.
#[test]
fn the_width_of_a_head_is_masked_where_scores_are_summed_over_it() {
    let mut net =
        Net::new(&[("x", 1, &["1", "5", "6"])]).weight("q", &[6, 16]).weight("k", &[6, 8]).weight("v", &[6, 8]);
    let int32 = |name: &str, dims: &[i64], value: i32| TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(6),
        int32_data: vec![value],
        ..TensorProto::default()
    };
    net.0.initializer.extend([int32("last", &[1], 4), int32("total", &[], 5)]);
    let net = net.weight("o", &[16, 3]).node("MatMul", &["x", "q"], "a", "").node("MatMul", &["x", "k"], "b", "");
    let operands = ["a", "b", "c", "", "", "last", "total"];
    let net = net.node("MatMul", &["x", "v"], "c", "");
    let mut net = net.node("GroupQueryAttention", &operands, "h,keys,values", "num_heads=4 kv_num_heads=2 scale=0.5");
    net.0.node[3].domain = Some("com.microsoft".into());
    net = net.node("MatMul", &["h", "o"], "y", "");
    net.0.output.push(declared("y", 1, None));
    let net = Solved::new(model(net.0));
    let factors = net.factors("q", 1);
    assert_eq!(factors.len(), 3, "groups, heads of a group, head width");
    for factor in factors {
        assert_eq!(net.network.solution.factor(factor).role, Role::Free);
        net.assert_exact(factor, &[("x", &[1, 5, 6])]);
    }
    let relation = &net.network.relations[3];
    assert_eq!((relation.heads.len(), relation.head_dims.len()), (2, 1));
}
