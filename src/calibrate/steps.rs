//! Recurrent operators as layers: the pre-activations of their gates.
//!
//! `LSTM`, `GRU` and `RNN` compute `a = W xₜ + R hₜ₋₁ + b` for all gates at every step, which is a layer whose rows are
//! (xₜ, hₜ₋₁). Gates that read the same rows are one [`Steps`]:
//!
//! | operator | gates | rows |
//! |---|---|---|
//! | `LSTM`, `RNN` | all | xₜ, hₜ₋₁ |
//! | `GRU` | update and reset | xₜ, hₜ₋₁ |
//! | `GRU`, hidden, `linear_before_reset` = 0 | hidden | xₜ, r ⊙ hₜ₋₁ |
//! | `GRU`, hidden, `linear_before_reset` = 1 | its input's share | xₜ |
//! | | its state's share | hₜ₋₁ |
//!
//! Neither rows nor pre-activations are values of the graph. `exposed.rs` adds nodes that compute both beside the
//! operator, sample by sample, so that they are tapped like any other activation.

use std::ops::Range;

use ndarray::{Array1, Array2};

use crate::analysis::Subject;
use crate::axes::{Expr, Selection};
use crate::error::{Error, Result};
use crate::graph::{Editor, NodeId, ValueId, View};
use crate::onnx::attributes::Attributes;
use crate::onnx::proto::{ModelProto, NodeProto, TensorProto};
use crate::onnx::tensor::{ElementType, TensorView, from_weights};
use crate::onnx::traits::RECURRENT;

/// Operands of the three operators.
pub(super) const W: usize = 1;
const R: usize = 2;
pub(super) const B: usize = 3;

/// What stands beside xₜ in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing.
    Absent,
    /// hₜ₋₁.
    Plain,
    /// r ⊙ hₜ₋₁, r being the reset gate.
    Reset,
}

/// Gates of one direction of a recurrent operator that read the same rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Steps {
    /// A result of the operator that has a name.
    anchor: String,
    /// The stored tensors W and R.
    weights: [String; 2],
    direction: usize,
    /// Numbers of the gates, of `all`.
    gates: Range<usize>,
    all: usize,
    reads_input: bool,
    state: State,
    /// Inputs of every step.
    inputs: usize,
    /// Units.
    hidden: usize,
}

/// A recurrent operator with stored weights.
#[derive(Debug)]
pub(super) struct Cell<'m> {
    pub(super) id: NodeId,
    pub(super) node: &'m NodeProto,
    /// W `[directions, gates · hidden, inputs]`, R `[directions, gates · hidden, hidden]`, and B `[directions, 2 · gates · hidden]`
    /// where there is one.
    w: &'m TensorProto,
    r: &'m TensorProto,
    b: Option<&'m TensorProto>,
    /// Names of the values W and R.
    names: [String; 2],
    pub(super) element: ElementType,
    directions: usize,
    gates: usize,
    inputs: usize,
    hidden: usize,
}

impl<'m> Cell<'m> {
    /// The operator that makes a value; `None` if its weights are not all stored, or have other shapes than the operator's.
    ///
    /// # Errors
    /// If a weight is malformed.
    pub(super) fn read(view: &View<'m>, result: &str) -> Result<Option<Self>> {
        let Some((id, node)) = view.maker(result) else { return Ok(None) };
        let traits = view.graph.node(id);
        if !traits.traits().has(RECURRENT) || !traits.domain.is_empty() {
            return Ok(None);
        }
        // A tensor that a caller may replace does not count.
        let operand = |slot: usize| view.operand(id, slot).map(|value| view.graph.behind_identity(value));
        let own = |value: ValueId| view.tensor(value).filter(|_| !view.graph.is_overridable(value));
        let (Some(w), Some(r)) = (operand(W), operand(R)) else { return Ok(None) };
        let names = [w, r].map(|value| view.graph.at(value).name.clone());
        let (Some(w), Some(r), b) = (own(w), own(r), operand(B).map(own)) else { return Ok(None) };
        if b == Some(None) {
            return Ok(None);
        }
        let (b, views) = (b.flatten(), (TensorView::new(w)?, TensorView::new(r)?));
        let (&[directions, rows, inputs], &[also, same, hidden]) = (views.0.dims(), views.1.dims()) else {
            return Ok(None);
        };
        let gates = match node.op_type() {
            "LSTM" => 4,
            "GRU" => 3,
            _ => 1,
        };
        let element = views.0.element_type();
        let is_float = element.is_float() && element.bytes().is_some_and(|bytes| bytes >= 2);
        let is_bias = |b: &TensorProto| TensorView::new(b).map(|b| b.dims() == [directions, 2 * rows]);
        let fits = directions == also && rows == same && rows == gates * hidden && hidden > 0 && inputs > 0;
        let is_sound = is_float && fits && b.map_or(Ok(true), is_bias)?;
        Ok(is_sound.then_some(Self { id, node, w, r, b, names, element, directions, gates, inputs, hidden }))
    }
}

