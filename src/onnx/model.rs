//! A model in memory: what the file holds, checked once, and where it came from.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message as _;

use super::external::{self, Files};
use super::wire::{self, Survey};
use super::{buffer, tensor, visit};
use crate::onnx::domain::opset_of;
use crate::onnx::proto::{ModelProto, Version};
use crate::{Error, Result};

/// Decoded messages may take this many bytes of memory plus [`MEMORY_PER_BYTE`] for each byte of the file. Real
/// models stay far below; a file made of empty messages does not.
const MEMORY_ALLOWANCE: usize = 512 << 20;

/// Key of the entry of a model's metadata that holds its certificate.
pub(crate) const CERTIFICATE: &str = "paredown.certificate";

/// See [`MEMORY_ALLOWANCE`].
const MEMORY_PER_BYTE: usize = 16;

/// An ONNX model in memory, and the file that it came from.
#[derive(Debug, Clone)]
pub struct Model {
    /// The decoded file. External data is in place as `raw_data`, so that every tensor has its elements.
    #[doc(hidden)]
    pub proto: ModelProto,
    /// Warnings about the file, such as fields unknown to the schema, which a saved model lacks.
    pub warnings: Vec<String>,
    file_bytes: u64,
    sources: Vec<PathBuf>,
    external_data: bool,
}

impl Model {
    /// Reads a model file and the external data that it refers to. Large files are mapped into memory and must not
    /// change while the model is in use.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) if a file cannot be read, is not an ONNX model with a graph, is
    /// damaged, or holds a tensor whose data does not fit its shape; if external data is missing, too short or not
    /// inside the model's folder.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let load = || {
            let buffer = buffer::file_bytes(path)?;
            Self::decode(&buffer, Some(path))
        };
        load().map_err(|e| e.in_file(path))
    }

    /// Decodes a model from memory; its weights remain slices of `buffer`.
    ///
    /// # Errors
    /// As [`Model::load`]; external data is refused, because it has no folder to be in.
    #[allow(clippy::needless_pass_by_value)] // whoever gives a buffer away shares it with the model
    pub fn from_bytes(buffer: Bytes) -> Result<Self> {
        Self::decode(&buffer, None)
    }

    /// A model that was made in memory.
    #[doc(hidden)]
    pub fn from_proto(proto: ModelProto) -> Self {
        let file_bytes = proto.encoded_len() as u64;
        Self { proto, warnings: Vec::new(), file_bytes, sources: Vec::new(), external_data: false }
    }

    /// The same origin with other content: a rewritten model, whose [`Model::save`] still refuses to overwrite the
    /// files that the original came from. It has no certificate: that holds for one file.
    #[doc(hidden)]
    #[must_use]
    pub fn with_proto(&self, mut proto: ModelProto) -> Self {
        proto.metadata_props.retain(|entry| entry.key() != CERTIFICATE);
        let file_bytes = proto.encoded_len() as u64;
        let (sources, external_data) = (self.sources.clone(), self.external_data);
        Self { proto, warnings: Vec::new(), file_bytes, sources, external_data }
    }

    /// The same file, its content said in another way.
    pub(crate) fn restated(&self, proto: ModelProto) -> Self {
        Self { proto, ..self.clone() }
    }

    /// The names of the inputs that every run must be given, in the order of the graph: those without a default.
    pub fn inputs(&self) -> Vec<&str> {
        let Some(graph) = &self.proto.graph else { return Vec::new() };
        let defaults: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
        graph.input.iter().map(|input| input.name()).filter(|name| !defaults.contains(name)).collect()
    }

    /// Size of the model in bytes, including external data. For a model made in memory, this is its size as one
    /// protobuf.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Whether the model was read with tensors in external files.
    pub fn used_external_data(&self) -> bool {
        self.external_data
    }

    /// The files that the model was read from, with links resolved.
    pub fn sources(&self) -> &[PathBuf] {
        &self.sources
    }

    /// Name of the file that the model was read from, without its folder.
    pub(crate) fn file_name(&self) -> Option<String> {
        let path = self.sources.first()?;
        path.file_name().map(|name| name.to_string_lossy().into_owned())
    }

    /// The version of the operator set imported for `domain` (`""` and `"ai.onnx"` are the same).
    pub fn opset(&self, domain: &str) -> Option<i64> {
        opset_of(&self.proto, domain)
    }

    fn decode(buffer: &Bytes, path: Option<&Path>) -> Result<Self> {
        let (mut proto, mut warnings) = parse(buffer).map_err(|e| recognised(buffer).unwrap_or(e))?;
        let files = external::attach(&mut proto, path, &mut warnings)?;
        visit::tensors(&mut proto, &mut |_, tensor| tensor::check(tensor))?;
        Ok(Self {
            proto,
            warnings,
            file_bytes: total_bytes(buffer, &files),
            sources: path.and_then(|path| path.canonicalize().ok()).into_iter().chain(files.keys().cloned()).collect(),
            external_data: !files.is_empty(),
        })
    }
}

/// Decodes the protobuf; also gives the warnings.
fn parse(buffer: &Bytes) -> Result<(ModelProto, Vec<String>)> {
    let survey = wire::survey(buffer, "ModelProto")?;
    let allowed = buffer.len().saturating_mul(MEMORY_PER_BYTE).saturating_add(MEMORY_ALLOWANCE);
    if survey.message_bytes > allowed {
        let count = survey.messages;
        return Err(Error::input(format!("{count} messages are too many for {} bytes of file", buffer.len())));
    }
    let proto = ModelProto::decode(buffer.clone()).map_err(|e| Error::input(format!("not an ONNX model: {e}")))?;
    if proto.graph.is_none() {
        return Err(Error::input("not an ONNX model: it holds no graph"));
    }
    if proto.opset_import.is_empty() {
        return Err(Error::input("no operator set is imported; the file is probably truncated"));
    }
    let warnings = warnings(&proto, &survey);
    Ok((proto, warnings))
}

fn total_bytes(buffer: &Bytes, files: &Files) -> u64 {
    files.values().chain([buffer]).map(|bytes| bytes.len() as u64).sum()
}

/// A better word for files that are obviously something else.
fn recognised(buffer: &Bytes) -> Option<Error> {
    if buffer.is_empty() {
        return Some(Error::input("is empty"));
    }
    if buffer.starts_with(b"version https://git-lfs") {
        return Some(Error::input("is a Git LFS pointer, not the model itself; run `git lfs pull`"));
    }
    let start = buffer.get(..buffer.len().min(512))?;
    let text = start.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    text.then(|| Error::input("is a text file, not an ONNX model"))
}

/// What the user should know about the file.
fn warnings(proto: &ModelProto, survey: &Survey) -> Vec<String> {
    let unknown = survey.unknown.iter().map(|((message, number), count)| {
        format!("field {number} of {message} is unknown to this version and dropped (found {count} times)")
    });
    let newest = Version::IrVersion as i64;
    let newer = (proto.ir_version() > newest).then(|| {
        format!("IR version {} is newer than {newest}, the newest that this version knows", proto.ir_version())
    });
    newer.into_iter().chain(unknown).collect()
}
