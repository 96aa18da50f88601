//! `Squeeze` without axes.
//!
//! Before version 13 of the standard tract wants the axes spelled out. Which axes are of length one may depend on the sizes of
//! the inputs, so the operator gets a name of its own, under which tract finds them at concrete shapes.

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb;
use tract_onnx::prelude::TractResult;
use tract_onnx::tract_hir::infer::InferenceOp;
use tract_onnx::tract_hir::internal::expand;
use tract_onnx::tract_hir::ops::array::Squeeze;

use crate::onnx::domain::is_standard;
use crate::onnx::proto::NodeProto;

/// What tract calls the operator.
const NAME: &str = "SqueezeOnes";

/// Adds the operator to tract's.
pub(super) fn register(operators: &mut OnnxOpRegister) {
    operators.insert(NAME, read);
}

fn read(_context: &ParsingContext, _node: &pb::NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(Squeeze::new(None)), vec![]))
}

/// Gives a `Squeeze` without axes the name that tract knows it by.
pub(super) fn rename(node: &mut NodeProto) {
    let is_standard = node.op_type() == "Squeeze" && is_standard(node);
    let lists_axes =
        node.attribute.iter().any(|a| a.name() == "axes") || node.input.get(1).is_some_and(|name| !name.is_empty());
    if is_standard && !lists_axes {
        node.op_type = Some(NAME.to_owned());
        node.input.truncate(1);
    }
}

#[cfg(test)]
mod tests {
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::sample_models::{model, node, tensor_value};
    use crate::runtime::{RunOptions, Runnable, Tensor};

    /// A speech model of opset 11 squeezes its score, `[batch, 1]`, in this way.
    #[test]
    fn all_axes_of_length_one_go_in_any_version() {
        for version in [11, 13] {
            let mut squeezed = model(
                vec![tensor_value("x", DataType::Float, &["n", "1", "3"])],
                vec![node("Squeeze", &["x"], &["y"], vec![])],
                vec![],
                vec![tensor_value("y", DataType::Float, &["n", "3"])],
            );
            squeezed.opset_import[0].version = Some(version);
            let runnable = Runnable::new(&squeezed, &RunOptions::default()).unwrap();
            for (samples, expected) in [(1, &[3][..]), (2, &[2, 3])] {
                let x = Tensor::new(&[samples, 1, 3], &vec![1_f32; 3 * samples]).unwrap();
                let y = runnable.run(&[("x".to_owned(), x)]).unwrap();
                assert_eq!(y[0].1.shape(), expected);
            }
        }
    }
}
