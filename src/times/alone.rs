//! A unit as a model of its own, with inputs to run it on.

use super::units::Unit;
use crate::analysis::Subject;
use crate::axes::{Expr, Selection};
use crate::graph::{Source, ValueId, View};
use crate::onnx::proto::{GraphProto, ModelProto, OperatorSetIdProto, ValueInfoProto};
use crate::onnx::tensor::{ElementType, from_f64_as};
use crate::onnx::{declared, declared_partly};
use crate::runtime::latency::Fed;
use crate::runtime::{NamedTensor, element_count, tensor_of};

/// Largest input that is made, in elements.
const LARGEST: usize = 1 << 26;

/// Sizes of axes at the sample sizes, with `selection` kept; `None` on overflow.
pub(crate) fn sizes(subject: Subject<'_>, axes: &[Expr], selection: &Selection) -> Option<Vec<u64>> {
    let size = |axis| Some(subject.network.solution.extent(axis, selection)?.under(0));
    axes.iter().map(size).collect()
}

/// The unit in the model that `view` shows, of which `selection` is left, as a model of its own; `None` if it cannot run by
/// itself.
pub(crate) fn alone(subject: Subject<'_>, unit: &Unit, view: &View<'_>, selection: &Selection) -> Option<Fed> {
    let graph = &view.graph;
    let name = |value: &ValueId| subject.graph.at(*value).name.as_str();
    let ends = |values: &[ValueId]| values.iter().map(|value| graph.value(name(value))).collect::<Option<Vec<_>>>();
    let (starts, ends) = (ends(&unit.reads)?, ends(&unit.makes)?);
    let part = graph.ancestry(ends, |value| starts.contains(&value));
    let is_given = |&value: &ValueId| {
        starts.contains(&value)
            || matches!(graph.at(value).source, Source::Initializer { overridable: false, .. } | Source::Node(..))
    };
    if !part.values.iter().all(is_given) {
        return None;
    }
    let mut inputs = Vec::new();
    let mut declared_inputs = Vec::new();
    for &value in &unit.reads {
        let shape = shape(subject, value, selection)?;
        let element = ElementType::from_code(subject.facts.at(value).element?).ok()?;
        // What the model leaves open stays open: a runtime fuses more where it knows sizes.
        let is_fixed = |axis: &Expr| {
            let extent = subject.network.solution.extent(axis, selection);
            extent.is_some_and(|extent| extent.as_fixed().is_some())
        };
        let axes = subject.network.value(value)?.iter().zip(&shape);
        let sizes: Vec<Option<usize>> = axes.map(|(axis, &size)| is_fixed(axis).then_some(size)).collect();
        declared_inputs.push(declared_partly(name(&value), element.code(), Some(&sizes)));
        inputs.push(fed(subject, value, &shape, element)?);
    }
    let output = |value: &ValueId| {
        let element = ElementType::from_code(subject.facts.at(*value).element?).ok()?;
        Some(declared(name(value), element.code(), None))
    };
    let outputs: Vec<ValueInfoProto> = unit.makes.iter().map(output).collect::<Option<_>>()?;
    Some(Fed { model: view.extract(&part, declared_inputs, outputs), inputs })
}

/// The shape of a value at the sample sizes, with `selection` kept; `None` if it is not known.
pub(crate) fn shape(subject: Subject<'_>, value: ValueId, selection: &Selection) -> Option<Vec<usize>> {
    let sizes = sizes(subject, subject.network.value(value)?, selection)?;
    sizes.into_iter().map(|size| usize::try_from(size).ok()).collect()
}

/// A tensor for an input: positive numbers, so that no operator makes anything infinite of them; what is known of integers, which
/// may be sizes; else zeros, which are indices into anything; flags that are set.
fn fed(subject: Subject<'_>, value: ValueId, shape: &[usize], element: ElementType) -> Option<NamedTensor> {
    let count = element_count(shape).filter(|&count| count <= LARGEST)?;
    let known = subject.facts.at(value).ints_under(0).filter(|ints| ints.len() == count);
    let number = |index: usize| match &known {
        Some(ints) => ints[index] as f64,
        None if element.is_float() => 0.1 + (index % 17) as f64 / 17.0,
        None => f64::from(u8::from(element == ElementType::Bool)),
    };
    let values: Vec<f64> = (0..count).map(number).collect();
    let name = &subject.graph.at(value).name;
    let tensor = from_f64_as(name, shape, &values, element).ok()?;
    Some((name.clone(), tensor_of(&tensor).ok()?))
}

/// A model of a graph that was written here, in operators of version 13.
pub(super) fn small(graph: GraphProto) -> ModelProto {
    let standard = OperatorSetIdProto { domain: Some(String::new()), version: Some(13) };
    ModelProto { ir_version: Some(8), opset_import: vec![standard], graph: Some(graph), ..ModelProto::default() }
}
