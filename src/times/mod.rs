//! What the operators of a model take, at every size: measured once for each distinct operator, and fitted.
//!
//! A runtime computes some neighbouring nodes as one: a convolution with the normalization and activation after it, a chain
//! of elementwise operators. Such a [`Unit`](units::Unit) is cut out as a model of its own ([`alone`]) at a few sizes of the
//! groups that it mentions ([`design`]), and timed in alternation with others. Its [`signature`] says what its time depends on:
//! operators, attributes and shapes. Equal ones are timed once, and times are kept in a [`table`]. Where nothing is known about a
//! unit, an [`estimate`] stands in.

pub(crate) mod alone;
mod blocks;
pub(crate) mod design;
pub(crate) mod estimate;
pub(crate) mod ranks;
pub(crate) mod signature;
pub(crate) mod table;
pub(crate) mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::analysis::Subject;
use crate::axes::{Expr, FactorId, Selection};
use crate::error::Result;
use crate::graph::{NodeId, View};
use crate::plan::{CostModel, Group, Surface, Timed};
use crate::progress::Progress;
use crate::rewrite;
use crate::runtime::latency::Fed;

use alone::{alone, sizes};
use design::Design;
use estimate::{estimate, padded};
use table::{HELD_BYTES, Meter, bytes};
use units::{Unit, units};

/// The times of all operators of a model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times {
    /// What each takes at every size.
    pub(crate) timed: Vec<Timed>,
    /// The node that each is named after.
    pub(crate) main: Vec<NodeId>,
    /// How many operators there are.
    pub(crate) units: usize,
    /// How many of them could not be timed, so that their time is an estimate.
    pub(crate) estimated: usize,
    /// The estimated ones' share of the whole time.
    pub(crate) estimated_share: f64,
    /// The share of all multiply–accumulates that nodes in bodies of `If`, `Loop` and `Scan` compute, which are not timed.
    pub(crate) in_bodies: f64,
}

/// A unit at some sizes.
struct Asked {
    case: usize,
    sizes: Vec<u64>,
    signature: String,
    /// Shapes of what a convolution converts into and out of blocks.
    converted: Vec<Vec<usize>>,
}

/// A unit, the axes of it that may change, and what was measured.
struct Case {
    unit: Unit,
    axes: Vec<Expr>,
    measured: Vec<(Vec<u64>, f64)>,
}

impl Case {
    fn sizes(&self, subject: Subject<'_>, selection: &Selection) -> Option<Vec<u64>> {
        sizes(subject, &self.axes, selection)
    }
}

/// Times the operators of a model at sizes of the open `groups`.
///
/// # Errors
/// If a narrowed model cannot be made, if the runtime cannot be started, or if the job was cancelled.
pub(crate) fn times(
    subject: Subject<'_>,
    groups: &[&Group],
    min_keep: usize,
    meter: &Meter,
    progress: &Progress,
) -> Result<Times> {
    let open: BTreeSet<FactorId> = groups.iter().map(|group| group.factor).collect();
    let mut cases: Vec<Case> = units(subject)
        .into_iter()
        .map(|unit| Case { axes: changing(subject, &unit, &open), unit, measured: Vec::new() })
        .collect();
    let neighbours: Vec<BTreeSet<FactorId>> =
        cases.iter().map(|case| case.axes.iter().flat_map(Expr::factors).collect()).collect();
    let design = Design::new(groups, &neighbours, min_keep);
    let overhead = meter.overhead()?;
    let mut seen: Vec<BTreeSet<Vec<u64>>> = vec![BTreeSet::new(); cases.len()];
    for (number, selection) in design.selections().enumerate() {
        progress.enter("timing operators")?;
        // The first selection is the whole.
        let narrowed = (number > 0).then(|| rewrite::prune(subject, &selection)).transpose()?;
        let view = View::of(narrowed.as_ref().unwrap_or(subject.model))?;
        let mut wanted = Wanted::new(meter, overhead);
        for (index, case) in cases.iter().enumerate() {
            let Some(sizes) = case.sizes(subject, &selection) else { continue };
            if !seen[index].insert(sizes.clone()) {
                continue;
            }
            let fed = alone(subject, &case.unit, &view, &selection);
            wanted.ask((index, sizes), fed, || converted(subject, &case.unit, &selection, meter))?;
        }
        wanted.enter(&mut cases)?;
    }
    meter.keep()?;
    Ok(fitted(subject, &cases))
}

