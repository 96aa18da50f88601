//! Puts new weights and biases into a model, each into a tensor of its own where the old one is shared.

use ndarray::{Array1, Array2};

use crate::calibrate::Layer;
use crate::error::{Error, Result};
use crate::graph::{Editor, NodeId, ValueId, View, operator};
use crate::onnx::attributes::Attributes;
use crate::onnx::proto::{ModelProto, NodeProto, TensorProto};
use crate::onnx::tensor::{ElementType, TensorView, from_f64_as};

/// Where a layer's bias is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum BiasPlace {
    /// Operand `slot` of the layer's node, multiplied with `scale`.
    Operand { slot: usize, scale: f64 },
    /// Operand `slot` of the addition that alone reads the layer's result.
    Addition { node: NodeId, slot: usize },
    /// Nowhere yet.
    Missing,
    /// Computed, or not a vector: the layer cannot have another one.
    Computed,
}

impl BiasPlace {
    /// Whether another node has its bias in a place of the same kind.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// The layer's bias in a model, as far as the layer's own result holds it (an addition after it does not count).
pub(super) fn bias(view: &View<'_>, layer: &Layer, width: usize) -> Result<(BiasPlace, Array1<f64>)> {
    let none = Array1::zeros(width);
    let Some((id, node)) = view.maker(&layer.result) else { return Ok((BiasPlace::Computed, none)) };
    let Some(slot) = layer.linear.bias else { return Ok((addition(view, layer, width), none)) };
    let scale = if node.op_type() == "Gemm" { f64::from(Attributes::of(node).float_or("beta", 1.0)?) } else { 1.0 };
    match view.operand(id, slot) {
        None => Ok((BiasPlace::Operand { slot, scale: 1.0 }, none)),
        Some(value) => match own_vector(view, value, width)? {
            Some(values) => Ok((BiasPlace::Operand { slot, scale }, values * scale)),
            None => Ok((BiasPlace::Computed, none)),
        },
    }
}

/// The stored vector of `width` values that a value is, through `Identity`.
pub(super) fn vector(view: &View<'_>, value: ValueId, width: usize) -> Result<Option<Array1<f64>>> {
    let Some(tensor) = stored(view, value) else { return Ok(None) };
    if !ElementType::from_code(tensor.data_type())?.is_float() {
        return Ok(None);
    }
    let tensor = TensorView::new(tensor)?;
    let is_vector = tensor.len() == width && tensor.dims().last() == Some(&width);
    Ok(if is_vector { Some(Array1::from_vec(tensor.to_f64()?)) } else { None })
}

/// A [`vector`] that nobody who runs the model may replace.
pub(super) fn own_vector(view: &View<'_>, value: ValueId, width: usize) -> Result<Option<Array1<f64>>> {
    let is_own = !view.graph.is_overridable(view.graph.behind_identity(value));
    if is_own { vector(view, value, width) } else { Ok(None) }
}

/// The stored tensor that a value is, through `Identity`.
pub(super) fn stored<'m>(view: &View<'m>, value: ValueId) -> Option<&'m TensorProto> {
    view.tensor(view.graph.behind_identity(value))
}

fn addition(view: &View<'_>, layer: &Layer, width: usize) -> BiasPlace {
    let reader = view.graph.value(&layer.result).and_then(|result| view.graph.sole_reader(result));
    let Some((node, reads)) = reader else { return BiasPlace::Missing };
    if view.graph.node(node).op != "Add" || layer.linear.result_axis + 1 < layer.linear.data_axis {
        return BiasPlace::Missing;
    }
    let slot = usize::from(reads == 0);
    let rank = layer.linear.result_axis + 1 + layer.rank_behind_result();
    let is_vector = view.operand(node, slot).is_some_and(|value| {
        // One of more axes would give its axes to the sum.
        let fits = stored(view, value).is_none_or(|tensor| tensor.dims.len() <= rank);
        fits && matches!(own_vector(view, value, width), Ok(Some(_)))
    });
    if is_vector && layer.linear.data == 0 { BiasPlace::Addition { node, slot } } else { BiasPlace::Missing }
}

/// Replaces the layer's weights, and its bias by `bias`.
///
/// # Errors
/// If a value does not fit the element type.
pub(super) fn replace(
    model: &mut ModelProto,
    layer: &Layer,
    weights: Option<&[Array2<f64>]>,
    bias: &Array1<f64>,
) -> Result<()> {
    let view = View::of(model)?;
    let weight = view.graph.value(&layer.weight).and_then(|value| view.graph.place(value));
    let stored = weight.and_then(|place| Some((place, place.tensor(view.proto)?)));
    let (weight, old) = stored.ok_or_else(|| Error::input(format!("weight '{}' is not stored", layer.weight)))?;
    let element = TensorView::new(old)?.element_type();
    let mut editor = Editor::new(model.clone(), &view.graph)?;
    if let Some(weights) = weights {
        let mut tensor = layer.tensor(weights, old)?;
        tensor.name = Some(layer.weight.clone());
        weight.write(editor.proto_mut(), tensor);
    }
    let (place, _) = self::bias(&view, layer, bias.len())?;
    let vector = |values: &Array1<f64>| from_f64_as("", &[values.len()], &values.to_vec(), element);
    let stem = format!("{}_bias", layer.weight);
    match place {
        BiasPlace::Computed => {}
        BiasPlace::Operand { slot, scale } => {
            let (node, _) = view.maker(&layer.result).ok_or_else(|| Error::input("a layer is gone"))?;
            let name = editor.add(&stem, vector(&(bias / scale))?);
            editor.redirect(node, slot, name)?;
        }
        BiasPlace::Addition { node, slot } => {
            let added = view.operand(node, slot).map(|value| self::vector(&view, value, bias.len())).transpose()?;
            let old = added.flatten().unwrap_or_else(|| Array1::zeros(bias.len()));
            let name = editor.add(&stem, vector(&(old + bias))?);
            editor.redirect(node, slot, name)?;
        }
        BiasPlace::Missing => {
            let mut dims = vec![bias.len()];
            dims.resize(1 + layer.rank_behind_result(), 1);
            let name = editor.add(&stem, from_f64_as("", &dims, &bias.to_vec(), element)?);
            insert_addition(&view, &mut editor, layer, name)?;
        }
    }
    *model = editor.finish_flat();
    Ok(())
}

