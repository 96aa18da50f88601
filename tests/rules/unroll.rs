//! Loops, branches and sequences of tensors: plain nodes where constants decide them.

use std::collections::BTreeSet;

use paredown::internals::analysis::Analysis;
use paredown::internals::onnx::Model;
use paredown::internals::onnx::proto::ModelProto;
use paredown::internals::runtime::inputs::DimSizes;
use paredown::internals::runtime::{RunOptions, Runnable, Tensor};

use super::bodies::{body, subgraph, with_bodies};
use super::net::{Net, bytes, dims, halved};

fn operators(model: &ModelProto) -> Vec<&str> {
    model.graph.as_ref().unwrap().node.iter().map(|node| node.op_type()).collect()
}

/// What PyTorch's TorchScript exporter writes for `tensor_split`, behind `h = x w`: a loop that inserts slices between positions
/// `starts` and `ends` into a sequence, as often as `times` says.
fn split_in_a_loop(times: &str) -> ModelProto {
    let inner = Net::new(&[("i", 7, &["1"]), ("go", 9, &[]), ("s", 1, &["1"])])
        .node("Gather", &["starts", "i"], "from", "")
        .node("Gather", &["ends", "i"], "to", "")
        .node("Slice", &["h", "from", "to", "axis"], "part", "")
        .node("SequenceInsert", &["s", "part"], "longer", "")
        .node("Cast", &["go"], "on", "to=9");
    let inner = body(inner, &["on", "longer"]);
    let mut net = Net::new(&[("x", 1, &["n", "4"]), ("count", 7, &[])]).weight("w", &[4, 8]).weight("u", &[4, 3]);
    for (name, values) in [("starts", &[0, 4][..]), ("ends", &[4, 8]), ("axis", &[1]), ("first", &[0]), ("last", &[-1])]
    {
        net = net.ints(name, values);
    }
    net.0.initializer.push(paredown::internals::onnx::tensor::from_i64("two", &[], &[2]).unwrap());
    net.0.initializer.push(bytes("flag", &[], 9, vec![1]));
    let net = net.node("MatMul", &["x", "w"], "h", "").node("SequenceEmpty", &[], "empty", "");
    let mut model =
        with_bodies(net.node("Loop", &[times, "flag", "empty"], "parts", ""), vec![subgraph("body", inner)]);
    let graph = model.graph.as_mut().unwrap();
    let after = Net::new(&[])
        .node("SequenceAt", &["parts", "first"], "a", "")
        .node("SequenceAt", &["parts", "last"], "b", "")
        .node("Mul", &["a", "b"], "c", "")
        .node("MatMul", &["c", "u"], "y", "");
    graph.node.extend(after.0.node);
    model
}

#[test]
fn a_loop_that_fills_a_sequence_is_unrolled() {
    let (pruned, report) = halved(split_in_a_loop("two"), &[]).unwrap();
    assert_eq!(operators(&pruned).iter().filter(|op| op.contains("Sequence") || **op == "Loop").count(), 0);
    assert_eq!((dims(&pruned, "w"), dims(&pruned, "u")), (vec![4, 4], vec![2, 3]));
    assert!(report.verify.exact_max_rel.unwrap() < 1e-5);
    assert!(report.notes.iter().any(|note| note.contains("unrolled")), "{:?}", report.notes);
}

#[test]
fn a_loop_of_unknown_length_stays() {
    let error = halved(split_in_a_loop("count"), &[]).unwrap_err().to_string();
    assert!(error.contains("Slice:part: the shape of result 0 is not known"), "{error}");
}

