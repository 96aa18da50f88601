//! Recurrent layers that tract lacks, or computes otherwise: over sequences of different lengths, and backwards only.

use super::nodes::{cast, plain, stored};
use crate::onnx::attributes::{Attributes, remove, set_int, set_string};
use crate::onnx::domain::is_standard;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{NodeProto, TensorProto};
use crate::onnx::tensor::{from_f32, scalar_f32, scalar_i64, vector_i64};

/// The operand that holds the length of each sequence.
const LENGTHS: usize = 4;

/// What opens a gate whatever else it reads; its negative closes one.
const OPEN: f32 = 1e4;

/// The widest layer whose cells are kept. A file that claims more may be damaged.
const WIDEST: usize = 1 << 16;

/// What tract runs in the place of `node`, if it is an `LSTM`, a `GRU` or an `RNN`, in float32.
///
/// A layer that runs backwards is one that runs forwards over the reversed sequence; tract takes it for a forward one.
///
/// If sequences have lengths, each direction is a layer of its own. Its results are zeros past the end of a sequence, and its final
/// state is the result of the last step. An `LSTM` gives its cells only once, so they must not change past the end: an extra input
/// feature closes the input gate there and opens the forget gate.
pub(super) fn spelled_out(node: NodeProto) -> Vec<NodeProto> {
    if !is_recurrent(&node) {
        return vec![node];
    }
    let has_lengths = node.input.get(LENGTHS).is_some_and(|lengths| !lengths.is_empty());
    let is_backward = Attributes::of(&node).string("direction").is_ok_and(|direction| direction == Some("reverse"));
    let nodes = match (has_lengths, is_backward) {
        (true, _) => by_direction(&node),
        (false, true) => backwards(&node),
        (false, false) => None,
    };
    nodes.unwrap_or_else(|| vec![node])
}

/// Whether the operator of `node` is one of those that this module is about.
fn is_recurrent(node: &NodeProto) -> bool {
    is_standard(node) && matches!(node.op_type(), "LSTM" | "GRU" | "RNN")
}

fn backwards(node: &NodeProto) -> Option<Vec<NodeProto>> {
    // Steps are axis 0, or axis 1 if the batch comes first.
    let axis = Attributes::of(node).int_or("layout", 0).ok()?;
    let mut layer = node.clone();
    let mut made = Made::of(node)?;
    let order = made.backward_order(node.input.first()?, axis);
    *layer.input.first_mut()? = made.gathered(node.input.first()?, &order, axis);
    set_string(&mut layer, "direction", "forward");
    let result = layer.output.first_mut().filter(|result| !result.is_empty());
    let forward = result.map(|result| {
        let all = made.name("all");
        let mut forward = gather(&all, &order, result, axis);
        // A node of the model may be called like its result.
        forward.name = Some(made.name("forward"));
        *result = all;
        forward
    });
    made.nodes.push(layer);
    made.nodes.extend(forward);
    Some(made.nodes)
}

/// `None` if the batch comes first.
fn by_direction(node: &NodeProto) -> Option<Vec<NodeProto>> {
    let attributes = Attributes::of(node);
    if attributes.int_or("layout", 0).ok()? != 0 {
        return None;
    }
    let directions: &[bool] = match attributes.string("direction").ok()?.unwrap_or("forward") {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        _ => return None,
    };
    let mut made = Made::of(node)?;
    let steps = made.steps(node.input.first()?, node.input.get(LENGTHS)?);
    let mut results = Vec::new();
    for (number, &is_reversed) in directions.iter().enumerate() {
        let layer = made.part(node, number, directions.len())?;
        results.push(made.run(layer, &steps, is_reversed)?);
    }
    for (slot, result) in node.output.iter().enumerate().filter(|(_, result)| !result.is_empty()) {
        let parts = results.iter().map(|of_one| of_one.get(slot)).collect::<Option<Vec<&String>>>()?;
        let parts: Vec<&str> = parts.into_iter().map(String::as_str).collect();
        // Results of all steps have the steps first.
        let mut whole = plain("Concat", &parts, result);
        set_int(&mut whole, "axis", i64::from(slot == 0));
        // A node of the model may be called like its result.
        whole.name = Some(made.name(&format!("result {slot}")));
        made.nodes.push(whole);
    }
    Some(made.nodes)
}

