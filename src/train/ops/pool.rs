//! MaxPool and AveragePool over any number of spatial axes.

use rayon::prelude::*;

use super::conv::{NONE, reads};
use crate::calibrate::Window;
use crate::error::{Error, Result};
use crate::train::kernel::{Array, Kernel, Reads, Real, Slots};

/// The largest or the mean value of each window.
pub(super) struct Pool {
    pub(super) window: Window,
    pub(super) kind: PoolKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PoolKind {
    Max,
    /// Whether padding counts as zeros.
    Average {
        include_padding: bool,
    },
}

impl Pool {
    /// For each output position, the input positions and what each weighs.
    fn weights(&self, plane: &[f64], of: &[usize], into: &mut Vec<(usize, f64)>) {
        into.clear();
        let inside = of.iter().copied().filter(|&read| read != NONE);
        match self.kind {
            PoolKind::Max => {
                let largest = inside.reduce(|best, read| if plane[read] > plane[best] { read } else { best });
                into.extend(largest.map(|read| (read, 1.0)));
            }
            PoolKind::Average { include_padding } => {
                let count = if include_padding { of.len() } else { inside.clone().count() };
                into.extend(inside.map(|read| (read, 1.0 / count.max(1) as f64)));
            }
        }
    }

    /// Calls `visit` with the plane, the position and its weights, for each position of a plane.
    fn each<T: Real>(&self, plane: &[T], table: &[usize], mut visit: impl FnMut(usize, &[(usize, f64)])) {
        let values: Vec<f64> = plane.iter().map(|x| x.to_f64()).collect();
        let (taps, mut weights) = (self.window.taps(), Vec::new());
        let positions = table.len() / taps.max(1);
        let mut of = vec![NONE; taps];
        for position in 0..positions {
            of.iter_mut().enumerate().for_each(|(tap, slot)| *slot = table[tap * positions + position]);
            self.weights(&values, &of, &mut weights);
            visit(position, &weights);
        }
    }
}

impl<T: Real> Kernel<T> for Pool {
    fn reads(&self) -> Reads {
        Reads::Operands
    }

    fn forward(&self, operands: &[Array<'_, T>]) -> Result<(Vec<T>, Vec<usize>)> {
        let x = operands[0];
        let [samples, channels, spatial @ ..] = x.dims else {
            return Err(Error::input(format!("data of shape {:?} cannot be pooled", x.dims)));
        };
        let (table, outputs) = reads(&self.window, spatial)?;
        let (plane, positions) = (spatial.iter().product::<usize>(), outputs.iter().product::<usize>());
        if plane == 0 || positions == 0 {
            return Err(Error::input(format!("data of shape {:?} is too small to be pooled", x.dims)));
        }
        let mut result = vec![T::ZERO; samples * channels * positions];
        result.par_chunks_mut(positions).zip(x.data.par_chunks(plane)).for_each(|(y, x)| {
            self.each(x, &table, |position, weights| {
                y[position] = T::from_f64(weights.iter().map(|&(read, weight)| x[read].to_f64() * weight).sum());
            });
        });
        Ok((result, [*samples, *channels].into_iter().chain(outputs).collect()))
    }

    fn backward(
        &self,
        operands: &[Array<'_, T>],
        result: Array<'_, T>,
        gradient: Vec<T>,
        into: &mut Slots<'_, T>,
    ) -> Result<()> {
        let x = operands[0];
        let (plane, positions) = (x.dims[2..].iter().product(), result.dims[2..].iter().product());
        let (table, _) = reads(&self.window, &x.dims[2..])?;
        let Some(into) = into.of(0) else { return Ok(()) };
        let planes = (x.data.par_chunks(plane), gradient.par_chunks(positions));
        into.par_chunks_mut(plane).zip(planes).for_each(|(into, (x, g))| {
            self.each(x, &table, |position, weights| {
                for &(read, weight) in weights {
                    into[read] += T::from_f64(g[position].to_f64() * weight);
                }
            });
        });
        Ok(())
    }
}