impl Steps {
    /// The gates of an operator, direction by direction; none if its weights are not stored, or if it only runs backward.
    ///
    /// # Errors
    /// If an attribute or a weight is malformed.
    pub(super) fn all(view: &View<'_>, id: NodeId) -> Result<Vec<Self>> {
        let anchor = view.graph.node(id).outputs.iter().flatten().next();
        let Some(anchor) = anchor.map(|&value| view.graph.at(value).name.clone()) else { return Ok(Vec::new()) };
        let Some(cell) = Cell::read(view, &anchor)? else { return Ok(Vec::new()) };
        let attributes = Attributes::of(cell.node);
        // tract runs these steps from the first to the last.
        if attributes.string("direction")?.is_some_and(|direction| direction == "reverse") {
            return Ok(Vec::new());
        }
        let parts = match (cell.node.op_type(), attributes.int_or("linear_before_reset", 0)?) {
            ("GRU", 0) if has_plain_reset(&attributes)? => {
                vec![(0..2, true, State::Plain), (2..3, true, State::Reset)]
            }
            ("GRU", 0) => vec![(0..2, true, State::Plain)],
            ("GRU", _) => {
                vec![(0..2, true, State::Plain), (2..3, true, State::Absent), (2..3, false, State::Plain)]
            }
            _ => vec![(0..cell.gates, true, State::Plain)],
        };
        let of = |direction: usize, (gates, reads_input, state): (Range<usize>, bool, State)| Self {
            anchor: anchor.clone(),
            weights: cell.names.clone(),
            direction,
            gates,
            all: cell.gates,
            reads_input,
            state,
            inputs: cell.inputs,
            hidden: cell.hidden,
        };
        let all = (0..cell.directions).flat_map(|direction| parts.iter().map(move |part| (direction, part.clone())));
        let is_free = |steps: &Self| [steps.rows(), steps.result()].iter().all(|name| view.graph.value(name).is_none());
        Ok(all.map(|(direction, part)| of(direction, part)).filter(is_free).collect())
    }

    /// The same gates in a rewritten graph; `None` if the operator is gone or its weights are not stored.
    ///
    /// # Errors
    /// If a weight is malformed.
    pub(super) fn found_in(&self, view: &View<'_>) -> Result<Option<Self>> {
        let cell = Cell::read(view, &self.anchor)?;
        Ok(cell.filter(|cell| cell.directions > self.direction && cell.gates == self.all).map(|cell| self.of(&cell)))
    }

    /// The same gates with the sizes of `cell`.
    pub(super) fn of(&self, cell: &Cell<'_>) -> Self {
        Self { weights: cell.names.clone(), inputs: cell.inputs, hidden: cell.hidden, ..self.clone() }
    }

    /// Channels of a row that are the step's input; the others are the state.
    pub(crate) fn input_width(&self) -> usize {
        if self.reads_input { self.inputs } else { 0 }
    }

    /// Channels of a row (K).
    pub(super) fn width(&self) -> usize {
        self.input_width() + if self.state == State::Absent { 0 } else { self.hidden }
    }

    /// Pre-activations (N).
    pub(super) fn outputs(&self) -> usize {
        self.gates.len() * self.hidden
    }