/// Weights of the extra feature that keeps the cells of an `LSTM`, of shape [1, 4 · width, 1].
fn gates_held(layer: &NodeProto) -> Option<TensorProto> {
    let width = usize::try_from(Attributes::of(layer).int("hidden_size").ok()??).ok();
    let width = width.filter(|&width| width <= WIDEST)?;
    // Gates i, o, f and c.
    let of_gates = [-OPEN, 0.0, OPEN, 0.0];
    let column: Vec<f32> = of_gates.into_iter().flat_map(|gate| std::iter::repeat_n(gate, width)).collect();
    from_f32("", &[1, column.len(), 1], &column).ok()
}

fn gather(data: &str, positions: &str, result: &str, axis: i64) -> NodeProto {
    let mut node = plain("Gather", &[data, positions], result);
    set_int(&mut node, "axis", axis);
    node
}

/// Names of what is known of the steps of a batch.
struct Steps {
    /// Whether a step is past the end of its sequence, [steps, batch, 1].
    is_past: String,
    /// Whether a step is inside the sequence, [steps, 1, batch, 1].
    is_inside: String,
    /// Whether a step is the last one, [steps, 1, batch, 1].
    is_last: String,
    /// The step that is at the place of a step in the reversed sequence, [steps, batch, 1].
    reversed: String,
    /// Shape of a number for each step and sequence, beside results of a layer.
    beside_results: String,
    /// The number 0 in float32.
    nothing: String,
}

/// Nodes in the place of one, called after its result.
struct Made {
    label: String,
    nodes: Vec<NodeProto>,
}

impl Made {
    fn of(node: &NodeProto) -> Option<Self> {
        let label = node.output.iter().find(|result| !result.is_empty())?.clone();
        Some(Self { label, nodes: Vec::new() })
    }

    /// A name that no other value has.
    fn name(&self, what: &str) -> String {
        format!("{} in steps, {what} {}", self.label, self.nodes.len())
    }

    /// The size of `data` along `axis`, and the numbers below it.
    fn counted(&mut self, data: &str, axis: i64) -> (String, String) {
        let sizes = self.node("Shape", &[data]);
        let [axis, zero, one] = [axis, 0, 1].map(|number| self.stored(scalar_i64("", number)));
        let count = self.node("Gather", &[&sizes, &axis]);
        let numbers = self.node("Range", &[&zero, &count, &one]);
        (count, numbers)
    }

    /// `value - 1`.
    fn one_less(&mut self, value: &str) -> String {
        let one = self.stored(scalar_i64("", 1));
        self.node("Sub", &[value, &one])
    }

    /// Numbers of the steps from the last to the first.
    fn backward_order(&mut self, data: &str, axis: i64) -> String {
        let (count, numbers) = self.counted(data, axis);
        let last = self.one_less(&count);
        self.node("Sub", &[&last, &numbers])
    }

    fn gathered(&mut self, data: &str, positions: &str, axis: i64) -> String {
        self.push(|name| gather(data, positions, name, axis))
    }

    fn steps(&mut self, data: &str, lengths: &str) -> Steps {
        let (_, numbers) = self.counted(data, 0);
        let upright = self.stored(vector_i64("", &[-1, 1, 1]));
        let numbers = self.node("Reshape", &[&numbers, &upright]);
        let lengths = self.cast(lengths, DataType::Int64);
        let flat = self.stored(vector_i64("", &[1, -1, 1]));
        let lengths = self.node("Reshape", &[&lengths, &flat]);
        let last = self.one_less(&lengths);

        let inside = self.node("Less", &[&numbers, &lengths]);
        let is_past = self.node("Not", &[&inside]);
        let ends = self.node("Equal", &[&numbers, &last]);
        let mirrored = self.node("Sub", &[&last, &numbers]);
        let reversed = self.node("Where", &[&inside, &mirrored, &numbers]);
        let beside_results = self.stored(vector_i64("", &[0, 1, -1, 1]));
        let is_inside = self.node("Reshape", &[&inside, &beside_results]);
        let is_last = self.node("Reshape", &[&ends, &beside_results]);
        let nothing = self.stored(scalar_f32("", 0.0));
        Steps { is_past, is_inside, is_last, reversed, beside_results, nothing }
    }

