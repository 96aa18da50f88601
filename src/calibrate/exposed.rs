//! What recurrent layers read and make, as values of the graph.
//!
//! ```text
//! rows  = Concat(x, Slice(Concat(initial h, Y), 0..steps))      one step later where the direction is backward
//! gates = rows · [W R]ᵀ + b
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::layer::Layer;
use super::steps::{Cell, State, Steps};
use crate::error::{Error, Result};
use crate::graph::{Editor, View, operator};
use crate::onnx::attributes::{Attributes, set_int, set_ints};
use crate::onnx::opset_of;
use crate::onnx::proto::{ModelProto, NodeProto};
use crate::onnx::tensor::{from_f64_as, from_i64};

/// The operand that is h before the first step.
const INITIAL_H: usize = 5;

/// Operator sets from here on give the bounds of a `Slice` as operands.
const SLICE_BY_OPERANDS: i64 = 10;

/// `model` with what the recurrent `layers` read and make as values of its graph: `[samples, steps, channels]`.
///
/// # Errors
/// If the model holds no graph, or a weight is malformed.
pub(crate) fn exposed<'m, 'l>(
    model: &'m ModelProto,
    layers: impl IntoIterator<Item = &'l Layer>,
) -> Result<Cow<'m, ModelProto>> {
    let mut operators: BTreeMap<&str, Vec<&Steps>> = BTreeMap::new();
    for steps in layers.into_iter().filter_map(|layer| layer.steps.as_ref()) {
        operators.entry(steps.anchor()).or_default().push(steps);
    }
    if operators.is_empty() {
        return Ok(Cow::Borrowed(model));
    }
    let view = View::of(model)?;
    let mut editor = Editor::new(model.clone(), &view.graph)?;
    for (anchor, parts) in operators {
        if let Some(cell) = Cell::read(&view, anchor)? {
            Taps::new(&mut editor, &view, &cell)?.add(&parts)?;
        }
    }
    Ok(Cow::Owned(editor.finish_flat()))
}

/// Nodes beside a recurrent operator, in the making.
struct Taps<'e, 'g, 'c> {
    editor: &'e mut Editor<'g>,
    cell: &'c Cell<'c>,
    /// xₜ, states and initial states, the steps first.
    x: String,
    y: String,
    start: Option<String>,
    new: Vec<NodeProto>,
    opset: i64,
}

impl<'e, 'g, 'c> Taps<'e, 'g, 'c> {
    fn new(editor: &'e mut Editor<'g>, view: &View<'_>, cell: &'c Cell<'c>) -> Result<Self> {
        let operand = |slot: usize| view.operand(cell.id, slot).map(|value| view.graph.at(value).name.clone());
        let x = operand(0).ok_or_else(|| Error::input("a recurrent operator has no data"))?;
        let (start, opset) = (operand(INITIAL_H), opset_of(view.model, "").unwrap_or(0));
        let mut y = cell.node.output.first().cloned().unwrap_or_default();
        if y.is_empty() {
            y = editor.fresh("states");
            match editor.node_mut(cell.id)?.output.first_mut() {
                Some(output) => output.clone_from(&y),
                None => return Err(Error::input("a recurrent operator has no result")),
            }
        }
        let mut taps = Self { editor, cell, x, y, start, new: Vec::new(), opset };
        if Attributes::of(cell.node).int_or("layout", 0)? != 0 {
            taps.x = taps.transposed(&taps.x.clone(), &[1, 0, 2]);
            taps.y = taps.transposed(&taps.y.clone(), &[1, 2, 0, 3]);
            taps.start = taps.start.clone().map(|start| taps.transposed(&start, &[1, 0, 2]));
        }
        Ok(taps)
    }

    fn node(&mut self, op: &str, inputs: Vec<String>, set: impl FnOnce(&mut NodeProto)) -> String {
        let name = self.editor.fresh("steps");
        let mut node = operator(op, inputs);
        set(&mut node);
        self.new.push(NodeProto { name: Some(name.clone()), output: vec![name.clone()], ..node });
        name
    }

