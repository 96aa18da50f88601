//! Weights and biases of a layer of attention, read and written.

use ndarray::{Array1, Array2};

use super::super::write::{self, BiasPlace};
use crate::analysis::Subject;
use crate::calibrate::{Layer, stored, stored_mut};
use crate::error::{Error, Result};
use crate::onnx::proto::{GraphProto, ModelProto};
use crate::onnx::tensor::{TensorView, from_f64_as};

/// What an addition after a layer holds; zeros, if the bias is elsewhere.
pub(super) fn addition(graph: &GraphProto, place: &BiasPlace, width: usize) -> Result<Array1<f64>> {
    let BiasPlace::Addition { node, slot } = *place else { return Ok(Array1::zeros(width)) };
    let name = graph.node.get(node).and_then(|node| node.input.get(slot));
    let vector = name.map(|name| write::vector(graph, name, width)).transpose()?.flatten();
    Ok(vector.unwrap_or_else(|| Array1::zeros(width)))
}

/// Replaces the weights of a layer of a model.
pub(super) fn put_weights(model: &mut ModelProto, layer: &Layer, weights: &Array2<f64>) -> Result<()> {
    let graph = model.graph.as_mut().ok_or_else(|| Error::input("the file holds no graph"))?;
    let place = stored_mut(graph, &layer.weight);
    let place = place.ok_or_else(|| Error::input(format!("weight '{}' is not stored", layer.weight)))?;
    *place = layer.tensor(std::slice::from_ref(weights), place)?;
    Ok(())
}

/// Replaces the values of a stored vector that one operand reads; whether it is one.
pub(super) fn put_vector(model: &mut ModelProto, name: &str, values: &Array1<f64>) -> Result<bool> {
    let graph = model.graph.as_mut().ok_or_else(|| Error::input("the file holds no graph"))?;
    if graph.node.iter().flat_map(|node| &node.input).filter(|input| *input == name).count() != 1 {
        return Ok(false);
    }
    let Some(place) = stored_mut(graph, name) else { return Ok(false) };
    let view = TensorView::new(place)?;
    *place = from_f64_as(view.name(), view.dims(), &values.to_vec(), view.element_type())?;
    Ok(true)
}

/// Weights of a layer of the original, K×N.
pub(super) struct Part {
    pub(super) weights: Array2<f64>,
    /// The bias that the layer's node adds.
    pub(super) own: Array1<f64>,
    /// The bias that the addition after it holds.
    pub(super) added: Array1<f64>,
}

impl Part {
    /// `None` if the layer cannot have other weights.
    pub(super) fn of(subject: Subject<'_>, layer: &Layer) -> Result<Option<Self>> {
        let graph = subject.proto()?;
        let Some(tensor) = stored(graph, &layer.weight) else { return Ok(None) };
        let (place, own) = write::bias(subject.model, layer, layer.outputs)?;
        if place == BiasPlace::Computed {
            return Ok(None);
        }
        let added = addition(graph, &place, layer.outputs)?;
        Ok(Some(Self { weights: layer.matrices(tensor)?.swap_remove(0), own, added }))
    }
}
