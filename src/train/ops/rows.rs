//! Operators that work on each row of a matrix: softmax, normalization, reductions.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::train::kernel::{Array, Kernel, Reads, Real, Slots};
use crate::train::tape::{Tensor, apply};

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum RowMap {
    /// `exp(x) / Σ exp(x)`.
    Softmax,
    /// `x − log Σ exp(x)`.
    LogSoftmax,
    /// `(x − mean) / √(variance + ε)`, or without the mean `x / √(mean square + ε)`.
    Normalize { epsilon: f64, centre: bool },
}

/// `map` of each row of the last axis.
pub(super) fn map_rows<T: Real>(x: &Tensor<T>, map: RowMap) -> Result<Tensor<T>> {
    apply(map, &[x])
}

impl RowMap {
    fn forward_row<T: Real>(self, x: &[T], y: &mut [T]) {
        let value = |x: &T| x.to_f64();
        match self {
            RowMap::Softmax | RowMap::LogSoftmax => {
                let largest = x.iter().map(value).fold(f64::NEG_INFINITY, f64::max);
                let largest = if largest.is_finite() { largest } else { 0.0 };
                let sum: f64 = x.iter().map(|x| (value(x) - largest).exp()).sum();
                for (y, x) in y.iter_mut().zip(x) {
                    let shifted = value(x) - largest;
                    *y = T::from_f64(if self == RowMap::Softmax { shifted.exp() / sum } else { shifted - sum.ln() });
                }
            }
            RowMap::Normalize { epsilon, centre } => {
                let (mean, scale) = moments(x, epsilon, centre);
                y.iter_mut().zip(x).for_each(|(y, x)| *y = T::from_f64((value(x) - mean) * scale));
            }
        }
    }

    fn backward_row<T: Real>(self, x: &[T], y: &[T], grad: &[T], into: &mut [T]) {
        let pairs = || grad.iter().zip(y).map(|(g, y)| (g.to_f64(), y.to_f64()));
        match self {
            RowMap::Softmax => {
                let dot: f64 = pairs().map(|(g, y)| g * y).sum();
                into.iter_mut().zip(pairs()).for_each(|(slot, (g, y))| *slot += T::from_f64(y * (g - dot)));
            }
            RowMap::LogSoftmax => {
                let sum: f64 = grad.iter().map(|g| g.to_f64()).sum();
                into.iter_mut().zip(pairs()).for_each(|(slot, (g, y))| *slot += T::from_f64(g - y.exp() * sum));
            }
            RowMap::Normalize { epsilon, centre } => {
                let count = x.len() as f64;
                let (_, scale) = moments(x, epsilon, centre);
                let dot = pairs().map(|(g, y)| g * y).sum::<f64>() / count;
                let mean = if centre { pairs().map(|(g, _)| g).sum::<f64>() / count } else { 0.0 };
                into.iter_mut()
                    .zip(pairs())
                    .for_each(|(slot, (g, y))| *slot += T::from_f64(scale * (g - mean - y * dot)));
            }
        }
    }
}

