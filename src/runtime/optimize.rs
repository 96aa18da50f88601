//! tract's optimizations, without the one that fails on some models.

use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::scan::Scan;
use tract_onnx::tract_core::optim::Optimizer;

/// The pass of tract that moves axes across operators.
const MOVES_AXES: &str = "ChangeAxes";

/// A model as tract computes it fastest.
///
/// tract 0.23 drops a batch axis of one, and then gives the bias of a convolution an axis too many if a multiplication by channel
/// and a residual sum follow. It also gives a loop's final state a wrong shape if the batch is larger than one and the loop does
/// not give that state after every step: the cells of an `LSTM`. Such models are optimized without moving axes.
///
/// # Errors
/// If it cannot be optimized that way either: what the whole optimization says.
pub(super) fn optimized(typed: TypedModel) -> TractResult<TypedModel> {
    if typed.nodes.iter().any(|node| gives_last_state_only(&typed, node)) {
        return without_moved_axes(typed);
    }
    typed.clone().into_optimized().or_else(|error| without_moved_axes(typed).map_err(|_| error))
}

/// Whether `node` is a loop with a state of two axes or more whose last value is read, and is all that it gives of that state.
fn gives_last_state_only(model: &TypedModel, node: &TypedNode) -> bool {
    let Some(scan) = node.op_as::<Scan>() else { return false };
    let only_last = scan.output_mapping.iter().filter(|mapping| mapping.scan.is_none());
    only_last.filter_map(|mapping| mapping.last_value_slot).any(|slot| {
        let Some(state) = node.outputs.get(slot) else { return false };
        let is_read = !state.successors.is_empty() || model.outputs.contains(&OutletId::new(node.id, slot));
        is_read && state.fact.shape.iter().filter(|size| !size.is_one()).count() > 1
    })
}

fn without_moved_axes(mut typed: TypedModel) -> TractResult<TypedModel> {
    let mut declutter = Optimizer::declutter();
    declutter.passes.retain(|pass| !format!("{pass:?}").starts_with(MOVES_AXES));
    declutter.optimize(&mut typed)?;
    Optimizer::codegen().optimize(&mut typed)?;
    Ok(typed)
}

#[cfg(test)]
mod tests {
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::sample_models::*;
    use crate::runtime::{RunOptions, Runnable, Tensor};

    /// A residual block with normalizations by channel that stand as a product and a sum.
    #[test]
    fn a_block_of_biased_convolutions_runs_alone_as_in_a_batch() {
        let square = |size: i64, pad: i64| vec![ints("kernel_shape", &[size; 2]), ints("pads", &[pad; 4])];
        let block = vec![
            node("Conv", &["x", "w1"], &["a"], square(1, 0)),
            node("Mul", &["a", "m1"], &["b"], vec![]),
            node("Add", &["b", "n1"], &["c"], vec![]),
            node("Relu", &["c"], &["d"], vec![]),
            node("Conv", &["d", "w2", "bias"], &["e"], square(3, 1)),
            node("Mul", &["e", "m2"], &["f"], vec![]),
            node("Add", &["f", "n2"], &["g"], vec![]),
            node("Relu", &["g"], &["h"], vec![]),
            node("Conv", &["h", "w3"], &["i"], square(1, 0)),
            node("Conv", &["d", "w4"], &["j"], square(1, 0)),
            node("Add", &["i", "j"], &["y"], vec![]),
        ];
        let by_channel = |name: &str, channels: i64| weight(name, &[1, channels, 1, 1], wavy);
        let weights = vec![
            weight("w1", &[40, 64, 1, 1], wavy),
            by_channel("m1", 40),
            by_channel("n1", 40),
            weight("w2", &[32, 40, 3, 3], wavy),
            weight("bias", &[32], wavy),
            by_channel("m2", 32),
            by_channel("n2", 32),
            weight("w3", &[200, 32, 1, 1], wavy),
            weight("w4", &[200, 40, 1, 1], wavy),
        ];
        let float = DataType::Float;
        let inputs = vec![tensor_value("x", float, &["n", "64", "6", "6"])];
        let block = model(inputs, block, weights, vec![tensor_value("y", float, &["n", "200", "6", "6"])]);
        let runnable = Runnable::new(&block, &RunOptions::default()).unwrap();
        let run = |batch: usize| {
            let elements: Vec<f32> = (0..batch * 2304).map(|i| wavy(i % 2304)).collect();
            let outputs =
                runnable.run(&[("x".to_owned(), Tensor::new(&[batch, 64, 6, 6], &elements).unwrap())]).unwrap();
            outputs[0].1.to_vec::<f32>().unwrap()
        };
        let (single, pair) = (run(1), run(2));
        assert_eq!(pair.len(), 2 * single.len());
        assert!(single.iter().zip(pair.iter()).all(|(one, two)| (one - two).abs() < 1e-4 * one.abs().max(1.0)));
    }
}
