//! The sum that a layer's result goes into: what the other branch lost, this layer may put back.
//!
//! Behind a residual block stands `s = f(y) + r`, f being a bias, a batch normalization, or nothing. If the repaired
//! model has r′ in place of r, the layer that makes y is fitted to `y + (r − r′) / f′`: s itself is reconstructed, and
//! errors do not add up along the residual stream.

use ndarray::Array1;

use super::write::vector;
use crate::calibrate::Layer;
use crate::error::Result;
use crate::onnx::attributes::Attributes;
use crate::onnx::proto::{GraphProto, NodeProto};

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

/// The sum behind `layer`, if its result goes there and nowhere else.
pub(super) fn skip(graph: &GraphProto, layer: &Layer, width: usize) -> Result<Option<Skip>> {
    let mut slope = Array1::ones(width);
    let mut name = &layer.result;
    loop {
        let mut readers = graph.node.iter().filter(|node| node.input.contains(name));
        let (Some(node), None) = (readers.next(), readers.next()) else { return Ok(None) };
        match (node.op_type(), node.input.as_slice()) {
            ("Identity" | "Dropout", _) => {}
            ("BatchNormalization", [data, ..]) if data == name => match slopes(graph, node, width)? {
                Some(slopes) => slope *= &slopes,
                None => return Ok(None),
            },
            ("Add", [a, b]) if a != b => {
                let other = if a == name { b } else { a };
                if !is_constant(graph, other) {
                    return Ok(Some(Skip { value: other.clone(), slope: without_tiny(slope) }));
                }
            }
            _ => return Ok(None),
        }
        let Some(output) = node.output.first() else { return Ok(None) };
        name = output;
    }
}

fn is_constant(graph: &GraphProto, name: &str) -> bool {
    super::write::stored_behind_identity(graph, name).is_some()
}

/// `γ / √(σ² + ε)` of a batch normalization.
fn slopes(graph: &GraphProto, node: &NodeProto, width: usize) -> Result<Option<Array1<f64>>> {
    let epsilon = f64::from(Attributes::of(node).float_or("epsilon", 1e-5)?);
    let parameter = |slot: usize| node.input.get(slot).map_or(Ok(None), |name| vector(graph, name, width));
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
