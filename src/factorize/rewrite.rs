//! Writes split layers into a graph: two nodes (three for Tucker-2) in the place of one. The input is never
//! touched: a new `ModelProto` comes out, or an error.
//!
//! The last node of a chain keeps name, output and bias of the original; the first ones are new, with names
//! derived from it. A change of bias goes into the bias that is there (the operand of a Gemm or Conv, or the `Add`
//! behind a `MatMul`), else a new one is made.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array1, ArrayD};

use super::candidates::{Candidate, Form};
use super::chain::{self, Step};
use crate::analysis::Subject;
use crate::error::{Error, Result};
use crate::graph::{NodeId, ValueId, bodies, sweep_dead_nodes};
use crate::lowrank::conv::ConvSplit;
use crate::lowrank::low_rank::LowRank;
use crate::onnx::attributes::{self, Attributes};
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use crate::onnx::tensor::{TensorView, from_f64_as};

/// What a layer becomes.
#[derive(Debug, Clone)]
pub enum Factors {
    /// Two products.
    Matrix(LowRank),
    /// k… to r channels, then 1×1….
    Channel(ConvSplit),
    /// k₁×1, then 1×k₂.
    Spatial(ConvSplit),
    /// 1×1, k…, 1×1.
    Tucker2(ConvSplit),
}

impl Factors {
    /// What is added to the bias, N values.
    pub fn bias_shift(&self) -> Option<&Array1<f64>> {
        match self {
            Self::Matrix(split) => split.bias_shift.as_ref(),
            Self::Channel(split) | Self::Spatial(split) | Self::Tucker2(split) => split.bias_shift.as_ref(),
        }
    }

    /// Predicted squared error.
    pub fn error(&self) -> f64 {
        match self {
            Self::Matrix(split) => split.error,
            Self::Channel(split) | Self::Spatial(split) | Self::Tucker2(split) => split.error,
        }
    }
}

/// A node, and what is added to its result.
type Shift<'s> = (NodeId, &'s Array1<f64>);

/// The model with these layers split.
///
/// # Errors
/// [`Input`](crate::ErrorKind::Input) if a tensor or attribute of a layer is malformed; the message names the node.
pub fn split_layers(subject: Subject<'_>, splits: &[(&Candidate, &Factors)]) -> Result<ModelProto> {
    let mut patch = Patch::new(subject)?;
    for (candidate, factors) in splits {
        patch.split(candidate, factors).map_err(|e| e.at_node(candidate.name.as_str()))?;
    }
    Ok(patch.finish())
}

/// A rewrite in the making.
struct Patch<'a> {
    subject: Subject<'a>,
    proto: &'a GraphProto,
    /// What stands in the place of a node of the old graph.
    instead: BTreeMap<NodeId, Vec<NodeProto>>,
    /// Operands that read another value now.
    redirected: BTreeMap<(NodeId, usize), String>,
    added: Vec<TensorProto>,
    orphans: BTreeSet<String>,
    names: BTreeSet<String>,
    node_names: BTreeSet<String>,
}

impl<'a> Patch<'a> {
    fn new(subject: Subject<'a>) -> Result<Self> {
        let proto = subject.proto()?;
        let (mut names, mut node_names) = (BTreeSet::new(), BTreeSet::new());
        collect_names(proto, &mut names, &mut node_names);
        Ok(Self {
            subject,
            proto,
            instead: BTreeMap::new(),
            redirected: BTreeMap::new(),
            added: Vec::new(),
            orphans: BTreeSet::new(),
            names,
            node_names,
        })
    }

