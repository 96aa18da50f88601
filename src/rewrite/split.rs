//! Writes layers that are split into several into a graph: two nodes (three for Tucker-2) in the place of one. The input is
//! never touched: a new `ModelProto` comes out, or an error.
//!
//! The last node of a chain keeps name, output and bias of the original; the first ones are new, with names
//! derived from it. A change of bias goes into the bias that is there (the operand of a Gemm or Conv, or the `Add`
//! after a `MatMul`), else a new one is made.

use ndarray::{Array1, ArrayD};

use super::chain::{self, Step};
use crate::analysis::Subject;
use crate::error::{Error, Result};
use crate::graph::{Editor, NodeId, ValueId, operator, set_operand};
use crate::onnx::attributes::{self, Attributes};
use crate::onnx::proto::{ModelProto, NodeProto};
use crate::onnx::tensor::{ElementType, TensorView, from_weights};
use crate::ops::Linear;

/// What a layer becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chain {
    /// Two products.
    Matrix,
    /// Rows that are picked, then a product.
    Table,
    /// k… to r channels, then 1×1….
    Channel,
    /// k₁×1, then 1×k₂.
    Spatial,
    /// 1×1, k…, 1×1.
    Tucker2,
    /// A product, then a recurrent operator of fewer inputs.
    Gates,
}

/// A layer and the chain that it becomes.
#[derive(Debug, Clone)]
pub struct Split<'a> {
    /// The layer's name, for errors.
    pub name: &'a str,
    /// Nodes that multiply with its weight.
    pub nodes: &'a [NodeId],
    /// Their operands and axes.
    pub linear: Linear,
    /// Name of the weight; new tensors are called after it.
    pub tensor: &'a str,
    /// Element type of new tensors.
    pub element: ElementType,
    /// Kind of chain.
    pub chain: Chain,
    /// Weights of the chain, first to last, as its nodes read them.
    pub weights: Vec<ArrayD<f64>>,
    /// What is added to the bias.
    pub bias_shift: Option<&'a Array1<f64>>,
}

/// A node, and what is added to its result.
type Shift<'s> = (NodeId, &'s Array1<f64>);

/// The model with these layers split.
///
/// # Errors
/// [`Input`](crate::ErrorKind::Input) if a tensor or attribute of a layer is malformed; the message names the layer.
pub fn split(subject: Subject<'_>, splits: &[Split<'_>]) -> Result<ModelProto> {
    let mut patch = Patch { subject, editor: Editor::new(subject.model.clone(), subject.graph)? };
    for split in splits {
        patch.split(split).map_err(|e| e.at_node(split.name))?;
    }
    Ok(patch.editor.finish())
}

/// A rewrite in the making.
struct Patch<'a> {
    subject: Subject<'a>,
    editor: Editor<'a>,
}

