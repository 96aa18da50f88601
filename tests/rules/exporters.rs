//! Graph shapes that other exporters than PyTorch's write.

use paredown::internals::onnx::proto::{AttributeProto, attribute_proto::AttributeType};

use super::net::{Net, dims, halved};
use super::support::{declared, dynamic};

/// scikit-learn's MLP behind a `StandardScaler`, as skl2onnx writes it: the features stay, both hidden layers shrink.
#[test]
fn a_scikit_learn_mlp_is_pruned_behind_its_scaler() {
    let net = Net::new(&[("x", 1, &["n", "5"])]).weight("w1", &[5, 8]).weight("b1", &[1, 8]).weight("w2", &[8, 6]);
    let net = net.weight("b2", &[1, 6]).weight("w3", &[6, 3]).weight("b3", &[1, 3]).ints("classes", &[0, 1, 2]);
    let net = net.node("Scaler", &["x"], "scaled", "").node("Cast", &["scaled"], "cast", "to=1");
    let net = net.node("MatMul", &["cast", "w1"], "m1", "").node("Add", &["m1", "b1"], "a1", "");
    let net = net.node("Relu", &["a1"], "h1", "").node("MatMul", &["h1", "w2"], "m2", "");
    let net = net.node("Add", &["m2", "b2"], "a2", "").node("Relu", &["a2"], "h2", "");
    let net = net.node("MatMul", &["h2", "w3"], "m3", "").node("Add", &["m3", "b3"], "logits", "");
    let net =
        net.node("Softmax", &["logits"], "probabilities", "").node("ArgMax", &["probabilities"], "best", "axis=1");
    let mut net = net.node("ArrayFeatureExtractor", &["classes", "best"], "label", "");
    for node in [0, 12] {
        net.0.node[node].domain = Some("ai.onnx.ml".into());
    }
    let list = |name: &str, floats: Vec<f32>| AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Floats as i32),
        floats,
        ..AttributeProto::default()
    };
    net.0.node[0].attribute = vec![list("offset", vec![0.1, -0.2, 0.3, 0.0, 1.0]), list("scale", vec![2.0; 5])];
    net.0.output.push(declared("label", 7, None));
    let (pruned, report) = halved(net.model("probabilities"), &[]).unwrap();
    assert_eq!((dims(&pruned, "w1"), dims(&pruned, "w2"), dims(&pruned, "w3")), (vec![5, 4], vec![4, 3], vec![3, 3]));
    assert!(report.verify.exact_max_rel.unwrap() < 1e-5);
}

/// Keras by tf2onnx: images channels last, turned around every convolution, flattened channels innermost.
#[test]
fn a_keras_network_is_pruned_through_its_transposes() {
    let net = Net::new(&[("x", 1, &["n", "8", "8", "3"])]).weight("k1", &[8, 3, 3, 3]).weight("k2", &[6, 8, 3, 3]);
    let net = net.weight("dense", &[24, 4]).weight("bias", &[4]).ints("flat", &[-1, 24]);
    let net = net.node("Transpose", &["x"], "first", "perm=[0,3,1,2]");
    let net = net.node("Conv", &["first", "k1"], "c1", "pads=[1,1,1,1]").node("Relu", &["c1"], "r1", "");
    let net = net.node("MaxPool", &["r1"], "p1", "kernel_shape=[2,2] strides=[2,2]");
    let net = net.node("Transpose", &["p1"], "last", "perm=[0,2,3,1]").node(
        "Transpose",
        &["last"],
        "again",
        "perm=[0,3,1,2]",
    );
    let net = net.node("Conv", &["again", "k2"], "c2", "").node("Relu", &["c2"], "r2", "");
    let net = net.node("Transpose", &["r2"], "end", "perm=[0,2,3,1]").node("Reshape", &["end", "flat"], "f", "");
    let mut net = net.node("MatMul", &["f", "dense"], "m", "").node("Add", &["m", "bias"], "y", "");
    net.0.value_info.push(dynamic("f", 1, &["n", "24"]));
    let (pruned, report) = halved(net.model("y"), &[]).unwrap();
    assert_eq!(dims(&pruned, "k1"), [4, 3, 3, 3]);
    assert_eq!((dims(&pruned, "k2"), dims(&pruned, "dense")), (vec![3, 4, 3, 3], vec![12, 4]));
    assert!(report.verify.exact_max_rel.unwrap() < 1e-5);
}

/// MViT pools every head by itself: heads are merged with the batch of a convolution, which mixes neither.
#[test]
fn heads_in_the_batch_of_a_convolution_are_free() {
    let net = Net::new(&[("x", 1, &["n", "3", "5"])]).weight("w", &[5, 8]).weight("k", &[2, 1, 3]).weight("u", &[8, 4]);
    let net = net.ints("split", &[0, 3, 4, 2]).ints("merged", &[-1, 3, 2]).ints("apart", &[-1, 4, 2, 3]);
    let net = net.ints("joined", &[0, 3, 8]).node("MatMul", &["x", "w"], "a", "");
    let net = net.node("Reshape", &["a", "split"], "h", "").node("Transpose", &["h"], "t", "perm=[0,2,1,3]");
    let net = net.node("Reshape", &["t", "merged"], "b", "").node("Transpose", &["b"], "c", "perm=[0,2,1]");
    let net = net.node("Conv", &["c", "k"], "d", "group=2 pads=[1,1]").node("Reshape", &["d", "apart"], "e", "");
    let net = net.node("Transpose", &["e"], "f", "perm=[0,3,1,2]").node("Reshape", &["f", "joined"], "g", "");
    let (pruned, report) = halved(net.node("MatMul", &["g", "u"], "y", "").model("y"), &[]).unwrap();
    assert_eq!((dims(&pruned, "w"), dims(&pruned, "u")), (vec![5, 4], vec![4, 4]));
    assert!(report.verify.exact_max_rel.unwrap() < 1e-5);
}
