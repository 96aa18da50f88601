//! Reverse-mode differentiation.
//!
//! A [`Tensor`] is a shape and shared elements. One that a gradient may reach has a place on a [`Tape`]: every [`Kernel`]
//! applied to it is recorded there, with what its gradient reads. [`Tensor::backward`] plays the tape once, from the end, and
//! drops each record after use. Gradients are added up in the order of the tape, so that they do not depend on
//! the number of threads.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::kernel::{Array, Kernel, Reads, Real, Slots};
use crate::error::{Error, Result};
use crate::runtime;

/// A row-major tensor; a clone shares the elements.
#[derive(Clone)]
pub struct Tensor<T: Real = f32> {
    dims: Vec<usize>,
    data: Arc<Vec<T>>,
    place: Option<Place<T>>,
}

/// Where a tensor was recorded.
struct Place<T: Real> {
    tape: Arc<Tape<T>>,
    record: usize,
}

/// The operators that were applied, in order; `None` after it was played.
pub(super) struct Tape<T: Real>(Mutex<Option<Vec<Record<T>>>>);

/// One operator that was applied; a leaf has none.
struct Record<T: Real> {
    kernel: Option<Box<dyn Kernel<T>>>,
    operands: Vec<Saved<T>>,
    result: Saved<T>,
}

/// A value that was computed, with its elements if the gradient reads them.
struct Saved<T> {
    dims: Vec<usize>,
    data: Option<Arc<Vec<T>>>,
    record: Option<usize>,
}

/// The gradients of a tape's leaves.
pub struct Gradients<T: Real = f32> {
    tape: Option<Arc<Tape<T>>>,
    by_record: Vec<Option<Vec<T>>>,
}

impl<T: Real> Tensor<T> {
    /// A constant of shape `dims`, elements in row-major order.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if the number of elements is not the product of `dims`.
    pub fn new(dims: impl Into<Vec<usize>>, data: Vec<T>) -> Result<Self> {
        let dims = dims.into();
        if dims.iter().product::<usize>() != data.len() {
            return Err(Error::input(format!("{} elements cannot have shape {dims:?}", data.len())));
        }
        Ok(Self { dims, data: Arc::new(data), place: None })
    }

    /// A constant of shape `dims` whose elements are all `value`.
    pub fn filled(dims: impl Into<Vec<usize>>, value: f64) -> Self {
        let dims = dims.into();
        let data = vec![T::from_f64(value); dims.iter().product()];
        Self { dims, data: Arc::new(data), place: None }
    }

    /// The elements of a runtime tensor as real numbers; truth values become 0 and 1.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if the elements are no numbers.
    pub(super) fn of(tensor: &runtime::Tensor) -> Result<Self> {
        Self::new(tensor.shape(), tensor.to_vec::<T>()?)
    }

    /// Sizes of the axes.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// The elements in row-major order.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// The elements, to be changed; they are copied first if they are shared.
    pub(super) fn data_mut(&mut self) -> &mut [T] {
        let data: &mut Vec<T> = Arc::make_mut(&mut self.data);
        data
    }

    /// Number of elements.
    #[allow(clippy::len_without_is_empty)] // a single number has one element
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// The value of a single number.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if there is not exactly one element.
    pub fn item(&self) -> Result<f64> {
        match self.data() {
            [value] => Ok(value.to_f64()),
            _ => Err(Error::input(format!("a tensor of shape {:?} is no single number", self.dims))),
        }
    }

    /// The same elements in shape `dims`.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if the number of elements is another.
    pub(super) fn reshape(&self, dims: impl Into<Vec<usize>>) -> Result<Self> {
        let dims = dims.into();
        if dims.iter().try_fold(1_usize, |count, &size| count.checked_mul(size)) != Some(self.len()) {
            return Err(Error::input(format!("a tensor of shape {:?} cannot have shape {dims:?}", self.dims)));
        }
        record(dims, Arc::clone(&self.data), || Box::new(Reshape), &[self])
    }

