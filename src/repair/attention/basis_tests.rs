//! New bases of heads in attention as exporters write it.

use super::basis::Bases;
use crate::analysis::Analysis;
use crate::axes::Selection;
use crate::calibrate::Calibration;
use crate::calibrate::data::Dataset;
use crate::onnx::Model;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{AttributeProto, ModelProto, NodeProto, TensorProto};
use crate::runtime::sample_models::{int, integers, model, node, tensor_value, wavy, weight};
use crate::runtime::{RunOptions, Runnable};

/// Four heads of four dimensions on six positions of 16 values.
struct Sketch {
    nodes: Vec<NodeProto>,
    stored: Vec<TensorProto>,
}

/// Weights of full rank; `seed` tells the tensors apart.
fn noise(i: usize, seed: usize) -> f32 {
    wavy((7 * i * i + 13 * i + 101 * seed) % 1009)
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    let kind = Some(crate::onnx::proto::attribute_proto::AttributeType::Ints as i32);
    AttributeProto { name: Some(name.into()), ints: values.to_vec(), r#type: kind, ..AttributeProto::default() }
}

impl Sketch {
    fn new() -> Self {
        let stored = vec![
            integers("heads", &[4], &[0, 0, 4, 4]),
            integers("groups", &[4], &[0, 0, 2, 4]),
            integers("whole", &[3], &[0, 0, 16]),
            weight("half", &[], |_| 0.5),
            weight("wo", &[16, 16], |i| noise(i, 9) / 4.0),
        ];
        Self { nodes: Vec::new(), stored }
    }

    fn add(&mut self, op: &str, inputs: &[&str], output: &str, attributes: Vec<AttributeProto>) -> String {
        self.nodes.push(node(op, inputs, &[output], attributes));
        output.to_owned()
    }

    /// `x W + b`, of `width` channels.
    fn project(&mut self, name: &str, width: i64, seed: usize) -> String {
        let (w, b, product) = (format!("w{name}"), format!("b{name}"), format!("{name}_product"));
        self.stored.push(weight(&w, &[16, width], move |i| noise(i, seed) / 3.0));
        self.stored.push(weight(&b, &[width], move |i| noise(i, seed + 20)));
        self.add("MatMul", &["x", &w], &product, vec![]);
        self.add("Add", &[&product, &b], &format!("{name}_projected"), vec![])
    }

    fn split(&mut self, value: &str, shape: &str, perm: &[i64]) -> String {
        let (parts, turned) = (format!("{value}_parts"), format!("{value}_turned"));
        self.add("Reshape", &[value, shape], &parts, vec![]);
        self.add("Transpose", &[&parts], &turned, vec![ints("perm", perm)])
    }

    /// Queries, keys and values of `[n, heads, positions, width]`, from layers of their own.
    fn apart(&mut self) -> [String; 3] {
        [("q", 1), ("k", 2), ("v", 3)].map(|(name, seed)| {
            let projected = self.project(name, 16, seed);
            self.split(&projected, "heads", &[0, 2, 1, 3])
        })
    }

    /// Attention over these, and the layer after it.
    fn finish(mut self, [q, k, v]: [&str; 3]) -> ModelProto {
        self.add("Transpose", &[k], "k_last", vec![ints("perm", &[0, 1, 3, 2])]);
        self.add("MatMul", &[q, "k_last"], "scores", vec![]);
        self.add("Mul", &["scores", "half"], "scaled", vec![]);
        self.add("Softmax", &["scaled"], "weights", vec![int("axis", -1)]);
        self.add("MatMul", &["weights", v], "mixed", vec![]);
        self.joined("mixed")
    }

    fn joined(mut self, mixed: &str) -> ModelProto {
        self.add("Transpose", &[mixed], "turned", vec![ints("perm", &[0, 2, 1, 3])]);
        self.add("Reshape", &["turned", "whole"], "context", vec![]);
        self.add("MatMul", &["context", "wo"], "y", vec![]);
        model(
            vec![tensor_value("x", DataType::Float, &["n", "6", "16"])],
            self.nodes,
            self.stored,
            vec![tensor_value("y", DataType::Float, &["n", "6", "16"])],
        )
    }
}

fn apart() -> ModelProto {
    let mut sketch = Sketch::new();
    let [q, k, v] = sketch.apart();
    sketch.finish([&q, &k, &v])
}

/// One layer, `[n, s, 3, h, d]`, taken apart by Gather.
fn packed() -> ModelProto {
    let mut sketch = Sketch::new();
    sketch.stored.push(integers("five", &[5], &[0, 0, 3, 4, 4]));
    let all = sketch.project("qkv", 48, 4);
    let turned = sketch.split(&all, "five", &[2, 0, 3, 1, 4]);
    let parts = [0, 1, 2].map(|part| {
        let (index, name) = (format!("index{part}"), format!("part{part}"));
        sketch.stored.push(integers(&index, &[], &[part]));
        sketch.add("Gather", &[&turned, &index], &name, vec![int("axis", 0)])
    });
    sketch.finish([&parts[0], &parts[1], &parts[2]])
}

/// One layer, split before heads are told apart.
fn cut() -> ModelProto {
    let mut sketch = Sketch::new();
    let all = sketch.project("qkv", 48, 4);
    sketch.stored.push(integers("sizes", &[3], &[16, 16, 16]));
    sketch.nodes.push(node("Split", &[&all, "sizes"], &["q0", "k0", "v0"], vec![int("axis", -1)]));
    let parts = ["q0", "k0", "v0"].map(|part| sketch.split(part, "heads", &[0, 2, 1, 3]));
    sketch.finish([&parts[0], &parts[1], &parts[2]])
}

/// Two heads of keys and values for four of queries.
fn grouped() -> ModelProto {
    let mut sketch = Sketch::new();
    sketch.stored.push(integers("third", &[1], &[2]));
    sketch.stored.push(integers("twice", &[5], &[1, 1, 2, 1, 1]));
    sketch.stored.push(integers("four", &[4], &[0, 4, 6, 4]));
    let queries = sketch.project("q", 16, 1);
    let queries = sketch.split(&queries, "heads", &[0, 2, 1, 3]);
    let [keys, values] = [("k", 2), ("v", 3)].map(|(name, seed)| {
        let projected = sketch.project(name, 8, seed);
        let heads = sketch.split(&projected, "groups", &[0, 2, 1, 3]);
        let lifted = sketch.add("Unsqueeze", &[&heads, "third"], &format!("{name}_lifted"), vec![]);
        let twice = sketch.add("Expand", &[&lifted, "twice"], &format!("{name}_twice"), vec![]);
        sketch.add("Reshape", &[&twice, "four"], &format!("{name}_heads"), vec![])
    });
    sketch.finish([&queries, &keys, &values])
}

/// Queries are normalized.
fn normalized() -> ModelProto {
    let mut sketch = Sketch::new();
    let [q, k, v] = sketch.apart();
    sketch.stored.push(weight("gamma", &[4], |i| 1.0 + 0.1 * i as f32));
    sketch.nodes.push(node("LayerNormalization", &[&q, "gamma"], &["q_norm"], vec![int("axis", -1)]));
    sketch.finish(["q_norm", &k, &v])
}

/// Something is added to queries that differs from position to position.
fn placed() -> ModelProto {
    let mut sketch = Sketch::new();
    let [q, k, v] = sketch.apart();
    sketch.stored.push(weight("places", &[1, 4, 6, 4], wavy));
    sketch.add("Add", &[&q, "places"], "q_placed", vec![]);
    sketch.finish(["q_placed", &k, &v])
}

/// A scale for every dimension of the values.
fn scaled() -> ModelProto {
    let mut sketch = Sketch::new();
    let [q, k, v] = sketch.apart();
    sketch.stored.push(weight("scales", &[4], |i| 1.0 + i as f32));
    sketch.add("Mul", &[&v, "scales"], "v_scaled", vec![]);
    sketch.finish([&q, &k, "v_scaled"])
}

/// Mixed values pass a gate.
fn gated() -> ModelProto {
    let mut sketch = Sketch::new();
    let [q, k, v] = sketch.apart();
    let gate = sketch.project("g", 16, 7);
    let gate = sketch.split(&gate, "heads", &[0, 2, 1, 3]);
    sketch.add("Transpose", &[&k], "k_last", vec![ints("perm", &[0, 1, 3, 2])]);
    sketch.add("MatMul", &[&q, "k_last"], "scores", vec![]);
    sketch.add("Softmax", &["scores"], "weights", vec![int("axis", -1)]);
    sketch.add("MatMul", &["weights", &v], "mixed", vec![]);
    sketch.add("Mul", &["mixed", &gate], "gated", vec![]);
    sketch.joined("gated")
}

/// Bases of a model, the largest change that they make to its outputs, and the size of these.
fn found(proto: ModelProto) -> (Bases, f64, f64) {
    let model = Model::from_proto(proto);
    let graph = model.proto.graph.as_ref().unwrap();
    let data = Dataset::synthetic(graph, &Default::default(), 40, 3).unwrap();
    let analysis = Analysis::new(&model, &Default::default(), &Default::default()).unwrap();
    let subject = analysis.subject();
    let bases = Bases::find(subject, Calibration::new(&data, 1)).unwrap();
    let mut rebased = subject.model.clone();
    bases.write(subject, &Selection::all(), &mut rebased).unwrap();
    assert_eq!(bases.shares().is_empty(), rebased == *subject.model, "weights change with their basis");
    let inputs = data.batches(8).next().unwrap().unwrap().inputs;
    let run = |model: &ModelProto| {
        let outputs = Runnable::new(model, &RunOptions::default()).unwrap().run(&inputs).unwrap();
        outputs[0].1.to_vec::<f32>().unwrap()
    };
    let (before, after) = (run(&model.proto), run(&rebased));
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0_f64, |m, v| m.max(f64::from(v.abs())));
    let change = largest(&mut before.iter().zip(&after).map(|(a, b)| a - b));
    (bases, change, largest(&mut before.iter().copied()))
}

