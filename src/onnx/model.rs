//! A model in memory: [`Model::load`], [`Model::from_bytes`], [`Model::save`].

use std::fs;
use std::path::Path;

use bytes::Bytes;
use prost::Message as _;

use crate::onnx::proto::ModelProto;
use crate::{Error, Result};

/// An ONNX model and what is known about the file that it came from.
#[derive(Debug, Clone)]
pub struct Model {
    /// The decoded file. External data is in place as `raw_data`.
    pub proto: ModelProto,
    /// What the user should know about the file, for instance fields that the schema does not know.
    pub warnings: Vec<String>,
    file_bytes: u64,
}

/// How [`Model::save`] writes.
#[derive(Debug, Clone, Default)]
pub struct SaveOptions {
    /// Put large tensors into `<file name>.data` beside the model.
    pub external_data: bool,
    /// Replace an existing file.
    pub force: bool,
}

impl Model {
    /// Reads the model file at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) if the file cannot be read or is not an ONNX model.
    pub fn load(path: &Path) -> Result<Self> {
        let buffer = fs::read(path).map_err(|e| Error::input(format!("cannot be read: {e}")).in_file(path))?;
        Self::from_bytes(Bytes::from(buffer)).map_err(|e| e.in_file(path))
    }

    /// Decodes a model whose weights stay slices of `buffer`.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) if `buffer` is not an ONNX model with a graph.
    pub fn from_bytes(buffer: Bytes) -> Result<Self> {
        let file_bytes = buffer.len() as u64;
        let proto = ModelProto::decode(buffer).map_err(|e| Error::input(format!("not an ONNX model: {e}")))?;
        if proto.graph.is_none() {
            return Err(Error::input("not an ONNX model: it holds no graph"));
        }
        Ok(Self { proto, warnings: Vec::new(), file_bytes })
    }

    /// Size of the model file and of the external data that it uses, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The version of the operator set imported for `domain` (`""` and `"ai.onnx"` are the same).
    pub fn opset(&self, domain: &str) -> Option<i64> {
        let canonical = |name: &str| if name == "ai.onnx" { String::new() } else { name.to_owned() };
        let found = self.proto.opset_import.iter().find(|set| canonical(set.domain()) == canonical(domain));
        found.map(|set| set.version())
    }

    /// Writes the model to `path` and returns the number of bytes written.
    ///
    /// # Errors
    /// [`ErrorKind::Output`](crate::ErrorKind::Output) if the file exists and `options.force` is not set, or if
    /// it cannot be written.
    pub fn save(&self, path: &Path, options: &SaveOptions) -> Result<u64> {
        if path.exists() && !options.force {
            return Err(Error::output("exists already; pass --force to replace it").in_file(path));
        }
        let encoded = self.proto.encode_to_vec();
        fs::write(path, &encoded).map_err(|e| Error::output(format!("cannot be written: {e}")).in_file(path))?;
        Ok(encoded.len() as u64)
    }
}
