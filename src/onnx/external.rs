//! External data: tensors whose bytes are in files beside the model.
//!
//! A tensor with `data_location = EXTERNAL` names a file (`location`, relative to the model's folder), an
//! `offset` (default 0) and a `length` (default: what shape and element type need). [`attach`] brings
//! such tensors into the model as slices of the mapped file; [`detach`] is the way back.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use super::buffer;
use super::encode::encoded_len;
use super::tensor::{ElementType, TensorView, stored_bytes};
use super::visit::{self, Place};
use crate::onnx::proto::tensor_proto::DataLocation;
use crate::onnx::proto::{ModelProto, StringStringEntryProto, TensorProto};
use crate::{Error, Result};

/// Tensors below this many bytes stay in the model file: shape operands are wanted there by every runtime.
const DETACH_FROM: usize = 1 << 10;

/// Offsets are multiples of the usual page size, so that tensors can be mapped one by one.
const ALIGNMENT: u64 = 4096;

/// Keys of `external_data` that the specification or its tools use.
const KNOWN_KEYS: [&str; 5] = ["location", "offset", "length", "checksum", "basepath"];

/// The external files that a model uses, by resolved path.
pub(super) type Files = BTreeMap<PathBuf, Bytes>;

/// Replaces every external reference of `model` by the bytes that it stands for. `model_path` is the file
/// that the model was read from, if it was.
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input), naming the tensor and the file, if the location leaves the model's
/// folder, the file is missing or too short, or an offset is not a number.
pub(super) fn attach(model: &mut ModelProto, model_path: Option<&Path>, warnings: &mut Vec<String>) -> Result<Files> {
    let mut files = Files::new();
    visit::tensors(model, &mut |_, tensor| {
        if tensor.data_location() != DataLocation::External {
            return Ok(());
        }
        let named = |e: Error| Error::input(format!("tensor '{}': external data: {e}", tensor.name()));
        let reference = Reference::of(tensor, warnings).map_err(named)?;
        let raw = reference.read(model_path, &mut files).map_err(named)?;
        tensor.raw_data = Some(raw);
        tensor.external_data.clear();
        tensor.data_location = None;
        Ok(())
    })?;
    Ok(files)
}

/// Where the bytes of an external tensor are.
struct Reference {
    location: String,
    offset: u64,
    length: u64,
}

impl Reference {
    fn of(tensor: &TensorProto, warnings: &mut Vec<String>) -> Result<Self> {
        let entry =
            |key: &str| tensor.external_data.iter().find(|entry| entry.key() == key).map(StringStringEntryProto::value);
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text
                .parse::<u64>()
                .map(Some)
                .map_err(|_| Error::input(format!("{key} '{text}' is not a number of bytes"))),
        };
        for unknown in tensor.external_data.iter().filter(|entry| !KNOWN_KEYS.contains(&entry.key())) {
            warnings.push(format!(
                "tensor '{}': external data key '{}' is unknown and dropped",
                tensor.name(),
                unknown.key()
            ));
        }
        let element = ElementType::from_code(tensor.data_type())?;
        let needed = stored_bytes(&tensor.dims, element)? as u64;
        let length = number("length")?.unwrap_or(needed);
        if element == ElementType::String {
            return Err(Error::input("strings cannot be external"));
        }
        if length != needed {
            let shape = &tensor.dims;
            return Err(Error::input(format!("shape {shape:?} of {element} needs {needed} bytes, length is {length}")));
        }
        let location = entry("location").ok_or_else(|| Error::input("no location is given"))?;
        Ok(Self { location: location.to_owned(), offset: number("offset")?.unwrap_or(0), length })
    }

    fn read(&self, model_path: Option<&Path>, files: &mut Files) -> Result<Bytes> {
        let model_path = model_path.ok_or_else(|| Error::input("the model has no folder; load it from its path"))?;
        let path = resolve(model_path, &self.location)?;
        if !files.contains_key(&path) {
            files.insert(path.clone(), buffer::file_bytes(&path)?);
        }
        let bytes = files.get(&path).cloned().unwrap_or_default();
        let range =
            usize::try_from(self.offset).ok().zip(self.offset.checked_add(self.length)).and_then(|(start, end)| {
                let end = usize::try_from(end).ok()?;
                (end <= bytes.len()).then_some(start..end)
            });
        let too_short = || {
            let (offset, length, size) = (self.offset, self.length, bytes.len());
            Error::input(format!("{length} bytes from offset {offset} are needed, the file has only {size}"))
                .in_file(&path)
        };
        range.map(|range| bytes.slice(range)).ok_or_else(too_short)
    }
}

/// The file that `location` names, which must lie in the model's folder: as the model was named, or, where the
/// model is itself a link into a store of files, as it resolves.
fn resolve(model_path: &Path, location: &str) -> Result<PathBuf> {
    let escapes = || Error::input(format!("location '{location}' is not inside the model's folder"));
    let relative = Path::new(location);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain || relative.file_name().is_none() || location.contains('\0') {
        return Err(escapes());
    }
    let folder = match model_path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let named = folder.join(relative);
    let missing = |e: std::io::Error| Error::input(format!("cannot be read: {e}")).in_file(&named);
    let path = named.canonicalize().map_err(missing)?;
    let resolved_model = model_path.canonicalize().map_err(missing)?;
    let folders = [folder.canonicalize().ok(), resolved_model.parent().map(Path::to_owned)];
    if folders.into_iter().flatten().any(|folder| path.starts_with(folder)) { Ok(path) } else { Err(escapes()) }
}

/// The content of an external file to be written: aligned pieces in ascending order.
#[derive(Debug, Default)]
pub(super) struct DataFile {
    /// Offset and bytes of each tensor.
    pub(super) pieces: Vec<(u64, Bytes)>,
    len: u64,
}

/// Moves the large tensors of `model` into a data file called `location`. Initializers go first; tensors of
/// attributes follow only where the rest would still take more than `limit` bytes, because not every runtime reads
/// them from external files.
pub(super) fn detach(model: &mut ModelProto, location: &str, limit: u64) -> Result<DataFile> {
    let mut file = DataFile::default();
    for place in [Place::Initializer, Place::Attribute] {
        if place == Place::Initializer || encoded_len(model) > limit {
            visit::tensors(model, &mut |found, tensor| {
                if found == place {
                    file.append(tensor, location);
                }
                Ok(())
            })?;
        }
    }
    Ok(file)
}

impl DataFile {
    /// Moves the elements of `tensor` to the end of the file, if they are many and are numbers.
    fn append(&mut self, tensor: &mut TensorProto, location: &str) {
        let Ok(view) = TensorView::new(tensor) else {
            return;
        };
        let bytes = view.bytes().clone();
        if bytes.len() < DETACH_FROM {
            return;
        }
        let (offset, length) = (self.len.next_multiple_of(ALIGNMENT), bytes.len() as u64);
        self.len = offset + length;
        self.pieces.push((offset, bytes));
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
        *tensor = TensorProto {
            dims: std::mem::take(&mut tensor.dims),
            data_type: tensor.data_type,
            name: tensor.name.take(),
            doc_string: tensor.doc_string.take(),
            metadata_props: std::mem::take(&mut tensor.metadata_props),
            external_data: vec![
                entry("location", location.to_owned()),
                entry("offset", offset.to_string()),
                entry("length", length.to_string()),
            ],
            data_location: Some(DataLocation::External.into()),
            ..TensorProto::default()
        };
    }
}