    /// The direction `number` of a layer with `directions`, running forwards.
    fn part(&mut self, node: &NodeProto, number: usize, directions: usize) -> Option<NodeProto> {
        let mut layer = node.clone();
        set_string(&mut layer, "direction", "forward");
        // These are the usual ones, for each direction.
        remove(&mut layer, "activations");
        layer.input.get_mut(LENGTHS)?.clear();
        if directions == 1 {
            return Some(layer);
        }
        let position = self.stored(vector_i64("", &[i64::try_from(number).ok()?]));
        for operand in layer.input.iter_mut().skip(1).filter(|operand| !operand.is_empty()) {
            *operand = self.gathered(operand, &position, 0);
        }
        Some(layer)
    }

    /// Results of a layer that runs forwards: of all steps [steps, 1, batch, width], the last [1, batch, width], and the last
    /// cells, if they are asked for.
    fn run(&mut self, mut layer: NodeProto, steps: &Steps, is_reversed: bool) -> Option<Vec<String>> {
        let wants_cells = layer.output.get(2).is_some_and(|name| !name.is_empty());
        let (mut data, mut weight) = (layer.input.first()?.clone(), layer.input.get(1)?.clone());
        if is_reversed {
            data = self.taken(&data, &steps.reversed);
        }
        if wants_cells {
            let held = self.stored(gates_held(&layer)?);
            let mark = self.cast(&steps.is_past, DataType::Float);
            data = self.joined(&data, &mark, 2);
            weight = self.joined(&weight, &held, 2);
        }
        *layer.input.first_mut()? = data;
        *layer.input.get_mut(1)? = weight;

        let [all, cells] = ["all", "cells"].map(|what| self.name(what));
        layer.output = if wants_cells { vec![all.clone(), String::new(), cells.clone()] } else { vec![all.clone()] };
        layer.name = Some(all.clone());
        self.nodes.push(layer);

        let last = self.node("Where", &[&steps.is_last, &all, &steps.nothing]);
        let last = self.push(|name| {
            let mut sum = plain("Einsum", &[&last], name);
            set_string(&mut sum, "equation", "tdbh->dbh");
            sum
        });
        let mut all = self.node("Where", &[&steps.is_inside, &all, &steps.nothing]);
        if is_reversed {
            let reversed = self.node("Reshape", &[&steps.reversed, &steps.beside_results]);
            all = self.taken(&all, &reversed);
        }
        Some(if wants_cells { vec![all, last, cells] } else { vec![all, last] })
    }

    /// `data` with its steps in another order for each sequence.
    fn taken(&mut self, data: &str, order: &str) -> String {
        let sizes = self.node("Shape", &[data]);
        let order = self.node("Expand", &[order, &sizes]);
        self.node("GatherElements", &[data, &order])
    }

    fn push(&mut self, make: impl FnOnce(&str) -> NodeProto) -> String {
        let name = self.name("value");
        self.nodes.push(make(&name));
        name
    }

    fn node(&mut self, op: &str, operands: &[&str]) -> String {
        self.push(|name| plain(op, operands, name))
    }

    fn cast(&mut self, operand: &str, to: DataType) -> String {
        self.push(|name| cast(operand, to, name))
    }

    fn stored(&mut self, value: TensorProto) -> String {
        self.push(|name| stored(value, name))
    }

