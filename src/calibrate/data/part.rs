//! The pieces of a data set, each opened only while it is read.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use super::archive::open_arrays;
use super::convert::{Elements, convert, read_elements};
use super::held_out::Chosen;
use super::images::Images;
use super::npy::{NpyArray, NpyType};
use super::schema::{LABELS, Schema, check_array};
use super::{Batch, Labels, test_sets};
use crate::onnx::proto::tensor_proto::DataType;
use crate::runtime::inputs::DeclaredInput;
use crate::runtime::probes::Prober;
use crate::{Error, Result};

/// One piece of a data set.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// An `.npz` or `.npy` file.
    Arrays(PathBuf),
    /// A `test_data_set_*` directory.
    TestSet(PathBuf),
    Images(Arc<Images>),
    Synthetic(Arc<Synthetic>),
    /// Some samples of a piece, by number.
    Chosen {
        of: Box<Part>,
        kept: Arc<[usize]>,
    },
}

/// An open piece: samples by number.
pub(super) trait Rows: Debug + Send + Sync {
    /// Number of samples.
    fn count(&self) -> usize;
    /// Samples `start..end`.
    fn read(&self, start: usize, end: usize) -> Result<Batch>;
}

impl Part {
    /// Opens the piece, checked against `schema`; with what the user should know about it.
    pub(super) fn open(&self, schema: &Schema) -> Result<(Arc<dyn Rows>, Vec<String>)> {
        let opened: Result<(Arc<dyn Rows>, Vec<String>)> = match self {
            Self::Arrays(path) => ArrayRows::open(path, schema).map(|(rows, noted)| (Arc::new(rows) as _, noted)),
            Self::TestSet(path) => test_sets::open(path, schema).map(|rows| (Arc::new(rows) as _, Vec::new())),
            Self::Images(images) => Ok((images.clone(), Vec::new())),
            Self::Synthetic(synthetic) => Ok((synthetic.clone(), Vec::new())),
            Self::Chosen { of, kept } => of.open(schema).map(|(rows, noted)| {
                let rows: Arc<dyn Rows> = Arc::new(Chosen { rows, kept: kept.clone() });
                (rows, noted)
            }),
        };
        opened.map_err(|e| self.locate(e))
    }

    /// `error`, naming the file that it concerns.
    pub(super) fn locate(&self, error: Error) -> Error {
        match self {
            Self::Arrays(path) | Self::TestSet(path) => error.in_file(path),
            Self::Images(_) | Self::Synthetic(_) | Self::Chosen { .. } => error,
        }
    }
}

/// Made-up samples.
#[derive(Debug)]
pub(super) struct Synthetic {
    pub(super) prober: Prober,
    pub(super) samples: usize,
}

impl Rows for Synthetic {
    fn count(&self) -> usize {
        self.samples
    }

    fn read(&self, start: usize, end: usize) -> Result<Batch> {
        Ok(Batch { inputs: self.prober.batch(start, end - start)?, labels: None })
    }
}

/// The arrays of one file, in graph order.
#[derive(Debug)]
struct ArrayRows {
    inputs: Vec<(DeclaredInput, NpyArray)>,
    labels: Option<NpyArray>,
    count: usize,
}

