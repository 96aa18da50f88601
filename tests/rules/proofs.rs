//! What verification proves where outputs shrink, values are quantized, or constants are computed.

use paredown::internals::axes::Role;
use paredown::internals::onnx::proto::ModelProto;
use paredown::internals::onnx::tensor::from_f32;

use super::net::{Net, Solved, bytes, dims, halved};

const INT8: i32 = 3;

/// A GRU whose initial state is an input and whose last state is an output: both shrink with the hidden width, and the
/// pruned file is fed with the part of the state that is left.
#[test]
fn thawed_states_are_sliced_before_they_are_compared() {
    let net = Net::new(&[("x", 1, &["5", "2", "3"]), ("h0", 1, &["1", "2", "8"])]);
    let net = net.weight("w", &[1, 24, 3]).weight("r", &[1, 24, 8]).weight("b", &[1, 48]);
    let mut net = net.node("GRU", &["x", "w", "r", "b", "", "h0"], "all,hn", "hidden_size=8");
    net.0.output.push(super::support::declared("hn", 1, None));
    let model =
        net.weight("u", &[8, 4]).node("Squeeze", &["all"], "s", "").node("MatMul", &["s", "u"], "y", "").model("y");
    let (pruned, report) = halved(model, &["h0", "hn"]).unwrap();
    assert_eq!(dims(&pruned, "r"), [1, 12, 4]);
    assert!(report.verify.exact_max_rel.unwrap() < 1e-5, "{:?}", report.verify);
    assert!(report.model.after.latency_ms.is_some());
}

/// `x → Q → DQ → MatMul (dequantized weight) → Relu → Q → DQ → MatMul → y`.
fn quantized() -> ModelProto {
    let mut net = Net::new(&[("x", 1, &["n", "6"])]).weight("u", &[16, 4]);
    let weights: Vec<u8> = (0..96).map(|i| (i * 37 % 200 - 100) as u8).collect();
    net.0.initializer.extend([
        bytes("wq", &[6, 16], INT8, weights),
        from_f32("ws", &[], &[0.01]).unwrap(),
        from_f32("xs", &[], &[0.03]).unwrap(),
        from_f32("hs", &[], &[0.02]).unwrap(),
        bytes("zero", &[], INT8, vec![0]),
    ]);
    net.node("DequantizeLinear", &["wq", "ws", "zero"], "w", "")
        .node("QuantizeLinear", &["x", "xs", "zero"], "xq", "")
        .node("DequantizeLinear", &["xq", "xs", "zero"], "xd", "")
        .node("MatMul", &["xd", "w"], "h", "")
        .node("Relu", &["h"], "a", "")
        .node("QuantizeLinear", &["a", "hs", "zero"], "aq", "")
        .node("DequantizeLinear", &["aq", "hs", "zero"], "ad", "")
        .node("MatMul", &["ad", "u"], "y", "")
        .model("y")
}

#[test]
fn a_quantized_model_is_exact_without_its_quantizers_and_measured_in_steps_with_them() {
    let (pruned, report) = halved(quantized(), &[]).unwrap();
    assert_eq!((dims(&pruned, "wq"), dims(&pruned, "u")), (vec![6, 8], vec![8, 4]));
    assert!(report.verify.exact_max_rel.unwrap() < 1e-5);
    assert!(report.verify.quantization_steps.unwrap() <= 1);
    assert!(report.notes.iter().any(|note| note.contains("2 activation quantizers")), "{:?}", report.notes);
}

/// Swin v2 zeroes a third of its bias by a `ScatterND` of constants, which once froze the heads behind it.
#[test]
fn a_bias_that_is_written_to_at_constant_positions_is_a_bias() {
    let mut net = Net::new(&[("x", 1, &["n", "5"])]).weight("w", &[5, 8]).weight("u", &[8, 3]).weight("b", &[8]);
    let positions = paredown::internals::onnx::tensor::from_i64("at", &[2, 1], &[3, 4]).unwrap();
    net.0.initializer.extend([positions, from_f32("none", &[2], &[0.0; 2]).unwrap()]);
    let net = net.node("ScatterND", &["b", "at", "none"], "bias", "").node("MatMul", &["x", "w"], "m", "");
    let net = net.node("Add", &["m", "bias"], "a", "").node("Relu", &["a"], "r", "");
    let (pruned, report) = halved(net.node("MatMul", &["r", "u"], "y", "").model("y"), &[]).unwrap();
    assert_eq!((dims(&pruned, "w"), dims(&pruned, "bias")), (vec![5, 4], vec![4]));
    assert!(report.verify.exact_max_rel.unwrap() < 1e-5);
    assert!(report.notes.iter().any(|note| note.contains("stored: written to positions")), "{:?}", report.notes);
}

/// `u` of mean zero over its inputs, by the operators that `made` adds.
fn standardized(made: impl Fn(Net) -> Net) -> Net {
    let net = Net::new(&[("x", 1, &["n", "3", "2", "2"])]).weight("w", &[8, 3, 1, 1]).weight("u", &[6, 8, 1, 1]);
    let net = made(net.weight("v", &[2, 6, 1, 1])).node("Conv", &["x", "w"], "a", "");
    net.node("Conv", &["a", "standard"], "b", "").node("Conv", &["b", "v"], "y", "")
}

