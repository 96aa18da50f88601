//! What an operator is to the tape: a function of slices and its gradient, written once for every element type.

use std::ops::AddAssign;

use ndarray::LinalgScalar;
use rayon::prelude::*;

use crate::error::Result;
use crate::runtime::Element;

/// An element type of the tape: float32 in training, float64 where tests compare gradients with central differences.
pub trait Real: LinalgScalar + Element + PartialOrd + AddAssign {
    /// Nothing.
    const ZERO: Self;

    /// The nearest value.
    fn from_f64(x: f64) -> Self;

    /// The same value.
    fn to_f64(self) -> f64;
}

impl Real for f32 {
    const ZERO: Self = 0.0;

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // rounded on purpose
    fn from_f64(x: f64) -> Self {
        x as f32
    }

    #[inline]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;

    #[inline]
    fn from_f64(x: f64) -> Self {
        x
    }

    #[inline]
    fn to_f64(self) -> f64 {
        self
    }
}

/// A row-major tensor, borrowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Array<'a, T> {
    pub(super) data: &'a [T],
    pub(super) dims: &'a [usize],
}

/// What a gradient is computed from, besides the gradient of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    /// Shapes alone.
    Shapes,
    /// The operands' elements.
    Operands,
    /// The result's elements.
    Result,
    /// Both.
    All,
}

/// An operator of real operands and its gradient.
pub(super) trait Kernel<T: Real>: Send + Sync + 'static {
    /// What [`Kernel::backward`] reads. The tape keeps nothing else: other elements are empty slices.
    fn reads(&self) -> Reads {
        Reads::All
    }

    /// The result and its shape.
    fn forward(&self, operands: &[Array<'_, T>]) -> Result<(Vec<T>, Vec<usize>)>;

    /// Adds the gradients of the operands to `into`, from the operands, the result and the gradient of the result.
    fn backward(
        &self,
        operands: &[Array<'_, T>],
        result: Array<'_, T>,
        gradient: Vec<T>,
        into: &mut Slots<'_, T>,
    ) -> Result<()>;
}

/// The gradients of a kernel's operands. Those of a value that several operators read are summed here.
pub(super) struct Slots<'a, T> {
    /// Place of each operand's gradient among `gradients`; `None` where no gradient is wanted.
    pub(super) places: Vec<Option<usize>>,
    /// Number of elements of each operand.
    pub(super) sizes: Vec<usize>,
    pub(super) gradients: &'a mut [Option<Vec<T>>],
}

impl<T: Real> Slots<'_, T> {
    /// The gradient of operand `operand` as far as it is known, to add to; `None` if nobody wants it.
    pub(super) fn of(&mut self, operand: usize) -> Option<&mut [T]> {
        let slot = self.gradients.get_mut((*self.places.get(operand)?)?)?;
        let size = self.sizes.get(operand).copied().unwrap_or(0);
        Some(slot.get_or_insert_with(|| vec![T::ZERO; size]))
    }

    /// Adds `gradient` to that of operand `operand`.
    pub(super) fn add(&mut self, operand: usize, gradient: Vec<T>) {
        let Some(&Some(place)) = self.places.get(operand) else { return };
        match self.gradients.get_mut(place) {
            Some(Some(sum)) => add_in_chunks(sum, T::from_f64(1.0), &gradient),
            Some(slot) => *slot = Some(gradient),
            None => {}
        }
    }
}

/// Elements that one task adds.
const CHUNK: usize = 1 << 15;

/// `sum += scale · addend`, on all threads.
pub(super) fn add_in_chunks<T: Real>(sum: &mut [T], scale: T, addend: &[T]) {
    let chunks = sum.par_chunks_mut(CHUNK).zip(addend.par_chunks(CHUNK));
    chunks.for_each(|(sum, addend)| add_scaled(sum, scale, addend));
}

/// `sum += scale · addend`, as far as `sum` goes. Indices, because the iterators of two slices can be compiled in another
/// unit of the crate, where nothing is inlined.
#[inline]
pub(super) fn add_scaled<T: Real>(sum: &mut [T], scale: T, addend: &[T]) {
    let addend = &addend[..sum.len()];
    for i in 0..sum.len() {
        sum[i] += scale * addend[i];
    }
}