/// Mean (0 unless `centre`) and 1/√(variance + ε) of a row.
fn moments<T: Real>(x: &[T], epsilon: f64, centre: bool) -> (f64, f64) {
    let count = x.len().max(1) as f64;
    let mean = if centre { x.iter().map(|x| x.to_f64()).sum::<f64>() / count } else { 0.0 };
    let variance = x.iter().map(|x| (x.to_f64() - mean) * (x.to_f64() - mean)).sum::<f64>() / count;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

impl<T: Real> Kernel<T> for RowMap {
    fn reads(&self) -> Reads {
        match self {
            RowMap::Softmax | RowMap::LogSoftmax => Reads::Result,
            RowMap::Normalize { .. } => Reads::All,
        }
    }

    fn forward(&self, operands: &[Array<'_, T>]) -> Result<(Vec<T>, Vec<usize>)> {
        let x = operands[0];
        let width = row_width(x.dims)?;
        let mut result = vec![T::ZERO; x.data.len()];
        result.par_chunks_mut(width).zip(x.data.par_chunks(width)).for_each(|(y, x)| self.forward_row(x, y));
        Ok((result, x.dims.to_vec()))
    }

    fn backward(
        &self,
        operands: &[Array<'_, T>],
        result: Array<'_, T>,
        gradient: Vec<T>,
        into: &mut Slots<'_, T>,
    ) -> Result<()> {
        let width = row_width(result.dims)?;
        let Some(into) = into.of(0) else { return Ok(()) };
        let rows = into.par_chunks_mut(width).zip(result.data.par_chunks(width)).zip(gradient.par_chunks(width));
        rows.enumerate().for_each(|(row, ((into, y), g))| {
            let x = operands[0].data.get(row * width..(row + 1) * width).unwrap_or_default();
            self.backward_row(x, y, g, into);
        });
        Ok(())
    }
}

/// A figure of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reduction {
    L1,
    L2,
    LogSum,
    LogSumExp,
    Max,
    Mean,
    Min,
    Prod,
    Sum,
    SumSquare,
}

/// `reduction` of each row of the last axis, which goes.
pub(super) fn reduce_rows<T: Real>(x: &Tensor<T>, reduction: Reduction) -> Result<Tensor<T>> {
    apply(reduction, &[x])
}

impl Reduction {
    fn value(self, row: impl Iterator<Item = f64> + Clone) -> f64 {
        match self {
            Reduction::L1 => row.map(f64::abs).sum(),
            Reduction::L2 => row.map(|x| x * x).sum::<f64>().sqrt(),
            Reduction::LogSum => row.sum::<f64>().ln(),
            Reduction::LogSumExp => {
                let largest = row.clone().fold(f64::NEG_INFINITY, f64::max);
                largest + row.map(|x| (x - largest).exp()).sum::<f64>().ln()
            }
            Reduction::Max => row.fold(f64::NEG_INFINITY, f64::max),
            Reduction::Mean => row.clone().sum::<f64>() / row.count().max(1) as f64,
            Reduction::Min => row.fold(f64::INFINITY, f64::min),
            Reduction::Prod => row.product(),
            Reduction::Sum => row.sum(),
            Reduction::SumSquare => row.map(|x| x * x).sum(),
        }
    }

    /// Derivative by an element `x` of a row of `count`, of which `extreme` are equal to the value `y`.
    fn slope(self, x: f64, y: f64, count: f64, extreme: f64) -> f64 {
        match self {
            Reduction::L1 => if_nonzero(x, x.signum()),
            Reduction::L2 => if_nonzero(y, x / y),
            Reduction::LogSum => (-y).exp(),
            Reduction::LogSumExp => (x - y).exp(),
            Reduction::Max | Reduction::Min if x == y => 1.0 / extreme,
            Reduction::Max | Reduction::Min => 0.0,
            Reduction::Mean => 1.0 / count,
            Reduction::Prod => if_nonzero(x, y / x),
            Reduction::Sum => 1.0,
            Reduction::SumSquare => 2.0 * x,
        }
    }
}

/// `slope`, and 0 where a function has none.
fn if_nonzero(x: f64, slope: f64) -> f64 {
    if x == 0.0 { 0.0 } else { slope }
}

impl<T: Real> Kernel<T> for Reduction {
    fn reads(&self) -> Reads {
        match self {
            Reduction::Mean | Reduction::Sum => Reads::Shapes,
            _ => Reads::All,
        }
    }

    fn forward(&self, operands: &[Array<'_, T>]) -> Result<(Vec<T>, Vec<usize>)> {
        let x = operands[0];
        let width = row_width(x.dims)?;
        let rows = x.data.par_chunks(width);
        let result = rows.map(|row| T::from_f64(self.value(row.iter().map(|x| x.to_f64())))).collect();
        Ok((result, x.dims[..x.dims.len() - 1].to_vec()))
    }

    fn backward(
        &self,
        operands: &[Array<'_, T>],
        result: Array<'_, T>,
        gradient: Vec<T>,
        into: &mut Slots<'_, T>,
    ) -> Result<()> {
        let width = row_width(operands[0].dims)?;
        let count = width as f64;
        let Some(into) = into.of(0) else { return Ok(()) };
        let rows = into.par_chunks_mut(width).zip(&gradient);
        if let Reduction::Mean | Reduction::Sum = self {
            rows.for_each(|(into, g)| {
                let each = T::from_f64(g.to_f64() * self.slope(0.0, 0.0, count, 1.0));
                into.iter_mut().for_each(|slot| *slot += each);
            });
            return Ok(());
        }
        rows.zip(operands[0].data.par_chunks(width).zip(result.data)).for_each(|((into, g), (row, y))| {
            let extreme = row.iter().filter(|x| *x == y).count().max(1) as f64;
            for (slot, x) in into.iter_mut().zip(row) {
                *slot += T::from_f64(g.to_f64() * self.slope(x.to_f64(), y.to_f64(), count, extreme));
            }
        });
        Ok(())
    }
}

fn row_width(dims: &[usize]) -> Result<usize> {
    match dims.last() {
        Some(&width) if width > 0 => Ok(width),
        _ => Err(Error::input("an axis of no elements has no gradient")),
    }
}