    fn split(&mut self, candidate: &Candidate, factors: &Factors) -> Result<()> {
        let tensors = match (candidate.form, factors) {
            (Form::Matrix, Factors::Matrix(split)) => {
                vec![candidate.laid_out(&split.a), candidate.laid_out(&split.b)]
            }
            (Form::Kernel { .. }, Factors::Channel(split) | Factors::Spatial(split) | Factors::Tucker2(split)) => {
                split.kernels.clone()
            }
            _ => return Err(Error::input("its factors are of another form than its weight")),
        };
        let suffixes: &[&str] = if tensors.len() == 3 { &["first", "core", "last"] } else { &["first", "last"] };
        let mut weights = Vec::with_capacity(tensors.len());
        for (tensor, suffix) in tensors.iter().zip(suffixes) {
            weights.push(self.store(&format!("{}.{suffix}", candidate.tensor), tensor, candidate)?);
        }
        for &id in &candidate.nodes {
            self.split_node(id, candidate, factors, &tensors, &weights)?;
        }
        Ok(())
    }

    fn split_node(
        &mut self,
        id: NodeId,
        candidate: &Candidate,
        factors: &Factors,
        kernels: &[ArrayD<f64>],
        weights: &[String],
    ) -> Result<()> {
        let node = self.node(id)?;
        let steps: Vec<Step> = match factors {
            Factors::Matrix(_) => chain::matrix(node, candidate.linear)?,
            Factors::Channel(_) => chain::channel(node, kernels)?,
            Factors::Spatial(_) => chain::spatial(node, kernels)?,
            Factors::Tucker2(_) => chain::tucker2(node, kernels)?,
        };
        let output = node.output.first().cloned().unwrap_or_default();
        let title = self.subject.graph.node(id).name.clone();
        let count = steps.len();
        let mut data = node.input.get(candidate.linear.data).cloned().unwrap_or_default();
        let mut nodes = Vec::with_capacity(count + 1);
        for (index, (step, weight)) in steps.into_iter().zip(weights).enumerate() {
            let mut new = step.node;
            let suffix = step.suffix;
            set_operand(&mut new, candidate.linear.data, data);
            set_operand(&mut new, candidate.linear.weight, weight.clone());
            if index + 1 < count {
                new.name = Some(unique(&mut self.node_names, &format!("{title}/{suffix}")));
                data = unique(&mut self.names, &format!("{output}_{suffix}"));
                new.output = vec![data.clone()];
                self.give_gemm_a_bias(&mut new, candidate)?;
            } else {
                data = String::new();
            }
            nodes.push(new);
        }
        self.orphans.extend(node.input.get(candidate.linear.weight).cloned());
        if let Some(shift) = factors.bias_shift() {
            self.shift_bias(candidate, (id, shift), &mut nodes)?;
        }
        self.instead.insert(id, nodes);
        Ok(())
    }

    /// Before operator set 11 Gemm cannot do without a bias.
    fn give_gemm_a_bias(&mut self, node: &mut NodeProto, candidate: &Candidate) -> Result<()> {
        if node.op_type() != "Gemm" || self.subject.opset() >= 11 {
            return Ok(());
        }
        let zero = ArrayD::zeros(vec![1]);
        let name = self.store(&format!("{}.zero", candidate.tensor), &zero, candidate)?;
        set_operand(node, 2, name);
        Ok(())
    }

    /// Adds `shift` to what the last of `nodes` gives.
    fn shift_bias(&mut self, candidate: &Candidate, (id, shift): Shift<'_>, nodes: &mut Vec<NodeProto>) -> Result<()> {
        let Some(last) = nodes.last_mut() else { return Ok(()) };
        let read = Attributes::of(last);
        let (alpha, beta) = (f64::from(read.float_or("alpha", 1.0)?), f64::from(read.float_or("beta", 1.0)?));
        let shift = shift * alpha;
        if let Some(slot) = candidate.linear.bias {
            let old = self.subject.graph.node(id).inputs.get(slot).copied().flatten();
            let bias = match old {
                None => Some(shift.clone()),
                Some(value) if beta != 0.0 => self.vector(value, shift.len()).map(|bias| bias + &(&shift / beta)),
                Some(_) => None,
            };
            if let Some(bias) = bias {
                if old.is_none() {
                    attributes::remove(last, "beta");
                }
                let stem = match last.input.get(slot) {
                    Some(name) if !name.is_empty() => name.clone(),
                    _ => format!("{}.bias", candidate.tensor),
                };
                self.orphans.extend(last.input.get(slot).cloned().filter(|name| !name.is_empty()));
                let name = self.store(&format!("{stem}.shifted"), &bias.into_dyn(), candidate)?;
                set_operand(last, slot, name);
                return Ok(());
            }
        } else if self.shift_add_behind(candidate, (id, &shift))? {
            return Ok(());
        }
        let Some(last) = nodes.last_mut() else { return Ok(()) };
        let add = self.added_behind(candidate, (id, &shift), last)?;
        nodes.push(add);
        Ok(())
    }