impl Patch<'_> {
    fn split(&mut self, split: &Split<'_>) -> Result<()> {
        let suffixes: &[&str] = if split.weights.len() == 3 { &["first", "core", "last"] } else { &["first", "last"] };
        let mut weights = Vec::with_capacity(split.weights.len());
        for (tensor, suffix) in split.weights.iter().zip(suffixes) {
            weights.push(self.store(&format!("{}.{suffix}", split.tensor), tensor, split.element)?);
        }
        split.nodes.iter().try_for_each(|&id| self.split_node(id, split, &weights))
    }

    fn split_node(&mut self, id: NodeId, split: &Split<'_>, weights: &[String]) -> Result<()> {
        let node = self.subject.proto()?.node.get(id.0).ok_or_else(|| Error::input("a node is missing"))?;
        let steps: Vec<Step> = match split.chain {
            Chain::Matrix => chain::matrix(node, split.linear)?,
            Chain::Table => chain::table(node),
            Chain::Channel => chain::channel(node, &split.weights)?,
            Chain::Spatial => chain::spatial(node, &split.weights)?,
            Chain::Tucker2 => chain::tucker2(node, &split.weights)?,
            Chain::Gates => chain::gates(node),
        };
        let output = node.output.first().cloned().unwrap_or_default();
        let title = self.subject.graph.node(id).name.clone();
        let count = steps.len();
        let mut data = node.input.get(split.linear.data).cloned().unwrap_or_default();
        let mut nodes = Vec::with_capacity(count + 1);
        for (index, (step, weight)) in steps.into_iter().zip(weights).enumerate() {
            let mut new = step.node;
            let suffix = step.suffix;
            // A product after a Gather has its operands in another order.
            let is_product = split.chain == Chain::Table && index > 0;
            let (at, of) = if is_product { (0, 1) } else { (split.linear.data, split.linear.weight) };
            set_operand(&mut new, at, data);
            set_operand(&mut new, of, weight.clone());
            if index + 1 < count {
                new.name = Some(self.editor.fresh_node(&format!("{title}/{suffix}")));
                data = self.editor.fresh(&format!("{output}_{suffix}"));
                new.output = vec![data.clone()];
                self.give_gemm_a_bias(&mut new, split)?;
            } else {
                data = String::new();
            }
            nodes.push(new);
        }
        self.editor.forget(node.input.get(split.linear.weight).cloned().unwrap_or_default());
        if let Some(shift) = split.bias_shift {
            self.shift_bias(split, (id, shift), &mut nodes)?;
        }
        self.editor.replace(id, nodes);
        Ok(())
    }

    /// Before operator set 11 Gemm cannot do without a bias.
    fn give_gemm_a_bias(&mut self, node: &mut NodeProto, split: &Split<'_>) -> Result<()> {
        if node.op_type() != "Gemm" || self.subject.opset() >= 11 {
            return Ok(());
        }
        let zero = ArrayD::zeros(vec![1]);
        let name = self.store(&format!("{}.zero", split.tensor), &zero, split.element)?;
        set_operand(node, 2, name);
        Ok(())
    }

    /// Adds `shift` to what the last of `nodes` gives.
    fn shift_bias(&mut self, split: &Split<'_>, (id, shift): Shift<'_>, nodes: &mut Vec<NodeProto>) -> Result<()> {
        let Some(last) = nodes.last_mut() else { return Ok(()) };
        if split.chain == Chain::Gates {
            return self.shift_gates(split, (id, shift), last);
        }
        let read = Attributes::of(last);
        let (alpha, beta) = (f64::from(read.float_or("alpha", 1.0)?), f64::from(read.float_or("beta", 1.0)?));
        let shift = shift * alpha;
        if let Some(slot) = split.linear.bias {
            let old = self.subject.graph.node(id).inputs.get(slot).copied().flatten();
            let bias = match old {
                None => Some(shift.clone()),
                Some(value) if beta != 0.0 => {
                    constant_vector(self.subject, value, shift.len()).map(|bias| bias + &(&shift / beta))
                }
                Some(_) => None,
            };
            if let Some(bias) = bias {
                if old.is_none() {
                    attributes::remove(last, "beta");
                }
                let stem = match last.input.get(slot) {
                    Some(name) if !name.is_empty() => name.clone(),
                    _ => format!("{}.bias", split.tensor),
                };
                let name = self.store(&format!("{stem}.shifted"), &bias.into_dyn(), split.element)?;
                let old = set_operand(last, slot, name);
                self.editor.forget(old);
                return Ok(());
            }
        } else if self.shift_addition(split, (id, &shift))? {
            return Ok(());
        }
        let Some(last) = nodes.last_mut() else { return Ok(()) };
        let addition = self.new_addition(split, (id, &shift), last)?;
        nodes.push(addition);
        Ok(())
    }

    /// Adds `shift` to the inputs' share of the bias of `last`, a recurrent operator: in each direction the first half.
    fn shift_gates(&mut self, split: &Split<'_>, (id, shift): Shift<'_>, last: &mut NodeProto) -> Result<()> {
        let slot = split.linear.bias.ok_or_else(|| Error::input("it has no place for a bias"))?;
        let directions = split.weights.last().and_then(|gates| gates.shape().first().copied()).unwrap_or(1).max(1);
        let rows = shift.len() / directions;
        let old = self.subject.graph.node(id).inputs.get(slot).copied().flatten();
        let stored = old.and_then(|value| self.subject.constant(value)).map(TensorView::new).transpose()?;
        let mut bias = stored.map_or_else(|| Ok(vec![0.0; 2 * shift.len()]), |view| view.to_f64())?;
        for (at, shift) in shift.iter().enumerate() {
            let place = at / rows.max(1) * 2 * rows + at % rows.max(1);
            *bias.get_mut(place).ok_or_else(|| Error::input("its bias has another size than its gates"))? += shift;
        }
        let bias = ArrayD::from_shape_vec(vec![directions, 2 * rows], bias).map_err(|e| Error::input(e.to_string()))?;
        let name = self.store(&format!("{}.bias", split.tensor), &bias, split.element)?;
        let old = set_operand(last, slot, name);
        self.editor.forget(old);
        Ok(())
    }

    /// Adds `shift` to the constant of the `Add` that alone reads the result of a `MatMul`, if there is one.
    fn shift_addition(&mut self, split: &Split<'_>, (id, shift): Shift<'_>) -> Result<bool> {
        let Some((add, slot, old)) = addition_after(self.subject, id, split.linear, shift.len()) else {
            return Ok(false);
        };
        let Some(bias) = constant_vector(self.subject, old, shift.len()) else { return Ok(false) };
        let name = &self.subject.graph.at(old).name;
        let shifted = self.store(&format!("{name}.shifted"), &(bias + shift).into_dyn(), split.element)?;
        self.editor.redirect(add, slot, shifted)?;
        Ok(true)
    }

    /// An `Add` of `shift` that takes over the output of `last`.
    fn new_addition(&mut self, split: &Split<'_>, (id, shift): Shift<'_>, last: &mut NodeProto) -> Result<NodeProto> {
        let output = last.output.first().cloned().unwrap_or_default();
        let node = self.subject.graph.node(id);
        let rank = node.outputs.first().copied().flatten();
        let rank = rank.and_then(|value| self.subject.facts.rank(value)).unwrap_or(split.linear.result_axis + 1);
        let mut shape = vec![shift.len()];
        shape.extend(vec![1; rank.saturating_sub(split.linear.result_axis + 1)]);
        let bias = shift.to_shape(shape).map_err(|e| Error::input(e.to_string()))?.to_owned().into_dyn();
        let bias = self.store(&format!("{}.bias", split.tensor), &bias, split.element)?;
        let product = self.editor.fresh(&format!("{output}_product"));
        last.output = vec![product.clone()];
        let name = Some(self.editor.fresh_node(&format!("{}/bias", node.name)));
        Ok(NodeProto { name, output: vec![output], ..operator("Add", [product, bias]) })
    }

    /// Adds an initializer and returns its name.
    fn store(&mut self, stem: &str, values: &ArrayD<f64>, element: ElementType) -> Result<String> {
        let flat: Vec<f64> = values.iter().copied().collect();
        Ok(self.editor.add(stem, from_weights(stem, values.shape(), &flat, element)?))
    }
}

