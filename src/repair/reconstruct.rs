//! `lstsq` and `bias`: layer after layer, inputs from the repaired model, targets from the original.

use std::collections::BTreeSet;

use ndarray::{Array2, Axis};
use rayon::prelude::*;

use super::Method;
use super::attention::{Bases, Gathered};
use super::changes;
use super::member::Member;
use super::reader::{Found, Reader, Solved};
use super::recurrent;
use super::report::RepairReport;
use super::start::starts;
use super::write;
use crate::analysis::Subject;
use crate::axes::Selection;
use crate::calibrate::stages::{AfterRemoval, after_removal};
use crate::calibrate::team::led;
use crate::calibrate::{Calibration, Folded, Layer, Pair, Reference, Team, Visit, Wanted, readers};
use crate::error::{Error, Result};
use crate::graph::{NodeId, Source, View};
use crate::onnx::proto::ModelProto;
use crate::runtime::Limits;

/// Evidence about a stage: the readers of its members with what they found, and for each member what the attention before it reads
/// and should make.
struct Gathering<'m> {
    readers: Vec<(Reader<'m>, Option<Vec<Found>>)>,
    /// What the fits of the members start from, where it is not their weights.
    starts: Vec<Option<Array2<f64>>>,
    attention: Vec<Option<Gathered>>,
}

/// How layers are fitted.
pub(super) struct How<'h> {
    pub(super) method: Method,
    /// The bases of heads of which dimensions are gone; they are found again on the way.
    pub(super) bases: &'h mut Bases,
    /// The layers that were split, if this is a fit after a split.
    pub(super) split: Option<&'h BTreeSet<NodeId>>,
    /// The memory by which layers are fitted together: the same in all processes.
    pub(super) limits: Limits,
}

