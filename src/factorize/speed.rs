//! tract's time for one layer alone, whole and split: parameters are not latency.

use std::collections::BTreeSet;
use std::time::Duration;

use super::candidates::Candidate;
use crate::analysis::Subject;
use crate::error::Result;
use crate::graph::{NodeId, ValueId, captures};
use crate::onnx::proto::{
    GraphProto, ModelProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};
use crate::onnx::tensor::{ElementType, from_f64_as};
use crate::runtime::{NamedTensor, RunOptions, Runnable, tensor_of};
use crate::verify::{Latency, LatencyBudget, latency};

/// How long one layer is measured.
const BUDGET: LatencyBudget = LatencyBudget { warm_up: 2, rounds: 25, time: Duration::from_millis(150) };

/// Median time of all nodes of a layer, in the original and in `rewritten`, at the sample sizes; `None` where the layer
/// cannot run by itself.
///
/// # Errors
/// If tract cannot run the nodes.
pub(crate) fn layer_latency(
    subject: Subject<'_>,
    rewritten: &ModelProto,
    candidate: &Candidate,
) -> Result<Option<Latency>> {
    let mut sum = Latency { before_ms: 0.0, after_ms: 0.0 };
    for &id in &candidate.nodes {
        let Some((name, shape, element)) = input(subject, candidate, id) else { return Ok(None) };
        let Some(result) = subject.graph.node(id).outputs.first().copied().flatten() else { return Ok(None) };
        let result = &subject.graph.at(result).name;
        let count: usize = shape.iter().product();
        let values: Vec<f64> = (0..count).map(|i| f64::from((i % 17) as f32 / 17.0 - 0.5)).collect();
        let values = from_f64_as(&name, &shape, &values, element)?;
        let feed: Vec<NamedTensor> = vec![(name.clone(), tensor_of(&values)?)];
        let models = [subject.model, rewritten].map(|model| alone(model, &name, (element, &shape), result));
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
fn alone(
    model: &ModelProto,
    input: &str,
    (element, shape): (ElementType, &[usize]),
    output: &str,
) -> Option<ModelProto> {
    let graph = model.graph.as_ref()?;
    let (mut nodes, mut values) = (BTreeSet::new(), BTreeSet::new());
    let mut work = vec![output.to_owned()];
    while let Some(name) = work.pop() {
        if name.is_empty() || name == input || !values.insert(name.clone()) {
            continue;
        }
        if let Some(at) = graph.node.iter().position(|node| node.output.contains(&name)) {
            nodes.insert(at);
            work.extend(graph.node[at].input.iter().cloned());
            work.extend(captures(&graph.node[at]));
        } else if !graph.initializer.iter().any(|tensor| tensor.name() == name) {
            return None;
        }
    }
    let part = GraphProto {
        name: graph.name.clone(),
        node: nodes.iter().map(|&at| graph.node[at].clone()).collect(),
        initializer: graph.initializer.iter().filter(|t| values.contains(t.name())).cloned().collect(),
        input: vec![declared(input, element, Some(shape))],
        output: vec![declared(output, element, None)],
        ..GraphProto::default()
    };
    Some(ModelProto {
        ir_version: model.ir_version,
        opset_import: model.opset_import.clone(),
        functions: model.functions.clone(),
        graph: Some(part),
        ..ModelProto::default()
    })
}

fn declared(name: &str, element: ElementType, shape: Option<&[usize]>) -> ValueInfoProto {
    let dim = |&size: &usize| tensor_shape_proto::Dimension {
        value: i64::try_from(size).ok().map(tensor_shape_proto::dimension::Value::DimValue),
        ..tensor_shape_proto::Dimension::default()
    };
    let shape = shape.map(|sizes| TensorShapeProto { dim: sizes.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(element.code()), shape };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..ValueInfoProto::default() }
}

/// Measures every layer; those that tract cannot run by themselves are left out.
pub(crate) fn latencies(
    subject: Subject<'_>,
    rewritten: &ModelProto,
    candidates: &[&Candidate],
) -> Vec<Option<Latency>> {
    // One after another: layers that run at once would slow each other down.
    let measure = |candidate: &&Candidate| layer_latency(subject, rewritten, candidate).unwrap_or_default();
    candidates.iter().map(measure).collect()
}
