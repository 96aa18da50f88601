//! One walk over a graph that applies every node's rule, and the solution of the equations that the rules add.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::operator_name;
use super::site::{Refusal, Relation, Site};
use super::sizes::RuleShapes;
use super::table::{Relate, Rule, rule};
use crate::axes::{Expr, Reason, Solution, Solver, Unifier, Var};
use crate::error::{Error, Result};
use crate::facts::{Binding, Facts, sample_sizes};
use crate::graph::bodies::{self, Run};
use crate::graph::{Functions, Graph, NodeId, Source, ValueId};
use crate::onnx::attributes::Attributes;
use crate::onnx::domain::canonical;
use crate::onnx::proto::{GraphProto, ModelProto};
use crate::onnx::tensor::ElementType;
use crate::onnx::traits::RANDOM;
use crate::runtime::inputs::DimSizes;
use crate::runtime::probes::probe_batches;
use crate::runtime::{RunOptions, Runnable};

/// The solved axes of a graph.
#[derive(Debug, Clone)]
pub struct Network {
    /// The independent factors.
    pub solution: Solution,
    /// What the rules say of each node, by [`NodeId`].
    pub relations: Vec<Relation<Expr>>,
    /// Nodes that no rule could handle, with the reason; what they touch is frozen.
    pub refusals: Vec<(NodeId, String)>,
    /// How many of the refusals are contradicting sizes: the sample sizes may not be valid ones.
    pub misfits: usize,
    values: Vec<Option<Vec<Expr>>>,
    private: BTreeMap<(NodeId, usize), Vec<Expr>>,
}

impl Network {
    /// Axes of a value; `None` if its rank is unknown.
    pub fn value(&self, value: ValueId) -> Option<&[Expr]> {
        self.values[value.0].as_deref()
    }

    /// Axes of operand `slot` of `node`. A small constant has axes of its own at every use.
    pub fn operand(&self, graph: &Graph, node: NodeId, slot: usize) -> Option<&[Expr]> {
        match self.private.get(&(node, slot)) {
            Some(axes) => Some(axes),
            None => self.value(graph.node(node).inputs.get(slot).copied().flatten()?),
        }
    }

    /// The uses of small constants, each with axes of its own.
    pub fn private_uses(&self) -> impl Iterator<Item = (NodeId, usize, &[Expr])> {
        self.private.iter().map(|(&(node, slot), axes)| (node, slot, axes.as_slice()))
    }

    /// Facts and solved axes of `graph`, at the sample sizes that contradict each other the least, and among those where
    /// the most axes are seen to be dynamic. `sizes` says what is known of dynamic dimensions; for `thaw` see
    /// [`solve`](Self::solve).
    ///
    /// A file may declare a dimension dynamic although the graph runs at one size only, such as a batch of one that was
    /// written into shapes at export. Such a dimension is fixed, if that leaves fewer contradictions.
    ///
    /// # Errors
    /// If the model holds no graph, or an input or initializer is malformed.
    pub fn analyse(
        model: &ModelProto,
        graph: &Graph,
        sizes: &DimSizes,
        thaw: &BTreeSet<String>,
    ) -> Result<(Facts, Self)> {
        let mut fixed = sizes.fixed.clone();
        let mut best = Self::at_best_sizes(model, graph, (sizes, &fixed), thaw)?;
        let names: Vec<String> = best.facts.sizes[0].keys().filter(|name| !fixed.contains(*name)).cloned().collect();
        for name in names {
            if best.doubts() == 0 {
                break;
            }
            fixed.insert(name.clone());
            let next = Self::at_best_sizes(model, graph, (sizes, &fixed), thaw)?;
            let is_fixed = next.doubts() < best.doubts()
                && runs_at_first_only(model, (sizes, &next.facts.sizes[0]), (&name, &best.facts.sizes[1]));
            if is_fixed {
                best = next;
            } else {
                fixed.remove(&name);
            }
        }
        Ok((best.facts, best.network))
    }

    /// The analysis at the best of the sample sizes at which these dimensions are fixed.
    fn at_best_sizes(
        model: &ModelProto,
        graph: &Graph,
        (sizes, fixed): (&DimSizes, &BTreeSet<String>),
        thaw: &BTreeSet<String>,
    ) -> Result<Analysed> {
        let proto = model.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
        let rules = RuleShapes { model, graph };
        let mut best: Option<Analysed> = None;
        let (candidates, first_will_do) = sample_sizes(proto, sizes, fixed)?;
        for candidate in candidates {
            let facts = Facts::infer(model, graph, &candidate, &rules)?;
            let network = Self::solve(model, graph, &facts, thaw)?;
            let found = Analysed { facts, network };
            let will_do = found.doubts() == 0 && first_will_do;
            if best.as_ref().is_none_or(|best| found.rank() < best.rank()) {
                best = Some(found);
            }
            if will_do {
                break;
            }
        }
        best.ok_or_else(|| Error::input("the graph has no sample sizes"))
    }

