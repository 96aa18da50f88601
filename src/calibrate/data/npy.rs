//! `.npy` arrays on disk, read some rows at a time.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use ndarray_npy::npy::header::{Header, Layout};

use crate::runtime::{element_count, on_deep_stack};
use crate::{Error, Result};

/// Longest header that is parsed, in bytes; `numpy.save` writes about a hundred.
const LONGEST_HEADER: usize = 1 << 16;

/// Arrays up to this size that have to be unpacked stay in memory; larger ones go to a temporary file.
const UNPACKED_IN_MEMORY: u64 = 64 << 20;

/// Element type of an array on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NpyType {
    Float { bytes: usize },
    Signed { bytes: usize },
    Unsigned { bytes: usize },
    Bool,
}

impl NpyType {
    /// From a descriptor such as `<f4` or `|b1`.
    fn parse(descriptor: &str) -> Option<Self> {
        let kind = descriptor.trim_matches(|c| matches!(c, '\'' | '"'));
        let kind = kind.strip_prefix(['<', '|', '=']).unwrap_or(kind);
        let (kind, bytes) = (kind.chars().next()?, kind.get(1..)?.parse::<usize>().ok()?);
        match (kind, bytes) {
            ('f', 2 | 4 | 8) => Some(Self::Float { bytes }),
            ('i', 1 | 2 | 4 | 8) => Some(Self::Signed { bytes }),
            ('u', 1 | 2 | 4 | 8) => Some(Self::Unsigned { bytes }),
            ('b', 1) => Some(Self::Bool),
            _ => None,
        }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Float { bytes } | Self::Signed { bytes } | Self::Unsigned { bytes } => bytes,
            Self::Bool => 1,
        }
    }

    /// Its name in `numpy`.
    pub(super) fn name(self) -> String {
        match self {
            Self::Float { bytes } => format!("float{}", 8 * bytes),
            Self::Signed { bytes } => format!("int{}", 8 * bytes),
            Self::Unsigned { bytes } => format!("uint{}", 8 * bytes),
            Self::Bool => "bool".to_owned(),
        }
    }
}

/// An array on disk: its header, and where its rows are.
#[derive(Debug)]
pub(super) struct NpyArray {
    pub(super) name: String,
    pub(super) element: NpyType,
    pub(super) shape: Vec<usize>,
    rows: Mutex<RowSource>,
}

/// Where the bytes of an array are; the first row begins at an offset.
#[derive(Debug)]
enum RowSource {
    Memory(Vec<u8>),
    File(File, u64),
}

impl NpyArray {
    /// The array in the `.npy` file at `path`, under the name `name`.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) when the file cannot be read, is no `.npy` file, has an element type other than
    /// little-endian numbers and booleans, is in Fortran order, or is shorter than its shape says.
    pub(super) fn open(path: &Path, name: &str) -> Result<Self> {
        let mut file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let (header, offset) = read_header(&mut file, name)?;
        Self::new(name, &header, length.saturating_sub(offset), RowSource::File(file, offset))
    }

    /// The array whose `.npy` file is `length` bytes from `start` of `file`.
    pub(super) fn stored(mut file: File, start: u64, length: u64, name: &str) -> Result<Self> {
        // An archive may claim more than there is.
        let length = length.min(file.metadata().map_err(unreadable)?.len().saturating_sub(start));
        file.seek(SeekFrom::Start(start)).map_err(unreadable)?;
        let (header, offset) = read_header(&mut file, name)?;
        Self::new(name, &header, length.saturating_sub(offset), RowSource::File(file, start + offset))
    }

    /// The array whose `.npy` file is `packed`, unpacked while it is read.
    pub(super) fn unpacked(mut packed: impl Read, name: &str) -> Result<Self> {
        let (header, _) = read_header(&mut packed, name)?;
        let length = byte_length(name, &header)?;
        let mut limited = packed.take(length);
        if length <= UNPACKED_IN_MEMORY {
            let mut bytes = Vec::new();
            limited.read_to_end(&mut bytes).map_err(unreadable)?;
            return Self::new(name, &header, bytes.len() as u64, RowSource::Memory(bytes));
        }
        let mut file =
            tempfile::tempfile().map_err(|e| Error::input(format!("no temporary file for array '{name}': {e}")))?;
        let copied = std::io::copy(&mut limited, &mut file)
            .and_then(|copied| file.flush().map(|()| copied))
            .map_err(unreadable)?;
        Self::new(name, &header, copied, RowSource::File(file, 0))
    }