    /// Name of the rows as a value of the exposed graph.
    pub(super) fn rows(&self) -> String {
        let kind = match (self.reads_input, self.state) {
            (_, State::Absent) => "input",
            (true, State::Plain) => "both",
            (_, State::Plain) => "state",
            (_, State::Reset) => "reset",
        };
        format!("{}/rows/{}/{kind}", self.anchor, self.direction)
    }

    /// Name of the pre-activations as a value of the exposed graph.
    pub(super) fn result(&self) -> String {
        let kind = if self.reads_input { "" } else { "/state" };
        format!("{}/gates/{}/{}{kind}", self.anchor, self.direction, self.gates.start)
    }

    /// Which direction of the operator this is.
    pub(super) fn direction(&self) -> usize {
        self.direction
    }

    /// Whether the steps go from the last to the first.
    pub(super) fn is_backward(&self) -> bool {
        self.direction == 1
    }

    /// Whether a row holds xₜ, and what stands beside it.
    pub(super) fn reads(&self) -> (bool, State) {
        (self.reads_input, self.state)
    }

    /// The reset gates of a `GRU`, read from plain states.
    pub(super) fn reset(&self) -> Self {
        Self { gates: 1..2, state: State::Plain, ..self.clone() }
    }

    /// A result of the operator that has a name.
    pub(crate) fn anchor(&self) -> &str {
        &self.anchor
    }

    /// The value that the operator reads at every step.
    pub(crate) fn input(&self, view: &View<'_>) -> Option<String> {
        let (id, _) = view.maker(&self.anchor)?;
        Some(view.graph.at(view.operand(id, 0)?).name.clone())
    }