pub(super) fn reconstruct(
    subject: Subject<'_>,
    selection: &Selection,
    model: &mut ModelProto,
    data: Calibration<'_>,
    How { method, bases, split, limits }: How<'_>,
) -> Result<Vec<RepairReport>> {
    let all = readers(subject)?;
    let before = View::of(subject.model)?;
    let nodes: Vec<NodeId> = all.iter().flat_map(Layer::nodes).collect();
    let mut models = Pair::in_team(data);
    let mut reports = Vec::new();
    let AfterRemoval { order, changed } = after_removal(subject, selection, &nodes, split.unwrap_or(&BTreeSet::new()));
    let unread = changed.iter().filter(|node| !nodes.contains(node));
    reports.extend(
        unread.filter_map(|&node| Some(left_alone(&subject.graph.node(node).name, why_unread(subject, node)?))),
    );
    for (number, stage) in order.stages.iter().enumerate() {
        // Once layers are split, weights are no longer what a basis could be written into.
        if split.is_none() {
            bases.renew(subject, (selection, stage), model, (data, &models))?;
        }
        // Nodes with one weight are fitted together, when the first of them is reached.
        let is_earlier = |node: NodeId| (0..number).any(|earlier| order.is_in(earlier, node));
        let is_due = |layer: &&Layer| layer.nodes().any(|node| stage.contains(&node)) && !layer.nodes().any(is_earlier);
        let of_stage = all.iter().filter(is_due);
        let (gates, of_stage): (Vec<&Layer>, Vec<&Layer>) = of_stage.partition(|layer| layer.steps.is_some());
        if !gates.is_empty() && split.is_none() {
            let fitted = recurrent::fit(subject, selection, model, (data, &mut models), (&gates, method))?;
            reports.extend(fitted);
        }
        let mut members = Vec::new();
        let view = View::of(model)?;
        for layer in of_stage {
            match Member::new(subject, selection, (&before, &view), layer, (&order, number))? {
                Ok(mut member) => {
                    member.basis = bases.of_results(layer.node, selection);
                    member.is_plain =
                        split.is_none() && member.basis.is_none() && !bases.has_inputs(layer.node, selection);
                    members.push(member);
                }
                Err(why) => reports.push(left_alone(&layer.name, why)),
            }
        }
        if method == Method::Lstsq && split.is_none() {
            // What reads heads in a new basis is fitted as any other layer.
            let is_other = |member: &&mut Member| !bases.has_inputs(member.original.node, selection);
            members.iter_mut().filter(is_other).try_for_each(|member| member.find_attention(&view, &all))?;
        }
        let before = data.team.filter(|team| team.is_lead()).map(|team| (team, model.clone()));
        for members in limits.portions(members, sums) {
            let recorded = data.recorded.filter(|_| method == Method::Lstsq && data.team.is_none_or(Team::is_lead));
            let starts = || starts(subject, selection, &members, recorded);
            let found = collect(subject, model, data, (&members, starts), &mut models)?;
            let Some(Gathering { readers, starts, attention }) = found else { continue };
            let mut solved: Vec<(usize, Vec<Solved>)> = Vec::new();
            for portion in data.limits.solved_at_once(readers, |(reader, _)| reader.solving()) {
                let solve = |(reader, found): (Reader<'_>, _)| reader.solve(found, &starts, method);
                let some: Vec<_> = portion.into_par_iter().map(solve).collect::<Result<_>>()?;
                solved.extend(some.into_iter().flatten());
                data.limits.relieve();
            }
            solved.sort_by_key(|(member, _)| *member);
            for ((member, attention), (_, matrices)) in members.iter().zip(attention).zip(&solved) {
                let report = write_back(model, member, matrices, method)?;
                reports.push(match attention {
                    Some(attention) => refit(model, member, attention, report)?,
                    None => report,
                });
            }
        }
        let key = format!("stage {number}");
        match (before, data.team) {
            (Some((team, before)), _) => changes::send(team, &key, &before, model)?,
            (None, Some(team)) => changes::receive(team, &key, model)?,
            (None, None) => {}
        }
    }
    Ok(reports)
}

/// Bytes of the sums that a member adds to those of others; members that read the same rows share theirs.
fn sums(others: &[Member], member: &Member) -> usize {
    let (k, n) = (member.pruned.inputs(), member.pruned.outputs);
    let is_known = others.iter().any(|other| other.reads_like(member));
    // To fit and to judge by; of the quarter that is being summed up, and of those before.
    4 * if is_known { k * n } else { k * (k + n) } * member.pruned.groups * size_of::<f64>()
}

/// A layer after a removal that keeps its weights, and why.
fn left_alone(name: &str, why: impl Into<String>) -> RepairReport {
    RepairReport { name: name.to_owned(), reason: Some(why.into()), ..RepairReport::default() }
}

/// Why a node with weights is not a layer that can be repaired; `None` if it has no weights.
fn why_unread(subject: Subject<'_>, id: NodeId) -> Option<String> {
    let node = subject.graph.node(id);
    let contraction = subject.network.relations[id.0].contraction.as_ref()?;
    let Some(linear) = contraction.linear else {
        let stored = node.inputs.iter().flatten().any(|&value| subject.constant(value).is_some());
        return stored.then(|| format!("weights of {} are not repaired", node.op));
    };
    let weight = node.inputs.get(linear.weight).copied().flatten()?;
    Some(match subject.graph.at(weight).source {
        Source::Node(maker, _) if subject.constant(weight).is_none() => {
            format!("its weight is computed by {}: only stored weights are repaired", subject.graph.node(maker).op)
        }
        _ => "its weight or its window is of a kind that is not repaired".to_owned(),
    })
}

/// Runs both models over all data, as far as the members need, and finds beside it what their fits start from. `None` if another
/// process solves.
fn collect<'m>(
    subject: Subject<'_>,
    model: &ModelProto,
    data: Calibration<'_>,
    (members, starts): (&'m [Member], impl FnOnce() -> Result<Vec<Option<Array2<f64>>>> + Send),
    models: &mut Pair<'_>,
) -> Result<Option<Gathering<'m>>> {
    let original = match data.recorded {
        Some(recorded) if Reader::are_recorded(members, data) => Reference::Recorded(recorded),
        _ => Reference::Run(Wanted::new(subject.model, members.iter().flat_map(Member::references), [])),
    };
    let final_values = members.iter().flat_map(Member::final_values);
    let repaired = Wanted::new(model, final_values, members.iter().flat_map(Member::values));
    let mut readers = Reader::all(members, data);
    let mut attention: Vec<Option<Gathered>> = members.iter().map(|m| m.block.clone().map(Gathered::new)).collect();
    let visit = |visit: Visit<'_>| {
        readers.par_iter_mut().try_for_each(|reader| reader.add(visit))?;
        for (member, gathered) in members.iter().zip(&mut attention) {
            if let Some(gathered) = gathered {
                gathered.add(&member.pruned, visit.changed, visit.at, |rows| member.target_rows(visit, rows))?;
            }
        }
        Ok(())
    };
    // Beside the pass only: a worker must not wait for other processes.
    let (passed, starts) = rayon::join(|| models.stage(&original, &repaired, visit), starts);
    passed?;
    let starts = starts?;
    let mut found = Vec::new();
    for mut reader in readers {
        let sums = led(data.team, &format!("rows of {}", reader.key()), reader.found())?;
        found.push((reader, sums));
    }
    for (member, gathered) in members.iter().zip(&mut attention) {
        if let (Some(gathered), Some(_)) = (gathered.as_mut(), data.team) {
            gathered.share(|own| {
                let mut sums = Folded::new(data.is_apart());
                sums.push(data.quarters().start, own);
                led(data.team, &format!("attention before {}", member.original.result), sums)
            })?;
        }
    }
    let is_led = data.team.is_none_or(Team::is_lead);
    Ok(is_led.then_some(Gathering { readers: found, starts, attention }))
}

