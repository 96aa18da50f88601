//! What a convolution takes besides, when it stands alone: ONNX Runtime computes it in blocks of channels, so a model of one
//! convolution converts its input into blocks and its result out of them. In a network, neighbours hand blocks on.
//!
//! Two models tell what a conversion of some shape takes: a depthwise convolution over single positions, the least that is computed
//! in blocks, and two of them in a row. Twice the first less the second is the conversion.

use std::collections::BTreeMap;

use super::alone::small;
use super::table::Meter;
use crate::error::Result;
use crate::onnx::attributes::{set_int, set_ints};
use crate::onnx::declared;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{GraphProto, NodeProto};
use crate::onnx::tensor::from_f32;
use crate::runtime::Tensor;
use crate::runtime::latency::Fed;

/// The time in milliseconds to convert a tensor of this shape into blocks and back; `None` if it is not known.
pub(crate) fn conversion(shape: &[usize], meter: &Meter, overhead: f64) -> Option<f64> {
    let once = meter.known(&signature(shape, 1))?;
    let twice = meter.known(&signature(shape, 2))?;
    Some((2.0 * once - twice - overhead).max(0.0))
}

/// Times the models that tell what conversions of these shapes take.
///
/// # Errors
/// As [`Meter::measure`].
pub(crate) fn measure(shapes: &[Vec<usize>], meter: &Meter) -> Result<()> {
    let mut models = BTreeMap::new();
    for shape in shapes {
        for count in [1, 2] {
            let signature = signature(shape, count);
            if meter.known(&signature).is_none() {
                models.insert(signature, scalings(shape, count)?);
            }
        }
    }
    meter.measure(models)
}

fn signature(shape: &[usize], count: usize) -> String {
    format!("{count} × Conv{{depthwise kernel_shape=1,1}}(f32{shape:?})").replace(", ", ",")
}

/// Depthwise convolutions over single positions, one after another.
fn scalings(shape: &[usize], count: usize) -> Result<Fed> {
    let channels = shape.get(1).copied().unwrap_or(1);
    let weight = from_f32("w", &[channels, 1, 1, 1], &vec![1.0; channels])?;
    let value = |name: String| declared(name, DataType::Float as i32, None);
    let scaling = |index: usize| {
        let mut node = NodeProto {
            op_type: Some("Conv".to_owned()),
            input: vec![format!("x{index}"), "w".to_owned()],
            output: vec![format!("x{}", index + 1)],
            ..NodeProto::default()
        };
        set_ints(&mut node, "kernel_shape", &[1, 1]);
        set_int(&mut node, "group", i64::try_from(channels).unwrap_or(1));
        node
    };
    let graph = GraphProto {
        name: Some("scalings".to_owned()),
        node: (0..count).map(scaling).collect(),
        initializer: vec![weight],
        input: vec![value("x0".to_owned())],
        output: vec![value(format!("x{count}"))],
        ..GraphProto::default()
    };
    let elements = vec![0.5_f32; shape.iter().product()];
    Ok(Fed { model: small(graph), inputs: vec![("x0".to_owned(), Tensor::new(shape, &elements)?)] })
}
