//! Which layers of a model can be split: products of an activation with one stored matrix or kernel.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array2, ArrayD, IxDyn};

use crate::analysis::Subject;
use crate::error::{Error, Result};
use crate::graph::bodies::Run;
use crate::graph::{NodeId, ValueId};
use crate::lowrank::conv::ConvMode;
use crate::onnx::attributes::Attributes;
use crate::onnx::proto::TensorProto;
use crate::onnx::tensor::{ElementType, TensorView};
use crate::onnx::traits::{INTEGER, RECURRENT};
use crate::ops::{Linear, operator_name};

/// Before this operator set Gemm had another rule of broadcasting.
const OLDEST_GEMM: i64 = 7;

/// A stored weight that can be split, and the nodes that multiply with it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Name of the first node: the layer's name in plans and reports.
    pub name: String,
    /// Operator of the nodes.
    pub op: String,
    /// The stored tensor.
    pub weight: ValueId,
    /// Its name.
    pub tensor: String,
    /// The nodes, in graph order.
    pub nodes: Vec<NodeId>,
    /// Operands and axes, the same for all nodes.
    pub linear: Linear,
    /// Matrix or kernel.
    pub form: Form,
    /// Shape of the weight as the nodes see it, after any `Transpose`.
    pub dims: Vec<usize>,
    /// Element type of the weight.
    pub element: ElementType,
    /// Order of the stored axes as the nodes see them.
    axes: Vec<usize>,
}

/// How the weight is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// K×N or N×K.
    Matrix,
    /// [O, I/g, k…] with g groups.
    Kernel {
        /// g.
        groups: usize,
    },
    /// V×D, of which a `Gather` picks rows.
    Table,
    /// N×K, the inputs' share of a recurrent operator: the gates of all directions one after the other.
    Gates {
        /// How many directions there are.
        directions: usize,
    },
}

/// A layer that cannot be split, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its operator.
    pub op: String,
    /// Shape of its weight, as far as known.
    pub dims: Vec<usize>,
    /// Why.
    pub reason: String,
}

/// All layers of a model, in graph order.
#[derive(Debug, Clone, Default)]
pub struct Candidates {
    /// Those that can be split.
    pub open: Vec<Candidate>,
    /// Those that cannot.
    pub refused: Vec<Refused>,
}

impl Candidate {
    /// K and N of each group's matrix (rows = inputs); for a kernel that of the channel split.
    pub fn matrix_shape(&self) -> (usize, usize) {
        match self.form {
            Form::Kernel { groups } => (self.dims[1..].iter().product(), self.dims[0] / groups),
            _ => (self.dims[self.linear.weight_in], self.dims[self.linear.weight_out]),
        }
    }

    /// How the weight is split where `conv` is the decomposition of convolutions.
    pub(crate) fn mode(&self, conv: ConvMode) -> ConvMode {
        match self.form {
            Form::Kernel { .. } => conv.on(self.dims.get(2..).unwrap_or_default()),
            _ => ConvMode::Channel,
        }
    }

    /// The stored weight's axis of inputs, and that of outputs.
    pub(crate) fn stored_axes(&self) -> [usize; 2] {
        let stored = |axis: usize| self.axes.get(axis).copied().unwrap_or(axis);
        match self.form {
            Form::Kernel { .. } => [stored(1), stored(0)],
            _ => [stored(self.linear.weight_in), stored(self.linear.weight_out)],
        }
    }

