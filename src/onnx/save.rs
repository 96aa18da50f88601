//! Writing a model: beside the target first, renamed over it when it is complete and on disk.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::{NamedTempFile, TempPath};

use super::encode::{encoded_len, write_model};
use super::external::{self, DataFile};
use super::model::Model;
use crate::texts::temporary;
use crate::{Error, Result};

/// Largest protobuf that every reader accepts, in bytes.
const PROTOBUF_LIMIT: u64 = i32::MAX as u64;

/// Options of [`Model::save`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SaveOptions {
    /// Store tensors of at least 1 KiB in `<file name>.data` next to the model. Above 2 GiB, the limit of a protobuf
    /// file, this is always done.
    pub external_data: bool,
    /// Overwrite existing files.
    pub force: bool,
}

impl Model {
    /// Writes the model to `path` and returns the number of bytes written, external data included.
    ///
    /// The files are written completely or not at all; until then an existing file is unchanged. The same model gives
    /// the same bytes on every run.
    ///
    /// # Errors
    /// * [`ErrorKind::Usage`](crate::ErrorKind::Usage) if a file that the model was read from would be overwritten;
    /// * [`ErrorKind::Output`](crate::ErrorKind::Output) if a file exists and `options.force` is not set, or cannot be
    ///   written.
    pub fn save(&self, path: &Path, options: &SaveOptions) -> Result<u64> {
        save(self, path, *options, PROTOBUF_LIMIT)
    }

    /// The model as one protobuf, weights included.
    ///
    /// # Errors
    /// [`ErrorKind::Output`](crate::ErrorKind::Output) if it exceeds the 2 GiB of a protobuf.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let length = encoded_len(&self.proto);
        if length > PROTOBUF_LIMIT {
            return Err(Error::output("exceeds the 2 GiB of a protobuf: save it to a file, with external data"));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        // Writing to a vector cannot fail.
        write_model(&self.proto, &mut bytes).map_err(|e| Error::defect(e.to_string()))?;
        Ok(bytes)
    }

    /// Whether the model may be written to `path`: what [`save`](Self::save) would refuse is refused before the work.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn check_output(&self, path: &Path, force: bool) -> Result<()> {
        Target::new(self, path, force).map(drop)
    }
}

/// Temporary files that have been begun; a file that has got its name is no longer found under these.
static STAGED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes the temporary files of unfinished writes: for the handler of an interrupt, after which no destructor runs.
pub fn discard_staged() {
    let staged = STAGED.lock().unwrap_or_else(PoisonError::into_inner);
    for path in staged.iter() {
        let _ = fs::remove_file(path); // gone already if the write was finished
    }
}

fn save(model: &Model, path: &Path, options: SaveOptions, limit: u64) -> Result<u64> {
    let target = Target::new(model, path, options.force)?;
    if !options.external_data && encoded_len(&model.proto) <= limit {
        let (staged, written) = target.stage(|out| write_model(&model.proto, out))?;
        staged.publish(options.force)?;
        return Ok(written);
    }
    let location = data_name(path)?;
    // Cheap: weights are reference-counted slices, only what surrounds them is copied.
    let mut proto = model.proto.clone();
    let data = external::detach(&mut proto, &location, limit)?;
    if encoded_len(&proto) > limit {
        return Err(Error::output("exceeds the 2 GiB of a protobuf file even with external data").in_file(path));
    }
    let staged_data = if data.pieces.is_empty() {
        None
    } else {
        let target = Target::new(model, &path.with_file_name(&location), options.force)?;
        Some(target.stage(|out| write_data(&data, out))?)
    };
    let (staged, written) = target.stage(|out| write_model(&proto, out))?;
    match staged_data {
        None => staged.publish(options.force).map(|()| written),
        Some((staged_data, data_written)) => {
            publish_both(staged_data, staged, options.force)?;
            Ok(written + data_written)
        }
    }
}