    /// Applies the rules to every node of `graph` and solves the equations.
    ///
    /// `thaw` names graph inputs and outputs whose axes may be pruned all the same.
    ///
    /// # Errors
    /// If the model holds no graph.
    pub fn solve(model: &ModelProto, graph: &Graph, facts: &Facts, thaw: &BTreeSet<String>) -> Result<Self> {
        let proto = model.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
        let mut builder = Builder::new(model, proto, graph, facts);
        builder.freeze_ends(thaw);
        for &node in &graph.order {
            builder.visit(node);
        }
        Ok(builder.solve())
    }
}

/// Facts and axes at some sample sizes.
struct Analysed {
    facts: Facts,
    network: Network,
}

impl Analysed {
    /// How often the sizes contradict each other.
    fn doubts(&self) -> usize {
        self.facts.gaps.len() + self.network.misfits
    }

    /// Less is better.
    fn rank(&self) -> (usize, Reverse<usize>) {
        (self.doubts(), Reverse(self.facts.dynamic_axes()))
    }
}

/// Whether tract runs the model at the sizes of its dimensions, and not if the dimension `name` has its size in `other`.
fn runs_at_first_only(
    model: &ModelProto,
    (given, sizes): (&DimSizes, &Binding),
    (name, other): (&str, &Binding),
) -> bool {
    let Some(graph) = &model.graph else { return false };
    let Ok(runnable) = Runnable::new(model, &RunOptions::default()) else { return false };
    let runs = |sizes: Binding| {
        let named = DimSizes { named: sizes, ..given.clone() };
        let inputs = probe_batches(graph, &named, 1, 0).ok().and_then(|batches| batches.into_iter().next());
        inputs.is_some_and(|inputs| runnable.run(&inputs).is_ok())
    };
    let changed = other.get(name).map(|&size| (name.to_owned(), size));
    runs(sizes.clone()) && !runs(sizes.clone().into_iter().chain(changed).collect())
}

/// Values that are computed from constants alone.
pub fn constant_values(graph: &Graph) -> BTreeSet<ValueId> {
    let is_stored = |source| matches!(source, Source::Initializer { overridable: false, .. } | Source::Sparse(_));
    let stored = (0..graph.values.len()).map(ValueId).filter(|&value| is_stored(graph.at(value).source));
    // What enters a body may differ from one iteration to the next.
    graph.made_of(stored, |node| !node.traits().has(RANDOM) && node.domain != bodies::DOMAIN)
}

struct Builder<'a> {
    proto: &'a GraphProto,
    graph: &'a Graph,
    facts: &'a Facts,
    opsets: BTreeMap<String, i64>,
    functions: Functions,
    unifier: Unifier,
    constants: BTreeSet<ValueId>,
    values: Vec<Option<Vec<Var>>>,
    private: BTreeMap<(NodeId, usize), Vec<Var>>,
    relations: Vec<Relation<Var>>,
    refusals: Vec<(NodeId, String)>,
    misfits: usize,
}

impl<'a> Builder<'a> {
    fn new(model: &ModelProto, proto: &'a GraphProto, graph: &'a Graph, facts: &'a Facts) -> Self {
        let mut unifier = Unifier::new();
        let values = (0..graph.values.len())
            .map(|v| {
                let extents = facts.at(ValueId(v)).extents.as_ref()?;
                Some(extents.iter().map(|&extent| unifier.factor(extent)).collect())
            })
            .collect();
        Self {
            proto,
            graph,
            facts,
            opsets: model.opset_import.iter().map(|o| (canonical(o.domain()).to_owned(), o.version())).collect(),
            functions: Functions::of(model),
            unifier,
            constants: constant_values(graph),
            values,
            private: BTreeMap::new(),
            relations: vec![Relation::default(); graph.nodes.len()],
            refusals: Vec::new(),
            misfits: 0,
        }
    }