    /// The gradients of this single number by the leaves of its tape, which is used up.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if this is no single number, or the tape was played before.
    pub fn backward(self) -> Result<Gradients<T>> {
        if self.len() != 1 {
            return Err(Error::input(format!(
                "a tensor of shape {:?} is no single number to differentiate",
                self.dims
            )));
        }
        let Some(Place { tape, record }) = self.place else {
            return Ok(Gradients { tape: None, by_record: Vec::new() });
        };
        let mut records = tape.records().take().ok_or_else(was_played)?;
        records.truncate(record + 1);
        let mut gradients: Vec<Option<Vec<T>>> = vec![None; records.len()];
        gradients[record] = Some(vec![T::from_f64(1.0)]);
        while let Some(Record { kernel, operands, result }) = records.pop() {
            let Some(kernel) = kernel else { continue };
            let (earlier, later) = gradients.split_at_mut(records.len());
            let Some(gradient) = later[0].take() else { continue };
            let arrays: Vec<Array<'_, T>> = operands.iter().map(Saved::array).collect();
            let mut into = Slots {
                places: operands.iter().map(|operand| operand.record).collect(),
                sizes: operands.iter().map(|operand| operand.dims.iter().product()).collect(),
                gradients: earlier,
            };
            kernel.backward(&arrays, result.array(), gradient, &mut into)?;
        }
        Ok(Gradients { tape: Some(tape), by_record: gradients })
    }

    /// This value on the tape of `place`, kept with its elements if they are `read`.
    fn saved(&self, tape: &Arc<Tape<T>>, read: bool) -> Result<Saved<T>> {
        let record = match &self.place {
            Some(place) if Arc::ptr_eq(&place.tape, tape) => Some(place.record),
            Some(_) => return Err(Error::input("results of different runs cannot be combined")),
            None => None,
        };
        Ok(Saved { dims: self.dims.clone(), data: read.then(|| Arc::clone(&self.data)), record })
    }

    fn array(&self) -> Array<'_, T> {
        Array { data: &self.data, dims: &self.dims }
    }
}

impl<T: Real> fmt::Debug for Tensor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor").field("dims", &self.dims).finish_non_exhaustive()
    }
}

impl<T: Real> Clone for Place<T> {
    fn clone(&self) -> Self {
        Self { tape: Arc::clone(&self.tape), record: self.record }
    }
}

impl<T: Real> Saved<T> {
    fn array(&self) -> Array<'_, T> {
        Array { data: self.data.as_deref().map_or(&[], Vec::as_slice), dims: &self.dims }
    }
}

impl<T: Real> Tape<T> {
    /// An empty tape.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(Vec::new()))))
    }

    /// `value` as a leaf, whose gradient is wanted.
    ///
    /// # Errors
    /// If the tape was played.
    pub(super) fn leaf(self: &Arc<Self>, value: &Tensor<T>) -> Result<Tensor<T>> {
        let result = Saved { dims: value.dims.clone(), data: None, record: None };
        let record = self.push(Record { kernel: None, operands: Vec::new(), result })?;
        let place = Some(Place { tape: Arc::clone(self), record });
        Ok(Tensor { dims: value.dims.clone(), data: Arc::clone(&value.data), place })
    }

    fn push(&self, record: Record<T>) -> Result<usize> {
        let mut records = self.records();
        let records = records.as_mut().ok_or_else(was_played)?;
        records.push(record);
        Ok(records.len() - 1)
    }

    fn records(&self) -> MutexGuard<'_, Option<Vec<Record<T>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn was_played() -> Error {
    Error::input("gradients of these results were taken before")
}

impl<T: Real> Gradients<T> {
    /// The gradient by `leaf`, in row-major order; `None` if the result does not depend on it.
    pub fn of(&self, leaf: &Tensor<T>) -> Option<&[T]> {
        self.by_record.get(self.record(leaf)?)?.as_deref()
    }

    /// As [`Gradients::of`], removed from here.
    pub(super) fn take(&mut self, leaf: &Tensor<T>) -> Option<Vec<T>> {
        let record = self.record(leaf)?;
        self.by_record.get_mut(record)?.take()
    }

    /// The record of `leaf`, if it is on the tape that was played.
    fn record(&self, leaf: &Tensor<T>) -> Option<usize> {
        let place = leaf.place.as_ref()?;
        let is_it = self.tape.as_ref().is_some_and(|tape| Arc::ptr_eq(tape, &place.tape));
        is_it.then_some(place.record)
    }
}

/// The result of `kernel`, recorded if a gradient may reach one of `operands`.
///
/// # Errors
/// If the operands do not fit the kernel or each other.
pub(super) fn apply<T: Real>(kernel: impl Kernel<T>, operands: &[&Tensor<T>]) -> Result<Tensor<T>> {
    let arrays: Vec<Array<'_, T>> = operands.iter().map(|operand| operand.array()).collect();
    let (data, dims) = kernel.forward(&arrays)?;
    record(dims, Arc::new(data), || Box::new(kernel), operands)
}

