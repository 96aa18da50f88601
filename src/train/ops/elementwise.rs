//! Elementwise operators of one to three operands, broadcast as numpy does: a value and its slopes a row.

use ndarray::ArrayView1;
use rayon::prelude::*;

use super::scalars::{Identity, Scalar};
use super::site::check_size;
use super::walk::{Walk, broadcast_dims};
use crate::error::{Error, Result};
use crate::train::kernel::{Array, Kernel, Reads, Real, Slots, add_in_chunks};
use crate::train::tape::{Tensor, apply};

/// Up to [`BLOCK`] elements.
type Block = [f64; BLOCK];

/// Up to [`BLOCK`] elements of each operand.
type Operands = [Block; 3];

/// The loops over a block of elements are all that is compiled for each row. They go over whole blocks, whose length the
/// compiler knows; what they make of elements beyond the last one is not read.
struct Elementwise {
    values: fn(&Operands, &[f64], &mut Block),
    slopes: fn(&Operands, &Block, &[f64], &mut Operands),
    reads: Reads,
    parameters: Vec<f64>,
    /// A shape that the result has at least.
    over: Vec<usize>,
}

fn values<S: Scalar>([a, b, c]: &Operands, p: &[f64], into: &mut Block) {
    for i in 0..BLOCK {
        into[i] = S::value([a[i], b[i], c[i]], p);
    }
}

fn slopes<S: Scalar>([a, b, c]: &Operands, values: &Block, p: &[f64], [by_a, by_b, by_c]: &mut Operands) {
    for i in 0..BLOCK {
        [by_a[i], by_b[i], by_c[i]] = S::slopes([a[i], b[i], c[i]], values[i], p);
    }
}

/// Elements that one task computes.
const CHUNK: usize = 1 << 14;

/// Elements that are computed at once.
const BLOCK: usize = 128;

/// Parts that the gradient of a repeated operand is summed in, side by side, where the operand is small.
const PARTS: usize = 8;
const LARGEST_PARTIAL: usize = 1 << 14;

/// `S` of the operands, broadcast against each other.
pub(super) fn elementwise<S: Scalar, T: Real>(operands: &[&Tensor<T>], parameters: &[f64]) -> Result<Tensor<T>> {
    apply(Elementwise::new::<S>(parameters, &[]), operands)
}

/// `x`, repeated to shape `dims`.
pub(super) fn expand<T: Real>(x: &Tensor<T>, dims: &[usize]) -> Result<Tensor<T>> {
    apply(Elementwise::new::<Identity>(&[], dims), &[x])
}

/// The operands of `count` elements from `first` on; those that are not kept stay as they are.
fn gather<T: Real>(walk: &Walk, operands: &[Array<'_, T>], (first, count): (usize, usize), into: &mut Operands) {
    walk.each(first, count, |stretch| {
        for (slot, operand) in operands.iter().enumerate().filter(|(_, operand)| !operand.data.is_empty()) {
            let into = &mut into[slot][stretch.at - first..][..stretch.length];
            stretch.read(slot, operand.data, into, T::to_f64);
        }
    });
}

/// Adds `values`, which belong to the elements from `first` on, where those show the elements of operand `operand`.
fn scatter(walk: &Walk, operand: usize, first: usize, values: &[f64], sums: &mut [f64]) {
    walk.each(first, values.len(), |stretch| {
        let values = &values[stretch.at - first..][..stretch.length];
        let sums = &mut sums[stretch.from[operand]..];
        match stretch.step[operand] {
            // ndarray adds eight side by side.
            0 => sums[0] += ArrayView1::from(values).sum(),
            step => values.iter().zip(sums.iter_mut().step_by(step)).for_each(|(value, sum)| *sum += value),
        }
    });
}

impl Elementwise {
    fn new<S: Scalar>(parameters: &[f64], over: &[usize]) -> Self {
        let (parameters, over) = (parameters.to_vec(), over.to_vec());
        Self { values: values::<S>, slopes: slopes::<S>, reads: S::READS, parameters, over }
    }

    /// The slopes of a linear function, which are the same everywhere.
    fn constant_slopes(&self) -> Option<[f64; 3]> {
        let mut slopes = [[0.0; BLOCK]; 3];
        (self.slopes)(&[[0.0; BLOCK]; 3], &[0.0; BLOCK], &self.parameters, &mut slopes);
        (self.reads == Reads::Shapes).then_some(slopes.map(|of_operand| of_operand[0]))
    }
}

impl<T: Real> Kernel<T> for Elementwise {
    fn reads(&self) -> Reads {
        self.reads
    }

    fn forward(&self, operands: &[Array<'_, T>]) -> Result<(Vec<T>, Vec<usize>)> {
        if !(1..=3).contains(&operands.len()) {
            return Err(Error::input(format!("there are {} operands, not one to three", operands.len())));
        }
        let dims = broadcast_dims(operands.iter().map(|operand| operand.dims).chain([self.over.as_slice()]))?;
        check_size(dims.iter().copied())?;
        let walk = Walk::broadcast(&dims, operands.iter().map(|operand| operand.dims));
        let mut result = vec![T::ZERO; dims.iter().product()];
        result.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
            let (mut arguments, mut values) = ([[0.0; BLOCK]; 3], [0.0; BLOCK]);
            for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                gather(&walk, operands, (chunk * CHUNK + block * BLOCK, out.len()), &mut arguments);
                (self.values)(&arguments, &self.parameters, &mut values);
                out.iter_mut().zip(&values).for_each(|(out, value)| *out = T::from_f64(*value));
            }
        });
        Ok((result, dims))
    }

    fn backward(
        &self,
        operands: &[Array<'_, T>],
        result: Array<'_, T>,
        gradient: Vec<T>,
        into: &mut Slots<'_, T>,
    ) -> Result<()> {
        let walk = Walk::broadcast(result.dims, operands.iter().map(|operand| operand.dims));
        let constant = self.constant_slopes();
        let chain = Chain { function: self, walk, constant, operands, values: result.data, gradient: &gradient };
        for operand in 0..operands.len() {
            let slope = constant.map(|slopes| slopes[operand]);
            if slope == Some(0.0) {
                continue;
            }
            let Some(into) = into.of(operand) else { continue };
            match slope {
                _ if into.len() != gradient.len() => chain.add_to_repeated(operand, into),
                Some(slope) => add_in_chunks(into, T::from_f64(slope), &gradient),
                None => chain.add_to(operand, into),
            }
        }
        Ok(())
    }
}