fn write_back(model: &mut ModelProto, member: &Member, solved: &[Solved], method: Method) -> Result<RepairReport> {
    let untouched: Option<Vec<f64>> = solved.iter().map(|s| s.untouched).collect();
    if let Some(change) = untouched.and_then(|changes| changes.into_iter().reduce(f64::max)) {
        let why =
            format!("the removal changed its result by {:.1} % only, so its weights stay as they are", 100.0 * change);
        return Ok(left_alone(&member.original.name, why));
    }
    let sum = |f: fn(&Solved) -> f64| solved.iter().fold(0.0, |sum, solved| sum + f(solved));
    let (before, after, spread) = (sum(|s| s.before), sum(|s| s.after), sum(|s| s.spread).max(f64::MIN_POSITIVE));
    let rows = solved.iter().map(|s| s.rows).max().unwrap_or(0);
    let is_judged = solved.iter().any(|s| s.is_judged);
    let reason = if !is_judged {
        Some("too few samples to repair and to check".to_owned())
    } else if after < before {
        None
    } else {
        Some("repair would not help on held-out data: the weights are kept".to_owned())
    };
    let inputs = member.pruned.inputs();
    let is_short = reason.is_none() && rows < inputs;
    if after < before {
        let weights: Vec<Array2<f64>> = solved.iter().map(|s| s.weights.clone()).collect();
        let biases: Vec<_> = solved.iter().map(|s| s.bias.view()).collect();
        let bias = ndarray::concatenate(Axis(0), &biases).map_err(|e| Error::input(e.to_string()))?;
        let weights = (method == Method::Lstsq).then_some(&weights[..]);
        write::replace(model, &member.pruned, weights, &bias)?;
        for (_, other) in member.uses.iter().skip(1) {
            write::replace(model, other, None, &bias)?;
        }
    }
    Ok(RepairReport {
        name: member.original.name.clone(),
        before: Some(before / spread),
        after: Some(after / spread),
        reason,
        warning: is_short.then(|| format!("{rows} rows of data for {inputs} inputs: more samples would help")),
        with: Vec::new(),
        rows: Some(rows),
        dimension: solved.iter().filter_map(|s| Some(s.ridge?.1)).reduce(f64::max),
        ridge: solved.iter().filter_map(|s| Some(s.ridge?.0)).reduce(f64::max),
    })
}

/// Fits the attention in front of a member too; the report says which layers that changed.
fn refit(model: &mut ModelProto, member: &Member, attention: Gathered, report: RepairReport) -> Result<RepairReport> {
    Ok(match attention.refit(model, &member.pruned)? {
        Some(refit) => RepairReport { after: Some(refit.after), reason: None, with: refit.layers, ..report },
        None => report,
    })
}
