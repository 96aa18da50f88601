//! Cost is algebra: parameters, bytes and multiply–accumulates of any selection, without rewriting anything.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Sub;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::surface::Surface;
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
    /// Predicted nanoseconds of one run; 0 where operators were not timed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nanos: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(figure: &u64) -> bool {
    *figure == 0
}

impl Sub for Cost {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            params: self.params.saturating_sub(other.params),
            macs: self.macs.saturating_sub(other.macs),
            bytes: self.bytes.saturating_sub(other.bytes),
            nanos: self.nanos.saturating_sub(other.nanos),
        }
    }
}

/// Axis sizes, and what they count for: their product, or the time of an operator of these sizes.
#[derive(Debug, Clone)]
struct Term {
    axes: Vec<Expr>,
    weighs: Weighs,
}

#[derive(Debug, Clone)]
enum Weighs {
    Tensor { bits: u64, is_param: bool },
    Macs,
    Time(Arc<Surface>),
}

/// The time of an operator, as a function of the sizes of these axes.
#[derive(Debug, Clone)]
pub(crate) struct Timed {
    /// The axes whose sizes may change.
    pub(crate) axes: Vec<Expr>,
    /// The time at their sizes.
    pub(crate) surface: Arc<Surface>,
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
        Self::timed(subject, &[])
    }

    /// The same, with the times of its operators.
    pub(crate) fn timed(subject: Subject<'a>, times: &[Timed]) -> Self {
        let mut terms = stored_tensors(subject);
        for relation in &subject.network.relations {
            for axes in relation.contraction.iter().flat_map(|c| &c.macs) {
                terms.push(Term { axes: axes.clone(), weighs: Weighs::Macs });
            }
        }
        terms.extend(
            times
                .iter()
                .map(|Timed { axes, surface }| Term { axes: axes.clone(), weighs: Weighs::Time(Arc::clone(surface)) }),
        );
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
            let product = || self.product(&term.axes, selection);
            match &term.weighs {
                Weighs::Macs => cost.macs = cost.macs.saturating_add(product()),
                Weighs::Time(surface) => {
                    let sizes: Vec<u64> = self.sizes(&term.axes, selection).collect();
                    cost.nanos = cost.nanos.saturating_add(nanos(surface.at(&sizes)));
                }
                &Weighs::Tensor { bits, is_param } => {
                    let count = product();
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
        self.sizes(axes, selection).fold(1, u64::saturating_mul)
    }

    fn sizes(&self, axes: &[Expr], selection: &Selection) -> impl Iterator<Item = u64> {
        let sizes = axes.iter().map(|axis| self.subject.network.solution.extent(axis, selection));
        sizes.map(|size| size.map_or(u64::MAX, |extent| extent.under(0)))
    }
}

/// Milliseconds in whole nanoseconds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn nanos(ms: f64) -> u64 {
    (ms * 1e6).round().max(0.0) as u64
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
        terms.extend(variants.into_iter().map(|axes| Term { axes, weighs: weighs.clone() }));
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
