//! Puts new weights and biases into a model, each into a tensor of its own where the old one is shared.

use std::collections::BTreeSet;

use ndarray::{Array1, Array2};

use crate::calibrate::Layer;
use crate::error::{Error, Result};
use crate::onnx::attributes::Attributes;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use crate::onnx::tensor::{ElementType, TensorView, from_f64_as};

/// Where a layer's bias is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum BiasPlace {
    /// Operand `slot` of the layer's node, multiplied with `scale`.
    Operand { slot: usize, scale: f64 },
    /// Operand `slot` of the addition that alone reads the layer's result.
    Addition { node: usize, slot: usize },
    /// Nowhere yet.
    Missing,
    /// Computed, or not a vector: the layer cannot have another one.
    Computed,
}

/// The layer's bias in a model, as far as the layer's own result holds it (an addition behind it does not count).
pub(super) fn bias(model: &ModelProto, layer: &Layer, width: usize) -> Result<(BiasPlace, Array1<f64>)> {
    let graph = model.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
    let none = Array1::zeros(width);
    let Some(node) = graph.node.iter().find(|node| node.output.first() == Some(&layer.result)) else {
        return Ok((BiasPlace::Computed, none));
    };
    let Some(slot) = layer.linear.bias else {
        return Ok((addition(model, graph, layer, width), none));
    };
    let scale = if node.op_type() == "Gemm" { f64::from(Attributes::of(node).float_or("beta", 1.0)?) } else { 1.0 };
    match node.input.get(slot).filter(|name| !name.is_empty()) {
        None => Ok((BiasPlace::Operand { slot, scale: 1.0 }, none)),
        Some(name) => match vector(graph, name, width)?.filter(|_| !may_be_replaced(model, name)) {
            Some(values) => Ok((BiasPlace::Operand { slot, scale }, values * scale)),
            None => Ok((BiasPlace::Computed, none)),
        },
    }
}

/// The stored vector of `width` values called `name`, through `Identity`.
pub(super) fn vector(graph: &GraphProto, name: &str, width: usize) -> Result<Option<Array1<f64>>> {
    let Some(tensor) = stored_behind_identity(graph, name) else { return Ok(None) };
    if !ElementType::from_code(tensor.data_type())?.is_float() {
        return Ok(None);
    }
    let view = TensorView::new(tensor)?;
    let is_vector = view.len() == width && view.dims().last() == Some(&width);
    Ok(if is_vector { Some(Array1::from_vec(view.to_f64()?)) } else { None })
}

pub(super) fn stored_behind_identity<'g>(graph: &'g GraphProto, name: &str) -> Option<&'g TensorProto> {
    let mut name = name;
    loop {
        if let Some(tensor) = crate::calibrate::stored(graph, name) {
            return Some(tensor);
        }
        let node = graph.node.iter().find(|node| node.output.iter().any(|output| output == name))?;
        if node.op_type() != "Identity" {
            return None;
        }
        name = node.input.first()?;
    }
}

/// Whether a value is a stored tensor that whoever runs the model may replace: since version 4 of the file format, one that is a
/// graph input too.
pub(super) fn may_be_replaced(model: &ModelProto, name: &str) -> bool {
    let Some(graph) = &model.graph else { return false };
    let name = stored_behind_identity(graph, name).map_or(name, |tensor| tensor.name());
    model.ir_version() >= 4 && graph.input.iter().any(|input| input.name() == name)
}

fn addition(model: &ModelProto, graph: &GraphProto, layer: &Layer, width: usize) -> BiasPlace {
    let readers = || graph.node.iter().enumerate().filter(|(_, node)| node.input.contains(&layer.result));
    let is_output = graph.output.iter().any(|output| output.name() == layer.result);
    let mut all = readers();
    let (Some((index, node)), None, false) = (all.next(), all.next(), is_output) else { return BiasPlace::Missing };
    if node.op_type() != "Add" || layer.linear.result_axis + 1 < layer.linear.data_axis {
        return BiasPlace::Missing;
    }
    let slot = usize::from(node.input.first() == Some(&layer.result));
    let rank = layer.linear.result_axis + 1 + layer.rank_behind_result();
    let is_vector = node.input.get(slot).is_some_and(|name| {
        let dims = stored_behind_identity(graph, name).map_or(0, |tensor| tensor.dims.len());
        // One of more axes would give its axes to the sum.
        let fits = dims <= rank && !may_be_replaced(model, name);
        fits && matches!(vector(graph, name, width), Ok(Some(_)))
    });
    if is_vector && layer.linear.data == 0 { BiasPlace::Addition { node: index, slot } } else { BiasPlace::Missing }
}