/// Name of the data file of the model at `path`.
fn data_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Error::usage("with external data, the file name must be UTF-8").in_file(path))?;
    Ok(format!("{name}.data"))
}

/// Pieces at their offsets, zeros between them; returns the number of bytes.
fn write_data(data: &DataFile, out: &mut impl Write) -> io::Result<u64> {
    let mut position = 0;
    for (offset, piece) in &data.pieces {
        io::copy(&mut io::Read::take(io::repeat(0), offset - position), out)?;
        out.write_all(piece)?;
        position = offset + piece.len() as u64;
    }
    Ok(position)
}

/// A place that may be written to.
struct Target {
    path: PathBuf,
    folder: PathBuf,
    permissions: Option<Permissions>,
}

impl Target {
    /// Refuses inputs, and existing files without `force`. A link is followed, so that it stays a link.
    fn new(model: &Model, path: &Path, force: bool) -> Result<Self> {
        let fail = |message: &str| Err(Error::output(message).in_file(path));
        if path.file_name().is_none() {
            return fail("is not the name of a file");
        }
        let mut target = Self { path: path.to_owned(), folder: PathBuf::new(), permissions: None };
        if path.symlink_metadata().is_ok() {
            let Ok(resolved) = path.canonicalize() else {
                return fail("is a broken link");
            };
            let Ok(metadata) = resolved.metadata() else {
                return fail("cannot be examined");
            };
            if !metadata.is_file() {
                return fail("exists and is not a regular file");
            }
            if model.sources().iter().any(|source| is_same_file(source, &resolved, &metadata)) {
                let message = "is the input, which is never overwritten; choose another output";
                return Err(Error::usage(message).in_file(path));
            }
            if !force {
                return fail("exists already; pass `force` to replace it");
            }
            target.path = resolved;
            target.permissions = Some(metadata.permissions());
        }
        target.folder = match target.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if target.folder.is_dir() { Ok(target) } else { fail("the folder does not exist") }
    }

    /// Writes a temporary file in the same folder and waits until it is on disk. Dropped, it is gone.
    fn stage(self, content: impl FnOnce(&mut BufWriter<&File>) -> io::Result<u64>) -> Result<(Staged, u64)> {
        let write = || -> io::Result<(NamedTempFile, u64)> {
            let file = temporary(&self.folder)?;
            STAGED.lock().unwrap_or_else(PoisonError::into_inner).push(file.path().to_owned());
            if let Some(permissions) = &self.permissions {
                file.as_file().set_permissions(permissions.clone())?;
            }
            let mut out = BufWriter::with_capacity(1 << 16, file.as_file());
            let written = content(&mut out)?;
            out.flush()?;
            drop(out);
            file.as_file().sync_all()?;
            Ok((file, written))
        };
        let (file, written) = write().map_err(|e| cannot_write(&self.path, &e))?;
        Ok((Staged { file, target: self.path }, written))
    }
}

/// A complete file that waits for its name.
struct Staged {
    file: NamedTempFile,
    target: PathBuf,
}

impl Staged {
    fn publish(self, force: bool) -> Result<()> {
        let renamed = if force { self.file.persist(&self.target) } else { self.file.persist_noclobber(&self.target) };
        renamed.map(|_| ()).map_err(|e| cannot_write(&self.target, &e.error))
    }
}

/// Gives both files their names; if the second cannot have it, the first is taken back.
fn publish_both(data: Staged, model: Staged, force: bool) -> Result<()> {
    let data_path = data.target.clone();
    let existed = data_path.exists();
    let old_data = keep_old(&data_path);
    data.publish(force)?;
    model.publish(force).inspect_err(|_| {
        // The first failure is what the user has to hear about.
        let _ = match old_data {
            Some(old_data) => old_data.persist(&data_path).map_err(|e| e.error),
            None if existed => Ok(()),
            None => fs::remove_file(&data_path),
        };
    })
}

