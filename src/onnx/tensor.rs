//! Tensors of the file: a checked view of their elements, slices of them, new ones.
//!
//! [`TensorView`] looks at a `TensorProto` wherever its elements are (`raw_data` or a typed field) and proves
//! once that shape, element type and data length agree. Everything else relies on that.

mod create;
mod element;
mod gather;
mod layout;

use bytes::Bytes;
use half::{bf16, f16};

pub use self::create::{from_f32, from_f64_as, from_i64, from_weights, scalar_f32, scalar_i64, vector_i64};
pub use self::element::ElementType;
pub(super) use self::layout::stored_bytes;
use crate::onnx::proto::TensorProto;
use crate::{Error, Result};

/// A dense tensor whose shape, element type and data length agree.
#[derive(Debug, Clone)]
pub struct TensorView<'a> {
    tensor: &'a TensorProto,
    element: ElementType,
    dims: Vec<usize>,
    len: usize,
    bytes: Bytes,
}

impl<'a> TensorView<'a> {
    /// Checks `tensor` and gives access to its elements. Raw data is not copied; typed fields are turned into
    /// little-endian bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input), naming the tensor, if a dimension is negative, the number of
    /// elements overflows, the data length does not fit the shape, or the data is elsewhere: in segments,
    /// in an external file, or strings.
    pub fn new(tensor: &'a TensorProto) -> Result<Self> {
        let fail = |e: Error| e.in_tensor(tensor);
        let layout = layout::layout(tensor).map_err(fail)?;
        let (element, dims, len) = (layout.element, layout.dims, layout.len);
        if element == ElementType::String {
            return Err(Error::input("holds strings, not numbers").in_tensor(tensor));
        }
        let bytes = match &tensor.raw_data {
            Some(raw) if layout.raw => raw.clone(),
            _ => layout::typed_bytes(tensor, element, len),
        };
        Ok(Self { tensor, element, dims, len, bytes })
    }