    /// Adds `shift` to the constant of the `Add` that alone reads the result of a `MatMul`, if there is one.
    fn shift_add_behind(&mut self, candidate: &Candidate, (id, shift): Shift<'_>) -> Result<bool> {
        let Some((add, slot, old)) = bias_behind(self.subject, candidate, id) else { return Ok(false) };
        let Some(bias) = self.vector(old, shift.len()) else { return Ok(false) };
        let name = self.subject.graph.at(old).name.clone();
        let shifted = self.store(&format!("{name}.shifted"), &(bias + shift).into_dyn(), candidate)?;
        self.orphans.insert(name);
        self.redirected.insert((add, slot), shifted);
        Ok(true)
    }

    /// A constant that broadcasts to a vector of `size`.
    fn vector(&self, value: ValueId, size: usize) -> Option<Array1<f64>> {
        constant_vector(self.subject, value, size)
    }

    /// An `Add` of `shift` that takes over the output of `last`.
    fn added_behind(
        &mut self,
        candidate: &Candidate,
        (id, shift): Shift<'_>,
        last: &mut NodeProto,
    ) -> Result<NodeProto> {
        let output = last.output.first().cloned().unwrap_or_default();
        let name = self.subject.graph.node(id).name.clone();
        let rank = self.subject.graph.node(id).outputs.first().copied().flatten();
        let rank = rank.and_then(|value| self.subject.facts.rank(value)).unwrap_or(candidate.linear.result_axis + 1);
        let mut shape = vec![shift.len()];
        shape.extend(vec![1; rank.saturating_sub(candidate.linear.result_axis + 1)]);
        let bias = shift.to_shape(shape).map_err(|e| Error::input(e.to_string()))?.to_owned().into_dyn();
        let bias = self.store(&format!("{}.bias", candidate.tensor), &bias, candidate)?;
        let product = unique(&mut self.names, &format!("{output}_product"));
        last.output = vec![product.clone()];
        Ok(NodeProto {
            op_type: Some("Add".to_owned()),
            name: Some(unique(&mut self.node_names, &format!("{name}/bias"))),
            input: vec![product, bias],
            output: vec![output],
            ..NodeProto::default()
        })
    }

    fn node(&self, id: NodeId) -> Result<&'a NodeProto> {
        self.proto.node.get(id.0).ok_or_else(|| Error::input("a node is missing"))
    }

    /// Adds an initializer of the layer's element type and returns its name.
    fn store(&mut self, stem: &str, values: &ArrayD<f64>, candidate: &Candidate) -> Result<String> {
        let name = unique(&mut self.names, stem);
        let flat: Vec<f64> = values.iter().copied().collect();
        self.added.push(from_f64_as(&name, values.shape(), &flat, candidate.element)?);
        Ok(name)
    }

    fn finish(mut self) -> ModelProto {
        let mut model = self.subject.model.clone();
        let old_style = model.ir_version() < 4 && !self.added.is_empty();
        let Some(graph) = model.graph.as_mut() else { return model };
        if old_style {
            // Before IR version 4 every initializer is an input too; the new ones are not.
            let initialized: BTreeSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
            graph.input.retain(|input| !initialized.contains(input.name()));
        }
        graph.initializer.append(&mut self.added);
        let mut nodes = Vec::with_capacity(graph.node.len() + self.instead.len());
        for (index, mut node) in std::mem::take(&mut graph.node).into_iter().enumerate() {
            for ((_, slot), name) in self.redirected.range((NodeId(index), 0)..=(NodeId(index), usize::MAX)) {
                set_operand(&mut node, *slot, name.clone());
            }
            match self.instead.remove(&NodeId(index)) {
                Some(chain) => nodes.extend(chain),
                None => nodes.push(node),
            }
        }
        graph.node = nodes;
        let removed = sweep_dead_nodes(graph, &self.orphans);
        graph.value_info.retain(|info| !removed.contains(info.name()));
        graph.quantization_annotation.retain(|a| !removed.contains(a.tensor_name()));
        if old_style {
            model.ir_version = Some(4);
        }
        bodies::nested(&model).into_owned()
    }
}