/// As it stands, the mean would move with every input that goes; stored, the weight is like any other.
#[test]
fn a_weight_that_the_graph_standardizes_is_stored() {
    let by_mean = |net: Net| {
        let net = net.ints("axes", &[1, 2, 3]).node("ReduceMean", &["u", "axes"], "mean", "keepdims=1");
        net.node("Sub", &["u", "mean"], "standard", "")
    };
    let by_norm = |mut net: Net| {
        let numbers = |name: &str, value: f32| from_f32(name, &[6], &[value; 6]).unwrap();
        net.0.initializer.extend([numbers("ones", 1.0), numbers("zeros", 0.0)]);
        let net = net.ints("one", &[1, 6, -1]).ints("back", &[6, 8, 1, 1]).node("Reshape", &["u", "one"], "flat", "");
        let operands = ["flat", "ones", "zeros", "zeros", "ones"];
        let net = net.node("BatchNormalization", &operands, "normal,mean,variance", "training_mode=1 momentum=1.0");
        net.node("Reshape", &["normal", "back"], "standard", "")
    };
    for model in [standardized(by_mean).model("y"), standardized(by_norm).model("y")] {
        let as_it_stands = Solved::new(model.clone());
        assert!(matches!(as_it_stands.role("w", 0), Role::Shifts(_)), "{}", as_it_stands.reason("w", 0));
        let (pruned, report) = halved(model, &[]).unwrap();
        assert_eq!(dims(&pruned, "w"), [4, 3, 1, 1]);
        assert!(report.verify.exact_max_rel.unwrap() < 1e-5, "{:?}", report.verify);
    }
}

/// Position ids counted from a mask: tract takes integers that were cast for sizes, over which its `CumSum` does not run.
#[test]
fn a_running_sum_of_cast_integers_runs() {
    let net = Net::new(&[("x", 1, &["n", "5"]), ("ids", 7, &["n", "6"])]).weight("w", &[5, 8]).weight("u", &[8, 3]);
    let mut net = net.weight("table", &[9, 3]);
    net.0.initializer.extend([
        paredown::internals::onnx::tensor::from_i64("pad", &[], &[1]).unwrap(),
        paredown::internals::onnx::tensor::from_i64("axis", &[], &[1]).unwrap(),
    ]);
    let net = net.node("Equal", &["ids", "pad"], "is_pad", "").node("Not", &["is_pad"], "is_word", "");
    let net = net.node("Cast", &["is_word"], "ones", "to=7").node("CumSum", &["ones", "axis"], "position", "");
    let net = net.node("Gather", &["table", "position"], "e", "").node("ReduceSum", &["e", "sum"], "s", "keepdims=0");
    let net = net.ints("sum", &[1]).node("MatMul", &["x", "w"], "a", "").node("Relu", &["a"], "r", "");
    let model = net.node("MatMul", &["r", "u"], "b", "").node("Add", &["b", "s"], "y", "").model("y");
    let (pruned, report) = halved(model, &[]).unwrap();
    assert_eq!(dims(&pruned, "w"), [5, 4]);
    assert!(report.verify.exact_max_rel.unwrap() < 1e-5);
}

/// The global response normalization of ConvNeXt V2 divides the norm of each channel by the mean of all: a mean over fewer
/// channels is scaled to be that over all, with zeros for those that were removed.
#[test]
fn a_norm_that_is_divided_by_its_mean_over_channels_is_exact() {
    let grn = |mean: &str| {
        let net = Net::new(&[("x", 1, &["n", "3", "5", "5"])]).weight("w", &[16, 3, 1, 1]).weight("u", &[4, 16, 1, 1]);
        let net =
            net.weight("gamma", &[16, 1, 1]).weight("beta", &[16, 1, 1]).ints("plane", &[2, 3]).ints("channels", &[1]);
        let mut net = net.node("Conv", &["x", "w"], "a", "").node("Relu", &["a"], "r", "");
        net.0.initializer.push(from_f32("eps", &[], &[0.01]).unwrap());
        let net = net.node("ReduceL2", &["r", "plane"], "g", "").node(mean, &["g", "channels"], "m", "");
        let net = net.node("Add", &["m", "eps"], "e", "").node("Div", &["g", "e"], "d", "");
        let net = net.node("Mul", &["r", "d"], "s", "").node("Mul", &["s", "gamma"], "t", "");
        let net = net.node("Add", &["t", "beta"], "b", "").node("Add", &["b", "r"], "z", "");
        net.node("Conv", &["z", "u"], "y", "").model("y")
    };
    let (pruned, report) = halved(grn("ReduceMean"), &[]).unwrap();
    assert_eq!((dims(&pruned, "w"), dims(&pruned, "u")), (vec![8, 3, 1, 1], vec![4, 8, 1, 1]));
    assert!(report.verify.exact_max_rel.unwrap() < 1e-5, "{:?}", report.verify);
    let error = halved(grn("ReduceMax"), &[]).unwrap_err().to_string();
    assert!(error.contains("ReduceMax over this axis"), "{error}");
}
