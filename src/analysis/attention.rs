//! Attention in a solved graph: the width of heads as a factor, and the layers that make it and read it.
//!
//! Operators play almost no part in the search. A product of two computed values that sums over a factor takes scores; one
//! that passes a factor on from one operand mixes values. A layer whose results are that factor projects, one whose inputs
//! are reads. What lies between a projection and a product is not judged here: whoever changes the basis of heads has to
//! find out by running it whether it only moves values.

use std::collections::{BTreeMap, BTreeSet};

use super::Subject;
use crate::axes::{Expr, FactorId, Role};
use crate::graph::{NodeId, ValueId};
use crate::ops::Linear;

/// The width of the heads of one attention: of queries and keys, of values, or of all three where they are packed.
#[derive(Debug, Clone)]
pub struct HeadWidth {
    /// The factor whose indices are the dimensions of every head.
    pub factor: FactorId,
    /// Where queries meet keys, if that sums over this factor.
    pub scores: Option<Scores>,
    /// Where values are mixed, if they are of this width.
    pub mix: Option<Mix>,
}

/// A projection, and the operand through which attention reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The layer that projects.
    pub layer: NodeId,
    /// The node that reads the projected value.
    pub node: NodeId,
    /// Which of its operands that is.
    pub slot: usize,
}

impl HeadWidth {
    /// All projections of this width, with the operand that reads each.
    pub fn ports(&self) -> Vec<Port> {
        let scores = self.scores.iter().flat_map(|scores| [scores.query, scores.key]);
        scores.chain(self.mix.iter().map(|mix| mix.value)).collect()
    }
}

/// Queries and keys.
#[derive(Debug, Clone, Copy)]
pub struct Scores {
    /// The queries.
    pub query: Port,
    /// The keys.
    pub key: Port,
}

/// Values and the layer that reads them once they are mixed.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// The values.
    pub value: Port,
    /// The mixed values, as the node makes them that mixes.
    pub result: ValueId,
    /// The layer that reads them.
    pub output: NodeId,
}

/// Why the basis of a head width cannot be changed: the node that stands in the way, and what it does.
#[derive(Debug, Clone)]
pub struct Obstacle {
    /// The factor.
    pub factor: FactorId,
    /// Name of the node.
    pub node: String,
    /// What it does.
    pub why: String,
}

/// All head widths of a model that may be pruned, in graph order, or what makes one no ordinary attention.
pub fn head_widths(subject: Subject<'_>) -> Vec<Result<HeadWidth, Obstacle>> {
    let mut uses: Vec<(FactorId, Use)> = Vec::new();
    for &id in &subject.graph.order {
        uses.extend(uses_at(subject, id));
    }
    let mut order: Vec<FactorId> = Vec::new();
    let mut by_factor: BTreeMap<FactorId, Vec<Use>> = BTreeMap::new();
    for (factor, at) in uses {
        if !by_factor.contains_key(&factor) {
            order.push(factor);
        }
        by_factor.entry(factor).or_default().push(at);
    }
    let width = |factor: FactorId| Search::new(subject, factor).width(&by_factor[&factor]);
    order.into_iter().filter_map(|factor| width(factor).transpose()).collect()
}

/// What a node does with a factor.
#[derive(Debug, Clone, Copy)]
enum Use {
    /// Sums over it: queries and keys.
    Scores { node: NodeId, query: usize, key: usize },
    /// Passes it on from one operand.
    Mix { node: NodeId, value: usize },
    /// Projects inside, or takes operands that hold several projections.
    Packed { node: NodeId },
}