/// Parameters that a change of bias adds to the model: those of biases that are missing, or needed by others too.
pub(crate) fn added_by_bias(subject: Subject<'_>, candidate: &Candidate) -> usize {
    let size = candidate.outputs();
    let of_node = |&id: &NodeId| {
        let bias = match candidate.linear.bias {
            Some(slot) => subject.graph.node(id).inputs.get(slot).copied().flatten(),
            None => bias_behind(subject, candidate, id).map(|(_, _, value)| value),
        };
        let is_own = |value: ValueId| {
            let root = subject.graph.behind_identity(value);
            let stored = subject.constant(root).map_or(0, |tensor| tensor.dims.iter().product::<i64>());
            let at = subject.graph.at(root);
            root == value && at.uses.len() == 1 && at.captured_by.is_empty() && usize::try_from(stored) == Ok(size)
        };
        if bias.is_some_and(is_own) { 0 } else { size }
    };
    candidate.nodes.iter().map(of_node).sum()
}

/// The `Add` that alone reads the result of a node, with the position and value of its constant vector.
pub(crate) fn bias_behind(subject: Subject<'_>, candidate: &Candidate, id: NodeId) -> Option<(NodeId, usize, ValueId)> {
    let result = subject.graph.node(id).outputs.first().copied().flatten()?;
    let value = subject.graph.at(result);
    let &[(add, slot)] = value.uses.as_slice() else { return None };
    let node = subject.graph.node(add);
    let alone = !value.is_output && value.captured_by.is_empty();
    if !alone || node.op != "Add" || !node.domain.is_empty() || candidate.linear.weight == 0 {
        return None;
    }
    let other = node.inputs.get(1 - slot).copied().flatten()?;
    constant_vector(subject, other, candidate.outputs())?;
    // One of more axes would give its axes to the sum.
    (subject.facts.rank(other)? <= subject.facts.rank(result)?).then_some((add, 1 - slot, other))
}

/// A constant of `size` elements along its last axis, or a single one spread over them. One that a caller may replace is none.
pub(crate) fn constant_vector(subject: Subject<'_>, value: ValueId, size: usize) -> Option<Array1<f64>> {
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

fn set_operand(node: &mut NodeProto, slot: usize, name: String) {
    while node.input.len() <= slot {
        node.input.push(String::new());
    }
    node.input[slot] = name;
}

fn unique(names: &mut BTreeSet<String>, stem: &str) -> String {
    let mut name = stem.to_owned();
    let mut number = 1;
    while !names.insert(name.clone()) {
        number += 1;
        name = format!("{stem}_{number}");
    }
    name
}

/// Names of values and of nodes, those of subgraphs included.
fn collect_names(graph: &GraphProto, values: &mut BTreeSet<String>, nodes: &mut BTreeSet<String>) {
    values.extend(graph.initializer.iter().map(|tensor| tensor.name().to_owned()));
    values.extend(graph.input.iter().chain(&graph.output).map(|info| info.name().to_owned()));
    for node in &graph.node {
        values.extend(node.input.iter().chain(&node.output).cloned());
        nodes.insert(node.name().to_owned());
        for (_, inner) in attributes::subgraphs(node) {
            collect_names(inner, values, nodes);
        }
    }
}