impl ArrayRows {
    fn open(path: &std::path::Path, schema: &Schema) -> Result<(Self, Vec<String>)> {
        let [first, others @ ..] = schema.inputs.as_slice() else {
            return Err(Error::input("the model has no inputs"));
        };
        if super::archive::extension(path) == "npy" && !others.is_empty() {
            let names: Vec<&str> = schema.inputs.iter().map(|input| input.name.as_str()).collect();
            let message = format!("holds one array, the model has inputs {}; save an .npz", names.join(", "));
            return Err(Error::input(message));
        }
        let wanted = |name: &str| schema.is_input(name) || name == LABELS;
        let (mut arrays, names) = open_arrays(path, &first.name, wanted)?;
        let mut take =
            |name: &str| arrays.iter().position(|array| array.name == name).map(|index| arrays.swap_remove(index));
        let mut symbols = BTreeMap::new();
        let mut inputs = Vec::new();
        for input in &schema.inputs {
            let array = take(&input.name).ok_or_else(|| missing(&input.name, &names))?;
            check_array(&array, input, &mut symbols)?;
            inputs.push((input.clone(), array));
        }
        let labels = if schema.is_input(LABELS) { None } else { take(LABELS) };
        let count = common_count(&inputs, labels.as_ref())?;
        let mut noted: Vec<String> =
            names.iter().filter(|name| !wanted(name)).map(|name| format!("array '{name}' is not used")).collect();
        let labels = labels.filter(|labels| {
            let is_real = matches!(labels.element, NpyType::Float { .. });
            let is_usable = !is_real || schema.has_output_like(&labels.shape);
            if !is_usable {
                noted.push(format!(
                    "labels of type {} and shape {:?} are neither classes (integers) nor values of an output, and not used",
                    labels.element.name(),
                    labels.shape
                ));
            }
            is_usable
        });
        Ok((Self { inputs, labels, count }, noted))
    }
}

fn missing(input: &str, names: &[String]) -> Error {
    let has = if names.is_empty() { "no arrays".to_owned() } else { format!("arrays {}", names.join(", ")) };
    Error::input(format!("has no array for input '{input}'; it has {has}, which must be named as the model's inputs"))
}

/// The number of samples, which all arrays must have.
fn common_count(inputs: &[(DeclaredInput, NpyArray)], labels: Option<&NpyArray>) -> Result<usize> {
    if let Some(labels) = labels
        && !matches!(labels.element, NpyType::Float { .. })
        && !matches!(labels.shape.as_slice(), [_] | [_, 1])
    {
        return Err(Error::input(format!(
            "array 'labels' has shape {:?}, one class for each sample is wanted (real values are saved as floats)",
            labels.shape
        )));
    }
    // An input of rank 0 is the same for all samples.
    let sampled = || inputs.iter().map(|(_, array)| array).filter(|array| !array.shape.is_empty()).chain(labels);
    let Some(first) = sampled().next() else { return Ok(1) };
    match sampled().find(|array| array.row_count() != first.row_count()) {
        None => Ok(first.row_count()),
        Some(other) => Err(Error::input(format!(
            "array '{}' has {} samples and array '{}' has {}",
            first.name,
            first.row_count(),
            other.name,
            other.row_count()
        ))),
    }
}

impl Rows for ArrayRows {
    fn count(&self) -> usize {
        self.count
    }

    fn read(&self, start: usize, end: usize) -> Result<Batch> {
        let shape_of_rows = |array: &NpyArray| {
            let mut shape = array.shape.clone();
            if let Some(rows) = shape.first_mut() {
                *rows = end - start;
            }
            shape
        };
        let input = |(input, array): &(DeclaredInput, NpyArray)| {
            let is_scalar = array.shape.is_empty();
            let elements = if is_scalar { read_elements(array, 0, 1)? } else { read_elements(array, start, end)? };
            let shape = shape_of_rows(array);
            Ok((input.name.clone(), convert(&array.name, &elements, input.element, &shape, start)?))
        };
        let inputs = self.inputs.iter().map(input).collect::<Result<Vec<_>>>()?;
        let labels = match &self.labels {
            Some(labels) => Some(match read_elements(labels, start, end)? {
                Elements::Integers(classes) => Labels::Classes(classes),
                Elements::Bools(classes) => Labels::Classes(classes.into_iter().map(i64::from).collect()),
                values @ (Elements::Floats(_) | Elements::Singles(_)) => {
                    Labels::Values(convert(&labels.name, &values, DataType::Float, &shape_of_rows(labels), start)?)
                }
            }),
            None => None,
        };
        Ok(Batch { inputs, labels })
    }
}
