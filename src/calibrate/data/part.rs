//! The pieces of a data set, each opened only while it is read.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::archive::{extension, open_arrays};
use super::batch::Batch;
use super::convert::{Elements, convert, read_elements};
use super::held_out::Chosen;
use super::images::Images;
use super::labels::Labels;
use super::npy::{NpyArray, NpyType};
use super::placement::{Place, Placed, placed};
use super::rows::Rows;
use super::schema::{LABELS, Schema};
use super::test_sets;
use crate::onnx::proto::tensor_proto::DataType;
use crate::runtime::Tensor;
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
        Ok(Batch::of_rows(self.prober.batch(start, end - start)?, None))
    }
}

/// The arrays of one file, in graph order.
#[derive(Debug)]
struct ArrayRows {
    placed: Placed,
    labels: Option<NpyArray>,
}

impl ArrayRows {
    fn open(path: &std::path::Path, schema: &Schema) -> Result<(Self, Vec<String>)> {
        let [first, others @ ..] = schema.inputs.as_slice() else {
            return Err(Error::input("the model has no inputs"));
        };
        if extension(path) == "npy" && !others.is_empty() {
            let names: Vec<&str> = schema.inputs.iter().map(|input| input.name.as_str()).collect();
            let message = format!("holds one array, the model has inputs {}; save an .npz", names.join(", "));
            return Err(Error::input(message));
        }
        let wanted = |name: &str| schema.is_input(name) || name == LABELS;
        let (mut arrays, names) = open_arrays(path, &first.name, wanted)?;
        let mut take =
            |name: &str| arrays.iter().position(|array| array.name == name).map(|index| arrays.swap_remove(index));
        let inputs = schema.inputs.iter().map(|input| take(&input.name).ok_or_else(|| missing(&input.name, &names)));
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let labels = if schema.is_input(LABELS) { None } else { take(LABELS) };
        let placed = placed(inputs, schema)?;
        check_labels(&placed, labels.as_ref())?;
        let mut noted: Vec<String> =
            names.iter().filter(|name| !wanted(name)).map(|name| format!("array '{name}' is not used")).collect();
        let labels = labels.filter(|labels| {
            let is_real = matches!(labels.element, NpyType::Float { .. });
            let is_usable = !is_real || schema.has_output_like(&labels.shape, placed.runs);
            if !is_usable {
                noted.push(format!(
                    "labels of type {} and shape {:?} are neither classes (integers) nor values of an output, and not used",
                    labels.element.name(),
                    labels.shape
                ));
            }
            is_usable
        });
        Ok((Self { placed, labels }, noted))
    }
}

fn missing(input: &str, names: &[String]) -> Error {
    let has = if names.is_empty() { "no arrays".to_owned() } else { format!("arrays {}", names.join(", ")) };
    Error::input(format!("has no array for input '{input}'; it has {has}, which must be named as the model's inputs"))
}

/// Checks that there is a label for each sample, and one class where labels are classes.
fn check_labels(placed: &Placed, labels: Option<&NpyArray>) -> Result<()> {
    let Some(labels) = labels else { return Ok(()) };
    if !matches!(labels.element, NpyType::Float { .. }) && !matches!(labels.shape.as_slice(), [_] | [_, 1]) {
        return Err(Error::input(format!(
            "array 'labels' has shape {:?}, one class for each sample is wanted (real values are saved as floats)",
            labels.shape
        )));
    }
    if labels.row_count() == placed.count {
        return Ok(());
    }
    let sampled = placed.inputs.iter().find(|(_, _, place)| *place != Place::Shared);
    let whose = sampled.map_or_else(|| "the file".to_owned(), |(_, array, _)| format!("array '{}'", array.name));
    Err(Error::input(format!(
        "{whose} has {} samples and array '{}' has {}",
        placed.count,
        labels.name,
        labels.row_count()
    )))
}

impl Rows for ArrayRows {
    fn count(&self) -> usize {
        self.placed.count
    }

    fn are_runs(&self) -> bool {
        self.placed.runs
    }

    fn read(&self, start: usize, end: usize) -> Result<Batch> {
        let input = |(input, array, place): &(DeclaredInput, NpyArray, Place)| {
            Ok((input.name.clone(), read(input, array, *place, start..end)?))
        };
        let inputs = self.placed.inputs.iter().map(input).collect::<Result<Vec<_>>>()?;
        let labels = match &self.labels {
            Some(labels) => Some(match read_elements(labels, start, end)? {
                Elements::Integers(classes) => Labels::Classes(classes),
                Elements::Bools(classes) => Labels::Classes(classes.into_iter().map(i64::from).collect()),
                values @ (Elements::Floats(_) | Elements::Singles(_)) => {
                    let shape: Vec<usize> =
                        std::iter::once(end - start).chain(labels.shape.iter().skip(1).copied()).collect();
                    Labels::Values(convert(&labels.name, &values, DataType::Float, &shape, start)?)
                }
            }),
            None => None,
        };
        let axis = |(_, _, place): &(DeclaredInput, NpyArray, Place)| match place {
            Place::Along(axis) => Some(*axis),
            Place::Runs | Place::Shared => None,
        };
        Ok(Batch { inputs, labels, axes: self.placed.inputs.iter().map(axis).collect() })
    }
}

/// The samples `range` of an array, of which there is one if they are runs.
fn read(input: &DeclaredInput, array: &NpyArray, place: Place, range: Range<usize>) -> Result<Tensor> {
    let (start, end) = (range.start, range.end);
    let (rows, shape, first) = match place {
        Place::Along(0) => {
            let shape = std::iter::once(end - start).chain(array.shape.iter().skip(1).copied()).collect();
            (start..end, shape, start)
        }
        Place::Runs if end - start == 1 => (start..end, array.shape.iter().skip(1).copied().collect::<Vec<_>>(), start),
        Place::Runs => return Err(Error::input("several samples at once where each is one run of the model")),
        Place::Along(_) | Place::Shared => (0..array.row_count(), array.shape.clone(), 0),
    };
    let elements = read_elements(array, rows.start, rows.end)?;
    let whole = convert(&array.name, &elements, input.element, &shape, first)?;
    match place {
        Place::Along(axis) if axis > 0 => whole.narrow(axis, start, end),
        _ => Ok(whole),
    }
}