    /// Name of the tensor; empty if it has none.
    pub fn name(&self) -> &'a str {
        self.tensor.name()
    }

    /// Element type.
    pub fn element_type(&self) -> ElementType {
        self.element
    }

    /// Shape. A scalar has no dimension.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element (an axis of size 0).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in row-major order, little endian, sub-byte types packed as in `raw_data`.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The elements as `f32`. Wider types are rounded.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) for complex, 8-bit float and sub-byte element types.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        match self.element {
            ElementType::Float => Ok(self.map(f32::from_le_bytes)),
            ElementType::Float16 => Ok(self.map(|b| f16::from_le_bytes(b).to_f32())),
            ElementType::Bfloat16 => Ok(self.map(|b| bf16::from_le_bytes(b).to_f32())),
            #[allow(clippy::cast_possible_truncation)] // rounding is what was asked for
            _ => Ok(self.to_f64()?.into_iter().map(|x| x as f32).collect()),
        }
    }

    /// The elements as `f64`. 64-bit integers beyond 2⁵³ are rounded.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) for complex, 8-bit float and sub-byte element types.
    #[allow(clippy::cast_precision_loss)]
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        match self.element {
            ElementType::Float => Ok(self.map(|b| f64::from(f32::from_le_bytes(b)))),
            ElementType::Double => Ok(self.map(f64::from_le_bytes)),
            ElementType::Float16 => Ok(self.map(|b| f16::from_le_bytes(b).to_f64())),
            ElementType::Bfloat16 => Ok(self.map(|b| bf16::from_le_bytes(b).to_f64())),
            ElementType::Uint64 => Ok(self.map(|b| u64::from_le_bytes(b) as f64)),
            _ => Ok(self.to_i64()?.into_iter().map(|x| x as f64).collect()),
        }
    }

    /// The elements of an integer or boolean tensor.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) for other element types and for `uint64` beyond `i64::MAX`.
    pub fn to_i64(&self) -> Result<Vec<i64>> {
        match self.element {
            ElementType::Int64 => Ok(self.map(i64::from_le_bytes)),
            ElementType::Int32 => Ok(self.map(|b| i64::from(i32::from_le_bytes(b)))),
            ElementType::Int16 => Ok(self.map(|b| i64::from(i16::from_le_bytes(b)))),
            ElementType::Int8 => Ok(self.map(|b| i64::from(i8::from_le_bytes(b)))),
            ElementType::Uint32 => Ok(self.map(|b| i64::from(u32::from_le_bytes(b)))),
            ElementType::Uint16 => Ok(self.map(|b| i64::from(u16::from_le_bytes(b)))),
            ElementType::Uint8 | ElementType::Bool => Ok(self.map(|b| i64::from(u8::from_le_bytes(b)))),
            ElementType::Uint64 => {
                let values: Result<Vec<i64>, _> = self.map(u64::from_le_bytes).into_iter().map(i64::try_from).collect();
                values.map_err(|_| Error::input("holds a value beyond the range of int64").in_tensor(self.tensor))
            }
            other => Err(Error::input(format!("{other} elements cannot be read here")).in_tensor(self.tensor)),
        }
    }

    /// The sub-tensor at `indices` of `axis`, in that order, with the same name, element type and metadata.
    /// A contiguous range of the outermost axis shares the buffer instead of copying.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) if the tensor has no such axis, an index is beyond it, or
    /// elements are smaller than a byte.
    pub fn take(&self, axis: usize, indices: &[usize]) -> Result<TensorProto> {
        let fail = |message: String| Err(Error::input(message).in_tensor(self.tensor));
        let Some(width) = self.element.bytes() else {
            return fail(format!("{} elements are packed and cannot be sliced", self.element));
        };
        let Some(&size) = self.dims.get(axis) else {
            return fail(format!("has no axis {axis}, its rank is {}", self.dims.len()));
        };
        if let Some(beyond) = indices.iter().find(|&&index| index >= size) {
            return fail(format!("index {beyond} is beyond axis {axis} of size {size}"));
        }
        let inner: usize = self.dims.iter().skip(axis + 1).product();
        let mut dims = self.dims.clone();
        dims[axis] = indices.len();
        Ok(TensorProto {
            dims: create::file_dims(&dims),
            data_type: Some(self.element.code()),
            name: self.tensor.name.clone(),
            doc_string: self.tensor.doc_string.clone(),
            metadata_props: self.tensor.metadata_props.clone(),
            raw_data: Some(gather::gather(&self.bytes, size, inner * width, indices)),
            ..TensorProto::default()
        })
    }

    /// The same tensor with zeros at every position of `axis` whose flag is not set.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) if the tensor has no axis of as many positions as there are flags, or
    /// elements are smaller than a byte.
    pub fn zeroed(&self, axis: usize, kept: &[bool]) -> Result<TensorProto> {
        let width = self.element.bytes().filter(|_| self.dims.get(axis) == Some(&kept.len()));
        let Some(width) = width else {
            let message = format!("{} flags do not mask axis {axis} of {:?}", kept.len(), self.dims);
            return Err(Error::input(message).in_tensor(self.tensor));
        };
        let block = width * self.dims.iter().skip(axis + 1).product::<usize>();
        let mut bytes = self.bytes.to_vec();
        if block > 0 {
            let blocks = bytes.chunks_exact_mut(block).zip(kept.iter().cycle());
            blocks.filter(|(_, keep)| !**keep).for_each(|(block, _)| block.fill(0));
        }
        Ok(TensorProto {
            dims: create::file_dims(&self.dims),
            data_type: Some(self.element.code()),
            name: self.tensor.name.clone(),
            raw_data: Some(Bytes::from(bytes)),
            ..TensorProto::default()
        })
    }

    fn map<const N: usize, T>(&self, convert: impl Fn([u8; N]) -> T) -> Vec<T> {
        self.bytes.as_chunks::<N>().0.iter().map(|&bytes| convert(bytes)).collect()
    }
}

/// Checks that shape, element type and amount of data of `tensor` agree, without looking at the data.
///
/// # Errors
/// As [`TensorView::new`], but strings are allowed.
pub fn check(tensor: &TensorProto) -> Result<()> {
    layout::layout(tensor).map(|_| ()).map_err(|e| e.in_tensor(tensor))
}

/// Names the tensor in an error.
trait InTensor {
    fn in_tensor(self, tensor: &TensorProto) -> Self;
}

impl InTensor for Error {
    fn in_tensor(self, tensor: &TensorProto) -> Self {
        Error::new(self.kind(), format!("tensor '{}': {self}", tensor.name()))
    }
}