/// An addition of `bias` after the layer; who read the result reads the sum.
fn insert_addition(view: &View<'_>, editor: &mut Editor<'_>, layer: &Layer, bias: String) -> Result<()> {
    let gone = || Error::input("a layer is gone");
    let (node, _) = view.maker(&layer.result).ok_or_else(gone)?;
    let value = view.graph.value(&layer.result).ok_or_else(gone)?;
    let other = editor.fresh(&format!("{}_shifted", layer.result));
    let (from, to) = if view.graph.at(value).is_output {
        editor.node_mut(node)?.output[0].clone_from(&other);
        (other.clone(), layer.result.clone())
    } else {
        editor.redirect_readers(value, &other)?;
        (layer.result.clone(), other.clone())
    };
    let sum = NodeProto { name: Some(other), output: vec![to], ..operator("Add", [from, bias]) };
    editor.insert_after(node, sum);
    Ok(())
}

/// Lets operand `slot` of the node that makes `result` be `values`, of the type that the operand had.
pub(super) fn put_vector(model: &mut ModelProto, result: &str, slot: usize, values: &Array1<f64>) -> Result<()> {
    let view = View::of(model)?;
    let Some((node, proto)) = view.maker(result) else { return Ok(()) };
    let old = proto.input.get(slot).cloned().unwrap_or_default();
    let element = view.operand(node, slot).and_then(|value| stored(&view, value));
    let element = element.map_or(Ok(ElementType::Float), |tensor| ElementType::from_code(tensor.data_type()))?;
    let mut editor = Editor::new(model.clone(), &view.graph)?;
    let tensor = from_f64_as("", &[values.len()], &values.to_vec(), element)?;
    let name = editor.add(&format!("{old}_estimated"), tensor);
    editor.redirect(node, slot, name)?;
    *model = editor.finish_flat();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Analysis;
    use crate::calibrate::layers;
    use crate::onnx::Model;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::sample_models::{model, node, tensor_value, wavy, weight};
    use crate::runtime::{RunOptions, Runnable, Tensor};

    /// Queries, keys and values of one input, of which keys have no bias, as in Whisper.
    fn projections() -> ModelProto {
        let nodes = vec![
            node("MatMul", &["x", "wq"], &["q"], vec![]),
            node("Add", &["q", "bq"], &["q1"], vec![]),
            node("MatMul", &["x", "wk"], &["k"], vec![]),
            node("MatMul", &["x", "wv"], &["v"], vec![]),
            node("Add", &["bv", "v"], &["v1"], vec![]),
            node("Add", &["q1", "k"], &["s"], vec![]),
            node("Add", &["s", "v1"], &["y"], vec![]),
        ];
        let mut tensors: Vec<TensorProto> = ["wq", "wk", "wv"].map(|name| weight(name, &[3, 2], wavy)).to_vec();
        tensors.extend(["bq", "bv"].map(|name| weight(name, &[2], wavy)));
        let [input, output] = [("x", "3"), ("y", "2")].map(|(name, n)| tensor_value(name, DataType::Float, &["n", n]));
        model(vec![input], nodes, tensors, vec![output])
    }

    /// A layer that gets its first bias moves the nodes after it; the next layer of the stage is found all the same.
    #[test]
    fn biases_of_one_stage_all_arrive() {
        let original = Model::from_proto(projections());
        let analysis = Analysis::new(&original, &Default::default(), &Default::default()).unwrap();
        let layers = layers(analysis.subject()).unwrap();
        let names: Vec<&str> = layers.iter().map(|layer| layer.result.as_str()).collect();
        assert_eq!(names, ["q", "k", "v"]);
        let mut changed = projections();
        for layer in &layers {
            replace(&mut changed, layer, None, &Array1::from_vec(vec![1.0, -2.0])).unwrap();
        }
        let names: Vec<&str> = changed.graph.iter().flat_map(|graph| &graph.initializer).map(|t| t.name()).collect();
        assert_eq!(names, ["wq", "wk", "wv", "wq_bias", "wk_bias", "wv_bias"], "the old biases are gone");
        let x = Tensor::new(&[1, 3], &[0.5_f32, -1.0, 2.0]).unwrap();
        let run = |proto: &ModelProto| -> Vec<f32> {
            let runnable = Runnable::new(proto, &RunOptions::default()).unwrap();
            runnable.run(&[("x".to_owned(), x.clone())]).unwrap()[0].1.to_vec().unwrap()
        };
        let moved: Vec<f32> = run(&changed).iter().zip(run(&projections())).map(|(a, b)| a - b).collect();
        assert!((moved[0] - 3.0).abs() < 1e-5 && (moved[1] + 6.0).abs() < 1e-5, "{moved:?}");
    }
}