fn record<T: Real>(
    dims: Vec<usize>,
    data: Arc<Vec<T>>,
    kernel: impl FnOnce() -> Box<dyn Kernel<T>>,
    operands: &[&Tensor<T>],
) -> Result<Tensor<T>> {
    let result = Tensor { dims, data, place: None };
    let Some(place) = operands.iter().find_map(|operand| operand.place.as_ref()) else { return Ok(result) };
    let (tape, kernel) = (&place.tape, kernel());
    let (reads_operands, reads_result) = match kernel.reads() {
        Reads::Shapes => (false, false),
        Reads::Operands => (true, false),
        Reads::Result => (false, true),
        Reads::All => (true, true),
    };
    let operands = operands.iter().map(|operand| operand.saved(tape, reads_operands)).collect::<Result<_>>()?;
    let saved = result.saved(tape, reads_result)?;
    let record = tape.push(Record { kernel: Some(kernel), operands, result: saved })?;
    Ok(Tensor { place: Some(Place { tape: Arc::clone(tape), record }), ..result })
}

/// Another shape for the same elements.
struct Reshape;

impl<T: Real> Kernel<T> for Reshape {
    fn reads(&self) -> Reads {
        Reads::Shapes
    }

    fn forward(&self, operands: &[Array<'_, T>]) -> Result<(Vec<T>, Vec<usize>)> {
        let operand = operands.first().ok_or_else(|| Error::input("there is no operand"))?;
        Ok((operand.data.to_vec(), operand.dims.to_vec()))
    }

    fn backward(&self, _: &[Array<'_, T>], _: Array<'_, T>, gradient: Vec<T>, into: &mut Slots<'_, T>) -> Result<()> {
        into.add(0, gradient);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(tape: &Arc<Tape<f64>>, values: &[f64]) -> Tensor<f64> {
        tape.leaf(&Tensor::new([values.len()], values.to_vec()).unwrap()).unwrap()
    }

    #[test]
    fn gradients_of_all_readers_are_summed() {
        let tape = Tape::new();
        let x = leaf(&tape, &[2.0, -1.0]);
        let y = x.squared().unwrap().plus(&x.scaled(3.0).unwrap()).unwrap();
        let gradients = y.sum().unwrap().backward().unwrap();
        assert_eq!(gradients.of(&x).unwrap(), [7.0, 1.0]);
    }

    #[test]
    fn a_leaf_that_does_not_matter_has_no_gradient() {
        let tape = Tape::new();
        let (x, y) = (leaf(&tape, &[2.0]), leaf(&tape, &[3.0]));
        let gradients = x.exp().unwrap().sum().unwrap().backward().unwrap();
        assert!(gradients.of(&x).is_some() && gradients.of(&y).is_none());
        assert!(Tensor::filled([], 1.0).backward().unwrap().of(&x).is_none());
    }

    /// An exponential keeps its result until it is played, an addition nothing.
    #[test]
    fn elements_are_kept_as_long_as_a_gradient_reads_them() {
        let tape = Tape::new();
        let x = leaf(&tape, &[0.5, 1.5]);
        let (y, z) = (x.exp().unwrap(), x.affine(2.0, 1.0).unwrap());
        let (of_y, of_z) = (Arc::downgrade(&y.data), Arc::downgrade(&z.data));
        let sum = y.plus(&z).unwrap().sum().unwrap();
        drop((y, z));
        assert!(of_y.upgrade().is_some() && of_z.upgrade().is_none());
        sum.backward().unwrap();
        assert!(of_y.upgrade().is_none());
    }

    #[test]
    fn a_tape_is_played_once() {
        let tape = Tape::new();
        let x = leaf(&tape, &[1.0]);
        let (first, second) = (x.exp().unwrap(), x.exp().unwrap());
        first.backward().unwrap();
        assert!(second.backward().err().unwrap().to_string().contains("taken before"));
        assert!(x.exp().err().unwrap().to_string().contains("taken before"));
    }

    #[test]
    fn tapes_do_not_mix() {
        let (x, y) = (leaf(&Tape::new(), &[1.0]), leaf(&Tape::new(), &[2.0]));
        assert!(x.plus(&y).err().unwrap().to_string().contains("different runs"));
    }

    #[test]
    fn gradients_do_not_depend_on_the_number_of_threads() {
        let gradient = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let tape = Tape::new();
                let x = tape.leaf(&Tensor::new([1, 300], (0..300).map(|i| f64::from(i).sin()).collect()).unwrap());
                let w = Tensor::new([500, 1], (0..500).map(|i| f64::from(i).cos()).collect()).unwrap();
                let x = x.unwrap();
                let y = x.times(&w).unwrap().exp().unwrap().permute(&[1, 0]).unwrap();
                y.sum().unwrap().backward().unwrap().of(&x).unwrap().to_vec()
            })
        };
        assert_eq!(gradient(1), gradient(3));
    }
}