    /// A value under a name that is known outside.
    fn named(&mut self, name: &str, value: String) {
        let node = operator("Identity", [value]);
        self.new.push(NodeProto { name: Some(name.to_owned()), output: vec![name.to_owned()], ..node });
    }

    fn transposed(&mut self, value: &str, order: &[i64]) -> String {
        self.node("Transpose", vec![value.to_owned()], |node| set_ints(node, "perm", order))
    }

    /// Entries of an axis; a single number drops the axis.
    fn gathered(&mut self, value: &str, axis: i64, at: usize, drops: bool) -> Result<String> {
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        let index = self.editor.add("steps_index", from_i64("", if drops { &[] } else { &[1] }, &[at])?);
        Ok(self.node("Gather", vec![value.to_owned(), index], |node| set_int(node, "axis", axis)))
    }

    fn joined(&mut self, parts: Vec<String>, axis: i64) -> String {
        self.node("Concat", parts, |node| set_int(node, "axis", axis))
    }

    /// hₜ₋₁ of every step, `[steps, samples, hidden]`.
    fn previous(&mut self, direction: usize, is_backward: bool) -> Result<String> {
        let states = self.gathered(&self.y.clone(), 1, direction, true)?;
        let start = match self.start.clone() {
            Some(start) => self.gathered(&start, 0, direction, false)?,
            None => {
                let first = self.gathered(&states, 0, 0, false)?;
                let zero = self.editor.add("steps_zero", from_f64_as("", &[1], &[0.0], self.cell.element)?);
                self.node("Mul", vec![first, zero], |_| {})
            }
        };
        let (parts, range) =
            if is_backward { (vec![states, start], (1, i64::from(i32::MAX))) } else { (vec![start, states], (0, -1)) };
        let joined = self.joined(parts, 0);
        self.sliced(joined, range)
    }

    fn sliced(&mut self, value: String, (from, to): (i64, i64)) -> Result<String> {
        if self.opset < SLICE_BY_OPERANDS {
            return Ok(self.node("Slice", vec![value], |node| {
                [("axes", 0), ("starts", from), ("ends", to)]
                    .iter()
                    .for_each(|(name, at)| set_ints(node, name, &[*at]));
            }));
        }
        let mut operands = vec![value];
        for bound in [from, to, 0] {
            operands.push(self.editor.add("steps_bound", from_i64("", &[1], &[bound])?));
        }
        Ok(self.node("Slice", operands, |_| {}))
    }

    /// `rows · matrix + bias`.
    fn product(&mut self, rows: &str, steps: &Steps) -> Result<String> {
        let element = self.cell.element;
        let matrix = steps.matrix_of(self.cell)?;
        let values: Vec<f64> = matrix.iter().copied().collect();
        let weight =
            self.editor.add("steps_weight", from_f64_as("", &[matrix.nrows(), matrix.ncols()], &values, element)?);
        let product = self.node("MatMul", vec![rows.to_owned(), weight], |_| {});
        let bias = steps.bias_of(self.cell)?;
        let bias = self.editor.add("steps_bias", from_f64_as("", &[bias.len()], &bias.to_vec(), element)?);
        Ok(self.node("Add", vec![product, bias], |_| {}))
    }

