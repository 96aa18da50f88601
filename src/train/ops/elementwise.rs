//! Elementwise operators of one to three operands, broadcast as numpy does: a value and its slopes a row.

use std::marker::PhantomData;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::train::kernel::{Array, Kernel, Real, apply};

/// A scalar function of up to three operands.
pub(super) trait Scalar: Send + Sync + 'static {
    /// Name of the operator.
    const NAME: &'static str;

    /// The value at the operands `a`; `p` are the operator's parameters.
    fn value(a: [f64; 3], p: &[f64]) -> f64;

    /// The derivatives by each operand at `a`, where the value is `y`.
    fn slopes(a: [f64; 3], y: f64, p: &[f64]) -> [f64; 3];
}

/// Rows of scalar functions: `Name(operands; parameters, value) = value, [slopes];`.
macro_rules! scalars {
    ($($(#[$doc:meta])* $name:ident($a:pat, $p:pat, $y:pat) = $value:expr, $slopes:expr;)*) => {
        $(
            $(#[$doc])*
            pub(super) struct $name;

            // A row names its operands once; value and slopes need not read all of them.
            #[allow(unused_variables)]
            impl Scalar for $name {
                const NAME: &'static str = stringify!($name);

                #[inline]
                fn value($a: [f64; 3], $p: &[f64]) -> f64 {
                    $value
                }

                #[inline]
                fn slopes($a: [f64; 3], $y: f64, $p: &[f64]) -> [f64; 3] {
                    $slopes
                }
            }
        )*
    };
}
pub(super) use scalars;

struct Elementwise<S> {
    parameters: Vec<f64>,
    scalar: PhantomData<S>,
}

/// Elements that one task computes.
const CHUNK: usize = 1 << 14;

/// Parts that the gradient of a repeated operand is summed in, side by side, where the operand is small.
const PARTS: usize = 8;
const LARGEST_PARTIAL: usize = 1 << 14;

/// `S` of the operands, broadcast against each other.
pub(super) fn elementwise<S: Scalar>(args: &[&Tensor], parameters: &[f64]) -> Result<Tensor> {
    apply(Elementwise::<S> { parameters: parameters.to_vec(), scalar: PhantomData }, args)
}

impl<S: Scalar> Kernel for Elementwise<S> {
    const NAME: &'static str = S::NAME;

    fn forward<T: Real>(&self, args: &[Array<'_, T>]) -> Result<(Vec<T>, Vec<usize>)> {
        let dims = broadcast_dims(args.iter().map(|arg| arg.dims))?;
        let walk = Walk::new(&dims, args.iter().map(|arg| arg.dims));
        let mut result = vec![T::from_f64(0.0); dims.iter().product()];
        result.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
            walk.each(chunk * CHUNK, out.len(), |index, at| {
                out[index - chunk * CHUNK] = T::from_f64(S::value(operands(args, at), &self.parameters));
            });
        });
        Ok((result, dims))
    }

    fn backward<T: Real>(
        &self,
        args: &[Array<'_, T>],
        result: Array<'_, T>,
        grad: Array<'_, T>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Vec<T>>>> {
        let walk = Walk::new(result.dims, args.iter().map(|arg| arg.dims));
        let slope = |operand: usize, index: usize, at: [usize; 3]| {
            let slopes = S::slopes(operands(args, at), result.data[index].to_f64(), &self.parameters);
            slopes[operand] * grad.data[index].to_f64()
        };
        let of = |operand: usize| -> Vec<T> {
            let size = args[operand].data.len();
            if size == result.data.len() {
                let mut gradient = vec![T::from_f64(0.0); size];
                gradient.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
                    walk.each(chunk * CHUNK, out.len(), |index, at| {
                        out[index - chunk * CHUNK] = T::from_f64(slope(operand, index, at));
                    });
                });
                return gradient;
            }
            let part = result.data.len().div_ceil(if size <= LARGEST_PARTIAL { PARTS } else { 1 }).max(1);
            let firsts: Vec<usize> = (0..result.data.len()).step_by(part).collect();
            let sums: Vec<Vec<f64>> = firsts
                .into_par_iter()
                .map(|first| {
                    let mut sums = vec![0.0; size];
                    let count = part.min(result.data.len() - first);
                    walk.each(first, count, |index, at| sums[at[operand]] += slope(operand, index, at));
                    sums
                })
                .collect();
            // Parts are added in order, so that the sum does not depend on the number of threads.
            (0..size).map(|at| T::from_f64(sums.iter().map(|sums| sums[at]).sum())).collect()
        };
        Ok((0..args.len()).map(|operand| wanted[operand].then(|| of(operand))).collect())
    }
}

#[inline]
fn operands<T: Real>(args: &[Array<'_, T>], at: [usize; 3]) -> [f64; 3] {
    let mut values = [0.0; 3];
    for (slot, (arg, at)) in values.iter_mut().zip(args.iter().zip(at)) {
        *slot = arg.data[at].to_f64();
    }
    values
}

/// The shape that operands of these shapes broadcast to.
pub(super) fn broadcast_dims<'d>(shapes: impl Iterator<Item = &'d [usize]>) -> Result<Vec<usize>> {
    let mut dims: Vec<usize> = Vec::new();
    for shape in shapes {
        while dims.len() < shape.len() {
            dims.insert(0, 1);
        }
        let offset = dims.len() - shape.len();
        for (slot, &size) in dims[offset..].iter_mut().zip(shape) {
            match (*slot, size) {
                (a, b) if a == b || b == 1 => {}
                (1, b) => *slot = b,
                (a, b) => bail!("sizes {a} and {b} do not broadcast"),
            }
        }
    }
    Ok(dims)
}

/// The elements of a result in order, with the positions of the operands' elements.
struct Walk {
    dims: Vec<usize>,
    /// Of each operand: distance of neighbours along each axis, 0 where it is repeated.
    strides: [Vec<usize>; 3],
}

impl Walk {
    /// Axes along which all operands move alike are merged, those of size one left out.
    fn new<'d>(dims: &[usize], shapes: impl Iterator<Item = &'d [usize]>) -> Self {
        let mut strides: [Vec<usize>; 3] = Default::default();
        for (strides, shape) in strides.iter_mut().zip(shapes) {
            let offset = dims.len() - shape.len();
            let mut step = 1;
            *strides = vec![0; dims.len()];
            for axis in (0..shape.len()).rev() {
                if shape[axis] != 1 {
                    strides[offset + axis] = step;
                    step *= shape[axis];
                }
            }
        }
        let mut merged = Self { dims: Vec::new(), strides: Default::default() };
        for axis in (0..dims.len()).filter(|&axis| dims[axis] != 1) {
            let of_axis = |s: &Vec<usize>| s.get(axis).copied().unwrap_or(0);
            let continues = merged.dims.last().is_some()
                && strides.iter().zip(&merged.strides).all(|(s, m)| m.last() == Some(&(of_axis(s) * dims[axis])));
            if continues {
                *merged.dims.last_mut().unwrap_or(&mut 1) *= dims[axis];
                for (m, s) in merged.strides.iter_mut().zip(&strides) {
                    m.pop();
                    m.push(of_axis(s));
                }
            } else {
                merged.dims.push(dims[axis]);
                merged.strides.iter_mut().zip(&strides).for_each(|(m, s)| m.push(of_axis(s)));
            }
        }
        merged
    }

    /// Visits `count` elements from `first` on.
    #[inline]
    fn each(&self, first: usize, count: usize, mut visit: impl FnMut(usize, [usize; 3])) {
        let Some((&inner, outer)) = self.dims.split_last() else {
            if count > 0 {
                visit(0, [0; 3]);
            }
            return;
        };
        let step = self.strides.each_ref().map(|s| s.last().copied().unwrap_or(0));
        let mut index = first;
        while index < first + count {
            let (row, column) = (index / inner, index % inner);
            let mut base = [0; 3];
            let mut rest = row;
            for axis in (0..outer.len()).rev() {
                let position = rest % outer[axis];
                rest /= outer[axis];
                base.iter_mut().zip(&self.strides).for_each(|(b, s)| *b += position * s[axis]);
            }
            let length = (inner - column).min(first + count - index);
            for offset in column..column + length {
                let at = [base[0] + offset * step[0], base[1] + offset * step[1], base[2] + offset * step[2]];
                visit(index + offset - column, at);
            }
            index += length;
        }
    }
}