/// A second name for an existing file, so that it survives being replaced; gone when dropped. `None` if there is no
/// such file or the file system has no hard links.
fn keep_old(path: &Path) -> Option<TempPath> {
    let mut name = OsString::from(path);
    name.push(format!(".old-{}", std::process::id()));
    fs::hard_link(path, &name).ok()?;
    TempPath::try_from_path(PathBuf::from(name)).ok()
}

#[cfg(unix)]
fn is_same_file(source: &Path, _: &Path, target: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    source.metadata().is_ok_and(|source| (source.dev(), source.ino()) == (target.dev(), target.ino()))
}

#[cfg(not(unix))]
fn is_same_file(source: &Path, target: &Path, _: &Metadata) -> bool {
    source.canonicalize().is_ok_and(|source| source == target)
}

fn cannot_write(path: &Path, e: &io::Error) -> Error {
    Error::output(format!("cannot be written: {e}")).in_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
    use crate::onnx::{attributes, tensor};

    const FORCE: SaveOptions = SaveOptions { external_data: false, force: true };

    /// An initializer and a `Constant` of 4000 bytes each.
    fn model() -> Model {
        let mut constant = NodeProto { op_type: Some("Constant".into()), ..NodeProto::default() };
        attributes::set_tensor(&mut constant, "value", tensor::from_f32("c", &[1000], &[0.5; 1000]).unwrap());
        let initializer = vec![tensor::from_f32("w", &[1000], &[1.5; 1000]).unwrap()];
        let graph = GraphProto { node: vec![constant], initializer, ..GraphProto::default() };
        let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(17) }];
        Model::from_proto(ModelProto { graph: Some(graph), opset_import, ..ModelProto::default() })
    }

    /// Above the limit of a protobuf, data goes out by itself: initializers first, attributes only if that was not
    /// enough. Two gigabytes are played by a smaller limit.
    #[test]
    fn too_large_for_a_protobuf_means_external_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        for (limit, data_bytes) in [(10_000, None), (5_000, Some(4_000)), (1_000, Some(4_096 + 4_000))] {
            let written = save(&model(), &path, FORCE, limit).unwrap();
            let data = fs::metadata(folder.path().join("m.onnx.data")).ok().map(|data| data.len());
            assert_eq!(data, data_bytes, "limit {limit}");
            assert_eq!(written, fs::metadata(&path).unwrap().len() + data.unwrap_or(0));
            assert!(fs::metadata(&path).unwrap().len() <= limit);
            assert!(Model::load(&path).unwrap().proto == model().proto, "limit {limit}");
        }
        let before = fs::read(&path).unwrap();
        let error = save(&model(), &path, FORCE, 100).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Output);
        assert!(error.to_string().contains("exceeds the 2 GiB"), "{error}");
        assert!(fs::read(&path).unwrap() == before);
    }

    /// Two files cannot appear in one step; if the second cannot, the first goes back to what it was.
    #[test]
    fn a_failure_between_both_files_restores_the_data_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let staged = |name: &str| {
            let mut file = temporary(folder.path()).unwrap();
            file.write_all(b"new").unwrap();
            Staged { file, target: at(name) }
        };
        fs::create_dir(at("m.onnx")).unwrap(); // a file cannot be renamed over a folder
        fs::write(at("m.onnx.data"), "old").unwrap();
        assert!(publish_both(staged("m.onnx.data"), staged("m.onnx"), true).is_err());
        assert_eq!(fs::read(at("m.onnx.data")).unwrap(), b"old");

        assert!(publish_both(staged("fresh.data"), staged("m.onnx"), true).is_err());
        let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["m.onnx", "m.onnx.data"]);

        fs::remove_dir(at("m.onnx")).unwrap();
        publish_both(staged("m.onnx.data"), staged("m.onnx"), true).unwrap();
        assert_eq!(fs::read(at("m.onnx.data")).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