/// `x` [2, 3] in columns, of which one goes and one comes back in front: [c0 c1 c2] → [c0 c1] → [c2 c0 c1], as rows.
#[test]
fn sequences_hold_what_the_operators_say() {
    let net = Net::new(&[("x", 1, &["2", "3"])]).ints("last", &[-1]).ints("zero", &[0]);
    let net = net
        .node("SplitToSequence", &["x"], "columns", "axis=1 keepdims=0")
        .node("SequenceAt", &["columns", "last"], "c2", "")
        .node("SequenceErase", &["columns"], "fewer", "")
        .node("SequenceInsert", &["fewer", "c2", "zero"], "turned", "")
        .node("SequenceLength", &["turned"], "length", "")
        .node("Cast", &["length"], "three", "to=1")
        .node("ConcatFromSequence", &["turned"], "rows", "axis=0 new_axis=1")
        .node("Mul", &["rows", "three"], "y", "");
    let model = Model::from_proto(net.model("y"));
    let analysis = Analysis::new(&model, &DimSizes::default(), &BTreeSet::new()).unwrap();
    let proto = &analysis.model.proto;
    assert_eq!(
        operators(proto),
        ["Split", "Squeeze", "Squeeze", "Squeeze", "Cast", "Unsqueeze", "Unsqueeze", "Unsqueeze", "Concat", "Mul"]
    );
    let x: Vec<f32> = (0..6).map(|i| i as f32).collect();
    let feeds = [("x".to_owned(), Tensor::new(&[2, 3], &x).unwrap())];
    let y = Runnable::new(proto, &RunOptions::default()).unwrap().run(&feeds).unwrap();
    assert_eq!(y[0].1.shape(), [3, 2]);
    assert_eq!(y[0].1.to_vec::<f32>().unwrap(), [2.0, 5.0, 0.0, 3.0, 1.0, 4.0].map(|v| 3.0 * v));
}

/// What PyTorch's TorchScript exporter writes for `h.squeeze(1)` where it does not see the size: `h` [n, k, 8], `y = … u`.
fn squeezed_in_a_branch(k: &str) -> ModelProto {
    let then = Net::new(&[]).node("Squeeze", &["h", "one"], "squeezed", "");
    let otherwise = Net::new(&[]).node("Identity", &["h"], "same", "");
    let net = Net::new(&[("x", 1, &["n", k, "4"])]).weight("w", &[4, 8]).weight("u", &[8, 3]).ints("one", &[1]);
    let net = net.node("MatMul", &["x", "w"], "h", "").node("Shape", &["h"], "shape", "");
    let net = net.node("Gather", &["shape", "one"], "size", "").node("Equal", &["size", "one"], "is", "");
    let bodies = [("then_branch", then, "squeezed"), ("else_branch", otherwise, "same")];
    let bodies = bodies.map(|(name, inner, output)| subgraph(name, body(inner, &[output])));
    let mut model = with_bodies(net.node("If", &["is"], "s", ""), bodies.into());
    let graph = model.graph.as_mut().unwrap();
    graph.node.extend(Net::new(&[]).node("MatMul", &["s", "u"], "y", "").0.node);
    model
}

#[test]
fn a_branch_that_is_always_taken_is_no_branch() {
    for (size, kept) in [("1", "Squeeze"), ("2", "Identity")] {
        let (pruned, report) = halved(squeezed_in_a_branch(size), &[]).unwrap();
        let operators = operators(&pruned);
        assert!(!operators.contains(&"If") && operators.contains(&kept), "{operators:?}");
        assert_eq!((dims(&pruned, "w"), dims(&pruned, "u")), (vec![4, 4], vec![4, 3]));
        assert!(report.verify.exact_max_rel.unwrap() < 1e-5);
    }
}

/// The sizes of the samples are not 1, but what is run later may be.
#[test]
fn a_branch_on_a_dynamic_size_stays() {
    let error = halved(squeezed_in_a_branch("k"), &[]).unwrap_err().to_string();
    assert!(error.contains("If:s: captured by a subgraph"), "{error}");
}