/// The `Add` that alone reads the result of a node, with the position and value of its constant vector of `width` values.
pub(crate) fn addition_after(
    subject: Subject<'_>,
    id: NodeId,
    linear: Linear,
    width: usize,
) -> Option<(NodeId, usize, ValueId)> {
    let result = subject.graph.node(id).outputs.first().copied().flatten()?;
    let (add, slot) = subject.graph.sole_reader(result)?;
    let node = subject.graph.node(add);
    if node.op != "Add" || !node.domain.is_empty() || linear.weight == 0 {
        return None;
    }
    let slot = 1_usize.checked_sub(slot)?;
    let other = node.inputs.get(slot).copied().flatten()?;
    constant_vector(subject, other, width)?;
    // One of more axes would give its axes to the sum.
    (subject.facts.rank(other)? <= subject.facts.rank(result)?).then_some((add, slot, other))
}

/// A constant of `size` elements along its last axis, or a single one spread over them. One that a caller may replace is none.
fn constant_vector(subject: Subject<'_>, value: ValueId, size: usize) -> Option<Array1<f64>> {
    let root = subject.graph.behind_identity(value);
    let tensor = subject.constant(root).filter(|_| !subject.graph.is_overridable(root))?;
    let view = TensorView::new(tensor).ok()?;
    let (&last, rest) = view.dims().split_last().unwrap_or((&1, &[]));
    let values = view.to_f64().ok()?;
    match (rest.iter().all(|&d| d == 1), last) {
        (true, n) if n == size => Some(Array1::from(values)),
        (true, 1) if rest.len() <= 1 => Some(Array1::from_elem(size, *values.first()?)),
        _ => None,
    }
}