/// The static, prunable factors that a node treats as a head width might be treated.
fn uses_at(subject: Subject<'_>, id: NodeId) -> Vec<(FactorId, Use)> {
    let Subject { graph, network, .. } = subject;
    let (node, relation) = (graph.node(id), &network.relations[id.0]);
    let is_fused = !relation.head_dims.is_empty();
    let is_product = relation.contraction.as_ref().is_some_and(|c| c.linear.is_none());
    if node.in_body || !(is_fused || is_product) {
        return Vec::new();
    }
    let operand = |slot: usize| -> BTreeSet<FactorId> {
        let value = node.inputs.get(slot).copied().flatten();
        let computed = value.filter(|&value| subject.constant(graph.behind_identity(value)).is_none());
        let axes = computed.and_then(|_| network.operand(graph, id, slot));
        axes.into_iter().flatten().flat_map(Expr::factors).collect()
    };
    let result = node.outputs.first().copied().flatten().and_then(|value| network.value(value)).unwrap_or_default();
    let passed: BTreeSet<FactorId> = result.iter().flat_map(Expr::factors).collect();
    let is_open = |factor: &FactorId| {
        let factor = network.solution.factor(*factor);
        matches!(factor.role, Role::Free) && factor.extent.as_fixed().is_some_and(|size| size > 1)
    };
    let operands: Vec<BTreeSet<FactorId>> = (0..3).map(operand).collect();
    let open: BTreeSet<FactorId> = operands.iter().flatten().copied().filter(is_open).collect();
    let mut found = Vec::new();
    for factor in open {
        let holds = |slot: usize| operands[slot].contains(&factor);
        let is_passed = passed.contains(&factor);
        if is_fused {
            let width = relation.head_dims.iter().any(|axis| axis.mentions(factor));
            if !width {
                continue;
            }
            if !holds(1) && !holds(2) {
                found.push((factor, Use::Packed { node: id }));
                continue;
            }
            if holds(0) && holds(1) {
                found.push((factor, Use::Scores { node: id, query: 0, key: 1 }));
            }
            if holds(2) && is_passed {
                found.push((factor, Use::Mix { node: id, value: 2 }));
            }
        } else if holds(0) && holds(1) && !is_passed {
            found.push((factor, Use::Scores { node: id, query: 0, key: 1 }));
        } else if is_passed && holds(0) != holds(1) {
            found.push((factor, Use::Mix { node: id, value: usize::from(holds(1)) }));
        }
    }
    found
}

/// Follows one factor through the graph.
struct Search<'a> {
    subject: Subject<'a>,
    factor: FactorId,
    /// Layers whose results, and whose inputs, mention the factor.
    projections: BTreeSet<NodeId>,
    readers: BTreeSet<NodeId>,
    /// Nodes on the way from a projection to a product, or from a product to a reader.
    way: BTreeSet<NodeId>,
}

impl<'a> Search<'a> {
    fn new(subject: Subject<'a>, factor: FactorId) -> Self {
        let mut search =
            Self { subject, factor, projections: BTreeSet::new(), readers: BTreeSet::new(), way: BTreeSet::new() };
        for &id in &subject.graph.order {
            let Some(linear) = search.linear(id) else { continue };
            let axes = subject.network.operand(subject.graph, id, linear.weight).unwrap_or_default();
            let mentions = |axis: usize| axes.get(axis).is_some_and(|axis| axis.mentions(factor));
            if mentions(linear.weight_out) {
                search.projections.insert(id);
            }
            if mentions(linear.weight_in) {
                search.readers.insert(id);
            }
        }
        search
    }

    fn linear(&self, id: NodeId) -> Option<Linear> {
        self.subject.network.relations[id.0].contraction.as_ref()?.linear
    }

    /// The width; `None` if the factor is no width of heads: no layer makes it, or nothing but layers reads it.
    fn width(mut self, uses: &[Use]) -> Result<Option<HeadWidth>, Obstacle> {
        let is_mix = |at: &Use| matches!(at, Use::Mix { .. });
        let is_attention = uses.iter().any(|at| !is_mix(at)) || !self.readers.is_empty();
        if self.projections.is_empty() || !is_attention {
            return match uses {
                [Use::Packed { node }, ..] => Err(self.obstacle(*node, "holds its projections inside")),
                _ => Ok(None),
            };
        }
        let (mut scores, mut mix) = (None, None);
        for &at in uses {
            match at {
                Use::Scores { node, query, key } => {
                    let pair = Scores { query: self.port(node, query)?, key: self.port(node, key)? };
                    if scores.replace(pair).is_some() {
                        return Err(self.obstacle(node, "takes scores of heads that other scores are taken of too"));
                    }
                }
                Use::Mix { node, value } => {
                    if mix.is_some() {
                        return Err(self.obstacle(node, "mixes values that are mixed elsewhere too"));
                    }
                    mix = Some(self.mix(node, value)?);
                }
                Use::Packed { node } => {
                    return Err(self.obstacle(node, "takes queries, keys and values in one operand"));
                }
            }
        }
        let width = HeadWidth { factor: self.factor, scores, mix };
        self.nothing_else(uses, &width)?;
        Ok(Some(width))
    }

