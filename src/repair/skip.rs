//! The sum that a layer's result goes into: what the other branch lost, this layer may put back.
//!
//! Behind a residual block stands `s = f(y) + r`, f being a bias, a batch normalization, or nothing. If the repaired
//! model has r′ in place of r, the layer that makes y is fitted to `y + (r − r′) / f′`: s itself is reconstructed, and
//! errors do not add up along the residual stream.

use ndarray::Array1;

use super::write::{stored, vector};
use crate::calibrate::Layer;
use crate::error::Result;
use crate::graph::{NodeId, View};
use crate::onnx::attributes::Attributes;
use crate::ops::constant_values;

/// Least slope, as a share of the largest, that is divided by.
const LEAST_SLOPE: f64 = 1e-3;

/// The other branch, and the slope of f for each channel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Skip {
    /// The value r.
    pub(super) value: String,
    /// f′, `width` values; zero where the channel is as good as switched off.
    pub(super) slope: Array1<f64>,
}

/// The sum after `layer`, if the sum is the only reader of its result.
pub(super) fn skip(view: &View<'_>, layer: &Layer, width: usize) -> Result<Option<Skip>> {
    let mut slope = Array1::ones(width);
    let Some(mut value) = view.graph.value(&layer.result) else { return Ok(None) };
    loop {
        let at = view.graph.at(value);
        let &[(id, slot)] = at.uses.as_slice() else { return Ok(None) };
        if !at.captured_by.is_empty() {
            return Ok(None);
        }
        let node = view.graph.node(id);
        match (node.op.as_str(), node.inputs.as_slice()) {
            ("Identity" | "Dropout", _) => {}
            ("BatchNormalization", _) if slot == 0 => match slopes(view, id, width)? {
                Some(slopes) => slope *= &slopes,
                None => return Ok(None),
            },
            ("Add", &[Some(a), Some(b)]) => {
                let other = if slot == 0 { b } else { a };
                // Paddle's exporter reshapes every bias: what is computed from constants is one too.
                if stored(view, other).is_none() && !constant_values(&view.graph).contains(&other) {
                    let value = view.graph.at(other).name.clone();
                    return Ok(Some(Skip { value, slope: without_tiny(slope) }));
                }
            }
            _ => return Ok(None),
        }
        let Some(output) = node.outputs.first().copied().flatten() else { return Ok(None) };
        value = output;
    }
}

/// `γ / √(σ² + ε)` of a batch normalization.
fn slopes(view: &View<'_>, id: NodeId, width: usize) -> Result<Option<Array1<f64>>> {
    let Some(node) = view.proto.node.get(id.0) else { return Ok(None) };
    let epsilon = f64::from(Attributes::of(node).float_or("epsilon", 1e-5)?);
    let parameter = |slot: usize| view.operand(id, slot).map_or(Ok(None), |value| vector(view, value, width));
    Ok(match (parameter(1)?, parameter(4)?) {
        (Some(gamma), Some(variance)) => Some(gamma / variance.mapv(|v| (v + epsilon).sqrt())),
        _ => None,
    })
}

fn without_tiny(mut slope: Array1<f64>) -> Array1<f64> {
    let largest = slope.iter().fold(0.0_f64, |m, s| m.max(s.abs()));
    slope.mapv_inplace(|s| if s.abs() < LEAST_SLOPE * largest { 0.0 } else { s });
    slope
}
