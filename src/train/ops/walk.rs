//! Elements of a result in order, with the positions of the elements of up to three operands that are broadcast or have
//! their axes in another order.

use std::array;

use crate::error::{Error, Result};

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
                (a, b) => return Err(Error::input(format!("sizes {a} and {b} do not broadcast"))),
            }
        }
    }
    Ok(dims)
}

/// Distance of neighbours along each axis of a row-major tensor.
fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// A path through the elements of a result.
pub(super) struct Walk {
    dims: Vec<usize>,
    /// Of each operand: distance of neighbours along each axis, 0 where it is repeated.
    strides: [Vec<usize>; 3],
    /// The distances along the last axis, and along the last but one.
    step: [usize; 3],
    down: [usize; 3],
}

/// Elements along the last axis of a [`Walk`].
pub(super) struct Stretch {
    /// Position of the first one in the result.
    pub(super) at: usize,
    pub(super) length: usize,
    /// Position of the first one in each operand.
    pub(super) from: [usize; 3],
    /// Distance of neighbours in each operand.
    pub(super) step: [usize; 3],
}

impl Walk {
    /// Through a result of shape `dims`, to which operands of these shapes are broadcast.
    pub(super) fn broadcast<'d>(dims: &[usize], shapes: impl Iterator<Item = &'d [usize]>) -> Self {
        let mut strides: [Vec<usize>; 3] = array::from_fn(|_| vec![0; dims.len()]);
        for (strides, shape) in strides.iter_mut().zip(shapes) {
            let offset = dims.len() - shape.len();
            for (axis, step) in row_major(shape).into_iter().enumerate().filter(|&(axis, _)| shape[axis] != 1) {
                strides[offset + axis] = step;
            }
        }
        Self::merged(dims, &strides)
    }

    /// Through a result whose axis `i` is axis `order[i]` of its only operand.
    pub(super) fn permuted(shape: &[usize], order: &[usize]) -> Self {
        let of_operand = row_major(shape);
        let dims: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
        let strides = order.iter().map(|&axis| of_operand[axis]).collect();
        Self::merged(&dims, &[strides, vec![0; dims.len()], vec![0; dims.len()]])
    }

    /// Axes along which all operands move alike are merged, those of size one left out.
    fn merged(dims: &[usize], strides: &[Vec<usize>; 3]) -> Self {
        let mut merged = Self { dims: Vec::new(), strides: Default::default(), step: [0; 3], down: [0; 3] };
        for axis in (0..dims.len()).filter(|&axis| dims[axis] != 1) {
            let continues = merged.dims.last().is_some()
                && strides.iter().zip(&merged.strides).all(|(s, m)| m.last() == Some(&(s[axis] * dims[axis])));
            if continues {
                *merged.dims.last_mut().unwrap_or(&mut 1) *= dims[axis];
                for (m, s) in merged.strides.iter_mut().zip(strides) {
                    m.pop();
                    m.push(s[axis]);
                }
            } else {
                merged.dims.push(dims[axis]);
                merged.strides.iter_mut().zip(strides).for_each(|(m, s)| m.push(s[axis]));
            }
        }
        merged.step = merged.strides.each_ref().map(|s| s.last().copied().unwrap_or(0));
        merged.down = merged.strides.each_ref().map(|s| s.iter().nth_back(1).copied().unwrap_or(0));
        merged
    }

    /// Visits `count` elements from `first` on, those along the last axis together.
    #[inline]
    pub(super) fn each(&self, first: usize, count: usize, mut visit: impl FnMut(Stretch)) {
        let (inner, outer) = self.dims.split_last().map_or((1, [].as_slice()), |(&inner, outer)| (inner, outer));
        let (step, down) = (self.step, self.down);
        let rows = outer.last().copied().unwrap_or(1);
        let (mut at, end) = (first, first + count);
        while at < end {
            let (mut rest, mut column) = (at / inner, at % inner);
            let rows = rows - rest % rows;
            let mut from = [column * step[0], column * step[1], column * step[2]];
            for axis in (0..outer.len()).rev() {
                let position = rest % outer[axis];
                rest /= outer[axis];
                let moved = |operand: usize| from[operand] + position * self.strides[operand][axis];
                from = [moved(0), moved(1), moved(2)];
            }
            // As far as the last axis but one goes, no position is computed anew.
            for _ in 0..rows {
                let length = (inner - column).min(end - at);
                visit(Stretch { at, length, from, step });
                at += length;
                if at == end {
                    break;
                }
                let below = |operand: usize| from[operand] + down[operand] - column * step[operand];
                from = [below(0), below(1), below(2)];
                column = 0;
            }
        }
    }
}

impl Stretch {
    /// Writes the elements of `data`, which operand `operand` holds, in order.
    #[inline]
    pub(super) fn read<T: Copy, U: Copy>(&self, operand: usize, data: &[T], into: &mut [U], convert: impl Fn(T) -> U) {
        let data = &data[self.from[operand]..];
        match self.step[operand] {
            0 => into.fill(convert(data[0])),
            1 => {
                let data = &data[..into.len()];
                for i in 0..into.len() {
                    into[i] = convert(data[i]);
                }
            }
            step => into.iter_mut().zip(data.iter().step_by(step)).for_each(|(into, &x)| *into = convert(x)),
        }
    }
}