    fn mix(&mut self, node: NodeId, slot: usize) -> Result<Mix, Obstacle> {
        let value = self.port(node, slot)?;
        let result = self.subject.graph.node(node).outputs.first().copied().flatten();
        let result = result.ok_or_else(|| self.obstacle(node, "has no result"))?;
        let mut readers = self.readers.iter().copied();
        let (Some(output), None) = (readers.next(), readers.next()) else {
            return Err(self.obstacle(node, "mixes values for no layer, or for several"));
        };
        let data = self.linear(output).and_then(|linear| self.operand(output, linear.data));
        let data = data.ok_or_else(|| self.obstacle(output, "has no data"))?;
        self.walk(data, output, |_, made| made == node)?;
        Ok(Mix { value, result, output })
    }

    /// The projection that operand `slot` of `node` comes from.
    fn port(&mut self, node: NodeId, slot: usize) -> Result<Port, Obstacle> {
        let value = self.operand(node, slot).ok_or_else(|| self.obstacle(node, "lacks an operand"))?;
        let layer = self.walk(value, node, |search, made| search.projections.contains(&made))?;
        Ok(Port { layer, node, slot })
    }

    /// The node that satisfies `is_end`, back from `value`, which `reader` reads, along the one operand that mentions the
    /// factor and is computed.
    fn walk(
        &mut self,
        mut value: ValueId,
        mut reader: NodeId,
        is_end: impl Fn(&Self, NodeId) -> bool,
    ) -> Result<NodeId, Obstacle> {
        loop {
            let Some(made) = self.subject.graph.producer(value) else {
                return Err(self.obstacle(reader, "reads heads that no layer makes"));
            };
            if is_end(self, made) {
                return Ok(made);
            }
            let mut carriers = self.carriers(made).into_iter();
            let (Some(next), None) = (carriers.next(), carriers.next()) else {
                return Err(self.obstacle(made, "brings heads together from several values"));
            };
            self.way.insert(made);
            (value, reader) = (next, made);
        }
    }

    fn operand(&self, node: NodeId, slot: usize) -> Option<ValueId> {
        self.subject.graph.node(node).inputs.get(slot).copied().flatten()
    }

    /// Computed operands that mention the factor.
    fn carriers(&self, id: NodeId) -> Vec<ValueId> {
        let Subject { graph, network, .. } = self.subject;
        let inputs = graph.node(id).inputs.iter().enumerate();
        let computed = inputs.filter_map(|(slot, &value)| Some((slot, value?))).filter(|&(slot, value)| {
            let axes = network.operand(graph, id, slot).unwrap_or_default();
            let is_stored = self.subject.constant(graph.behind_identity(value)).is_some();
            !is_stored && axes.iter().any(|axis| axis.mentions(self.factor))
        });
        computed.map(|(_, value)| value).collect()
    }

    /// Whether a stored operand mentions the factor.
    fn has_stored(&self, id: NodeId) -> bool {
        let Subject { graph, network, .. } = self.subject;
        let stored = |value: ValueId| self.subject.constant(graph.behind_identity(value)).is_some();
        graph.node(id).inputs.iter().enumerate().any(|(slot, value)| {
            let axes = network.operand(graph, id, slot).unwrap_or_default();
            value.is_some_and(stored) && axes.iter().any(|axis| axis.mentions(self.factor))
        })
    }

    /// Every node that computes with the factor is known, and every layer that makes it is read by attention.
    fn nothing_else(&self, uses: &[Use], width: &HeadWidth) -> Result<(), Obstacle> {
        let mut known: BTreeSet<NodeId> = self.way.clone();
        known.extend(width.mix.map(|mix| mix.output));
        known.extend(uses.iter().map(|at| match *at {
            Use::Scores { node, .. } | Use::Mix { node, .. } | Use::Packed { node } => node,
        }));
        let ports = width.ports();
        for &id in &self.subject.graph.order {
            let node = self.subject.graph.node(id);
            let tells_sizes = matches!(node.op.as_str(), "Shape" | "Size") && node.domain.is_empty();
            if !known.contains(&id) && !tells_sizes && !self.carriers(id).is_empty() {
                return Err(self.obstacle(id, "reads the dimensions of heads too"));
            }
            let is_use = known.contains(&id) && !self.way.contains(&id) && !self.readers.contains(&id);
            if is_use && self.has_stored(id) {
                return Err(self.obstacle(id, "adds a bias of its own to the dimensions of heads"));
            }
            if self.projections.contains(&id) && ports.iter().all(|port| port.layer != id) {
                return Err(self.obstacle(id, "makes dimensions of heads that attention does not read"));
            }
        }
        Ok(())
    }

    fn obstacle(&self, node: NodeId, why: &str) -> Obstacle {
        Obstacle { factor: self.factor, node: self.subject.graph.node(node).name.clone(), why: why.to_owned() }
    }
}
