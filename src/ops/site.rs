//! What a rule sees of one node, and what it says about it.

use std::cell::Cell;
use std::collections::BTreeSet;

use super::harmless::is_harmless;

use crate::axes::{Applied, Extent, Misfit, NotationError, Reason, Role, Row, Unifier, Var};
use crate::facts::Facts;
use crate::graph::{Graph, Node, Source, ValueId};
use crate::onnx::attributes::{Attributes, position};
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::{AttributeProto, NodeProto};

/// Why a rule does not apply to a node. Everything that the node touches freezes, with this reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, in words.
    pub why: String,
    /// Whether the operands' sizes contradict each other, as they do where sample sizes are not valid.
    pub is_misfit: bool,
}

impl Refusal {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_misfit: false }
    }
}

impl From<Misfit> for Refusal {
    fn from(misfit: Misfit) -> Self {
        Self { why: misfit.to_string(), is_misfit: matches!(misfit, Misfit::Sizes(..)) }
    }
}

/// Result of a rule.
pub(crate) type Outcome<T = ()> = Result<T, Refusal>;

/// A sum of products over an axis: what costs multiplications and carries weights.
#[derive(Debug, Clone)]
pub struct Contraction<A> {
    /// Multiply–accumulates: the sum of the products of the sizes of these axes.
    pub macs: Vec<Vec<A>>,
    /// The linear map, where one operand is its weight.
    pub linear: Option<Linear>,
}

/// Which operand of a contraction is data, which is the weight, and how their axes relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// Operand that carries the data.
    pub data: usize,
    /// Its contracted axis.
    pub data_axis: usize,
    /// Operand that carries the weight.
    pub weight: usize,
    /// Axis of the weight that is contracted with the data (inside each group).
    pub weight_in: usize,
    /// Axis of the weight that becomes the result's channels.
    pub weight_out: usize,
    /// Operand that carries the bias, whether present or not.
    pub bias: Option<usize>,
    /// Axis of the result that holds the channels.
    pub result_axis: usize,
}

impl Linear {
    /// The share of the inputs in the gates of a recurrent operator: X `[steps, batch, inputs]`, W `[directions, gates · hidden, inputs]`,
    /// B `[directions, 2 · gates · hidden]`.
    pub(crate) const OF_GATES: Self =
        Self { data: 0, data_axis: 2, weight: 1, weight_in: 2, weight_out: 1, bias: Some(3), result_axis: 2 };
}

/// What must be rebuilt on a node once the kept indices are known.
#[derive(Debug, Clone)]
pub enum Edit<A> {
    /// An integer attribute is the size of an axis.
    Attribute {
        /// Name of the attribute.
        name: &'static str,
        /// The axis.
        axis: A,
    },
    /// A list attribute holds the sizes of axes.
    Attributes {
        /// Name of the attribute.
        name: &'static str,
        /// The axes.
        axes: Vec<A>,
    },
    /// An integer operand lists sizes of axes of the result.
    Sizes {
        /// Position of the operand.
        operand: usize,
        /// Axes of the data operand, to which `0` may refer; empty if the operator has no `0`.
        like: Vec<A>,
        /// The axes, one for each entry.
        axes: Vec<A>,
        /// Whether `-1` stands for an inferred size.
        infer: bool,
    },
    /// A Split has these parts along its axis.
    Parts {
        /// Axes of the parts.
        axes: Vec<A>,
    },
    /// A Slice of constant bounds cuts these axes: `(axis number, axis, first position, positions, step)`.
    Bounds {
        /// The cut axes.
        cuts: Vec<Cut<A>>,
    },
    /// A mean over these axes counts what was removed as zeros.
    Mean {
        /// The axes.
        axes: Vec<A>,
    },
    /// Constant indices into an axis.
    Indices {
        /// Position of the operand that holds them.
        operand: usize,
        /// The axis that is indexed.
        axis: A,
        /// The axis that the indices make.
        result: A,
    },
}

