//! Strided 1×1 convolutions of a single channel.
//!
//! tract 0.23.9 reads memory that it has not written when it multiplies such a column by a row, for some batch sizes: the
//! result is wrong and changes from run to run. A second kernel position of zeros over one more column of padding computes
//! the same and takes another way.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::Result;
use crate::onnx::attributes::{self, Attributes};
use crate::onnx::domain::is_standard;
use crate::onnx::proto::{ModelProto, NodeProto, TensorProto};
use crate::onnx::tensor::{TensorView, from_f64_as};

/// `model`, in which such convolutions have one more kernel position.
///
/// # Errors
/// If the weight or an attribute of one is malformed.
pub(super) fn widened(model: &ModelProto) -> Result<Cow<'_, ModelProto>> {
    let Some(graph) = &model.graph else { return Ok(Cow::Borrowed(model)) };
    let tensors: BTreeMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name(), t)).collect();
    let mut found = Vec::new();
    for (index, node) in graph.node.iter().enumerate() {
        if let Some(weight) = weight_of(&tensors, node)? {
            found.push((index, widened_weight(node, weight)?));
        }
    }
    if found.is_empty() {
        return Ok(Cow::Borrowed(model));
    }
    let mut model = model.clone();
    if let Some(graph) = &mut model.graph {
        for (index, weight) in found {
            widen(&mut graph.node[index], weight.name())?;
            graph.initializer.push(weight);
        }
    }
    Ok(Cow::Owned(model))
}

/// The stored weight of a strided 1×1 convolution of a single channel.
fn weight_of<'g>(tensors: &BTreeMap<&str, &'g TensorProto>, node: &NodeProto) -> Result<Option<&'g TensorProto>> {
    if node.op_type() != "Conv" || !is_standard(node) {
        return Ok(None);
    }
    let attributes = Attributes::of(node);
    let is_strided = attributes.ints("strides")?.is_some_and(|strides| strides.iter().any(|&stride| stride > 1));
    let is_padded_by_numbers = matches!(attributes.string("auto_pad")?, None | Some("NOTSET" | "VALID"));
    if !is_strided || !is_padded_by_numbers {
        return Ok(None);
    }
    let weight = node.input.get(1).and_then(|name| tensors.get(name.as_str()).copied());
    Ok(weight.filter(|tensor| tensor.dims.len() > 2 && tensor.dims[1..].iter().all(|&size| size == 1)))
}

fn widened_weight(node: &NodeProto, weight: &TensorProto) -> Result<TensorProto> {
    let view = TensorView::new(weight)?;
    let values: Vec<f64> = view.to_f64()?.into_iter().flat_map(|w| [w, 0.0]).collect();
    let mut dims = view.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = 2;
    }
    let name = format!("{} widened for {}", weight.name(), node.output.first().map_or("", String::as_str));
    from_f64_as(&name, &dims, &values, view.element_type())
}

fn widen(node: &mut NodeProto, weight: &str) -> Result<()> {
    let rank = Attributes::of(node).ints("strides")?.map_or(2, <[i64]>::len);
    let mut pads = Attributes::of(node).ints("pads")?.map_or_else(|| vec![0; 2 * rank], <[i64]>::to_vec);
    let mut kernel = vec![1; rank];
    for last in [kernel.last_mut(), pads.last_mut()].into_iter().flatten() {
        *last += 1;
    }
    attributes::remove(node, "auto_pad");
    attributes::set_ints(node, "kernel_shape", &kernel);
    attributes::set_ints(node, "pads", &pads);
    if let Some(operand) = node.input.get_mut(1) {
        weight.clone_into(operand);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::onnx::attributes::set_ints;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::sample_models::{model, node, tensor_value, wavy, weight};
    use crate::runtime::{RunOptions, Runnable, Tensor};

    /// A residual network pruned to one channel had another accuracy on every run.
    #[test]
    fn a_strided_convolution_of_one_channel_gives_the_same_for_any_batch() {
        let mut conv = node("Conv", &["x", "w"], &["y"], vec![]);
        set_ints(&mut conv, "strides", &[2, 2]);
        let model = model(
            vec![tensor_value("x", DataType::Float, &["n", "1", "8", "8"])],
            vec![conv],
            vec![weight("w", &[13, 1, 1, 1], wavy)],
            vec![tensor_value("y", DataType::Float, &["n", "13", "4", "4"])],
        );
        let runnable = Runnable::new(&model, &RunOptions::default()).unwrap();
        for samples in [1, 31, 32, 64, 96] {
            let x: Vec<f32> = (0..samples * 64).map(wavy).collect();
            let input = ("x".to_owned(), Tensor::new(&[samples, 1, 8, 8], &x).unwrap());
            let y = runnable.run(&[input]).unwrap()[0].1.to_vec::<f32>().unwrap();
            for (index, &y) in y.iter().enumerate() {
                let (sample, filter, row, column) = (index / 208, index / 16 % 13, index / 4 % 4, index % 4);
                let expected = wavy(filter) * x[sample * 64 + 2 * row * 8 + 2 * column];
                assert!((y - expected).abs() < 1e-6, "{samples} samples: {y} where {expected} is right");
            }
        }
    }
}