/// Units that are to be timed together.
struct Wanted<'t> {
    meter: &'t Meter,
    /// What a run of any model takes.
    overhead: f64,
    /// Their models by signature, but for those whose times are known.
    models: BTreeMap<String, Fed>,
    /// What these take in memory.
    bytes: usize,
    asked: Vec<Asked>,
    /// Times of units that were asked for before: cases, sizes and milliseconds.
    measured: Vec<(usize, Vec<u64>, f64)>,
}

impl<'t> Wanted<'t> {
    fn new(meter: &'t Meter, overhead: f64) -> Self {
        Self { meter, overhead, models: BTreeMap::new(), bytes: 0, asked: Vec::new(), measured: Vec::new() }
    }

    /// Asks for the time of a case at some sizes, where it can run as a model of its own.
    fn ask(
        &mut self,
        (case, sizes): (usize, Vec<u64>),
        alone: Option<Fed>,
        converted: impl FnOnce() -> Vec<Vec<usize>>,
    ) -> Result<()> {
        let Some(fed) = alone else { return Ok(()) };
        let signature = signature::of(&fed);
        if self.meter.known(&signature).is_none() && !self.models.contains_key(&signature) {
            self.bytes += bytes(&fed);
            self.models.insert(signature.clone(), fed);
        }
        self.asked.push(Asked { case, sizes, signature, converted: converted() });
        if self.bytes > HELD_BYTES { self.measure() } else { Ok(()) }
    }

    /// Times all models that were asked for since it was called last.
    fn measure(&mut self) -> Result<()> {
        self.bytes = 0;
        self.meter.measure(std::mem::take(&mut self.models))?;
        let shapes: Vec<Vec<usize>> = self.asked.iter().flat_map(|asked| asked.converted.clone()).collect();
        blocks::measure(&shapes, self.meter)?;
        for Asked { case, sizes, signature, converted } in self.asked.drain(..) {
            let Some(ms) = self.meter.known(&signature) else { continue };
            // Half of a conversion into blocks and back.
            let halves = converted.iter().filter_map(|shape| blocks::conversion(shape, self.meter, self.overhead));
            let besides = self.overhead + halves.sum::<f64>() / 2.0;
            self.measured.push((case, sizes, (ms - besides).max(ms / 10.0)));
        }
        Ok(())
    }

    /// Enters all times at the cases that asked for them.
    fn enter(mut self, cases: &mut [Case]) -> Result<()> {
        self.measure()?;
        self.measured.into_iter().for_each(|(case, sizes, ms)| cases[case].measured.push((sizes, ms)));
        Ok(())
    }
}

/// Fewest channels that are computed in blocks.
const FEWEST_BLOCKED: usize = 8;

/// The shapes of the input and the result of a unit with a convolution over images, as far as they are computed in blocks.
fn converted(subject: Subject<'_>, unit: &Unit, selection: &Selection, meter: &Meter) -> Vec<Vec<usize>> {
    if !meter.place().is_blocked() {
        return Vec::new();
    }
    let graph = subject.graph;
    let Some(&conv) = unit.nodes.iter().find(|&&id| graph.node(id).op == "Conv") else { return Vec::new() };
    let data = graph.node(conv).inputs.first().copied().flatten();
    let ends = data.into_iter().chain(unit.makes.first().copied());
    let shapes = ends.filter_map(|value| alone::shape(subject, value, selection));
    shapes.filter(|shape| shape.len() == 4 && shape[1] >= FEWEST_BLOCKED).collect()
}

