//! Linear operators as matrices: `y = Wᵀ x + b` with x of K inputs, W of K×N, once for each convolution group.

use ndarray::Array2;

use super::steps::Steps;
use super::window::Window;
use crate::analysis::Subject;
use crate::error::{Error, Result};
use crate::graph::bodies::Run;
use crate::graph::{NodeId, View};
use crate::onnx::attributes::Attributes;
use crate::onnx::proto::{NodeProto, TensorProto};
use crate::onnx::tensor::{ElementType, TensorView, from_weights};
use crate::onnx::traits::RECURRENT;
use crate::ops::Linear;

/// Most inputs of a layer whose covariance is formed.
pub(crate) const WIDEST: usize = 6144;

/// Most inputs of a convolution of several taps whose covariance is formed.
pub(crate) const ALL_TAPS: usize = 1152;

/// A linear operator with a stored weight: where its data, its weight and its result are, and how they make a matrix.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The node in the graph that was analysed.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The value that carries the data.
    pub data: String,
    /// The stored tensor that is the weight.
    pub weight: String,
    /// The value that is the result.
    pub result: String,
    /// Operands and axes.
    pub linear: Linear,
    /// Convolution groups, each with a matrix of its own.
    pub groups: usize,
    /// Input channels of each group.
    pub channels: usize,
    /// Kernel positions, one without a convolution.
    pub taps: usize,
    /// Output channels of each group (N).
    pub outputs: usize,
    /// What the product is multiplied with (`alpha` of a Gemm).
    pub scale: f64,
    pub(crate) window: Option<Window>,
    /// What it is of a recurrent operator, if it is one.
    pub(crate) steps: Option<Steps>,
    /// Further nodes that multiply with the same weight.
    pub(crate) more: Vec<Use>,
}

/// A further node that multiplies with the weight of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Use {
    node: NodeId,
    data: String,
    result: String,
}

/// The layers of the analysed graph whose weight is an initializer of floats (or a `Constant`), in graph order. Bodies of
/// If, Loop and Scan are left out, but for branches that the samples always take: what flows in them cannot be tapped.
///
/// # Errors
/// If an attribute or a weight is malformed.
pub fn layers(subject: Subject<'_>) -> Result<Vec<Layer>> {
    let proto = subject.proto()?;
    let mut found = Vec::new();
    for &id in subject.graph.order.iter().filter(|id| subject.graph.node(**id).run == Run::Always) {
        let Some(linear) = subject.network.relations[id.0].contraction.as_ref().and_then(|c| c.linear) else {
            continue;
        };
        let Some(value) = subject.graph.node(id).inputs.get(linear.weight).copied().flatten() else { continue };
        let Some(tensor) = subject.constant(value) else { continue };
        let node = &proto.node[id.0];
        let layer =
            Layer::read(node, tensor, linear, id).map_err(|e| e.at_node(subject.graph.node(id).name.as_str()))?;
        found.extend(layer.map(|layer| Layer { name: subject.graph.node(id).name.clone(), ..layer }));
    }
    Ok(found)
}

/// The [`layers`], nodes with the same weight as one, and the gates of recurrent operators: all that reads units of a group
/// by a stored matrix.
///
/// # Errors
/// If an attribute or a weight is malformed.
pub fn readers(subject: Subject<'_>) -> Result<Vec<Layer>> {
    let view = View::of(subject.model)?;
    let mut found: Vec<Layer> = Vec::new();
    for layer in layers(subject)? {
        match found.iter_mut().find(|known| known.multiplies_like(&layer)) {
            Some(known) => known.add_use(layer),
            None => found.push(layer),
        }
    }
    for &id in &subject.graph.order {
        let node = subject.graph.node(id);
        if node.traits().has(RECURRENT) && node.domain.is_empty() && node.run == Run::Always {
            let steps = Steps::all(&view, id).map_err(|e| e.at_node(node.name.as_str()))?;
            found.extend(steps.into_iter().map(|steps| Layer::of_steps(steps, id, &node.name)));
        }
    }
    Ok(found)
}

