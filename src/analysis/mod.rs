//! Everything that is known about a model before anything is decided.

pub mod attention;
mod decide;
mod subject;

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::facts::{Facts, sample_sizes};
use crate::graph::{Graph, bodies, inlined, shadowing_function};
use crate::normalize::{folded, may_unroll, unrolled, unstacked, without_copies};
use crate::onnx::Model;
use crate::ops::{Network, RuleShapes};
use crate::runtime::inputs::{DimSizes, declared_inputs};
use crate::runtime::on_deep_stack;

use decide::Marked;
pub use subject::Subject;

/// A model's graph, facts and solved axes.
#[derive(Debug, Clone)]
pub struct Analysis<'m> {
    /// The model; calls of its own functions are replaced by what they stand for, and small constants that are made by
    /// writing to positions are stored; sequences of tensors and branches that constants
    /// decide are plain nodes. The nodes of [`bodies`] stand among those of the main graph.
    pub model: Cow<'m, Model>,
    /// View of its main graph.
    pub graph: Graph,
    /// Shapes and small constants.
    pub facts: Facts,
    /// Solved axes.
    pub network: Network,
}

/// The model with its own functions inlined, its sequences and decided branches
/// taken apart, and the bodies of its operators hoisted; the dynamic dimensions whose size decides which branches the samples
/// take.
fn flat<'m>(model: &'m Model, dims: &DimSizes) -> Result<(Cow<'m, Model>, BTreeSet<String>)> {
    let model = match inlined(&model.proto) {
        None => Cow::Borrowed(model),
        Some(inlined) => {
            let mut restated = model.restated(inlined.model);
            restated.warnings.push(format!("{} calls of functions of the model were inlined", inlined.calls));
            Cow::Owned(restated)
        }
    };
    if let Some(why) = shadowing_function(&model.proto) {
        return Err(Error::input(why));
    }
    let model = if may_unroll(&model.proto) { taken_apart(model, dims)? } else { model };
    let model = match bodies::hoisted(&model.proto) {
        None => model,
        Some(hoisted) => Cow::Owned(model.restated(hoisted)),
    };
    let (model, fixed) = match decide::marked(&model.proto, dims)? {
        None => (model, BTreeSet::new()),
        Some(Marked { model: proto, count, deciding }) => {
            let mut model = model.restated(proto);
            let what = "the other branches are kept as they are";
            model.warnings.push(format!("all samples take the same branch of {count} nodes If: {what}"));
            (Cow::Owned(model), deciding)
        }
    };
    let proto = model.proto.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
    let mut graph = Graph::new(proto, model.proto.ir_version())?;
    let model = match without_copies(&model.proto, &graph) {
        None => model,
        Some(proto) => {
            let model = model.restated(proto);
            let proto = model.proto.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
            graph = Graph::new(proto, model.proto.ir_version())?;
            Cow::Owned(model)
        }
    };
    let Some((proto, count)) = unstacked(&model.proto, &graph) else {
        return Ok((model, fixed));
    };
    let mut model = model.restated(proto);
    model.warnings.push(format!("{count} states of stacked recurrent layers were taken apart"));
    Ok((Cow::Owned(model), fixed))
}

/// The model without sequences of tensors and branches, as far as constants decide them.
fn taken_apart<'m>(mut model: Cow<'m, Model>, dims: &DimSizes) -> Result<Cow<'m, Model>> {
    let mut is_new = false;
    loop {
        let proto = model.proto.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
        let graph = Graph::new(proto, model.proto.ir_version())?;
        let (candidates, _) = sample_sizes(proto, dims, &BTreeSet::new())?;
        let sizes = candidates.first().ok_or_else(|| Error::input("the graph has no sample sizes"))?;
        let rules = RuleShapes { model: &model.proto, graph: &graph };
        let facts = Facts::infer(&model.proto, &graph, sizes, &rules)?;
        let Some(next) = unrolled(&model.proto, &graph, &facts) else { break };
        model = Cow::Owned(model.restated(next));
        is_new = true;
    }
    if is_new {
        let note = "branches that are always taken, sequences of tensors and regions that are written to were replaced by plain nodes, loops that fill sequences unrolled";
        model.to_mut().warnings.push(note.to_owned());
    }
    Ok(model)
}

impl<'m> Analysis<'m> {
    /// Analyses a model. `dims` says what is known of dynamic dimensions; `thaw` names graph inputs and outputs whose axes may
    /// be pruned.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if the graph is malformed, [`Usage`](crate::ErrorKind::Usage) if a dimension name is
    /// unknown.
    pub fn new(model: &'m Model, dims: &DimSizes, thaw: &BTreeSet<String>) -> Result<Self> {
        on_deep_stack(|| {
            let (model, fixed) = flat(model, dims)?;
            let dims = &DimSizes { fixed, ..dims.clone() };
            let proto = model.proto.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
            dims.check_names(&declared_inputs(proto)?)?;
            let graph = Graph::new(proto, model.proto.ir_version())?;
            let (facts, network) = Network::analyse(&model.proto, &graph, dims, thaw)?;
            let mut model = model;
            for (name, size) in facts.fixed() {
                let why = if dims.fixed.contains(name) {
                    "it decides which branch is taken, and all samples have this size"
                } else {
                    "the model runs at no other size that was tried"
                };
                model.to_mut().warnings.push(format!("dimension {name} counts as {size}: {why}"));
            }
            let Some((proto, count)) = folded(&model.proto, &graph, &facts, &network) else {
                return Ok(Self { model, graph, facts, network });
            };
            let mut model = model.restated(proto);
            let what = "written to positions, or weights that it standardizes";
            model.warnings.push(format!("{count} constants that the graph computes were stored: {what}"));
            let proto = model.proto.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
            let graph = Graph::new(proto, model.proto.ir_version())?;
            let (facts, network) = Network::analyse(&model.proto, &graph, dims, thaw)?;
            Ok(Self { model: Cow::Owned(model), graph, facts, network })
        })
    }

    /// The same, with a model of its own.
    pub fn into_owned(self) -> Analysis<'static> {
        let Self { model, graph, facts, network } = self;
        Analysis { model: Cow::Owned(model.into_owned()), graph, facts, network }
    }

    /// The model as the other modules see it.
    pub fn subject(&self) -> Subject<'_> {
        Subject { model: &self.model.proto, graph: &self.graph, facts: &self.facts, network: &self.network }
    }

    /// Sizes for probes: those given, and for the other dynamic axes those that the analysis found to work. That of samples is
    /// left open, unless only one size works.
    pub fn probe_sizes(&self, given: &DimSizes) -> DimSizes {
        let mut sizes = given.clone();
        // Inputs that are malformed have been refused by the analysis.
        let inputs = self.model.proto.graph.as_ref().and_then(|graph| declared_inputs(graph).ok()).unwrap_or_default();
        let batches: BTreeSet<String> = inputs.iter().filter_map(|input| input.axis_name(0)).collect();
        for (name, &size) in &self.facts.sizes[0] {
            let is_fixed = self.facts.fixed().any(|(fixed, _)| fixed == name);
            if !batches.contains(name) || given.typical.contains_key(name) || is_fixed {
                sizes.named.entry(name.clone()).or_insert(size);
            }
        }
        sizes
    }
}