    /// Graph inputs, outputs and captured values keep their axes, and small constants, whose uses have axes of their
    /// own.
    fn freeze_ends(&mut self, thaw: &BTreeSet<String>) {
        let private: Vec<ValueId> =
            (0..self.values.len()).map(ValueId).filter(|&value| self.is_private(value)).collect();
        for value in private {
            let reason =
                Reason::new(self.graph.at(value).name.as_str(), "each use of a small constant has axes of its own");
            for &axis in self.values[value.0].iter().flatten() {
                self.unifier.freeze(axis, reason.clone());
            }
        }
        for (index, (value, axes)) in self.graph.values.iter().zip(&self.values).enumerate() {
            if let Some(why) = self.indivisible(ValueId(index)) {
                for &axis in axes.iter().flatten() {
                    self.unifier.freeze(axis, Reason::new(value.name.as_str(), why.as_str()));
                }
            }
            let why = match value.source {
                Source::Input(_) => Some("graph input"),
                Source::Initializer { overridable: true, .. } => Some("graph input with a default"),
                Source::Sparse(_) => Some("sparse initializer"),
                _ if value.is_output => Some("graph output"),
                _ => None,
            };
            let thawed = thaw.contains(&value.name);
            if let Some(why) = why.filter(|_| !thawed) {
                for &axis in axes.iter().flatten() {
                    self.unifier.freeze(axis, Reason::new(value.name.as_str(), why));
                }
            }
            for &node in &value.captured_by {
                let reason = Reason::new(self.graph.node(node).name.as_str(), "captured by a subgraph");
                for &axis in axes.iter().flatten() {
                    self.unifier.freeze(axis, reason.clone());
                }
            }
        }
    }

    /// Why a stored tensor cannot be cut and weighed: its elements are smaller than a byte, or of a kind that is not read.
    fn indivisible(&self, value: ValueId) -> Option<String> {
        let is_stored = self.graph.place(value).is_some();
        let element = self.facts.at(value).element.filter(|_| is_stored);
        let element = element.and_then(|code| ElementType::from_code(code).ok()).filter(|kind| !kind.is_read())?;
        Some(format!("stored as {element}, which is neither cut nor weighed"))
    }

    /// Exporters give equal small constants one name: each use of one gets axes of its own.
    fn is_private(&self, value: ValueId) -> bool {
        let root = self.graph.behind_identity(value);
        let constant = self.graph.place(root).is_some() && !self.graph.is_overridable(root);
        constant && !self.graph.at(root).is_output && self.facts.rank(root).is_some_and(|rank| rank <= 1)
    }

    fn operands(&mut self, id: NodeId) -> Vec<Option<Vec<Var>>> {
        let inputs = self.graph.node(id).inputs.clone();
        let mut operands = Vec::with_capacity(inputs.len());
        for (slot, input) in inputs.into_iter().enumerate() {
            let Some(value) = input else {
                operands.push(None);
                continue;
            };
            if self.is_private(value) {
                let root = self.graph.behind_identity(value);
                let extents = self.facts.at(root).extents.clone().unwrap_or_default();
                let axes: Vec<Var> = extents.into_iter().map(|extent| self.unifier.factor(extent)).collect();
                if let Some(why) = self.indivisible(root) {
                    let reason = Reason::new(self.graph.at(root).name.as_str(), why.as_str());
                    axes.iter().for_each(|&axis| self.unifier.freeze(axis, reason.clone()));
                }
                self.private.insert((id, slot), axes.clone());
                operands.push(Some(axes));
            } else {
                operands.push(self.values[value.0].clone());
            }
        }
        operands
    }

    fn visit(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let alias = node.inputs.first().copied().flatten().is_some_and(|value| self.is_private(value));
        if alias && node.op == "Identity" && node.domain.is_empty() {
            return; // another name of a small constant: its readers look behind it
        }
        self.unifier.node.clone_from(&node.name);
        let inputs = self.operands(id);
        let outputs: Vec<Option<Vec<Var>>> =
            node.outputs.iter().map(|output| self.values[output.as_ref()?.0].clone()).collect();
        let touched: Vec<Var> = inputs.iter().chain(&outputs).flatten().flatten().copied().collect();
        let domain = node.domain.as_str();
        let named = vec![Cell::new(false); inputs.len() + outputs.len()];
        let mut site = Site {
            node,
            proto: &self.proto.node[id.0],
            attributes: Attributes::of(&self.proto.node[id.0]),
            graph: self.graph,
            facts: self.facts,
            opset: self.opsets.get(domain).copied().unwrap_or(0),
            constants: &self.constants,
            unifier: &mut self.unifier,
            inputs,
            outputs,
            relation: Relation::default(),
            named,
        };
        let function = self.functions.called_by(site.proto);
        let outcome = match (function, rule(domain, &node.op)) {
            (Some(why), _) => Err(Refusal::new(format!("calls a function of the model that is not inlined: {why}"))),
            _ if node.run == Run::Never => relate(&mut site, &NEVER_RUN),
            (None, _) if domain == bodies::DOMAIN => relate(&mut site, &BODY_END),
            (None, Some(rule)) => relate(&mut site, rule),
            (None, None) => Err(Refusal::new(format!("operator {} has no rule", operator_name(domain, &node.op)))),
        };
        if outcome.is_ok() {
            site.freeze_unnamed();
        }
        self.relations[id.0] = site.relation;
        if let Err(Refusal { why, is_misfit }) = outcome {
            self.misfits += usize::from(is_misfit);
            for axis in touched {
                self.unifier.freeze(axis, Reason::new(node.name.as_str(), why.as_str()));
            }
            self.relations[id.0] = Relation::default();
            self.refusals.push((id, why));
        }
    }

