//! ONNX's own test data: `test_data_set_0/input_0.pb`, each file one `TensorProto`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use prost::Message;

use super::batch::Batch;
use super::batch_axes::SampleAxis;
use super::rows::Rows;
use super::schema::{Schema, Symbols, check_shape};
use crate::onnx::proto::TensorProto;
use crate::onnx::proto::tensor_proto::DataType;
use crate::runtime::{NamedTensor, Tensor, elements_as, tensor_of};
use crate::{Error, Result};

/// Whether `path` is called `input_*.pb`.
pub(super) fn is_input(path: &Path) -> bool {
    index_of(path).is_some()
}

/// Whether `path` is called `test_data_set_*`.
pub(super) fn is_set(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("test_data_set_"))
}

fn index_of(path: &Path) -> Option<usize> {
    path.file_name()?.to_str()?.strip_prefix("input_")?.strip_suffix(".pb")?.parse().ok()
}

/// One set, wholly in memory.
#[derive(Debug)]
pub(super) struct TestSet {
    inputs: Vec<NamedTensor>,
    /// The axis of samples of each input; none where the set is one run.
    axes: Vec<Option<usize>>,
    count: usize,
}

/// The set in the directory `path`: tensors go to the inputs that they are named after, else in order.
pub(super) fn open(path: &Path, schema: &Schema) -> Result<TestSet> {
    let unreadable = |e: std::io::Error| Error::input(format!("cannot be read: {e}"));
    let entries = std::fs::read_dir(path).map_err(unreadable)?;
    let files: BTreeMap<usize, PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter_map(|file| Some((index_of(&file)?, file)))
        .collect();
    let mut tensors = Vec::new();
    for file in files.values() {
        let proto = TensorProto::decode(bytes::Bytes::from(std::fs::read(file).map_err(unreadable)?))
            .map_err(|e| Error::input(format!("is not a tensor: {e}")).in_file(file))?;
        tensors.push((proto.name().to_owned(), tensor_of(&proto).map_err(|e| e.in_file(file))?));
    }
    let mut inputs = Vec::new();
    for (index, input) in schema.inputs.iter().enumerate() {
        let named = tensors.iter().find(|(name, _)| *name == input.name).or_else(|| tensors.get(index));
        let (_, tensor) =
            named.ok_or_else(|| Error::input(format!("has no input_{index}.pb for input '{}'", input.name)))?;
        inputs.push((input.name.clone(), checked(&input.name, tensor, input.element)?));
    }
    // The data of ONNX is one run each; where the graph has an axis of samples, its rows are samples too.
    let axes: Vec<Option<usize>> = schema.axes.iter().map(|axis| axis.position()).collect();
    let fits = |axes: &[Option<usize>]| {
        let mut symbols = Symbols::new();
        let declared = inputs.iter().zip(&schema.inputs).zip(axes);
        declared
            .into_iter()
            .try_for_each(|(((_, tensor), input), axis)| check_shape(tensor.shape(), input, *axis, &mut symbols))
    };
    let along: Result<()> = fits(&axes);
    let rows: BTreeSet<usize> =
        (inputs.iter().zip(&axes)).filter_map(|((_, tensor), axis)| tensor.shape().get((*axis)?).copied()).collect();
    if along.is_ok() && rows.len() == 1 && !schema.axes.contains(&SampleAxis::Missing) {
        return Ok(TestSet { inputs, axes, count: rows.into_iter().next().unwrap_or(1) });
    }
    let runs = vec![None; inputs.len()];
    fits(&runs).map_err(|error| along.err().unwrap_or(error))?;
    Ok(TestSet { inputs, axes: runs, count: 1 })
}

/// `tensor` as `element`, which must be its own type or the same kind of number without loss, and finite.
fn checked(name: &str, tensor: &Tensor, element: DataType) -> Result<Tensor> {
    let cast = elements_as(element, tensor)?;
    let same_kind = cast.is_float() == tensor.is_float() && cast.is::<bool>() == tensor.is::<bool>();
    if !same_kind {
        return Err(Error::input(format!("input '{name}' is {}, the model wants {element:?}", tensor.type_name())));
    }
    let fits = if tensor.is_float() {
        cast.to_vec::<f64>()?.iter().all(|value| value.is_finite())
    } else {
        cast.is::<bool>() || cast.to_vec::<i64>()? == tensor.to_vec::<i64>()?
    };
    if fits {
        Ok(cast)
    } else {
        Err(Error::input(format!("input '{name}' has values that are not finite or do not fit {element:?}")))
    }
}

impl Rows for TestSet {
    fn count(&self) -> usize {
        self.count
    }

    fn are_runs(&self) -> bool {
        self.axes.iter().all(Option::is_none)
    }

    fn read(&self, start: usize, end: usize) -> Result<Batch> {
        let rows = |((name, tensor), axis): (&NamedTensor, &Option<usize>)| {
            let part = axis.map_or_else(|| Ok(tensor.clone()), |axis| tensor.narrow(axis, start, end));
            Ok((name.clone(), part?))
        };
        let inputs = self.inputs.iter().zip(&self.axes).map(rows).collect::<Result<_>>()?;
        Ok(Batch { inputs, labels: None, axes: self.axes.clone() })
    }
}
