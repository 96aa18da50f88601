//! What a graph demands of its data.

use std::collections::BTreeMap;

use super::batch_axes::{BatchAxes, SampleAxis, sample_axes};
use super::convert::is_convertible;
use super::labels::{Labels, is_alike};
use super::npy::NpyArray;
use crate::onnx::proto::{GraphProto, ValueInfoProto};
use crate::onnx::proto::{tensor_shape_proto::dimension::Value, type_proto};
use crate::runtime::inputs::{DeclaredInput, Dim, declared_inputs};
use crate::{Error, Result};

/// Name of the array that holds what is right for each sample.
pub(super) const LABELS: &str = "labels";

/// The inputs of a graph, the shapes of its outputs, and how many classes it tells apart.
#[derive(Debug, Clone)]
pub(super) struct Schema {
    pub(super) inputs: Vec<DeclaredInput>,
    /// The axis of samples of each input, as far as the declarations and the caller tell.
    pub(super) axes: Vec<SampleAxis>,
    classes: Option<usize>,
    /// The sizes of each output, `None` where it does not declare them.
    outputs: Vec<Option<Vec<Option<usize>>>>,
}

impl Schema {
    pub(super) fn new(graph: &GraphProto, typed: &BatchAxes) -> Result<Self> {
        let inputs = declared_inputs(graph)?;
        if inputs.is_empty() {
            return Err(Error::input("the model has no inputs to feed data to"));
        }
        let axes = sample_axes(&inputs, typed)?;
        Ok(Self { inputs, axes, classes: classes(graph), outputs: graph.output.iter().map(declared_sizes).collect() })
    }

    /// How many samples the graph runs at once, if it fixes that.
    pub(super) fn fixed_batch(&self) -> Result<Option<usize>> {
        let mut fixed: Option<(usize, &str)> = None;
        for (input, axis) in self.inputs.iter().zip(&self.axes) {
            let size = match (axis, &input.dims) {
                (SampleAxis::At(axis), Some(dims)) => dims.get(*axis).and_then(Dim::fixed),
                _ => None,
            };
            match (size, fixed) {
                (Some(size), Some((known, name))) if size != known => {
                    return Err(Error::input(format!(
                        "inputs '{name}' and '{}' have {known} and {size} rows: they have no common axis of samples",
                        input.name
                    )));
                }
                (Some(0), _) => return Err(Error::input(format!("input '{}' has no rows", input.name))),
                (Some(size), _) => fixed = Some((size, &input.name)),
                (None, _) => {}
            }
        }
        Ok(fixed.map(|(size, _)| size))
    }

    pub(super) fn is_input(&self, name: &str) -> bool {
        self.inputs.iter().any(|input| input.name == name)
    }

    /// Whether an output can have the values of an array of this shape, samples first; where samples are `runs`, an
    /// output has no axis of samples.
    pub(super) fn has_output_like(&self, shape: &[usize], runs: bool) -> bool {
        let is_alike = |sizes: &[Option<usize>]| {
            if !runs {
                return is_alike(shape, sizes);
            }
            let whole: Vec<Option<usize>> = std::iter::once(Some(1)).chain(sizes.iter().copied()).collect();
            is_alike(shape, &whole)
        };
        self.outputs.iter().any(|sizes| sizes.as_deref().is_none_or(is_alike))
    }

    /// Checks that classes in `labels`, whose first belongs to sample `first`, are classes of the graph.
    pub(super) fn check_labels(&self, labels: Option<&Labels>, first: usize) -> Result<()> {
        let classes = self.classes.and_then(|classes| i64::try_from(classes).ok()).unwrap_or(i64::MAX);
        let given = labels.and_then(Labels::classes).unwrap_or_default();
        let wrong = given.iter().enumerate().find(|(_, label)| !(0..classes).contains(*label));
        match wrong {
            None => Ok(()),
            Some((index, label)) => {
                let range = self
                    .classes
                    .map_or("not negative".to_owned(), |classes| format!("0 to {}", classes.saturating_sub(1)));
                Err(Error::input(format!("the label of sample {} is {label}; classes are {range}", first + index)))
            }
        }
    }
}

/// Sizes of symbols that are known from other arrays, and by which one.
pub(super) type Symbols = BTreeMap<String, (usize, String)>;

/// Checks that the elements of `array` may feed `input`.
pub(super) fn check_elements(array: &NpyArray, input: &DeclaredInput) -> Result<()> {
    if is_convertible(array.element, input.element) {
        return Ok(());
    }
    let found = array.element.name();
    Err(Error::input(format!("array '{}' is {found}, the model wants {:?}", array.name, input.element)))
}

/// Checks `shape`, which counts samples on axis `samples`, against the declaration of `input` on all other axes; sizes of
/// symbols go to `symbols`.
pub(super) fn check_shape(
    shape: &[usize],
    input: &DeclaredInput,
    samples: Option<usize>,
    symbols: &mut Symbols,
) -> Result<()> {
    let Some(dims) = &input.dims else { return Ok(()) };
    let differs = || {
        let wanted = written(dims, samples);
        Error::input(format!("array '{}' has shape {shape:?}, the model wants {wanted}", input.name))
    };
    if shape.len() != dims.len() {
        return Err(differs());
    }
    for (_, (&size, dim)) in shape.iter().zip(dims).enumerate().filter(|(axis, _)| Some(*axis) != samples) {
        match dim {
            Dim::Fixed(fixed) if *fixed != size => return Err(differs()),
            Dim::Symbol(symbol) => {
                let (known, by) = symbols.entry(symbol.clone()).or_insert_with(|| (size, input.name.clone()));
                if *known != size {
                    return Err(Error::input(format!(
                        "'{symbol}' is {known} in array '{by}' and {size} in array '{}'",
                        input.name
                    )));
                }
            }
            Dim::Fixed(_) | Dim::Unknown => {}
        }
    }
    Ok(())
}

/// The sizes that an output declares, `None` for open ones.
fn declared_sizes(output: &ValueInfoProto) -> Option<Vec<Option<usize>>> {
    let Some(type_proto::Value::TensorType(tensor)) = output.r#type.as_ref()?.value.as_ref() else { return None };
    let size = |value: Option<&Value>| match value {
        Some(Value::DimValue(size)) => usize::try_from(*size).ok(),
        _ => None,
    };
    Some(tensor.shape.as_ref()?.dim.iter().map(|dim| size(dim.value.as_ref())).collect())
}

/// The fixed last axis of the first output of rank 2.
fn classes(graph: &GraphProto) -> Option<usize> {
    graph.output.iter().find_map(|output| match declared_sizes(output)?.as_slice() {
        &[_, last] => last.filter(|&size| size > 1),
        _ => None,
    })
}

/// A declared shape, the axis of samples as `N`.
pub(super) fn written(dims: &[Dim], samples: Option<usize>) -> String {
    let size = |(axis, dim): (usize, &Dim)| match dim {
        _ if Some(axis) == samples => "N".to_owned(),
        Dim::Fixed(size) => size.to_string(),
        Dim::Symbol(symbol) => symbol.clone(),
        Dim::Unknown => "?".to_owned(),
    };
    format!("[{}]", dims.iter().enumerate().map(size).collect::<Vec<_>>().join(", "))
}
