//! Sample sizes of dynamic dimensions.

use std::collections::{BTreeMap, BTreeSet};

use crate::axes::BINDINGS;
use crate::onnx::proto::{GraphProto, tensor_shape_proto, type_proto};
use crate::onnx::tensor::ElementType;

/// Size of each dynamic dimension, by name; unnamed ones are called `input:axis`.
pub type DimSizes = BTreeMap<String, u64>;

/// A dimension of a graph input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// A fixed size.
    Fixed(u64),
    /// A dynamic one, by name.
    Dynamic(String),
}

/// A graph input as declared.
#[derive(Debug, Clone)]
pub struct InputShape {
    /// Name of the input.
    pub name: String,
    /// ONNX element type number.
    pub element: i32,
    /// Dimensions, `None` if the rank is not declared.
    pub dims: Option<Vec<Dim>>,
}

/// Sizes of dynamic axes other than the batch, in the order in which they are tried: position tables may be short,
/// vision models may want larger ones, speech models raw audio.
const SAMPLES: [u64; 6] = [32, 128, 224, 8, 4096, 16_000];

/// The inputs of a graph that are not initializers.
pub fn input_shapes(graph: &GraphProto) -> Vec<InputShape> {
    let initialized: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    let mut inputs = Vec::new();
    for input in &graph.input {
        if initialized.contains(input.name()) {
            continue;
        }
        let Some(type_proto::Value::TensorType(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
            continue;
        };
        let dims = tensor.shape.as_ref().map(|shape| {
            let dims = shape.dim.iter().enumerate();
            dims.map(|(axis, dim)| declared_dim(input.name(), axis, dim.value.as_ref())).collect()
        });
        inputs.push(InputShape { name: input.name().to_owned(), element: tensor.elem_type(), dims });
    }
    inputs
}

fn declared_dim(input: &str, axis: usize, dim: Option<&tensor_shape_proto::dimension::Value>) -> Dim {
    use tensor_shape_proto::dimension::Value;
    match dim {
        Some(Value::DimValue(size)) if *size >= 0 => Dim::Fixed(size.unsigned_abs()),
        Some(Value::DimParam(name)) if !name.is_empty() && name != "?" => Dim::Dynamic(name.clone()),
        _ => Dim::Dynamic(format!("{input}:{axis}")),
    }
}

/// Sample sizes of a graph's dynamic dimensions, the most likely to be valid first, and whether the first that are
/// valid will do. `given` fixes some by name. Every other dimension gets different sizes under each binding, and no two
/// dimensions the same pair.
pub fn sample_sizes(graph: &GraphProto, given: &DimSizes) -> (Vec<[DimSizes; BINDINGS]>, bool) {
    let mut names: Vec<(String, bool)> = Vec::new();
    // Token sequences keep their length; images and sounds shrink on their way through the network.
    let mut shrinks = false;
    for input in &input_shapes(graph) {
        let is_real = ElementType::from_code(input.element).is_ok_and(ElementType::is_float);
        for (axis, dim) in input.dims.iter().flatten().enumerate() {
            let Dim::Dynamic(name) = dim else { continue };
            shrinks |= axis > 0 && is_real;
            match names.iter_mut().find(|(known, _)| known == name) {
                Some((_, batch)) => *batch |= axis == 0,
                None => names.push((name.clone(), axis == 0)),
            }
        }
    }
    let dynamic_others = names.iter().any(|(name, batch)| !batch && !given.contains_key(name));
    let samples = if dynamic_others { &SAMPLES[..] } else { &SAMPLES[..1] };
    (samples.iter().map(|&sample| bind(&names, given, sample)).collect(), !shrinks)
}

fn bind(names: &[(String, bool)], given: &DimSizes, sample: u64) -> [DimSizes; BINDINGS] {
    let mut sizes: [DimSizes; BINDINGS] = Default::default();
    let (mut batches, mut others) = (0, 0);
    for (name, batch) in names {
        let (first, step) = match (given.get(name), batch) {
            (Some(&size), _) => (size, (size / 4).max(1) * 2 + others),
            (None, true) => {
                batches += 1;
                (1, 1 + batches)
            }
            (None, false) => {
                others += 1;
                (sample, (sample / 4).max(1) * others)
            }
        };
        for (binding, sizes) in (0..).zip(&mut sizes) {
            sizes.insert(name.clone(), first + step * binding);
        }
    }
    // Names such as `past + sequence` are sums of others.
    for sizes in &mut sizes {
        let composite: Vec<String> = sizes.keys().filter(|n| !given.contains_key(*n)).cloned().collect();
        for name in composite {
            if let Some(size) = evaluate(&name, sizes) {
                sizes.insert(name, size);
            }
        }
    }
    sizes
}

/// The value of a dimension name that is a sum, product or difference of other names and integers.
fn evaluate(expression: &str, sizes: &DimSizes) -> Option<u64> {
    let (operator, split) = ['+', '-', '*'].iter().find_map(|&op| expression.rfind(op).map(|at| (op, at)))?;
    let left = operand(expression.get(..split)?.trim(), sizes)?;
    let right = operand(expression.get(split + 1..)?.trim(), sizes)?;
    match operator {
        '+' => left.checked_add(right),
        '-' => left.checked_sub(right),
        _ => left.checked_mul(right),
    }
}

fn operand(text: &str, sizes: &DimSizes) -> Option<u64> {
    let text = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')).unwrap_or(text);
    text.parse().ok().or_else(|| evaluate(text, sizes)).or_else(|| sizes.get(text).copied())
}
