//! The file of statistics: records of matrices, each with a key, and an index at the end.
//!
//! | bytes | |
//! |---|---|
//! | 8 | `PDSTATS` and the version of the format |
//! | … | records in the order of their keys: the number of matrices; for each one rows, columns, values (u64 and f64, little-endian) |
//! | … | the index as JSON: the [`Origin`], and key, offset, length and SHA-256 of each record |
//! | 32 | SHA-256 of the index |
//! | 8 | where the index starts |
//! | 8 | the same as at the beginning |
//!
//! Every read is checked against the length of the file and its hash. So a damaged file is an error.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ndarray::Array2;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use crate::texts::{folder, hexadecimal, temporary};

/// The first and the last bytes: a name, and the version of the format.
const MAGIC: [u8; 8] = *b"PDSTATS\x01";

/// Bytes after the index.
const TAIL: u64 = 48;

/// Matrices that belong together.
pub(crate) type Record = Vec<Array2<f64>>;

/// What statistics were gathered from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// Version of paredown.
    pub(crate) version: String,
    /// SHA-256 of the model.
    pub(crate) model: String,
    /// SHA-256 of the samples.
    pub(crate) data: String,
    /// Number of samples.
    pub(crate) samples: usize,
    /// Seed of the choice of rows.
    pub(crate) seed: u64,
}

/// Where a record is.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Place {
    offset: u64,
    length: u64,
    sha256: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Index {
    origin: Origin,
    /// Portions of the samples that sums were gathered from; all of them where none is named.
    #[serde(default)]
    leaves: Vec<usize>,
    records: BTreeMap<String, Place>,
}

/// A file that is read.
#[derive(Debug)]
pub(crate) struct Records {
    path: PathBuf,
    file: Mutex<File>,
    index: Index,
}

impl Records {
    /// Opens a file and reads its index.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if it cannot be read, is of another kind, or is damaged.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| Error::input(format!("cannot be read: {e}")).in_file(path).caused_by(e);
        let other = || Error::input("is no file of statistics, or one of another version of paredown").in_file(path);
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut magic = [0; MAGIC.len()];
        if length < MAGIC.len() as u64 + TAIL {
            return Err(other());
        }
        file.read_exact(&mut magic).map_err(failed)?;
        if magic != MAGIC {
            return Err(other());
        }
        let end = length - TAIL;
        file.seek(SeekFrom::Start(end)).map_err(failed)?;
        let (mut hash, mut start) = ([0; 32], [0; 8]);
        file.read_exact(&mut hash).map_err(failed)?;
        file.read_exact(&mut start).map_err(failed)?;
        file.read_exact(&mut magic).map_err(failed)?;
        let start = u64::from_le_bytes(start);
        let is_whole = magic == MAGIC && (MAGIC.len() as u64..=end).contains(&start);
        let text = if is_whole { read_at(&mut file, start, end - start).map_err(failed)? } else { Vec::new() };
        if !is_whole || Sha256::digest(&text)[..] != hash {
            return Err(damaged(path));
        }
        let index: Index = serde_json::from_slice(&text).map_err(|e| damaged(path).caused_by(e))?;
        let fits = |place: &Place| place.offset.checked_add(place.length).is_some_and(|last| last <= start);
        if !index.records.values().all(fits) {
            return Err(damaged(path));
        }
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), index })
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.index.origin
    }

    pub(crate) fn leaves(&self) -> &[usize] {
        &self.index.leaves
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &String> {
        self.index.records.keys()
    }

    /// The record of this key.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if it is damaged.
    pub(crate) fn get(&self, key: &str) -> Result<Option<Record>> {
        let Some(bytes) = self.bytes(key)? else { return Ok(None) };
        decoded(&bytes).map(Some).ok_or_else(|| damaged(&self.path))
    }

    /// The bytes of a record.
    pub(crate) fn bytes(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let Some(place) = self.index.records.get(key) else { return Ok(None) };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = read_at(&mut *file, place.offset, place.length)
            .map_err(|e| Error::input(format!("cannot be read: {e}")).in_file(&self.path).caused_by(e))?;
        drop(file);
        if hexadecimal(&Sha256::digest(&bytes)) != place.sha256 {
            return Err(damaged(&self.path));
        }
        Ok(Some(bytes))
    }
}