impl Layer {
    fn of_steps(steps: Steps, node: NodeId, name: &str) -> Self {
        Self {
            node,
            name: name.to_owned(),
            data: steps.rows(),
            weight: steps.weights()[0].clone(),
            result: steps.result(),
            linear: Linear::OF_GATES,
            groups: 1,
            channels: steps.width(),
            taps: 1,
            outputs: steps.outputs(),
            scale: 1.0,
            window: None,
            steps: Some(steps),
            more: Vec::new(),
        }
    }

    /// Whether another node multiplies with the same weight in the same way.
    fn multiplies_like(&self, other: &Self) -> bool {
        self.weight == other.weight
            && self.linear == other.linear
            && (self.groups, self.channels, self.taps, self.outputs)
                == (other.groups, other.channels, other.taps, other.outputs)
            && self.scale.to_bits() == other.scale.to_bits()
            && self.window == other.window
    }

    /// Takes in another node with the same weight. Uses are sorted by what they read, so that layers that read the same values
    /// in another order are alike.
    pub(crate) fn add_use(&mut self, other: Self) {
        let own = Use { node: self.node, data: self.data.clone(), result: self.result.clone() };
        let other = Use { node: other.node, data: other.data, result: other.result };
        self.more.extend([own, other]);
        self.more.sort_by(|a, b| (&a.data, a.node).cmp(&(&b.data, b.node)));
        let first = self.more.remove(0);
        (self.node, self.data, self.result) = (first.node, first.data, first.result);
    }

    /// The layer at each node that multiplies with its weight.
    pub(crate) fn uses(&self) -> impl Iterator<Item = Self> {
        let single = Self { more: Vec::new(), ..self.clone() };
        let more = self.more.iter().map(|at| Self {
            node: at.node,
            data: at.data.clone(),
            result: at.result.clone(),
            ..single.clone()
        });
        let more: Vec<Self> = more.collect();
        std::iter::once(single).chain(more)
    }