/// The axes of what a unit reads and makes that mention an open factor; one for each set of factors.
fn changing(subject: Subject<'_>, unit: &Unit, open: &BTreeSet<FactorId>) -> Vec<Expr> {
    let Subject { graph, network, .. } = subject;
    let operands = unit
        .nodes
        .iter()
        .flat_map(|&id| (0..graph.node(id).inputs.len()).filter_map(move |slot| network.operand(graph, id, slot)));
    let values = unit.makes.iter().filter_map(|&value| network.value(value));
    let mut found: Vec<(BTreeSet<FactorId>, Expr)> = Vec::new();
    for axis in operands.chain(values).flatten() {
        let factors: BTreeSet<FactorId> = axis.factors().into_iter().filter(|factor| open.contains(factor)).collect();
        if !factors.is_empty() && found.iter().all(|(known, _)| *known != factors) {
            found.push((factors, axis.clone()));
        }
    }
    found.into_iter().map(|(_, axis)| axis).collect()
}

/// A function for each unit. Units that were not timed get estimates, brought to the scale of those that were.
fn fitted(subject: Subject<'_>, cases: &[Case]) -> Times {
    let whole = Selection::all();
    let (mut measured, mut expected) = (0.0, 0.0);
    for case in cases.iter().filter(|case| !case.measured.is_empty()) {
        measured += case.measured[0].1;
        expected += estimate(subject, &case.unit, &whole);
    }
    let scale = if expected > 0.0 { measured / expected } else { 1.0 };
    let (mut estimated, mut guessed) = (0, 0.0);
    let timed = cases.iter().map(|case| {
        let sizes = case.sizes(subject, &whole).unwrap_or_else(|| vec![1; case.axes.len()]);
        let surface = if case.measured.is_empty() {
            estimated += 1;
            guessed += scale * estimate(subject, &case.unit, &whole);
            padded(subject, &case.unit, &case.axes).scaled(scale)
        } else {
            Surface::fit(&sizes, &case.measured)
        };
        Timed { axes: case.axes.clone(), surface: Arc::new(surface) }
    });
    let timed: Vec<Timed> = timed.collect();
    let all = measured + guessed;
    let main = cases.iter().map(|case| main(subject, &case.unit)).collect();
    let estimated_share = if all > 0.0 { guessed / all } else { 0.0 };
    Times { timed, main, units: cases.len(), estimated, estimated_share, in_bodies: in_bodies(subject) }
}

/// The share of all multiply–accumulates that nodes in bodies compute.
fn in_bodies(subject: Subject<'_>) -> f64 {
    let cost = CostModel::new(subject);
    let (mut inside, mut all) = (0.0, 0.0);
    for &id in &subject.graph.order {
        let macs = cost.macs_of(id) as f64;
        all += macs;
        if subject.graph.node(id).in_body {
            inside += macs;
        }
    }
    if all > 0.0 { inside / all } else { 0.0 }
}

/// The node that a unit is named after: its contraction, or else its first node.
fn main(subject: Subject<'_>, unit: &Unit) -> NodeId {
    let contracts = |&&id: &&NodeId| subject.network.relations[id.0].contraction.is_some();
    *unit.nodes.iter().find(contracts).unwrap_or(&unit.nodes[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Analysis;
    use crate::onnx::Model;
    use crate::onnx::attributes::set_graph;
    use crate::onnx::proto::GraphProto;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::sample_models::{model, node, tensor_value, weight};

    #[test]
    fn products_in_branches_are_counted_as_not_timed() {
        let branch = |weight: &str, result: &str| GraphProto {
            node: vec![node("MatMul", &["h", weight], &[result], vec![])],
            output: vec![tensor_value(result, DataType::Float, &[])],
            ..GraphProto::default()
        };
        let mut decision = node("If", &["is"], &["y"], vec![]);
        set_graph(&mut decision, "then_branch", branch("w2", "a"));
        set_graph(&mut decision, "else_branch", branch("w3", "b"));
        let proto = model(
            vec![tensor_value("x", DataType::Float, &["1", "6"]), tensor_value("is", DataType::Bool, &[])],
            vec![node("MatMul", &["x", "w1"], &["h"], vec![]), decision],
            vec![weight("w1", &[6, 4], |_| 1.0), weight("w2", &[4, 2], |_| 1.0), weight("w3", &[4, 2], |_| 2.0)],
            vec![tensor_value("y", DataType::Float, &["1", "2"])],
        );
        let model = Model::from_proto(proto);
        let analysis = Analysis::new(&model, &Default::default(), &Default::default()).unwrap();
        // 24 outside, 8 in each branch.
        assert_eq!(in_bodies(analysis.subject()), 0.4);
    }
}