/// Replaces the layer's weights, and its bias by `bias`.
///
/// # Errors
/// If a value does not fit the element type.
pub(super) fn replace(
    model: &mut ModelProto,
    layer: &Layer,
    weights: Option<&[Array2<f64>]>,
    (place, bias): (&BiasPlace, &Array1<f64>),
) -> Result<()> {
    let graph = model.graph.as_mut().ok_or_else(|| Error::input("the file holds no graph"))?;
    let old = crate::calibrate::stored(graph, &layer.weight).cloned();
    let old = old.ok_or_else(|| Error::input(format!("weight '{}' is not stored", layer.weight)))?;
    let element = TensorView::new(&old)?.element_type();
    if let Some(weights) = weights {
        let mut tensor = layer.tensor(weights, &old)?;
        tensor.name = Some(layer.weight.clone());
        if let Some(place) = crate::calibrate::stored_mut(graph, &layer.weight) {
            *place = tensor;
        }
    }
    let vector = |name: &str, values: &Array1<f64>| from_f64_as(name, &[values.len()], &values.to_vec(), element);
    match place {
        BiasPlace::Computed => {}
        BiasPlace::Operand { slot, scale } => {
            let name = fresh(graph, &format!("{}_bias", layer.weight));
            graph.initializer.push(vector(&name, &(bias / *scale))?);
            let node = graph.node.iter_mut().find(|node| node.output.first() == Some(&layer.result));
            let node = node.ok_or_else(|| Error::input("a layer is gone"))?;
            redirect(node, *slot, name);
        }
        BiasPlace::Addition { node, slot } => {
            let added = graph.node.get(*node).and_then(|n| n.input.get(*slot)).cloned().unwrap_or_default();
            let old = vector_of(graph, &added, bias.len())?;
            let name = fresh(graph, &format!("{}_bias", layer.weight));
            graph.initializer.push(vector(&name, &(old + bias))?);
            if let Some(node) = graph.node.get_mut(*node) {
                redirect(node, *slot, name);
            }
        }
        BiasPlace::Missing => insert_addition(graph, layer, bias, element)?,
    }
    Ok(())
}

fn vector_of(graph: &GraphProto, name: &str, width: usize) -> Result<Array1<f64>> {
    Ok(self::vector(graph, name, width)?.unwrap_or_else(|| Array1::zeros(width)))
}

/// An addition behind the layer; who read the result reads the sum.
fn insert_addition(graph: &mut GraphProto, layer: &Layer, bias: &Array1<f64>, element: ElementType) -> Result<()> {
    let name = fresh(graph, &format!("{}_bias", layer.weight));
    let behind = layer.rank_behind_result();
    let mut dims = vec![bias.len()];
    dims.resize(1 + behind, 1);
    graph.initializer.push(from_f64_as(&name, &dims, &bias.to_vec(), element)?);
    let Some(index) = graph.node.iter().position(|node| node.output.first() == Some(&layer.result)) else {
        return Err(Error::input("a layer is gone"));
    };
    let is_output = graph.output.iter().any(|output| output.name() == layer.result);
    let other = fresh(graph, &format!("{}_shifted", layer.result));
    let (from, to) =
        if is_output { (other.clone(), layer.result.clone()) } else { (layer.result.clone(), other.clone()) };
    if is_output {
        graph.node[index].output[0].clone_from(&other);
    } else {
        let readers = graph.node.iter_mut().flat_map(|node| &mut node.input);
        readers.filter(|input| **input == layer.result).for_each(|input| input.clone_from(&other));
    }
    let node = NodeProto {
        name: Some(other),
        op_type: Some("Add".to_owned()),
        input: vec![from, name],
        output: vec![to],
        ..NodeProto::default()
    };
    graph.node.insert(index + 1, node);
    Ok(())
}

/// Lets operand `slot` of the node that makes `result` be `values`, of the type that the operand had.
pub(super) fn put_vector(model: &mut ModelProto, result: &str, slot: usize, values: &Array1<f64>) -> Result<()> {
    let graph = model.graph.as_mut().ok_or_else(|| Error::input("the file holds no graph"))?;
    let node = graph.node.iter().position(|node| node.output.first().is_some_and(|output| output == result));
    let Some(node) = node else { return Ok(()) };
    let old = graph.node[node].input.get(slot).cloned().unwrap_or_default();
    let element = stored_behind_identity(graph, &old)
        .map_or(Ok(ElementType::Float), |t| ElementType::from_code(t.data_type()))?;
    let name = fresh(graph, &format!("{old}_estimated"));
    graph.initializer.push(from_f64_as(&name, &[values.len()], &values.to_vec(), element)?);
    redirect(&mut graph.node[node], slot, name);
    Ok(())
}

fn redirect(node: &mut NodeProto, slot: usize, name: String) {
    while node.input.len() <= slot {
        node.input.push(String::new());
    }
    node.input[slot] = name;
}

/// A name that no value has, derived from `stem`.
fn fresh(graph: &GraphProto, stem: &str) -> String {
    let nodes = graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str));
    let values: BTreeSet<&str> =
        nodes.chain(graph.initializer.iter().map(|t| t.name())).chain(graph.input.iter().map(|i| i.name())).collect();
    let mut name = stem.to_owned();
    let mut number = 1;
    while values.contains(name.as_str()) {
        number += 1;
        name = format!("{stem}_{number}");
    }
    name
}