    fn solve(self) -> Network {
        let mut solver = Solver::new(&self.unifier);
        let mut exprs = |axes: &Vec<Var>| axes.iter().map(|&axis| solver.expr(axis)).collect::<Vec<Expr>>();
        let values = self.values.iter().map(|axes| axes.as_ref().map(&mut exprs)).collect();
        let private = self.private.iter().map(|(&at, axes)| (at, exprs(axes))).collect();
        let relations = self.relations.iter().map(|r| r.map(&mut |&axis| solver.expr(axis))).collect();
        Network {
            solution: solver.finish(),
            relations,
            refusals: self.refusals,
            misfits: self.misfits,
            values,
            private,
        }
    }
}

/// What the samples tell nothing about.
const NEVER_RUN: Rule = Rule { domain: "", op: "", relate: Relate::Frozen("stands in a branch that no sample takes") };

/// What enters and leaves the bodies of `If`, `Loop` and `Scan`.
const BODY_END: Rule =
    Rule { domain: bodies::DOMAIN, op: "", relate: Relate::Frozen("enters or leaves a body of If, Loop or Scan") };

fn relate(site: &mut Site<'_>, rule: &Rule) -> Result<(), Refusal> {
    match rule.relate {
        Relate::Elementwise => elementwise(site)?,
        Relate::Row(text) => drop(site.row(text, &[])?),
        Relate::Rule(apply) => apply(site)?,
        Relate::Frozen(why) => {
            let axes: Vec<Var> = site.inputs.iter().chain(&site.outputs).flatten().flatten().copied().collect();
            axes.into_iter().for_each(|axis| site.freeze(axis, why));
            return Ok(());
        }
    }
    site.refuse_unread()
}

/// Every operand broadcasts to every result.
fn elementwise(site: &mut Site<'_>) -> Result<(), Refusal> {
    site.name_all();
    let operands: Vec<Vec<Var>> = site.inputs.iter().flatten().cloned().collect();
    for index in 0..site.outputs.len() {
        let Some(result) = site.outputs[index].clone() else {
            if site.node.outputs[index].is_some() {
                return Err(Refusal::new("the shape of its result is not known"));
            }
            continue;
        };
        operands.iter().try_for_each(|operand| site.broadcast(operand, &result))?;
    }
    let known = site.inputs.iter().zip(&site.node.inputs).all(|(axes, input)| axes.is_some() || input.is_none());
    if known { Ok(()) } else { Err(Refusal::new("the shape of an operand is not known")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::sample_models::{integers, model, node, tensor_value};

    /// Contradicting sizes are no proof: where tract runs the model at another size too, the dimension stays dynamic.
    #[test]
    fn a_dimension_is_fixed_only_if_no_other_size_runs() {
        let reshaped = |shape: [i64; 2]| {
            model(
                vec![tensor_value("x", DataType::Float, &["n", "6"])],
                vec![node("Reshape", &["x", "shape"], &["y"], vec![])],
                vec![integers("shape", &[2], &shape)],
                vec![tensor_value("y", DataType::Float, &["m", "6"])],
            )
        };
        let size = |n: usize| Binding::from([("n".to_owned(), n)]);
        let is_fixed = |shape: [i64; 2], n: usize| {
            runs_at_first_only(&reshaped(shape), (&DimSizes::default(), &size(n)), ("n", &size(3)))
        };
        assert!(is_fixed([1, 6], 1));
        assert!(!is_fixed([-1, 6], 1), "another size runs");
        assert!(!is_fixed([1, 6], 2), "the first size does not run");
    }
}
