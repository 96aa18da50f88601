//! Elementwise operators of one to three operands, broadcast as numpy does: a value and its slopes a row.

use rayon::prelude::*;

use super::scalars::{Identity, Scalar};
use super::site::check_size;
use super::walk::{Walk, broadcast_dims};
use crate::error::{Error, Result};
use crate::train::kernel::{Array, Kernel, Reads, Real, Slots};
use crate::train::tape::{Tensor, apply};

/// The loops over a block of elements are all that is compiled for each row.
struct Elementwise {
    values: fn(&[[f64; 3]], &[f64], &mut [f64]),
    slopes: fn(&[[f64; 3]], &[f64], &[f64], &mut [[f64; 3]]),
    reads: Reads,
    parameters: Vec<f64>,
    /// A shape that the result has at least.
    over: Vec<usize>,
}

fn values<S: Scalar>(operands: &[[f64; 3]], p: &[f64], into: &mut [f64]) {
    into.iter_mut().zip(operands).for_each(|(y, &a)| *y = S::value(a, p));
}

fn slopes<S: Scalar>(operands: &[[f64; 3]], values: &[f64], p: &[f64], into: &mut [[f64; 3]]) {
    into.iter_mut().zip(operands).zip(values).for_each(|((slopes, &a), &y)| *slopes = S::slopes(a, y, p));
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

/// The operands of the elements from `first` on, as many as there is room for; those that are not kept stay as they are.
fn gather<T: Real>(walk: &Walk, operands: &[Array<'_, T>], first: usize, into: &mut [[f64; 3]]) {
    walk.each(first, into.len(), |stretch| {
        let into = &mut into[stretch.at - first..][..stretch.length];
        for (slot, operand) in operands.iter().enumerate().filter(|(_, operand)| !operand.data.is_empty()) {
            stretch.read(slot, operand.data, |i, x| into[i][slot] = x.to_f64());
        }
    });
}

/// Adds `values`, which belong to the elements from `first` on, where those show the elements of operand `operand`.
fn scatter(walk: &Walk, operand: usize, first: usize, values: &[f64], sums: &mut [f64]) {
    walk.each(first, values.len(), |stretch| {
        let mut at = stretch.from[operand];
        for value in &values[stretch.at - first..][..stretch.length] {
            sums[at] += value;
            at += stretch.step[operand];
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
        let mut slopes = [[0.0; 3]];
        (self.slopes)(&[[0.0; 3]], &[0.0], &self.parameters, &mut slopes);
        (self.reads == Reads::Shapes).then_some(slopes[0])
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
            let (mut arguments, mut values) = ([[0.0; 3]; BLOCK], [0.0; BLOCK]);
            for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                let (arguments, values) = (&mut arguments[..out.len()], &mut values[..out.len()]);
                gather(&walk, operands, chunk * CHUNK + block * BLOCK, arguments);
                (self.values)(arguments, &self.parameters, values);
                out.iter_mut().zip(values).for_each(|(out, value)| *out = T::from_f64(*value));
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
                Some(slope) => add_scaled(slope, &gradient, into),
                None => chain.add_to(operand, into),
            }
        }
        Ok(())
    }
}

/// `into += scale · gradient`.
fn add_scaled<T: Real>(scale: f64, gradient: &[T], into: &mut [T]) {
    let scale = T::from_f64(scale);
    let pairs = into.par_iter_mut().zip(gradient).with_min_len(CHUNK);
    pairs.for_each(|(into, &gradient)| *into += scale * gradient);
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
        let (mut arguments, mut values) = ([[0.0; 3]; BLOCK], [0.0; BLOCK]);
        let (mut slopes, mut products) = ([self.constant.unwrap_or_default(); BLOCK], [0.0; BLOCK]);
        for start in (first..first + count).step_by(BLOCK) {
            let length = BLOCK.min(first + count - start);
            if self.constant.is_none() {
                gather(&self.walk, self.operands, start, &mut arguments[..length]);
                let y = self.values.get(start..start + length).unwrap_or_default();
                values.iter_mut().zip(y).for_each(|(value, y)| *value = y.to_f64());
                let (function, slopes) = (self.function, &mut slopes[..length]);
                (function.slopes)(&arguments[..length], &values[..length], &function.parameters, slopes);
            }
            let pairs = slopes.iter().zip(&self.gradient[start..][..length]);
            products.iter_mut().zip(pairs).for_each(|(into, (s, g))| *into = s[operand] * g.to_f64());
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
