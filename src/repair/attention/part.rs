//! Weights and biases of a layer of attention, read and written.

use ndarray::{Array1, Array2};

use super::super::write::{self, BiasPlace};
use crate::analysis::Subject;
use crate::calibrate::Layer;
use crate::error::{Error, Result};
use crate::graph::{Place, View};
use crate::onnx::proto::{ModelProto, TensorProto};
use crate::onnx::tensor::{TensorView, from_weights};

/// What an addition after a layer holds; zeros, if the bias is elsewhere.
pub(super) fn addition(view: &View<'_>, place: &BiasPlace, width: usize) -> Result<Array1<f64>> {
    let BiasPlace::Addition { node, slot } = *place else { return Ok(Array1::zeros(width)) };
    let vector = view.operand(node, slot).map(|value| write::vector(view, value, width)).transpose()?.flatten();
    Ok(vector.unwrap_or_else(|| Array1::zeros(width)))
}

/// Replaces the weights of a layer of a model.
pub(super) fn put_weights(model: &mut ModelProto, layer: &Layer, weights: &Array2<f64>) -> Result<()> {
    let view = View::of(model)?;
    let stored = stored(&view, &layer.weight);
    let (place, old) = stored.ok_or_else(|| Error::input(format!("weight '{}' is not stored", layer.weight)))?;
    let new = layer.tensor(std::slice::from_ref(weights), old)?;
    put(model, place, new)
}

/// Replaces the values of a stored vector that one operand reads; whether it is one.
pub(super) fn put_vector(model: &mut ModelProto, name: &str, values: &Array1<f64>) -> Result<bool> {
    let view = View::of(model)?;
    let readers = view.graph.value(name).map_or(0, |value| view.graph.at(value).uses.len());
    let Some((place, old)) = stored(&view, name).filter(|_| readers == 1) else { return Ok(false) };
    let old = TensorView::new(old)?;
    let new = from_weights(old.name(), old.dims(), &values.to_vec(), old.element_type())?;
    put(model, place, new)?;
    Ok(true)
}

/// The stored tensor called `name`, and where it is.
fn stored<'m>(view: &View<'m>, name: &str) -> Option<(Place, &'m TensorProto)> {
    let place = view.graph.place(view.graph.value(name)?)?;
    Some((place, place.tensor(view.proto)?))
}

fn put(model: &mut ModelProto, place: Place, tensor: TensorProto) -> Result<()> {
    let graph = model.graph.as_mut().ok_or_else(|| Error::input("the file holds no graph"))?;
    place.write(graph, tensor);
    Ok(())
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
        let view = View::of(subject.model)?;
        let Some((_, tensor)) = stored(&view, &layer.weight) else { return Ok(None) };
        let (place, own) = write::bias(&view, layer, layer.outputs)?;
        if place == BiasPlace::Computed {
            return Ok(None);
        }
        let added = addition(&view, &place, layer.outputs)?;
        Ok(Some(Self { weights: layer.matrices(tensor)?.swap_remove(0), own, added }))
    }
}