/// What PyTorch's TorchScript exporter writes for `h[:until, :, first:] += v` behind `h = (x w)ᵀ`, of shape [n, 8, 6]: a `ScatterND`
/// with the position of every element. `first` is the first token that is written, `order` what the channels are called, `until` where
/// the samples end that are written; `cut` tells whether their number or the list of them is cut there, or so many of the last are taken.
fn written_region(first: i64, order: &[i64], (cut, until): (&str, i64)) -> ModelProto {
    let tokens: Vec<i64> = (first..6).collect();
    let count = tokens.len() as i64;
    let mut net = Net::new(&[("x", 1, &["n", "6", "4"])]).weight("w", &[4, 8]).weight("u", &[8, 3]).weight("v", &[1]);
    let lists: [(&str, &[i64]); 13] = [
        ("zero", &[0]),
        ("one", &[1]),
        ("two", &[2]),
        ("first", &[first]),
        ("end", &[i64::MAX]),
        ("until", &[until]),
        ("last", &[-512]),
        ("channels", order),
        ("tokens", &tokens),
        ("column", &[-1, 1, 1, 1]),
        ("row", &[1, 8, 1, 1]),
        ("cell", &[1, 1, count, 1]),
        ("rest", &[8, count, 1]),
    ];
    for (name, values) in lists {
        net = net.ints(name, values);
    }
    let sized = match cut {
        "number" => "some",
        "last" => "latest",
        _ => "h",
    };
    for (name, value) in [("start", 0), ("step", 1)] {
        net.0.initializer.push(paredown::internals::onnx::tensor::from_i64(name, &[], &[value]).unwrap());
    }
    net.node("MatMul", &["x", "w"], "t", "")
        .node("Transpose", &["t"], "h", "perm=[0,2,1]")
        .node("Slice", &["h", "zero", "until", "zero"], "some", "")
        .node("Slice", &["some", "first", "end", "two"], "part", "")
        .node("Add", &["part", "v"], "more", "")
        .node("Slice", &["h", "last", "end", "zero"], "latest", "")
        .node("Shape", &[sized], "shape", "")
        .node("Gather", &["shape", "zero"], "sizes", "")
        .node("Squeeze", &["sizes", "zero"], "size", "")
        .node("Range", &["start", "size", "step"], "all", "")
        .node("Slice", &["all", "zero", if cut == "list" { "until" } else { "end" }], "samples", "")
        .node("Reshape", &["samples", "column"], "a", "")
        .node("Reshape", &["channels", "row"], "b", "")
        .node("Reshape", &["tokens", "cell"], "c", "")
        .node("Concat", &["sizes", "rest"], "grid", "axis=0")
        .node("Expand", &["a", "grid"], "as", "")
        .node("Expand", &["b", "grid"], "bs", "")
        .node("Expand", &["c", "grid"], "cs", "")
        .node("Concat", &["as", "bs", "cs"], "positions", "axis=3")
        .node("ScatterND", &["h", "positions", "more"], "written", "")
        .node("Transpose", &["written"], "back", "perm=[0,2,1]")
        .node("MatMul", &["back", "u"], "y", "")
        .model("y")
}

#[test]
fn a_region_that_is_written_is_joined_to_the_rest() {
    let in_order: Vec<i64> = (0..8).collect();
    for first in [0, 1] {
        let (pruned, report) = halved(written_region(first, &in_order, ("list", i64::MAX)), &[]).unwrap();
        let operators = operators(&pruned);
        assert!(!operators.contains(&"ScatterND") && !operators.contains(&"Range"), "{operators:?}");
        assert_eq!((dims(&pruned, "w"), dims(&pruned, "u")), (vec![4, 4], vec![4, 3]));
        assert!(report.verify.exact_max_rel.unwrap() < 1e-5);
    }
}

#[test]
fn positions_in_another_order_stay() {
    let error = halved(written_region(1, &[0, 2, 1, 3, 4, 5, 6, 7], ("list", i64::MAX)), &[]).unwrap_err().to_string();
    assert!(error.contains("ScatterND:written: written at positions known at run time"), "{error}");
}

/// All samples are written as long as there are no more than 512 of them, which is so at all sizes that are looked at.
#[test]
fn positions_that_end_at_a_number_of_samples_stay() {
    let in_order: Vec<i64> = (0..8).collect();
    for cut in ["list", "number", "last"] {
        let error = halved(written_region(1, &in_order, (cut, 512)), &[]).unwrap_err().to_string();
        assert!(error.contains("ScatterND:written: written at positions known at run time"), "{cut}: {error}");
    }
}
