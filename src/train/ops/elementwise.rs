//! Elementwise operators of one to three operands, broadcast as numpy does: a value and its slopes a row.

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

/// The loops over a block of elements are all that is compiled for each row.
struct Elementwise {
    name: &'static str,
    values: fn(&[[f64; 3]], &[f64], &mut [f64]),
    slopes: fn(&[[f64; 3]], &[f64], &[f64], &mut [[f64; 3]]),
    parameters: Vec<f64>,
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
pub(super) fn elementwise<S: Scalar>(args: &[&Tensor], parameters: &[f64]) -> Result<Tensor> {
    let (values, slopes, parameters) = (values::<S>, slopes::<S>, parameters.to_vec());
    apply(Elementwise { name: S::NAME, values, slopes, parameters }, args)
}

impl Kernel for Elementwise {
    fn name(&self) -> &'static str {
        self.name
    }

    fn forward<T: Real>(&self, args: &[Array<'_, T>]) -> Result<(Vec<T>, Vec<usize>)> {
        let dims = broadcast_dims(args.iter().map(|arg| arg.dims))?;
        let walk = Walk::new(&dims, args.iter().map(|arg| arg.dims));
        let mut result = vec![T::from_f64(0.0); dims.iter().product()];
        result.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
            let (mut operands, mut values) = ([[0.0; 3]; BLOCK], [0.0; BLOCK]);
            for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                let (operands, values) = (&mut operands[..out.len()], &mut values[..out.len()]);
                walk.gather(args, chunk * CHUNK + block * BLOCK, operands);
                (self.values)(operands, &self.parameters, values);
                out.iter_mut().zip(values).for_each(|(out, value)| *out = T::from_f64(*value));
            }
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
        // The gradients of `operand` at `count` elements from `first` on, block by block.
        let each = |operand: usize, first: usize, count: usize, visit: &mut dyn FnMut(usize, &[f64])| {
            let (mut operands, mut values) = ([[0.0; 3]; BLOCK], [0.0; BLOCK]);
            let (mut slopes, mut gradients) = ([[0.0; 3]; BLOCK], [0.0; BLOCK]);
            for start in (first..first + count).step_by(BLOCK) {
                let length = BLOCK.min(first + count - start);
                let operands = &mut operands[..length];
                walk.gather(args, start, operands);
                let (y, g) = (&result.data[start..start + length], &grad.data[start..start + length]);
                values.iter_mut().zip(y).for_each(|(value, y)| *value = y.to_f64());
                (self.slopes)(operands, &values[..length], &self.parameters, &mut slopes[..length]);
                let products = slopes.iter().zip(g).map(|(slopes, g)| slopes[operand] * g.to_f64());
                gradients.iter_mut().zip(products).for_each(|(into, product)| *into = product);
                visit(start, &gradients[..length]);
            }
        };
        let of = |operand: usize| -> Vec<T> {
            let size = args[operand].data.len();
            if size == result.data.len() {
                let mut gradient = vec![T::from_f64(0.0); size];
                gradient.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
                    let first = chunk * CHUNK;
                    each(operand, first, out.len(), &mut |start, gradients| {
                        let into = out[start - first..].iter_mut().zip(gradients);
                        into.for_each(|(out, gradient)| *out = T::from_f64(*gradient));
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
                    each(operand, first, part.min(result.data.len() - first), &mut |start, gradients| {
                        walk.each(start, gradients.len(), |index, at| sums[at[operand]] += gradients[index - start]);
                    });
                    sums
                })
                .collect();
            // Parts are added in order, so that the sum does not depend on the number of threads.
            (0..size).map(|at| T::from_f64(sums.iter().map(|sums| sums[at]).sum())).collect()
        };
        Ok((0..args.len()).map(|operand| wanted[operand].then(|| of(operand))).collect())
    }
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

    /// The operands of the elements from `first` on, as many as there is room for.
    fn gather<T: Real>(&self, args: &[Array<'_, T>], first: usize, into: &mut [[f64; 3]]) {
        for (slot, arg) in args.iter().enumerate().take(3) {
            self.each(first, into.len(), |index, at| into[index - first][slot] = arg.data[at[slot]].to_f64());
        }
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