    /// Number of output channels.
    pub fn outputs(&self) -> usize {
        self.dims[self.linear.weight_out]
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether there is no weight at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the nodes see the stored axes in another order.
    pub(crate) fn is_transposed(&self) -> bool {
        self.axes.iter().enumerate().any(|(i, &axis)| i != axis)
    }

    /// The weight as the nodes see it.
    ///
    /// # Errors
    /// If the stored tensor cannot be read.
    pub fn values(&self, subject: Subject<'_>) -> Result<ArrayD<f64>> {
        let missing = || Error::input(format!("weight '{}' is not stored", self.tensor)).at_node(self.name.as_str());
        let view = TensorView::new(subject.constant(self.weight).ok_or_else(missing)?)?;
        let stored = ArrayD::from_shape_vec(IxDyn(view.dims()), view.to_f64()?)
            .map_err(|e| Error::input(e.to_string()).at_node(self.name.as_str()))?;
        if matches!(self.form, Form::Gates { .. }) {
            let all = stored.into_shape_with_order(IxDyn(&self.dims));
            return all.map_err(|e| Error::input(e.to_string()).at_node(self.name.as_str()));
        }
        Ok(stored.permuted_axes(IxDyn(&self.axes)))
    }

    /// A matrix K×N in the layout that the nodes expect.
    pub(crate) fn laid_out(&self, matrix: &Array2<f64>) -> ArrayD<f64> {
        let turned = if self.linear.weight_in < self.linear.weight_out { matrix.view() } else { matrix.t() };
        turned.as_standard_layout().into_owned().into_dyn()
    }
}

/// Finds the layers of a model.
pub fn candidates(subject: Subject<'_>) -> Candidates {
    let mut groups: BTreeMap<ValueId, Vec<Candidate>> = BTreeMap::new();
    let mut found = Candidates::default();
    for &id in &subject.graph.order {
        let node = subject.graph.node(id);
        let contraction = subject.network.relations.get(id.0).and_then(|relation| relation.contraction.as_ref());
        let outcome = match contraction.map(|c| c.linear) {
            Some(Some(linear)) => read(subject, id, linear),
            Some(None) if node.traits().has(RECURRENT) && node.domain.is_empty() => gates(subject, id),
            Some(None) => Err("it multiplies with no stored matrix".to_owned()),
            None if node.traits().has(INTEGER) => {
                Err("its weights are integers; factorize the model before quantizing it".to_owned())
            }
            None => match table(subject, id) {
                Some(linear) => read(subject, id, linear),
                None => continue,
            },
        };
        match outcome {
            Ok(candidate) => groups.entry(candidate.weight).or_default().push(candidate),
            Err(reason) => found.refused.push(refused(subject, id, contraction.and_then(|c| c.linear), reason)),
        }
    }
    for candidates in groups.into_values() {
        match shared(subject, &candidates) {
            Ok(candidate) => found.open.push(candidate),
            Err(reason) => found
                .refused
                .extend(candidates.iter().map(|c| refused(subject, c.nodes[0], Some(c.linear), reason.clone()))),
        }
    }
    let position: BTreeMap<NodeId, usize> = (0..).zip(&subject.graph.order).map(|(i, &id)| (id, i)).collect();
    found.open.sort_by_key(|candidate| position.get(&candidate.nodes[0]).copied());
    let mut names = BTreeSet::new();
    for candidate in &mut found.open {
        if !names.insert(candidate.name.clone()) {
            // Nodes may share a name, values may not.
            let result = subject.graph.node(candidate.nodes[0]).outputs.first().copied().flatten();
            candidate.name = result.map_or_else(String::new, |value| subject.graph.at(value).name.clone());
            names.insert(candidate.name.clone());
        }
    }
    found
}

/// The share of the inputs in the gates of a recurrent operator. That of its state is multiplied inside the operator, where no
/// second product fits.
fn gates(subject: Subject<'_>, id: NodeId) -> Result<Candidate, String> {
    let read = read(subject, id, Linear::OF_GATES)?;
    let bias = read.linear.bias.and_then(|slot| subject.graph.node(id).inputs.get(slot).copied().flatten());
    if bias.is_some_and(|bias| subject.constant(bias).is_none() || subject.graph.is_overridable(bias)) {
        return Err("its bias is not stored in the file".to_owned());
    }
    let &[directions, rows, inputs] = read.dims.as_slice() else {
        return Err(format!("its weight has {} axes", read.dims.len()));
    };
    if read.is_transposed() {
        return Err("its weight is transposed".to_owned());
    }
    // As one matrix.
    let linear = Linear { weight_in: 1, weight_out: 0, ..read.linear };
    Ok(Candidate { dims: vec![directions * rows, inputs], linear, ..read })
}

/// The operands of a `Gather` of rows of a stored matrix with more rows than columns, as those of a product: rows that are
/// picked are products with unit vectors.
fn table(subject: Subject<'_>, id: NodeId) -> Option<Linear> {
    let node = subject.graph.node(id);
    if node.op != "Gather" || !node.domain.is_empty() {
        return None;
    }
    let operand = |slot: usize| node.inputs.get(slot).copied().flatten();
    let (_, tensor, order) = stored(subject, operand(0)?).ok()?;
    let &[rows, columns] = tensor.dims.as_slice() else { return None };
    let element = ElementType::from_code(tensor.data_type()).ok()?;
    let axis = Attributes::of(subject.proto().ok()?.node.get(id.0)?).int_or("axis", 0).ok()?;
    let is_table = matches!(axis, 0 | -2) && order == [0, 1] && rows > columns && columns > 1 && element.is_float();
    let result_axis = subject.facts.rank(operand(1)?)?;
    is_table.then_some(Linear {
        data: 1,
        data_axis: 0,
        weight: 0,
        weight_in: 0,
        weight_out: 1,
        bias: None,
        result_axis,
    })
}

fn refused(subject: Subject<'_>, id: NodeId, linear: Option<Linear>, reason: String) -> Refused {
    let node = subject.graph.node(id);
    let weight = linear.and_then(|linear| node.inputs.get(linear.weight).copied().flatten());
    let extents = weight.and_then(|value| subject.facts.at(value).extents.as_ref());
    let dims = extents.map(|e| e.iter().filter_map(|extent| extent.as_fixed()).collect()).unwrap_or_default();
    Refused { node: id, name: node.name.clone(), op: operator_name(&node.domain, &node.op), dims, reason }
}

/// The layer that a node is, or why it cannot be split.
fn read(subject: Subject<'_>, id: NodeId, linear: Linear) -> Result<Candidate, String> {
    let node = subject.graph.node(id);
    match node.run {
        Run::Always => {}
        Run::Never => return Err("it stands in a branch that no sample takes".to_owned()),
        Run::Perhaps => {
            let why = "it stands in a body of If, Loop or Scan; an If that all samples decide alike is opened if `data` is given";
            return Err(why.to_owned());
        }
    }
    let operand = node.inputs.get(linear.weight).copied().flatten().ok_or("it has no weight")?;
    let (weight, tensor, axes) = stored(subject, operand)?;
    let element = ElementType::from_code(tensor.data_type()).map_err(|e| e.to_string())?;
    if !element.is_float() || element.bits() < 16 {
        return Err(format!("its weights are {element}; factorize the model before quantizing it"));
    }
    let view = TensorView::new(tensor).map_err(|e| e.to_string())?;
    if axes.len() != view.dims().len() || view.is_empty() {
        return Err("its weight is empty".to_owned());
    }
    let dims: Vec<usize> = axes.iter().map(|&axis| view.dims()[axis]).collect();
    let form = form(subject, id, &dims)?;
    Ok(Candidate {
        name: node.name.clone(),
        op: operator_name(&node.domain, &node.op),
        weight,
        tensor: subject.graph.at(weight).name.clone(),
        nodes: vec![id],
        linear,
        form,
        dims,
        element,
        axes,
    })
}

fn form(subject: Subject<'_>, id: NodeId, dims: &[usize]) -> Result<Form, String> {
    let node = subject.graph.node(id);
    match node.op.as_str() {
        "Gather" => Ok(Form::Table),
        "ConvTranspose" => Err("transposed convolutions are not split".to_owned()),
        "Conv" => {
            let proto = subject.proto().map_err(|e| e.to_string())?;
            let group = Attributes::of(&proto.node[id.0]).int_or("group", 1).map_err(|e| e.to_string())?;
            let groups = usize::try_from(group).unwrap_or(0);
            if dims.len() < 3 || groups == 0 || !dims[0].is_multiple_of(groups) {
                return Err(format!("its kernel {dims:?} does not fit {group} groups"));
            }
            if groups > 1 && dims[1] == 1 {
                return Err("it is depthwise: a kernel of one input channel has no rank to reduce".to_owned());
            }
            Ok(Form::Kernel { groups })
        }
        "Gemm" if subject.opset() < OLDEST_GEMM => {
            Err(format!("Gemm of operator set {} is too old; convert the model to 7 or later", subject.opset()))
        }
        _ if node.traits().has(RECURRENT) => Ok(Form::Gates { directions: dims.first().copied().unwrap_or(1) }),
        _ if dims.len() == 2 => Ok(Form::Matrix),
        _ => Err(format!("its weight has {} axes", dims.len())),
    }
}

/// The stored tensor before `Identity` and `Transpose` nodes, and the order of its axes at `value`.
fn stored(subject: Subject<'_>, mut value: ValueId) -> Result<(ValueId, &TensorProto, Vec<usize>), String> {
    let proto = subject.proto().map_err(|e| e.to_string())?;
    let mut orders: Vec<Vec<usize>> = Vec::new();
    loop {
        if subject.graph.is_overridable(value) {
            return Err("its weight is a graph input too, which a caller may replace".to_owned());
        }
        if let Some(tensor) = subject.constant(value) {
            let mut axes: Vec<usize> = (0..tensor.dims.len()).collect();
            for order in orders.iter().rev() {
                axes = order
                    .iter()
                    .map(|&axis| axes.get(axis).copied())
                    .collect::<Option<_>>()
                    .ok_or("its weight is transposed wrongly")?;
            }
            return Ok((value, tensor, axes));
        }
        let Some(maker) = subject.graph.producer(value) else {
            return Err("its weight is not stored in the file".to_owned());
        };
        let node = subject.graph.node(maker);
        let input = node.inputs.first().copied().flatten().filter(|_| node.domain.is_empty());
        match (node.op.as_str(), input) {
            ("Identity", Some(input)) => value = input,
            ("Transpose", Some(input)) => {
                let rank = subject.facts.rank(input).ok_or("its weight is of unknown rank")?;
                let order = Attributes::of(&proto.node[maker.0]).ints("perm").map_err(|e| e.to_string())?;
                orders.push(match order {
                    Some(order) => order.iter().map(|&axis| usize::try_from(axis).unwrap_or(rank)).collect(),
                    None => (0..rank).rev().collect(),
                });
                value = input;
            }
            _ => return Err(format!("its weight is computed by {} '{}'", node.op, node.name)),
        }
    }
}

/// One layer of all nodes that share a weight, or why that weight must stay whole.
fn shared(subject: Subject<'_>, candidates: &[Candidate]) -> Result<Candidate, String> {
    let first = candidates.first().ok_or("no node uses the weight")?;
    let name = |id: NodeId| subject.graph.node(id).name.as_str();
    let same = |c: &Candidate| (&c.op, c.linear, c.form, &c.axes) == (&first.op, first.linear, first.form, &first.axes);
    if let Some(other) = candidates.iter().find(|c| !same(c)) {
        return Err(format!(
            "its weight '{}' is used differently by '{}' and '{}'",
            first.tensor, first.name, other.name
        ));
    }
    let users: BTreeSet<(NodeId, usize)> = candidates.iter().map(|c| (c.nodes[0], c.linear.weight)).collect();
    let mut work = vec![first.weight];
    while let Some(value) = work.pop() {
        let seen = subject.graph.at(value);
        if seen.is_output || !seen.captured_by.is_empty() {
            return Err(format!("its weight '{}' is a graph output or read by a subgraph too", seen.name));
        }
        for &(id, slot) in &seen.uses {
            let node = subject.graph.node(id);
            if matches!((node.op.as_str(), node.domain.as_str()), ("Identity" | "Transpose", "")) {
                work.extend(node.outputs.iter().flatten());
            } else if !users.contains(&(id, slot)) {
                return Err(format!(
                    "its weight '{}' is also read by {} '{}' and would not be removed",
                    first.tensor,
                    node.op,
                    name(id)
                ));
            }
        }
    }
    Ok(Candidate { nodes: candidates.iter().flat_map(|c| c.nodes.clone()).collect(), ..first.clone() })
}