/// A cut of one axis by a Slice: positions `start`, `start + step`, … of the old axis.
#[derive(Debug, Clone)]
pub struct Cut<A> {
    /// Number of the axis.
    pub number: usize,
    /// The axis before the cut.
    pub axis: A,
    /// First position.
    pub start: usize,
    /// How many positions.
    pub count: usize,
    /// Distance of positions; negative for a reversal.
    pub step: i64,
}

/// What a rule says about a node, beyond the equations.
#[derive(Debug, Clone)]
pub struct Relation<A> {
    /// The contraction that the node performs.
    pub contraction: Option<Contraction<A>>,
    /// `(operand, axis)` to be masked so that a removed index contributes nothing.
    pub masks: Vec<(usize, usize)>,
    /// What to rebuild.
    pub edits: Vec<Edit<A>>,
    /// Axes whose positions are attention heads.
    pub heads: Vec<A>,
    /// Axes whose positions are what a head consists of.
    pub head_dims: Vec<A>,
}

impl<A> Default for Relation<A> {
    fn default() -> Self {
        Self { contraction: None, masks: Vec::new(), edits: Vec::new(), heads: Vec::new(), head_dims: Vec::new() }
    }
}

impl<A> Relation<A> {
    /// The same relation over other axes.
    pub(crate) fn map<B>(&self, f: &mut impl FnMut(&A) -> B) -> Relation<B> {
        let contraction = self.contraction.as_ref().map(|c| Contraction {
            macs: c.macs.iter().map(|term| term.iter().map(&mut *f).collect()).collect(),
            linear: c.linear,
        });
        Relation {
            contraction,
            masks: self.masks.clone(),
            edits: self.edits.iter().map(|edit| edit.map(f)).collect(),
            heads: self.heads.iter().map(&mut *f).collect(),
            head_dims: self.head_dims.iter().map(&mut *f).collect(),
        }
    }
}

impl<A> Edit<A> {
    fn map<B>(&self, f: &mut impl FnMut(&A) -> B) -> Edit<B> {
        match self {
            Edit::Attribute { name, axis } => Edit::Attribute { name, axis: f(axis) },
            Edit::Sizes { operand, like, axes, infer } => Edit::Sizes {
                operand: *operand,
                like: like.iter().map(&mut *f).collect(),
                axes: axes.iter().map(&mut *f).collect(),
                infer: *infer,
            },
            Edit::Attributes { name, axes } => Edit::Attributes { name, axes: axes.iter().map(f).collect() },
            Edit::Parts { axes } => Edit::Parts { axes: axes.iter().map(f).collect() },
            Edit::Mean { axes } => Edit::Mean { axes: axes.iter().map(f).collect() },
            Edit::Bounds { cuts } => Edit::Bounds {
                cuts: cuts
                    .iter()
                    .map(|c| Cut { number: c.number, axis: f(&c.axis), start: c.start, count: c.count, step: c.step })
                    .collect(),
            },
            Edit::Indices { operand, axis, result } => {
                Edit::Indices { operand: *operand, axis: f(axis), result: f(result) }
            }
        }
    }
}

/// One node, as a rule sees it.
pub struct Site<'a> {
    /// Name and operands of the node.
    pub node: &'a Node,
    pub(crate) proto: &'a NodeProto,
    pub(crate) attributes: Attributes<'a>,
    pub(crate) graph: &'a Graph,
    pub(crate) facts: &'a Facts,
    pub(crate) opset: i64,
    pub(crate) constants: &'a BTreeSet<ValueId>,
    pub(crate) unifier: &'a mut Unifier,
    pub(crate) inputs: Vec<Option<Vec<Var>>>,
    pub(crate) outputs: Vec<Option<Vec<Var>>>,
    pub(crate) relation: Relation<Var>,
    /// Operands, then results, whose axes the rule has asked for. The axes of the others freeze.
    pub(crate) named: Vec<Cell<bool>>,
}