/// The chain rule: slopes times the gradient of the result, element by element.
struct Chain<'a, T: Real> {
    function: &'a Elementwise,
    walk: Walk,
    constant: Option<[f64; 3]>,
    operands: &'a [Array<'a, T>],
    /// The elements of the result, if the slopes are computed from them.
    values: &'a [T],
    gradient: &'a [T],
}

impl<T: Real> Chain<'_, T> {
    /// Visits, block by block, the products for operand `operand` at `count` elements of the result from `first` on.
    fn each(&self, operand: usize, first: usize, count: usize, mut visit: impl FnMut(usize, &[f64])) {
        let (mut arguments, mut values) = ([[0.0; BLOCK]; 3], [0.0; BLOCK]);
        let constant = self.constant.unwrap_or_default();
        let (mut slopes, mut products) = (constant.map(|slope| [slope; BLOCK]), [0.0; BLOCK]);
        for start in (first..first + count).step_by(BLOCK) {
            let length = BLOCK.min(first + count - start);
            if self.constant.is_none() {
                gather(&self.walk, self.operands, (start, length), &mut arguments);
                let y = self.values.get(start..start + length).unwrap_or_default();
                values.iter_mut().zip(y).for_each(|(value, y)| *value = y.to_f64());
                (self.function.slopes)(&arguments, &values, &self.function.parameters, &mut slopes);
            }
            let pairs = slopes[operand].iter().zip(&self.gradient[start..][..length]);
            products.iter_mut().zip(pairs).for_each(|(into, (slope, g))| *into = slope * g.to_f64());
            visit(start, &products[..length]);
        }
    }

    /// Adds the gradient of an operand that has the shape of the result.
    fn add_to(&self, operand: usize, into: &mut [T]) {
        into.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, into)| {
            let first = chunk * CHUNK;
            self.each(operand, first, into.len(), |start, products| {
                let into = into[start - first..].iter_mut().zip(products);
                into.for_each(|(into, product)| *into += T::from_f64(*product));
            });
        });
    }

    /// Adds the gradient of an operand that is repeated. Parts are added in order, so that the sum does not depend on the
    /// number of threads.
    fn add_to_repeated(&self, operand: usize, into: &mut [T]) {
        let (size, whole) = (into.len(), self.gradient.len());
        let part = whole.div_ceil(if size <= LARGEST_PARTIAL { PARTS } else { 1 }).max(1);
        let firsts: Vec<usize> = (0..whole).step_by(part).collect();
        let sums = firsts.into_par_iter().map(|first| {
            let mut sums = vec![0.0; size];
            self.each(operand, first, part.min(whole - first), |start, products| {
                scatter(&self.walk, operand, start, products, &mut sums);
            });
            sums
        });
        let sums: Vec<Vec<f64>> = sums.collect();
        for (at, into) in into.iter_mut().enumerate() {
            *into += T::from_f64(sums.iter().map(|sums| sums[at]).sum());
        }
    }
}