    fn new(name: &str, header: &Header, available: u64, rows: RowSource) -> Result<Self> {
        let expected = byte_length(name, header)?;
        if available < expected {
            return Err(Error::input(format!(
                "array '{name}' of shape {:?} needs {expected} bytes, the file has {available}",
                header.shape
            )));
        }
        let element = element_of(name, header)?;
        Ok(Self { name: name.to_owned(), element, shape: header.shape.clone(), rows: Mutex::new(rows) })
    }

    /// Rows along axis 0; an array of rank 0 has one.
    pub(super) fn row_count(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    fn row_bytes(&self) -> usize {
        self.shape.iter().skip(1).product::<usize>() * self.element.bytes()
    }

    /// An array of one axis as the number that all of its elements are; `None` if they are not all the same.
    ///
    /// # Errors
    /// As [`read_rows`](Self::read_rows).
    pub(super) fn same_number(mut self) -> Result<Option<Self>> {
        let bytes = self.read_rows(0, self.row_count())?;
        let mut numbers = bytes.chunks(self.element.bytes());
        let Some(first) = numbers.next() else { return Ok(None) };
        if !numbers.all(|number| number == first) {
            return Ok(None);
        }
        self.shape.clear();
        Ok(Some(self))
    }

    /// The little-endian bytes of rows `start..end`.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) when the file became shorter or cannot be read any more.
    pub(super) fn read_rows(&self, start: usize, end: usize) -> Result<Vec<u8>> {
        let (from, length) = (start * self.row_bytes(), (end - start) * self.row_bytes());
        let mut source = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *source {
            RowSource::Memory(bytes) => {
                let rows = bytes.get(from..from + length);
                rows.map(<[u8]>::to_vec).ok_or_else(|| Error::input(format!("array '{}' ends early", self.name)))
            }
            RowSource::File(file, offset) => {
                let mut rows = vec![0; length];
                file.seek(SeekFrom::Start(*offset + from as u64))
                    .and_then(|_| file.read_exact(&mut rows))
                    .map_err(unreadable)?;
                Ok(rows)
            }
        }
    }
}

#[allow(clippy::needless_pass_by_value)] // the signature that `map_err` wants
fn unreadable(error: std::io::Error) -> Error {
    Error::input(format!("cannot be read: {error}"))
}

/// The header and the offset of the first row after it.
fn read_header(reader: &mut impl Read, name: &str) -> Result<(Header, u64)> {
    let not_npy = || Error::input(format!("array '{name}' is not in NumPy's .npy format"));
    let mut start = [0_u8; 12];
    reader.read_exact(&mut start).map_err(|_| not_npy())?;
    let (fixed, length) = match start {
        [.., 1, 0, a, b, _, _] => (10, usize::from(u16::from_le_bytes([a, b]))),
        [.., a, b, c, d] => (12, u32::from_le_bytes([a, b, c, d]) as usize),
    };
    if !start.starts_with(b"\x93NUMPY") || !(2..=LONGEST_HEADER).contains(&length) {
        return Err(not_npy());
    }
    let mut bytes = start.to_vec();
    bytes.resize(fixed + length, 0);
    reader.read_exact(&mut bytes[start.len()..]).map_err(|_| not_npy())?;
    // The parser of the header's Python literal recurses over its brackets.
    let header = on_deep_stack(|| Header::from_reader(&mut bytes.as_slice()).map_err(|_| not_npy()))?;
    Ok((header, (fixed + length) as u64))
}

fn element_of(name: &str, header: &Header) -> Result<NpyType> {
    let descriptor = header.type_descriptor.to_string();
    let element = NpyType::parse(&descriptor).ok_or_else(|| {
        Error::input(format!(
            "array '{name}' has element type {descriptor}; save it as little-endian numbers or booleans"
        ))
    })?;
    if header.layout == Layout::Fortran && header.shape.len() > 1 {
        return Err(Error::input(format!("array '{name}' is in Fortran order; save it with numpy.ascontiguousarray")));
    }
    Ok(element)
}

/// Bytes of all elements.
fn byte_length(name: &str, header: &Header) -> Result<u64> {
    let width = element_of(name, header)?.bytes();
    let bytes = element_count(&header.shape).and_then(|count| count.checked_mul(width));
    let overflows = || Error::input(format!("the size of array '{name}' overflows: {:?}", header.shape));
    bytes.map(|bytes| bytes as u64).ok_or_else(overflows)
}