    fn joined(&mut self, first: &str, second: &str, axis: i64) -> String {
        self.push(|name| {
            let mut node = plain("Concat", &[first, second], name);
            set_int(&mut node, "axis", axis);
            node
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::onnx::proto::ModelProto;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::sample_models::*;
    use crate::runtime::{RunOptions, Runnable, Tensor};

    const FEATURES: usize = 3;
    const WIDTH: usize = 5;
    const LENGTHS: [usize; 2] = [2, 4];

    /// A layer over a batch, or over a single sequence without a length.
    fn layer(op: &str, direction: &str, has_lengths: bool) -> ModelProto {
        let directions = if direction == "bidirectional" { 2 } else { 1 };
        let (gates, results): (_, &[&str]) = match op {
            "LSTM" => (4, &["all", "last", "cells"]),
            "GRU" => (3, &["all", "last"]),
            _ => (1, &["all", "last"]),
        };
        let rows = gates * WIDTH;
        let stored = |name: &str, columns: usize| weight(name, &[directions, rows as i64, columns as i64], wavy);
        let mut operands = vec!["x", "w", "r"];
        let mut inputs = vec![tensor_value("x", DataType::Float, &["t", "n", "3"])];
        if has_lengths {
            operands.extend(["", "lengths"]);
            inputs.push(tensor_value("lengths", DataType::Int32, &["n"]));
        }
        let outputs = results.iter().map(|name| tensor_value(name, DataType::Float, &["a", "b", "c"])).collect();
        let node = node(op, &operands, results, attributes(&format!("hidden_size={WIDTH} direction={direction}")));
        model(inputs, vec![node], vec![stored("w", FEATURES), stored("r", WIDTH)], outputs)
    }

    fn feature(step: usize, sequence: usize, feature: usize) -> f32 {
        wavy(31 * step + 17 * sequence + 5 * feature)
    }

    /// Results of `sequences`, all run for `steps`.
    fn run(layer: &ModelProto, steps: usize, sequences: &[usize]) -> Vec<(Vec<usize>, Vec<f32>)> {
        let mut elements = Vec::new();
        for step in 0..steps {
            for &sequence in sequences {
                elements.extend((0..FEATURES).map(|number| feature(step, sequence, number)));
            }
        }
        let mut inputs = vec![("x".to_owned(), Tensor::new(&[steps, sequences.len(), FEATURES], &elements).unwrap())];
        if sequences.len() > 1 {
            let lengths: Vec<i32> = sequences.iter().map(|&sequence| LENGTHS[sequence] as i32).collect();
            inputs.push(("lengths".to_owned(), Tensor::new(&[lengths.len()], &lengths).unwrap()));
        }
        let results = Runnable::new(layer, &RunOptions::default()).unwrap().run(&inputs).unwrap();
        results.into_iter().map(|(_, tensor)| (tensor.shape().to_vec(), tensor.to_vec::<f32>().unwrap())).collect()
    }

    #[test]
    fn sequences_in_a_batch_give_what_each_gives_alone() {
        for (op, direction) in ["LSTM", "GRU"]
            .into_iter()
            .flat_map(|op| ["forward", "reverse", "bidirectional"].map(|direction| (op, direction)))
        {
            let steps = LENGTHS[1];
            let both = run(&layer(op, direction, true), steps, &[0, 1]);
            for (sequence, &length) in LENGTHS.iter().enumerate() {
                let alone = run(&layer(op, direction, false), length, &[sequence]);
                for (number, ((shape, together), (_, single))) in both.iter().zip(&alone).enumerate() {
                    // [steps, directions, batch, width], or [directions, batch, width] at the end.
                    let rows = shape[..shape.len() - 2].iter().product::<usize>();
                    let of_one = (0..rows).flat_map(|row| &together[(row * 2 + sequence) * WIDTH..][..WIDTH]);
                    let wanted = single.iter().chain(std::iter::repeat(&0.0));
                    let differs = of_one.zip(wanted).any(|(one, other)| (one - other).abs() > 1e-6);
                    assert!(!differs, "{op} {direction}: result {number} of sequence {sequence}");
                    assert!(single.iter().any(|one| one.abs() > 1e-3));
                }
            }
        }
    }
}