#[test]
fn attention_is_the_same_function_in_the_new_bases() {
    for (name, model, widths) in
        [("apart", apart(), 2), ("packed", packed(), 1), ("cut", cut(), 2), ("grouped", grouped(), 2)]
    {
        let (bases, change, size) = found(model);
        assert!(bases.obstacles.is_empty(), "{name}: {:?}", bases.obstacles);
        let shares = bases.shares();
        assert_eq!(shares.len(), widths, "{name}");
        assert!(change <= 1e-5 * size, "{name}: {change:e} of {size:e}");
        for shares in shares.values() {
            assert!(shares.windows(2).all(|pair| pair[0] >= pair[1] && pair[1] >= 0.0), "{name}: {shares:?}");
            // A packed width has shares of the scores and of the values.
            let whole = if widths == 1 { 2.0 } else { 1.0 };
            assert!((shares.iter().sum::<f64>() - whole).abs() < 1e-9, "{name}: {shares:?}");
        }
    }
}

#[test]
fn what_is_more_than_moved_keeps_its_basis_and_says_why() {
    for (name, model, widths, node, why) in [
        ("placed", placed(), 1, "MatMul_q_product", "not the same at every position"),
        ("scaled", scaled(), 1, "MatMul_v_product", "more than moved"),
        ("gated", gated(), 1, "Mul_gated", "brings heads together"),
    ] {
        let (bases, change, size) = found(model);
        assert_eq!(bases.shares().len(), widths, "{name}");
        let [obstacle] = bases.obstacles.as_slice() else { panic!("{name}: {:?}", bases.obstacles) };
        assert_eq!(obstacle.node, node, "{name}: {obstacle:?}");
        assert!(obstacle.why.contains(why), "{name}: {obstacle:?}");
        assert!(change <= 1e-5 * size, "{name}: {change:e} of {size:e}");
    }
}

#[test]
fn normalized_queries_leave_the_values_to_a_new_basis() {
    let (bases, change, size) = found(normalized());
    assert_eq!(bases.shares().len(), 1);
    assert!(change <= 1e-5 * size, "{change:e} of {size:e}");
}