/// A file that is written: under a temporary name beside its own until it is complete.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    file: NamedTempFile,
    end: u64,
    records: BTreeMap<String, Place>,
}

impl Writer {
    /// Begins a file.
    ///
    /// # Errors
    /// [`Output`](crate::ErrorKind::Output) if it cannot be written.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| Error::output(e.to_string()).in_file(path).caused_by(e);
        let mut file = temporary(folder(path)).map_err(failed)?;
        file.write_all(&MAGIC).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, end: MAGIC.len() as u64, records: BTreeMap::new() })
    }

    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.records.contains_key(key)
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`Output`](crate::ErrorKind::Output) if it cannot be written.
    pub(crate) fn put(&mut self, key: &str, record: &[Array2<f64>]) -> Result<()> {
        self.put_bytes(key, &encoded(record))
    }

    /// Adds a record that is encoded already.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub(crate) fn put_bytes(&mut self, key: &str, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| self.failed(e))?;
        let place = Place { offset: self.end, length: bytes.len() as u64, sha256: hexadecimal(&Sha256::digest(bytes)) };
        self.end += place.length;
        self.records.insert(key.to_owned(), place);
        Ok(())
    }

    /// Gives the complete file its name. The order in which records came, which threads decide, leaves no trace.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub(crate) fn finish(self, origin: Origin, leaves: Vec<usize>) -> Result<()> {
        let mut sorted = if self.records.values().is_sorted_by_key(|place| place.offset) {
            self
        } else {
            let mut sorted = Self::new(&self.path)?;
            for (key, place) in &self.records {
                let bytes = read_at(self.file.as_file(), place.offset, place.length).map_err(|e| self.failed(e))?;
                sorted.put_bytes(key, &bytes)?;
            }
            sorted
        };
        sorted.close(origin, leaves)?;
        let Self { path, file, .. } = sorted;
        file.persist(&path).map(drop).map_err(|e| Error::output(e.error.to_string()).in_file(&path))
    }

    /// Writes what follows the records.
    fn close(&mut self, origin: Origin, leaves: Vec<usize>) -> Result<()> {
        let index = Index { origin, leaves, records: std::mem::take(&mut self.records) };
        let text = serde_json::to_vec(&index).map_err(|e| Error::output(e.to_string()).in_file(&self.path))?;
        let hash = Sha256::digest(&text);
        for part in [&text[..], &hash[..], &self.end.to_le_bytes()[..], &MAGIC[..]] {
            self.file.write_all(part).map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    fn failed(&self, e: std::io::Error) -> Error {
        Error::output(e.to_string()).in_file(&self.path).caused_by(e)
    }
}

fn damaged(path: &Path) -> Error {
    Error::input("is damaged or incomplete; delete it, and it is gathered again").in_file(path)
}

/// Numbers as a matrix of one row.
pub(crate) fn row(values: &[f64]) -> Array2<f64> {
    ndarray::ArrayView1::from(values).insert_axis(ndarray::Axis(0)).to_owned()
}

/// `length` bytes, which are known to be no more than the file has.
fn read_at(mut file: impl Read + Seek, offset: u64, length: u64) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A record as bytes.
pub(crate) fn encoded(record: &[Array2<f64>]) -> Vec<u8> {
    let values: usize = record.iter().map(|matrix| 2 + matrix.len()).sum();
    let mut bytes = Vec::with_capacity(8 * (1 + values));
    let mut number = |n: usize| bytes.extend((n as u64).to_le_bytes());
    number(record.len());
    for matrix in record {
        number(matrix.nrows());
        number(matrix.ncols());
    }
    for matrix in record {
        for value in matrix.as_standard_layout().as_slice().unwrap_or_default() {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

/// The matrices of a record; `None` if their sizes contradict the number of bytes.
pub(crate) fn decoded(bytes: &[u8]) -> Option<Record> {
    let (words, rest) = bytes.as_chunks::<8>();
    let size = |at: usize| usize::try_from(u64::from_le_bytes(*words.get(at)?)).ok();
    let count = size(0)?;
    let mut next = count.checked_mul(2)?.checked_add(1)?;
    if !rest.is_empty() || next > words.len() {
        return None;
    }
    let mut record = Vec::with_capacity(count);
    for number in 0..count {
        let (rows, columns) = (size(1 + 2 * number)?, size(2 + 2 * number)?);
        let end = next.checked_add(rows.checked_mul(columns)?)?;
        let values = words.get(next..end)?.iter().map(|word| f64::from_le_bytes(*word)).collect();
        record.push(Array2::from_shape_vec((rows, columns), values).ok()?);
        next = end;
    }
    (next == words.len()).then_some(record)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn origin() -> Origin {
        Origin { version: "1".to_owned(), model: "m".to_owned(), data: "d".to_owned(), samples: 3, seed: 4 }
    }

    fn written(path: &Path) -> Record {
        let record = vec![array![[1.0, -0.0, f64::MIN_POSITIVE]], Array2::zeros((0, 3)), array![[2.5], [f64::NAN]]];
        let mut writer = Writer::new(path).unwrap();
        writer.put("one", &record).unwrap();
        writer.put("two", &[]).unwrap();
        writer.finish(origin(), vec![]).unwrap();
        record
    }

    fn bits(record: &Record) -> Vec<(usize, Vec<u64>)> {
        record.iter().map(|matrix| (matrix.ncols(), matrix.iter().map(|value| value.to_bits()).collect())).collect()
    }

    #[test]
    fn records_come_back_bit_by_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stats");
        let record = written(&path);
        let file = Records::open(&path).unwrap();
        assert_eq!(file.origin(), &origin());
        assert_eq!(bits(&file.get("one").unwrap().unwrap()), bits(&record));
        assert!(file.get("two").unwrap().unwrap().is_empty() && file.get("three").unwrap().is_none());
    }

    /// Records come from several threads.
    #[test]
    fn the_order_of_arrival_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = |keys: [&str; 3]| {
            let path = folder.path().join("stats");
            let mut writer = Writer::new(&path).unwrap();
            for key in keys {
                writer.put(key, &[Array2::from_elem((key.len(), 2), 0.5)]).unwrap();
            }
            writer.finish(origin(), vec![1]).unwrap();
            std::fs::read(path).unwrap()
        };
        let bytes = file(["a", "bb", "ccc"]);
        assert!(file(["ccc", "a", "bb"]) == bytes && file(["bb", "ccc", "a"]) == bytes);
        let found = Records::open(&folder.path().join("stats")).unwrap().get("ccc").unwrap();
        assert_eq!(found.unwrap()[0].nrows(), 3);
    }

    /// Any byte that changes, and any byte that lacks.
    #[test]
    fn a_damaged_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stats");
        written(&path);
        let whole = std::fs::read(&path).unwrap();
        let is_refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Records::open(&path).is_err_and(|e| e.kind() == crate::ErrorKind::Input)
                || Records::open(&path).is_ok_and(|file| file.get("one").is_err())
        };
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            // An empty record has one number, which only its own key reads.
            let is_of_two = std::fs::write(&path, &bytes).is_ok()
                && Records::open(&path).is_ok_and(|file| file.get("two").is_err());
            assert!(is_refused(&bytes) || is_of_two, "byte {at}");
            assert!(is_refused(&whole[..at]), "the first {at} bytes");
        }
    }

    #[test]
    fn sizes_that_do_not_fit_the_bytes_are_refused() {
        let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        assert!(decoded(&words(&[1, 1, 2, 0, 0])).is_some());
        for wrong in [&[][..], &[1], &[u64::MAX], &[1, 1, 2, 0], &[1, 1, 1, 0, 0], &[1, u64::MAX, 2, 0, 0]] {
            assert!(decoded(&words(wrong)).is_none(), "{wrong:?}");
        }
        assert!(decoded(&words(&[0])[..7]).is_none());
    }
}
