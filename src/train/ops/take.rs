//! One kernel for all that picks, repeats or pads positions of an axis: Gather, Slice, Split, Pad, Resize by nearest
//! neighbours, Tile.

use crate::error::{Error, Result};
use crate::train::kernel::{Array, Kernel, Reads, Real, Slots};
use crate::train::tape::{Tensor, apply};

/// `count` result positions from `to` on that show the operand's positions from `from` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) to: usize,
    pub(super) from: usize,
    pub(super) count: usize,
}

/// The stretches of neighbours among the positions that are shown, where any is.
pub(super) fn runs(shown: impl IntoIterator<Item = Option<usize>>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (to, from) in shown.into_iter().enumerate() {
        let Some(from) = from else { continue };
        match runs.last_mut() {
            Some(run) if run.to + run.count == to && run.from + run.count == from => run.count += 1,
            _ => runs.push(Run { to, from, count: 1 }),
        }
    }
    runs
}

/// An axis of the result shows positions of the operand's, and `fill` where none is shown.
struct Take {
    axis: usize,
    runs: Vec<Run>,
    /// Size of the axis in the result.
    size: usize,
    fill: f64,
}

/// The positions `from` of an axis.
pub(in crate::train) fn take<T: Real>(x: &Tensor<T>, axis: usize, from: Vec<usize>) -> Result<Tensor<T>> {
    pad(x, axis, from.into_iter().map(Some).collect(), 0.0)
}

/// The positions `from` of an axis, `fill` where there is none.
pub(super) fn pad<T: Real>(x: &Tensor<T>, axis: usize, from: Vec<Option<usize>>, fill: f64) -> Result<Tensor<T>> {
    let Some(&size) = x.dims().get(axis) else { return Err(Error::input(format!("there is no axis {axis}"))) };
    if let Some(beyond) = from.iter().flatten().find(|&&index| index >= size) {
        return Err(Error::input(format!("index {beyond} is beyond an axis of size {size}")));
    }
    let (result_size, runs) = (from.len(), runs(from));
    let same = result_size == size && (size == 0 || runs == [Run { to: 0, from: 0, count: size }]);
    if same { Ok(x.clone()) } else { apply(Take { axis, runs, size: result_size, fill }, &[x]) }
}

impl<T: Real> Kernel<T> for Take {
    fn reads(&self) -> Reads {
        Reads::Shapes
    }

    fn forward(&self, operands: &[Array<'_, T>]) -> Result<(Vec<T>, Vec<usize>)> {
        let x = operands[0];
        let (outer, size, inner) = around(x.dims, self.axis);
        let mut result = vec![T::from_f64(self.fill); outer * self.size * inner];
        for block in 0..outer {
            for run in &self.runs {
                let source = &x.data[(block * size + run.from) * inner..][..run.count * inner];
                result[(block * self.size + run.to) * inner..][..run.count * inner].copy_from_slice(source);
            }
        }
        let mut dims = x.dims.to_vec();
        dims[self.axis] = self.size;
        Ok((result, dims))
    }

    fn backward(
        &self,
        operands: &[Array<'_, T>],
        _result: Array<'_, T>,
        gradient: Vec<T>,
        into: &mut Slots<'_, T>,
    ) -> Result<()> {
        let (outer, size, inner) = around(operands[0].dims, self.axis);
        let Some(into) = into.of(0) else { return Ok(()) };
        for block in 0..outer {
            for run in &self.runs {
                let source = &gradient[(block * self.size + run.to) * inner..][..run.count * inner];
                let target = &mut into[(block * size + run.from) * inner..][..run.count * inner];
                target.iter_mut().zip(source).for_each(|(t, &s)| *t += s);
            }
        }
        Ok(())
    }
}

/// Sizes before, of, and after an axis.
pub(super) fn around(dims: &[usize], axis: usize) -> (usize, usize, usize) {
    (dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product())
}