    /// Axes of the analysed graph along a row: first that of the step's inputs, then that of the state.
    pub(crate) fn row_axes<'s>(&self, subject: Subject<'s>, node: NodeId) -> Option<Vec<(&'s Expr, usize)>> {
        let axis = |slot: usize| subject.network.operand(subject.graph, node, slot)?.get(2);
        let mut axes = Vec::new();
        if self.reads_input {
            axes.push((axis(W)?, self.inputs));
        }
        if self.state != State::Absent {
            axes.push((axis(R)?, self.hidden));
        }
        Some(axes)
    }

    /// Units that a removal keeps.
    fn kept_units(&self, subject: Subject<'_>, selection: &Selection, node: NodeId) -> Option<Vec<usize>> {
        let axis = subject.network.operand(subject.graph, node, R)?.get(2)?;
        Some(subject.network.solution.kept(axis, selection).unwrap_or_else(|| (0..self.hidden).collect()))
    }

    /// Places among the pre-activations, and among the channels of the rows' state, that a removal keeps.
    pub(crate) fn kept(
        &self,
        subject: Subject<'_>,
        selection: &Selection,
        node: NodeId,
    ) -> Option<(Vec<usize>, Vec<usize>)> {
        let units = self.kept_units(subject, selection, node)?;
        let gates = (0..self.gates.len()).flat_map(|gate| units.iter().map(move |unit| gate * self.hidden + unit));
        let first = self.input_width();
        let states = if self.state == State::Absent { Vec::new() } else { units.iter().map(|u| first + u).collect() };
        Some((gates.collect(), states))
    }

    /// Position in W or R of gate output `o` (of those of these gates) and column `k`.
    fn place(&self, o: usize, k: usize, width: usize) -> usize {
        let row = self.direction * self.all * self.hidden + self.gates.start * self.hidden + o;
        row * width + k
    }

    /// Positions in B of the bias of the input's share and of the state's.
    fn biases(&self, o: usize) -> (usize, usize) {
        let rows = self.all * self.hidden;
        let first = self.direction * 2 * rows + self.gates.start * self.hidden + o;
        (first, first + rows)
    }

    /// The K×N matrix of the gates.
    ///
    /// # Errors
    /// If a weight is malformed.
    pub(super) fn matrix(&self, w: &TensorProto, r: &TensorProto) -> Result<Array2<f64>> {
        let (w, r) = (TensorView::new(w)?.to_f64()?, TensorView::new(r)?.to_f64()?);
        let first = self.input_width();
        Ok(Array2::from_shape_fn((self.width(), self.outputs()), |(k, o)| {
            let found = if k < first {
                w.get(self.place(o, k, self.inputs))
            } else {
                r.get(self.place(o, k - first, self.hidden))
            };
            found.copied().unwrap_or(0.0)
        }))
    }

    /// Names of the stored tensors W and R.
    pub(super) fn weights(&self) -> &[String; 2] {
        &self.weights
    }

    /// The bias of the gates: of both shares together where both are read.
    ///
    /// # Errors
    /// If the operator is gone, or the bias is malformed.
    pub(crate) fn bias(&self, view: &View<'_>) -> Result<Array1<f64>> {
        self.bias_of(&Cell::read(view, &self.anchor)?.ok_or_else(gone)?)
    }

    pub(super) fn bias_of(&self, cell: &Cell<'_>) -> Result<Array1<f64>> {
        let Some(b) = cell.b else { return Ok(Array1::zeros(self.outputs())) };
        let values = TensorView::new(b)?.to_f64()?;
        let at = |is_read: bool, place: usize| values.get(place).copied().filter(|_| is_read).unwrap_or(0.0);
        let share = |o: usize| {
            let (input, state) = self.biases(o);
            at(self.reads_input, input) + at(self.state != State::Absent, state)
        };
        Ok((0..self.outputs()).map(share).collect())
    }

    /// The matrix of the gates in an operator.
    ///
    /// # Errors
    /// If a weight is malformed.
    pub(super) fn matrix_of(&self, cell: &Cell<'_>) -> Result<Array2<f64>> {
        self.matrix(cell.w, cell.r)
    }

    /// Replaces the gates' weights, if there are others, and their bias.
    ///
    /// # Errors
    /// If the operator is gone, or a value does not fit the element type.
    pub(crate) fn put(&self, model: &mut ModelProto, weights: Option<&Array2<f64>>, bias: &Array1<f64>) -> Result<()> {
        let view = View::of(model)?;
        let cell = Cell::read(&view, &self.anchor)?.ok_or_else(gone)?;
        let mut editor = Editor::new(model.clone(), &view.graph)?;
        let mut put = |slot: usize, stem: &str, dims: &[usize], values: &[f64]| -> Result<()> {
            let name = editor.add(stem, from_weights("", dims, values, cell.element)?);
            let inputs = &mut editor.node_mut(cell.id)?.input;
            inputs.resize(inputs.len().max(slot + 1), String::new());
            editor.redirect(cell.id, slot, name)
        };
        let first = self.input_width();
        let shares = [(W, cell.w, 0..first, self.inputs), (R, cell.r, first..self.width(), self.hidden)];
        for (slot, old, columns, width) in shares.into_iter().filter(|(_, _, columns, _)| !columns.is_empty()) {
            let Some(weights) = weights else { break };
            let old = TensorView::new(old)?;
            let mut values = old.to_f64()?;
            for ((k, o), &weight) in weights.indexed_iter().filter(|((k, _), _)| columns.contains(k)) {
                if let Some(value) = values.get_mut(self.place(o, k - columns.start, width)) {
                    *value = weight;
                }
            }
            put(slot, &self.weights[slot - W], old.dims(), &values)?;
        }
        let size = cell.directions * 2 * self.all * self.hidden;
        let mut values = cell.b.map_or_else(|| Ok(vec![0.0; size]), |b| TensorView::new(b)?.to_f64())?;
        for (o, &wanted) in bias.iter().enumerate() {
            let (input, state) = self.biases(o);
            // Where both shares are read, that of the state keeps its own.
            let is_both = self.reads_input && self.state != State::Absent;
            let other = values.get(state).copied().filter(|_| is_both).unwrap_or(0.0);
            if let Some(value) = values.get_mut(if self.reads_input { input } else { state }) {
                *value = wanted - other;
            }
        }
        put(B, &format!("{}_bias", self.anchor), &[cell.directions, size / cell.directions.max(1)], &values)?;
        *model = editor.finish_flat();
        Ok(())
    }
}

fn gone() -> Error {
    Error::input("a recurrent operator is gone")
}

/// Whether the reset gates of all directions are sigmoids.
fn has_plain_reset(attributes: &Attributes<'_>) -> Result<bool> {
    let names = attributes.strings("activations")?;
    Ok(names.is_none_or(|names| names.iter().step_by(2).all(|name| name.eq_ignore_ascii_case("sigmoid"))))
}
