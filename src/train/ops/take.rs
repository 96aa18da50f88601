//! One kernel for all that picks, repeats or pads positions of an axis: Gather, Slice, Split, Pad, Resize by nearest
//! neighbours, Tile, Expand.

use candle_core::{Result, Tensor, bail};

use crate::train::kernel::{Array, Kernel, Real, apply};

/// Result position `i` of axis `axis` is operand position `from[i]`, or `fill`.
struct Take {
    axis: usize,
    from: Vec<Option<usize>>,
    fill: f64,
}

/// The positions `from` of an axis.
pub(super) fn take(x: &Tensor, axis: usize, from: Vec<usize>) -> Result<Tensor> {
    pad(x, axis, from.into_iter().map(Some).collect(), 0.0)
}

/// The positions `from` of an axis, `fill` where there is none.
pub(super) fn pad(x: &Tensor, axis: usize, from: Vec<Option<usize>>, fill: f64) -> Result<Tensor> {
    let Some(&size) = x.dims().get(axis) else { bail!("there is no axis {axis}") };
    if let Some(beyond) = from.iter().flatten().find(|&&index| index >= size) {
        bail!("index {beyond} is beyond an axis of size {size}");
    }
    let same = from.len() == size && from.iter().enumerate().all(|(i, from)| *from == Some(i));
    if same { Ok(x.clone()) } else { apply(Take { axis, from, fill }, &[x]) }
}

impl Kernel for Take {
    fn name(&self) -> &'static str {
        "Gather"
    }

    fn forward<T: Real>(&self, args: &[Array<'_, T>]) -> Result<(Vec<T>, Vec<usize>)> {
        let x = args[0];
        let (outer, size, inner) = around(x.dims, self.axis);
        let mut result = Vec::with_capacity(outer * self.from.len() * inner);
        for block in 0..outer {
            for from in &self.from {
                match from {
                    Some(from) => result.extend_from_slice(&x.data[(block * size + from) * inner..][..inner]),
                    None => result.resize(result.len() + inner, T::from_f64(self.fill)),
                }
            }
        }
        let mut dims = x.dims.to_vec();
        dims[self.axis] = self.from.len();
        Ok((result, dims))
    }

    fn backward<T: Real>(
        &self,
        args: &[Array<'_, T>],
        _result: Array<'_, T>,
        grad: Array<'_, T>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Vec<T>>>> {
        let x = args[0];
        let (outer, size, inner) = around(x.dims, self.axis);
        let mut gradient = vec![T::from_f64(0.0); x.data.len()];
        for block in 0..outer {
            for (to, from) in self.from.iter().enumerate() {
                let Some(from) = from else { continue };
                let source = &grad.data[(block * self.from.len() + to) * inner..][..inner];
                let target = &mut gradient[(block * size + from) * inner..][..inner];
                target.iter_mut().zip(source).for_each(|(t, &s)| *t += s);
            }
        }
        Ok(vec![Some(gradient)])
    }
}

/// Sizes before, of, and behind an axis.
pub(super) fn around(dims: &[usize], axis: usize) -> (usize, usize, usize) {
    (dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product())
}
