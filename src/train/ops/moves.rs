//! Operators that move elements: axes in another order, tensors joined along an axis.

use rayon::prelude::*;

use super::take::{around, take};
use super::walk::{Walk, broadcast_dims};
use crate::error::{Error, Result};
use crate::train::kernel::{Array, Kernel, Reads, Real, Slots};
use crate::train::tape::{Tensor, apply};

impl<T: Real> Tensor<T> {
    /// Axis `i` of the result is axis `order[i]`.
    pub(in crate::train) fn permute(&self, order: &[usize]) -> Result<Self> {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..self.rank()) {
            return Err(Error::input(format!("{order:?} is no order of the axes of a tensor of rank {}", self.rank())));
        }
        if order.is_sorted() { Ok(self.clone()) } else { apply(Permute(order.to_vec()), &[self]) }
    }

    /// Axes `a` and `b` in each other's place.
    pub(in crate::train) fn transpose(&self, a: usize, b: usize) -> Result<Self> {
        let mut order: Vec<usize> = (0..self.rank()).collect();
        if a.max(b) >= order.len() {
            return Err(Error::input(format!("there is no axis {} of a tensor of rank {}", a.max(b), order.len())));
        }
        order.swap(a, b);
        self.permute(&order)
    }

    /// Positions `start..start + length` of an axis.
    pub(in crate::train) fn narrow(&self, axis: usize, start: usize, length: usize) -> Result<Self> {
        take(self, axis, (start..start + length).collect())
    }

    /// Without axis `axis`, of size one.
    pub(in crate::train) fn squeeze(&self, axis: usize) -> Result<Self> {
        let mut dims = self.dims().to_vec();
        if axis < dims.len() {
            dims.remove(axis);
        }
        self.reshape(dims)
    }

    /// With an axis of size one at `axis`.
    pub(in crate::train) fn unsqueeze(&self, axis: usize) -> Result<Self> {
        let mut dims = self.dims().to_vec();
        dims.insert(axis.min(dims.len()), 1);
        self.reshape(dims)
    }

    /// Repeated to shape `dims`.
    pub(in crate::train) fn expand(&self, dims: &[usize]) -> Result<Self> {
        if broadcast_dims([self.dims(), dims].into_iter())? != dims {
            return Err(Error::input(format!("a tensor of shape {:?} does not expand to {dims:?}", self.dims())));
        }
        if self.dims() == dims { Ok(self.clone()) } else { super::elementwise::expand(self, dims) }
    }

    /// `parts`, one after the other along `axis`.
    pub(in crate::train) fn concatenate(parts: &[&Self], axis: usize) -> Result<Self> {
        match parts {
            [part] => Ok((*part).clone()),
            _ => apply(Concatenate(axis), parts),
        }
    }

    /// `parts` along a new axis `axis`.
    pub(in crate::train) fn stack(parts: &[&Self], axis: usize) -> Result<Self> {
        let parts = parts.iter().map(|part| part.unsqueeze(axis)).collect::<Result<Vec<_>>>()?;
        Self::concatenate(&parts.iter().collect::<Vec<_>>(), axis)
    }
}

/// Axis `i` of the result is axis `.0[i]` of the operand.
struct Permute(Vec<usize>);

/// Elements that one task moves.
const CHUNK: usize = 1 << 14;

fn permuted<T: Real>(data: &[T], shape: &[usize], order: &[usize]) -> Vec<T> {
    let walk = Walk::permuted(shape, order);
    let mut result = vec![T::ZERO; data.len()];
    result.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
        let first = chunk * CHUNK;
        walk.each(first, out.len(), |stretch| {
            let out = &mut out[stretch.at - first..][..stretch.length];
            stretch.read(0, data, out, |x| x);
        });
    });
    result
}

impl<T: Real> Kernel<T> for Permute {
    fn reads(&self) -> Reads {
        Reads::Shapes
    }

    fn forward(&self, operands: &[Array<'_, T>]) -> Result<(Vec<T>, Vec<usize>)> {
        let x = operands[0];
        Ok((permuted(x.data, x.dims, &self.0), self.0.iter().map(|&axis| x.dims[axis]).collect()))
    }

    fn backward(
        &self,
        _operands: &[Array<'_, T>],
        result: Array<'_, T>,
        gradient: Vec<T>,
        into: &mut Slots<'_, T>,
    ) -> Result<()> {
        let mut back = vec![0; self.0.len()];
        self.0.iter().enumerate().for_each(|(to, &from)| back[from] = to);
        into.add(0, permuted(&gradient, result.dims, &back));
        Ok(())
    }
}

/// Operands one after the other along this axis.
struct Concatenate(usize);

impl<T: Real> Kernel<T> for Concatenate {
    fn reads(&self) -> Reads {
        Reads::Shapes
    }

    fn forward(&self, operands: &[Array<'_, T>]) -> Result<(Vec<T>, Vec<usize>)> {
        let axis = self.0;
        let Some(mut dims) = operands.first().map(|first| first.dims.to_vec()).filter(|dims| axis < dims.len()) else {
            return Err(Error::input(format!("there is no axis {axis} to join tensors along")));
        };
        let fits =
            |x: &Array<'_, T>| x.dims.len() == dims.len() && (0..dims.len()).all(|a| a == axis || x.dims[a] == dims[a]);
        if let Some(other) = operands.iter().find(|x| !fits(x)) {
            return Err(Error::input(format!(
                "shapes {dims:?} and {:?} cannot be joined along axis {axis}",
                other.dims
            )));
        }
        dims[axis] = operands.iter().map(|x| x.dims[axis]).sum();
        let (outer, _, _) = around(&dims, axis);
        let mut result = Vec::with_capacity(dims.iter().product());
        for block in 0..outer {
            for x in operands {
                let length = x.data.len() / outer;
                result.extend_from_slice(&x.data[block * length..][..length]);
            }
        }
        Ok((result, dims))
    }

    fn backward(
        &self,
        operands: &[Array<'_, T>],
        result: Array<'_, T>,
        gradient: Vec<T>,
        into: &mut Slots<'_, T>,
    ) -> Result<()> {
        let (outer, size, inner) = around(result.dims, self.0);
        let mut start = 0;
        for (number, x) in operands.iter().enumerate() {
            let length = x.dims[self.0] * inner;
            if let Some(into) = into.of(number) {
                for block in 0..outer {
                    let source = &gradient[block * size * inner + start..][..length];
                    into[block * length..][..length].iter_mut().zip(source).for_each(|(t, &s)| *t += s);
                }
            }
            start += length;
        }
        Ok(())
    }
}
