//! tract's time for one layer alone, whole and split: parameters are not latency.

use std::time::Duration;

use super::candidates::Candidate;
use crate::analysis::Subject;
use crate::error::Result;
use crate::graph::{NodeId, Source, ValueId, View};
use crate::onnx::declared;
use crate::onnx::proto::ModelProto;
use crate::onnx::tensor::{ElementType, from_f64_as};
use crate::runtime::latency::{Latency, LatencyBudget, latency};
use crate::runtime::{NamedTensor, RunOptions, Runnable, tensor_of};

/// How long one layer is measured.
const BUDGET: LatencyBudget = LatencyBudget { warm_up: 2, rounds: 25, time: Duration::from_millis(150) };

/// Median time of all nodes of a layer, in the original and in the rewritten model, at the sample sizes; `None` where
/// the layer cannot run alone.
fn layer_latency(subject: Subject<'_>, views: [&View<'_>; 2], candidate: &Candidate) -> Result<Option<Latency>> {
    let mut sum = Latency { before_ms: 0.0, after_ms: 0.0 };
    for &id in &candidate.nodes {
        let Some((name, shape, element)) = input(subject, candidate, id) else { return Ok(None) };
        let Some(result) = subject.graph.node(id).outputs.first().copied().flatten() else { return Ok(None) };
        let result = &subject.graph.at(result).name;
        let count: usize = shape.iter().product();
        let values: Vec<f64> = (0..count).map(|i| f64::from((i % 17) as f32 / 17.0 - 0.5)).collect();
        let values = from_f64_as(&name, &shape, &values, element)?;
        let feed: Vec<NamedTensor> = vec![(name.clone(), tensor_of(&values)?)];
        let models = views.map(|view| alone(view, &name, (element, &shape), result));
        let [Some(before), Some(after)] = models else { return Ok(None) };
        let options = RunOptions::default();
        let (before, after) = (Runnable::new(&before, &options)?, Runnable::new(&after, &options)?);
        let measured = latency(&before, &after, &feed, BUDGET)?;
        sum = Latency { before_ms: sum.before_ms + measured.before_ms, after_ms: sum.after_ms + measured.after_ms };
    }
    Ok(Some(sum))
}

/// The data that a node reads, its shape at the sample sizes and its type.
fn input(subject: Subject<'_>, candidate: &Candidate, id: NodeId) -> Option<(String, Vec<usize>, ElementType)> {
    let data: ValueId = subject.graph.node(id).inputs.get(candidate.linear.data).copied().flatten()?;
    let extents = subject.facts.at(data).extents.as_ref()?;
    let shape = extents.iter().map(|extent| usize::try_from(extent.under(0)).ok()).collect::<Option<Vec<_>>>()?;
    let element = ElementType::from_code(subject.facts.at(data).element?).ok()?;
    Some((subject.graph.at(data).name.clone(), shape, element))
}

/// The part of a model between the value `input` and the value `output`; `None` if that needs other inputs.
fn alone(view: &View<'_>, input: &str, (element, shape): (ElementType, &[usize]), output: &str) -> Option<ModelProto> {
    let graph = &view.graph;
    let (start, end) = (graph.value(input)?, graph.value(output)?);
    let part = graph.ancestry([end], |value| value == start);
    let is_given = |&value: &ValueId| {
        value == start || matches!(graph.at(value).source, Source::Initializer { .. } | Source::Node(..))
    };
    let is_alone = part.values.iter().all(is_given);
    is_alone.then(|| {
        view.extract(
            &part,
            vec![declared(input, element.code(), Some(shape))],
            vec![declared(output, element.code(), None)],
        )
    })
}

/// Measures every layer; those that tract cannot run by themselves are left out.
pub(crate) fn latencies(
    subject: Subject<'_>,
    rewritten: &ModelProto,
    candidates: &[&Candidate],
) -> Vec<Option<Latency>> {
    let (Ok(before), Ok(after)) = (View::of(subject.model), View::of(rewritten)) else {
        return vec![None; candidates.len()];
    };
    // One after another: layers that run at once would slow each other down.
    let measure = |candidate: &&Candidate| layer_latency(subject, [&before, &after], candidate).unwrap_or_default();
    candidates.iter().map(measure).collect()
}
