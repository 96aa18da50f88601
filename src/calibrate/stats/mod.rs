//! What passes over the data found, kept in a file, so that another job on the same model and samples takes it up again.
//!
//! A record has a [`Key`]: the SHA-256 of everything that its numbers depend on. So a record is found exactly where the
//! numbers would come out the same, and a job with the file gives the same bytes as one without it.

mod file;

use std::fmt::{Debug, Display, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ndarray::Array2;
use sha2::{Digest, Sha256};

pub(crate) use file::{Origin, Record, Records, Writer, decoded, encoded, row};

use crate::error::{Error, Result};
use crate::onnx::hash_of;
use crate::onnx::proto::ModelProto;
use crate::texts::hexadecimal;

/// Statistics of earlier jobs and of this one.
#[derive(Debug)]
pub(crate) struct Stats {
    path: PathBuf,
    origin: Origin,
    /// The portions of the samples that sums are gathered from, where these are not all.
    leaves: Option<Range<usize>>,
    /// Whether the sums of these portions are kept apart.
    is_apart: bool,
    /// What is in the file.
    old: RwLock<Option<Arc<Records>>>,
    new: Mutex<Option<Writer>>,
    taken: AtomicUsize,
    added: AtomicUsize,
}

/// The key of a record, while what its numbers depend on is told.
#[derive(Clone)]
pub(crate) struct Key(String);

impl Key {
    /// A key of this kind of records.
    pub(crate) fn of(kind: &str) -> Self {
        Self(format!("{kind}\n"))
    }

    /// The numbers depend on a model.
    pub(crate) fn model(self, model: &ModelProto) -> Self {
        self.on("model", &hash_of(model))
    }

    /// The numbers depend on something that shows itself.
    pub(crate) fn on(mut self, what: &str, value: &(impl Debug + ?Sized)) -> Self {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{what} {value:?}");
        self
    }

    /// The key as it is stored.
    pub(crate) fn done(&self) -> String {
        hexadecimal(&Sha256::digest(&self.0)[..16])
    }
}

impl Stats {
    /// The statistics in the file at `path`, which need not exist yet, for this model and these samples.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if it is damaged, or was gathered from something else: the message says from what.
    pub(crate) fn open(path: &Path, origin: Origin, leaves: Option<Range<usize>>) -> Result<Self> {
        let old = if path.exists() { Some(Records::open(path)?) } else { None };
        if let Some(found) = &old {
            fits(found.origin(), &origin, "this job has").map_err(|e| e.in_file(path))?;
            if leaves.is_some() {
                return Err(Error::input("exists already; a share of the sums takes a file of its own").in_file(path));
            }
            if !found.leaves().is_empty() {
                return Err(
                    Error::input("holds only a share of the sums; merge it with the others first").in_file(path)
                );
            }
        }
        let (taken, added, old) = (AtomicUsize::new(0), AtomicUsize::new(0), RwLock::new(old.map(Arc::new)));
        let is_apart = leaves.is_some();
        Ok(Self { path: path.to_owned(), origin, leaves, is_apart, old, new: Mutex::new(None), taken, added })
    }

    /// Adds up the portions if they are the first ones, for files that are never merged with those of another division.
    pub(crate) fn folding_the_first(self) -> Self {
        let is_first = self.leaves.as_ref().is_some_and(|leaves| leaves.start == 0);
        Self { is_apart: self.is_apart && !is_first, ..self }
    }

    /// Whether the sums of portions are kept apart.
    pub(crate) fn is_apart(&self) -> bool {
        self.is_apart
    }

    /// The portions of the samples that sums are gathered from, where these are not all.
    pub(crate) fn leaves(&self) -> Option<&Range<usize>> {
        self.leaves.as_ref()
    }

    /// What `read` makes of the record of this key, if there is one.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if the record is damaged or not what `read` takes.
    pub(crate) fn get<T>(&self, key: &str, read: impl FnOnce(Record) -> Option<T>) -> Result<Option<T>> {
        let Some(record) = self.old().map(|old| old.get(key)).transpose()?.flatten() else { return Ok(None) };
        let misfit = || Error::input("holds a record that does not fit the model; delete it").in_file(&self.path);
        let found = read(record).ok_or_else(misfit)?;
        self.taken.fetch_add(1, Ordering::Relaxed);
        Ok(Some(found))
    }

    fn old(&self) -> Option<Arc<Records>> {
        self.old.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps a record.
    ///
    /// # Errors
    /// [`Output`](crate::ErrorKind::Output) if it cannot be written.
    pub(crate) fn put(&self, key: &str, record: &[Array2<f64>]) -> Result<()> {
        let mut new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = match &mut *new {
            Some(writer) => writer,
            none => none.insert(Writer::new(&self.path)?),
        };
        if !writer.has(key) {
            writer.put(key, record)?;
            self.added.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes the file, if something is new.
    ///
    /// # Errors
    /// [`Output`](crate::ErrorKind::Output) if it cannot be written.
    pub(crate) fn save(&self) -> Result<()> {
        let Some(mut writer) = self.new.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        if let Some(old) = self.old() {
            for key in old.keys().filter(|key| !writer.has(key)).cloned().collect::<Vec<_>>() {
                if let Some(bytes) = old.bytes(&key)? {
                    writer.put_bytes(&key, &bytes)?;
                }
            }
        }
        writer.finish(self.origin.clone(), self.leaves.clone().into_iter().flatten().collect())?;
        let whole = Arc::new(Records::open(&self.path)?);
        *self.old.write().unwrap_or_else(PoisonError::into_inner) = Some(whole);
        Ok(())
    }

    /// Number of records that were taken from the file, and of those that are new.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.taken.load(Ordering::Relaxed), self.added.load(Ordering::Relaxed))
    }
}

/// The kind of records that are sums and nothing else.
pub(crate) const SUMS: &str = "sums";

/// The key of the sums of one portion of the samples; `kind` says what the record is made of.
pub(crate) fn portion(key: &str, kind: &str, leaf: usize) -> String {
    format!("{key}/{kind}/{leaf}")
}

/// What [`portion`] made the key of; `None` if it is that of a whole record.
pub(crate) fn portion_of(key: &str) -> Option<(&str, &str, usize)> {
    let (rest, leaf) = key.rsplit_once('/')?;
    let (key, kind) = rest.rsplit_once('/')?;
    Some((key, kind, leaf.parse().ok()?))
}

/// Refuses statistics that were gathered from something else, and says from what.
///
/// # Errors
/// [`Input`](crate::ErrorKind::Input) with what differs.
pub(crate) fn fits(found: &Origin, wanted: &Origin, whose: &str) -> Result<()> {
    fn differs<T: PartialEq + Display>(what: &str, found: &T, wanted: &T, whose: &str) -> Result<()> {
        if found == wanted {
            return Ok(());
        }
        Err(Error::input(format!("was gathered with {what} {found}, and {whose} {wanted}; use another file")))
    }
    differs("model", &found.model, &wanted.model, whose)?;
    // Synthetic samples depend on the seed.
    differs("seed", &found.seed, &wanted.seed, whose)?;
    differs("samples", &found.data, &wanted.data, whose)?;
    differs("this number of samples:", &found.samples, &wanted.samples, whose)?;
    differs("version", &found.version, &wanted.version, whose)
}
