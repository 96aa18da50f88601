//! Cost is algebra: parameters, bytes and multiply–accumulates of any selection, without rewriting anything.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Sub;

use serde::{Deserialize, Serialize};

use crate::analysis::Subject;
use crate::axes::{Expr, FactorId, Selection};
use crate::graph::{NodeId, Source, ValueId};
use crate::onnx::tensor::ElementType;

/// What a model costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Elements of floating-point (or quantized) weights, each stored tensor counted once.
    pub params: u64,
    /// Multiply–accumulates of one run at the sample sizes.
    pub macs: u64,
    /// Bytes of all stored tensors.
    pub bytes: u64,
}

impl Sub for Cost {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            params: self.params.saturating_sub(other.params),
            macs: self.macs.saturating_sub(other.macs),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

/// A product of axis sizes, and what it counts for.
#[derive(Debug, Clone)]
struct Term {
    axes: Vec<Expr>,
    weighs: Weighs,
}

#[derive(Debug, Clone, Copy)]
enum Weighs {
    Tensor { bits: u64, is_param: bool },
    Macs,
}

/// Prices selections of one model.
#[derive(Debug, Clone)]
pub struct CostModel<'a> {
    subject: Subject<'a>,
    terms: Vec<Term>,
    by_factor: BTreeMap<FactorId, Vec<usize>>,
}

impl<'a> CostModel<'a> {
    /// Collects the stored tensors and contractions of a model.
    pub fn new(subject: Subject<'a>) -> Self {
        let mut terms = stored_tensors(subject);
        for relation in &subject.network.relations {
            for axes in relation.contraction.iter().flat_map(|c| &c.macs) {
                terms.push(Term { axes: axes.clone(), weighs: Weighs::Macs });
            }
        }
        let mut by_factor: BTreeMap<FactorId, Vec<usize>> = BTreeMap::new();
        for (index, term) in terms.iter().enumerate() {
            let factors: BTreeSet<FactorId> = term.axes.iter().flat_map(Expr::factors).collect();
            for factor in factors {
                by_factor.entry(factor).or_default().push(index);
            }
        }
        Self { subject, terms, by_factor }
    }

    /// Cost of the model with `selection` kept.
    pub fn cost(&self, selection: &Selection) -> Cost {
        self.sum(0..self.terms.len(), selection)
    }

    /// Multiply–accumulates of one node, as it is.
    pub fn macs_of(&self, node: NodeId) -> u64 {
        let contraction = self.subject.network.relations.get(node.0).and_then(|relation| relation.contraction.as_ref());
        let terms = contraction.into_iter().flat_map(|contraction| &contraction.macs);
        terms.map(|axes| self.product(axes, &Selection::all())).fold(0, u64::saturating_add)
    }

    /// Cost of everything that mentions `factor`.
    pub fn controlled_by(&self, factor: FactorId) -> Cost {
        self.mentioning(factor, &Selection::all())
    }

    /// Cost of everything that mentions `factor`, with `selection` kept.
    pub(crate) fn mentioning(&self, factor: FactorId, selection: &Selection) -> Cost {
        let indices = self.by_factor.get(&factor).map(Vec::as_slice).unwrap_or_default();
        self.sum(indices.iter().copied(), selection)
    }

    /// What removing one unit of `factor` from the whole model saves.
    pub fn of_unit(&self, factor: FactorId) -> Cost {
        let size = self.subject.network.solution.size(factor);
        let mut selection = Selection::all();
        selection.keep(factor, (0..size).map(|i| i > 0).collect());
        let indices = self.by_factor.get(&factor).cloned().unwrap_or_default();
        self.sum(indices.iter().copied(), &Selection::all()) - self.sum(indices.into_iter(), &selection)
    }

    fn sum(&self, indices: impl Iterator<Item = usize>, selection: &Selection) -> Cost {
        let mut cost = Cost::default();
        for term in indices.filter_map(|index| self.terms.get(index)) {
            let count = self.product(&term.axes, selection);
            match term.weighs {
                Weighs::Macs => cost.macs = cost.macs.saturating_add(count),
                Weighs::Tensor { bits, is_param } => {
                    cost.bytes = cost.bytes.saturating_add(count.saturating_mul(bits).div_ceil(8));
                    if is_param {
                        cost.params = cost.params.saturating_add(count);
                    }
                }
            }
        }
        cost
    }

    fn product(&self, axes: &[Expr], selection: &Selection) -> u64 {
        let sizes = axes.iter().map(|axis| self.subject.network.solution.extent(axis, selection));
        sizes.fold(1, |product: u64, size| product.saturating_mul(size.map_or(u64::MAX, |e| e.under(0))))
    }
}

/// Every stored tensor once; a small constant once for each distinct set of axes that its uses give it.
fn stored_tensors(subject: Subject<'_>) -> Vec<Term> {
    let mut private: BTreeMap<ValueId, BTreeSet<Vec<Expr>>> = BTreeMap::new();
    for (node, slot, axes) in subject.network.private_uses() {
        if let Some(value) = operand(subject, node, slot).filter(|_| !subject.graph.node(node).is_identity()) {
            private.entry(subject.graph.behind_identity(value)).or_default().insert(axes.to_vec());
        }
    }
    let mut terms = Vec::new();
    for index in 0..subject.graph.values.len() {
        let value = ValueId(index);
        let Some(tensor) = subject.constant(value) else { continue };
        let Ok(element) = ElementType::from_code(tensor.data_type()) else { continue };
        let is_initializer = matches!(subject.graph.at(value).source, Source::Initializer { .. });
        let is_param = element.is_float() || (is_initializer && is_quantized_weight(subject, value));
        let weighs = Weighs::Tensor { bits: element.bits() as u64, is_param };
        let whole = subject.network.value(value).map(<[Expr]>::to_vec);
        let variants = private.remove(&value).unwrap_or_else(|| whole.into_iter().collect());
        terms.extend(variants.into_iter().map(|axes| Term { axes, weighs }));
    }
    terms
}

fn operand(subject: Subject<'_>, node: NodeId, slot: usize) -> Option<ValueId> {
    subject.graph.node(node).inputs.get(slot).copied().flatten()
}

/// An integer tensor that a `DequantizeLinear` turns into a weight.
fn is_quantized_weight(subject: Subject<'_>, value: ValueId) -> bool {
    let uses = &subject.graph.at(value).uses;
    uses.iter().any(|&(node, slot)| slot == 0 && subject.graph.node(node).op == "DequantizeLinear")
}