    fn add(mut self, parts: &[&Steps]) -> Result<()> {
        let input = self.transposed(&self.x.clone(), &[1, 0, 2]);
        let mut states: BTreeMap<usize, String> = BTreeMap::new();
        let mut done: BTreeMap<String, String> = BTreeMap::new();
        for &part in parts {
            let steps = part.of(self.cell);
            let rows = if let Some(rows) = done.get(&steps.rows()) {
                rows.clone()
            } else {
                let state = if let Some(state) = states.get(&steps.direction()) {
                    state.clone()
                } else {
                    let state = self.previous(steps.direction(), steps.is_backward())?;
                    let state = self.transposed(&state, &[1, 0, 2]);
                    states.insert(steps.direction(), state.clone());
                    state
                };
                let rows = self.rows(&steps, &input, state)?;
                self.named(&steps.rows(), rows.clone());
                done.insert(steps.rows(), rows.clone());
                rows
            };
            let result = self.product(&rows, &steps)?;
            self.named(&steps.result(), result);
        }
        for node in self.new {
            self.editor.insert_after(self.cell.id, node);
        }
        Ok(())
    }

    fn rows(&mut self, steps: &Steps, input: &str, state: String) -> Result<String> {
        Ok(match steps.reads() {
            (_, State::Absent) => input.to_owned(),
            (false, _) => state,
            (true, State::Plain) => self.joined(vec![input.to_owned(), state], 2),
            (true, State::Reset) => {
                let rows = self.joined(vec![input.to_owned(), state.clone()], 2);
                let gate = self.product(&rows, &steps.reset())?;
                let gate = self.node("Sigmoid", vec![gate], |_| {});
                let state = self.node("Mul", vec![gate, state], |_| {});
                self.joined(vec![input.to_owned(), state], 2)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::layer::readers;
    use super::*;
    use crate::analysis::Analysis;
    use crate::onnx::Model;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::sample_models::{attributes, int, model, node, tensor_value, wavy, weight};
    use crate::runtime::{RunOptions, Runnable, Tensor};

    /// Of an `RNN`, the states are the hyperbolic tangents of the gates, step by step and direction by direction.
    #[test]
    fn gates_are_what_the_operator_computes() {
        for (direction, count) in [("forward", 1_usize), ("bidirectional", 2)] {
            for has_start in [false, true] {
                let mut all = attributes(&format!("direction={direction}"));
                all.push(int("hidden_size", 3));
                let start = if has_start { "h" } else { "" };
                let nodes = vec![node("RNN", &["x", "w", "r", "b", "", start], &["y"], all)];
                let d = count as i64;
                let tensors = vec![
                    weight("w", &[d, 3, 2], wavy),
                    weight("r", &[d, 3, 3], wavy),
                    weight("b", &[d, 6], wavy),
                    weight("h", &[d, 4, 3], wavy),
                ];
                let directions = count.to_string();
                let input = tensor_value("x", DataType::Float, &["5", "4", "2"]);
                let output = tensor_value("y", DataType::Float, &["5", &directions, "4", "3"]);
                let original = Model::from_proto(model(vec![input], nodes, tensors, vec![output]));
                let analysis = Analysis::new(&original, &Default::default(), &Default::default()).unwrap();
                let layers = readers(analysis.subject()).unwrap();
                assert_eq!(layers.len(), count);
                let exposed = exposed(&original.proto, &layers).unwrap();
                let wanted = layers.iter().map(|layer| layer.result.clone()).chain(["y".to_owned()]);
                let runnable = Runnable::new(&exposed, &RunOptions::with_taps(wanted)).unwrap();
                let x: Vec<f32> = (0..40).map(|at| wavy(at + 11)).collect();
                let found = runnable.run(&[("x".to_owned(), Tensor::new(&[5, 4, 2], &x).unwrap())]).unwrap();
                let value =
                    |name: &str| found.iter().find(|(found, _)| found == name).unwrap().1.to_vec::<f32>().unwrap();
                let y = value("y");
                for (number, layer) in layers.iter().enumerate() {
                    let gates = value(&layer.result);
                    for (at, gate) in gates.iter().enumerate().take(60) {
                        let (sample, step, unit) = (at / 15, at / 3 % 5, at % 3);
                        let state = y[((step * count + number) * 4 + sample) * 3 + unit];
                        assert!((gate.tanh() - state).abs() < 1e-5, "{direction} {has_start} {at}");
                    }
                }
            }
        }
    }
}