    /// The nodes that multiply with its weight.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        std::iter::once(self.node).chain(self.more.iter().map(|at| at.node))
    }

    /// The values that these nodes read.
    pub(crate) fn all_data(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.data).chain(self.more.iter().map(|at| &at.data))
    }

    /// The layer that `node` is with the weight `tensor`; `None` if it cannot be written as matrices.
    ///
    /// # Errors
    /// If an attribute or the weight is malformed.
    pub fn read(node: &NodeProto, tensor: &TensorProto, linear: Linear, id: NodeId) -> Result<Option<Self>> {
        let element = ElementType::from_code(tensor.data_type())?;
        let operand = |slot: usize| node.input.get(slot).cloned().unwrap_or_default();
        let view = TensorView::new(tensor)?;
        let dims = view.dims();
        let is_readable = element.is_float() && element.bytes().is_some_and(|bytes| bytes >= 2);
        if !is_readable || dims.len() < 2 || view.is_empty() || node.output.is_empty() {
            return Ok(None);
        }
        let attributes = Attributes::of(node);
        let is_conv = matches!(node.op_type(), "Conv" | "ConvTranspose");
        let group = attributes.int_or("group", 1)?;
        let groups = if is_conv { usize::try_from(group).unwrap_or(1).max(1) } else { 1 };
        let window = if is_conv { Window::read(node, &dims[2..])? } else { None };
        if is_conv && window.is_none() {
            return Ok(None);
        }
        let (Some(&rows), Some(&columns)) = (dims.get(linear.weight_in), dims.get(linear.weight_out)) else {
            return Ok(None);
        };
        let (mut channels, mut outputs) = (rows, columns);
        if node.op_type() == "ConvTranspose" {
            channels /= groups;
        } else {
            outputs /= groups;
        }
        Ok(Some(Self {
            node: id,
            name: node.name().to_owned(),
            data: operand(linear.data),
            weight: operand(linear.weight),
            result: node.output[0].clone(),
            linear,
            groups,
            channels,
            taps: window.as_ref().map_or(1, Window::taps),
            outputs,
            scale: if is_conv { 1.0 } else { f64::from(attributes.float_or("alpha", 1.0)?) },
            window,
            steps: None,
            more: Vec::new(),
        }))
    }

    /// The same layer in a rewritten graph, found by its result; `None` if it is gone or its weight is not stored.
    ///
    /// # Errors
    /// If an attribute or the weight is malformed.
    pub fn found_in(&self, view: &View<'_>) -> Result<Option<Self>> {
        if let Some(steps) = &self.steps {
            let found = steps.found_in(view)?;
            return Ok(found.map(|steps| Self::of_steps(steps, self.node, &self.name)));
        }
        let Some((id, node)) = view.maker(&self.result) else { return Ok(None) };
        let weight = view.operand(id, self.linear.weight).and_then(|value| view.tensor(value));
        let Some(weight) = weight else { return Ok(None) };
        let layer = Self::read(node, weight, self.linear, self.node)?;
        Ok(layer.map(|layer| Self { name: self.name.clone(), more: self.more.clone(), ..layer }))
    }

    /// Inputs of each matrix (K): channels times kernel positions, channels outermost.
    pub fn inputs(&self) -> usize {
        self.channels * self.taps
    }

    /// Whether the covariance of its inputs is small enough to be formed as it is: 300 MB at most, and little of overlapping taps.
    pub(crate) fn has_covariance(&self) -> bool {
        self.inputs() <= if self.taps == 1 { WIDEST } else { ALL_TAPS }
    }

    /// Whether another layer reads the same rows: of the same value, in the same way.
    pub(crate) fn reads_like(&self, other: &Self) -> bool {
        self.all_data().eq(other.all_data())
            && self.linear.data_axis == other.linear.data_axis
            && (self.groups, self.channels, self.taps) == (other.groups, other.channels, other.taps)
            && self.window == other.window
    }

    /// Axes of the result after its channels, if it is no convolution: one where the weight stands on the left.
    pub(crate) fn rank_behind_result(&self) -> usize {
        usize::from(self.linear.data == 1)
    }

    /// Position in the weight tensor of input channel `c`, kernel position `t`, output `o` of group `g`.
    fn position(&self, (g, c, t, o): (usize, usize, usize, usize)) -> usize {
        match (&self.window, self.linear.weight_in) {
            (Some(_), 1) => ((g * self.outputs + o) * self.channels + c) * self.taps + t,
            (Some(_), _) => ((g * self.channels + c) * self.outputs + o) * self.taps + t,
            (None, 0) => c * self.outputs + o,
            (None, _) => o * self.channels + c,
        }
    }

    /// The K×N matrix of each group, from the tensors that `stored` finds by their names.
    ///
    /// # Errors
    /// If a weight is not stored, or not of the size that the layer says.
    pub fn stored_matrices<'t>(&self, stored: impl Fn(&str) -> Option<&'t TensorProto>) -> Result<Vec<Array2<f64>>> {
        let find = |name: &str| stored(name).ok_or_else(|| Error::input(format!("weight '{name}' is not stored")));
        match &self.steps {
            Some(steps) => {
                let [w, r] = steps.weights();
                Ok(vec![steps.matrix(find(w)?, find(r)?)?])
            }
            None => self.matrices(find(&self.weight)?),
        }
    }

    /// The K×N matrix of each group, `scale` included.
    ///
    /// # Errors
    /// If the weight is not of the size that the layer says.
    pub fn matrices(&self, weight: &TensorProto) -> Result<Vec<Array2<f64>>> {
        let values = TensorView::new(weight)?.to_f64()?;
        let matrix = |g: usize| {
            Array2::from_shape_fn((self.inputs(), self.outputs), |(k, o)| {
                let position = self.position((g, k / self.taps, k % self.taps, o));
                values.get(position).copied().unwrap_or(0.0) * self.scale
            })
        };
        Ok((0..self.groups).map(matrix).collect())
    }

    /// The weight tensor that [`matrices`](Self::matrices) reads as `matrices`, like `old` in name, type and shape.
    ///
    /// # Errors
    /// If a value does not fit the element type.
    pub fn tensor(&self, matrices: &[Array2<f64>], old: &TensorProto) -> Result<TensorProto> {
        let view = TensorView::new(old)?;
        let mut values = vec![0.0; view.len()];
        for (g, matrix) in matrices.iter().enumerate() {
            for ((k, o), &w) in matrix.indexed_iter() {
                if let Some(slot) = values.get_mut(self.position((g, k / self.taps, k % self.taps, o))) {
                    *slot = w / self.scale;
                }
            }
        }
        from_weights(view.name(), view.dims(), &values, view.element_type())
    }
}