impl Site<'_> {
    /// Axes of operand `index`, which must be there. What a rule asks for, it relates: the axes of other operands
    /// freeze.
    pub(crate) fn input(&self, index: usize) -> Outcome<Vec<Var>> {
        self.name(index);
        let axes = self.inputs.get(index).cloned().flatten();
        axes.ok_or_else(|| Refusal::new(format!("the shape of operand {index} is not known")))
    }

    /// Axes of result `index`, which must be there; see [`input`](Self::input).
    pub(crate) fn output(&self, index: usize) -> Outcome<Vec<Var>> {
        self.name(self.inputs.len() + index);
        let axes = self.outputs.get(index).cloned().flatten();
        axes.ok_or_else(|| Refusal::new(format!("the shape of result {index} is not known")))
    }

    /// Number of entries of the list at operand `index`.
    pub(crate) fn length(&self, index: usize) -> Option<usize> {
        let axes = self.inputs.get(index)?.as_ref()?;
        axes.first().and_then(|&axis| self.extent(axis).as_fixed())
    }

    fn name(&self, index: usize) {
        if let Some(flag) = self.named.get(index) {
            flag.set(true);
        }
    }

    pub(crate) fn name_all(&self) {
        self.named.iter().for_each(|flag| flag.set(true));
    }

    /// Freezes the axes of operands and results that the rule has not asked for.
    pub(crate) fn freeze_unnamed(&mut self) {
        let operands = self.inputs.iter().chain(&self.outputs).zip(&self.named);
        let unnamed: Vec<Var> =
            operands.filter(|(_, named)| !named.get()).flat_map(|(axes, _)| axes.iter().flatten()).copied().collect();
        unnamed.into_iter().for_each(|axis| self.freeze(axis, "the operator reads its values"));
    }

    /// Whether operand `index` is there.
    pub(crate) fn has_input(&self, index: usize) -> bool {
        self.value(index).is_some()
    }

    /// The value of operand `index`.
    pub(crate) fn value(&self, index: usize) -> Option<ValueId> {
        self.node.inputs.get(index).copied().flatten()
    }

    /// Whether operand `index` is computed from constants alone.
    pub(crate) fn is_weight(&self, index: usize) -> bool {
        self.value(index).is_some_and(|value| self.constants.contains(&value))
    }

    /// Whether operand `index` is stored in the file, not computed.
    pub(crate) fn is_stored(&self, index: usize) -> bool {
        self.value(index).is_some_and(|value| {
            let root = self.graph.behind_identity(value);
            self.graph.place(root).is_some() || matches!(self.graph.at(root).source, Source::Sparse(_))
        })
    }

    /// Operand `index` as constant integers.
    pub(crate) fn ints(&self, index: usize) -> Option<Vec<i64>> {
        self.facts.at(self.value(index)?).ints()
    }

    /// Operand `index` as integers under one binding.
    pub(crate) fn ints_under(&self, index: usize, binding: usize) -> Option<Vec<i64>> {
        self.facts.at(self.value(index)?).ints_under(binding)
    }

    pub(crate) fn extent(&self, var: Var) -> Extent {
        self.unifier.extent(var)
    }

    pub(crate) fn tie(&mut self, a: Var, b: Var) -> Outcome {
        Ok(self.unifier.unify(a, b)?)
    }

    /// Ties two lists of axes pairwise.
    pub(crate) fn tie_all(&mut self, a: &[Var], b: &[Var]) -> Outcome {
        if a.len() != b.len() {
            return Err(Refusal::new(format!("ranks {} and {} differ", a.len(), b.len())));
        }
        a.iter().zip(b).try_for_each(|(&x, &y)| self.tie(x, y))
    }

    /// Ties `operand` to `result` as numpy broadcasts: right-aligned, size one against anything.
    pub(crate) fn broadcast(&mut self, operand: &[Var], result: &[Var]) -> Outcome {
        if operand.len() > result.len() {
            return Err(Refusal::new("an operand has more axes than the result"));
        }
        for (&x, &y) in operand.iter().rev().zip(result.iter().rev()) {
            if !self.extent(x).is_one() {
                self.tie(x, y)?;
            }
        }
        Ok(())
    }

    pub(crate) fn freeze(&mut self, var: Var, why: &str) {
        self.unifier.freeze(var, Reason::new(self.node.name.as_str(), why));
    }

    pub(crate) fn shift(&mut self, var: Var, why: &str) {
        self.unifier.mark(var, &Role::Shifts(Reason::new(self.node.name.as_str(), why)));
    }

    /// Refuses a node with an attribute that the rule has not read and that may matter.
    pub(crate) fn refuse_unread(&self) -> Outcome {
        let (domain, op) = (self.node.domain.as_str(), self.node.op.as_str());
        match self.attributes.unread().into_iter().find(|name| !is_harmless(domain, op, name)) {
            Some(name) => Err(Refusal::new(format!("the rule does not understand attribute '{name}'"))),
            None => Ok(()),
        }
    }

    pub(crate) fn int(&self, name: &str, default: i64) -> i64 {
        self.attributes.of_type(name, AttributeType::Int).map_or(default, AttributeProto::i)
    }

    pub(crate) fn float(&self, name: &str, default: f32) -> f32 {
        self.attributes.of_type(name, AttributeType::Float).map_or(default, AttributeProto::f)
    }

    pub(crate) fn ints_attribute(&self, name: &str) -> Option<Vec<i64>> {
        self.attributes.of_type(name, AttributeType::Ints).map(|a| a.ints.clone())
    }

    pub(crate) fn string(&self, name: &str) -> Option<String> {
        let attribute = self.attributes.of_type(name, AttributeType::String)?;
        Some(String::from_utf8_lossy(attribute.s()).into_owned())
    }

    /// A required positive integer attribute.
    pub(crate) fn size(&self, name: &str) -> Outcome<u64> {
        let size = u64::try_from(self.int(name, 0)).ok().filter(|&n| n > 0);
        size.ok_or_else(|| Refusal::new(format!("attribute '{name}' is missing or not positive")))
    }

    /// Axis number `axis`, negative counted from the end, of a tensor of rank `rank`.
    pub(crate) fn axis(&self, axis: i64, rank: usize) -> Outcome<usize> {
        position(axis, rank).ok_or_else(|| Refusal::new(format!("axis {axis} is out of range for rank {rank}")))
    }

    /// Applies a row of the table. `attributes` are sizes that attributes give: they are rewritten with the axis.
    pub(crate) fn row(&mut self, text: &str, attributes: &[(&'static str, &'static str, i64)]) -> Outcome<Applied> {
        self.row_with(text, attributes, &[])
    }

    /// [`row`](Self::row) with further known sizes.
    pub(crate) fn row_with(
        &mut self,
        text: &str,
        attributes: &[(&'static str, &'static str, i64)],
        known: &[(&str, u64)],
    ) -> Outcome<Applied> {
        self.name_all();
        let row = Row::parse(text).map_err(|e| Refusal::new(e.to_string()))?;
        let mut known = known.to_vec();
        for &(name, attribute, default) in attributes {
            let size = u64::try_from(self.int(attribute, default)).ok().filter(|&n| n > 0);
            let size = size.ok_or_else(|| Refusal::new(format!("attribute '{attribute}' is not positive")))?;
            known.push((name, size));
        }
        let applied = row.apply(self.unifier, &known, &self.inputs, &self.outputs, &self.node.name);
        let applied =
            applied.map_err(|e| Refusal { is_misfit: matches!(e, NotationError::Shapes(_)), why: e.to_string() })?;
        self.relation.masks.extend(&applied.contracted);
        for &(name, attribute, _) in attributes {
            let is_there = self.attributes.of_type(attribute, AttributeType::Int).is_some();
            if let (Some(&axis), true) = (applied.vars.get(name), is_there) {
                self.relation.edits.push(Edit::Attribute { name: attribute, axis });
            }
        }
        Ok(applied)
    }
}
