//! Operators that move elements and compute nothing.

use super::site::{Site, axis_of, check_size};
use super::take::{pad as pad_axis, take};
use crate::error::{Error, Result};
use crate::train::kernel::Real;
use crate::train::tape::Tensor;

fn size(value: i64) -> Result<usize> {
    usize::try_from(value).map_err(|_| Error::input(format!("{value} is not a size")))
}

/// `Identity`, `Dropout` at inference, `Cast` between real types.
pub(super) fn identity<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    Ok(vec![site.real(0)?])
}

/// `Reshape`.
pub(super) fn reshape<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let wanted = site.list("shape", 1)?.ok_or_else(|| Error::input("the shape is missing"))?;
    let keeps_zero = site.int("allowzero", 0)? != 0;
    let mut dims = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (axis, &value) in wanted.iter().enumerate() {
        dims.push(match value {
            -1 => {
                open = Some(axis);
                1
            }
            0 if !keeps_zero => *x.dims().get(axis).ok_or_else(|| Error::input("0 stands for no axis"))?,
            value => size(value)?,
        });
    }
    if let Some(axis) = open {
        dims[axis] = x.len() / dims.iter().product::<usize>().max(1);
    }
    Ok(vec![x.reshape(dims)?])
}

/// `Flatten`.
pub(super) fn flatten<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let axis = site.int("axis", 1)?;
    let axis = if axis == i64::try_from(x.rank()).unwrap_or(0) { x.rank() } else { axis_of(axis, x.rank())? };
    let outer: usize = x.dims()[..axis].iter().product();
    Ok(vec![x.reshape([outer, x.len() / outer.max(1)])?])
}

/// `Squeeze`.
pub(super) fn squeeze<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let axes = match site.list("axes", 1)? {
        Some(axes) => axes.into_iter().map(|axis| axis_of(axis, x.rank())).collect::<Result<Vec<_>>>()?,
        None => (0..x.rank()).filter(|&axis| x.dims()[axis] == 1).collect(),
    };
    let dims: Vec<usize> = (0..x.rank()).filter(|axis| !axes.contains(axis)).map(|axis| x.dims()[axis]).collect();
    Ok(vec![x.reshape(dims)?])
}

/// `Unsqueeze`.
pub(super) fn unsqueeze<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let axes = site.list("axes", 1)?.ok_or_else(|| Error::input("the axes are missing"))?;
    let rank = x.rank() + axes.len();
    let axes = axes.into_iter().map(|axis| axis_of(axis, rank)).collect::<Result<Vec<_>>>()?;
    let mut old = x.dims().iter().copied();
    let dims = (0..rank).map(|axis| if axes.contains(&axis) { 1 } else { old.next().unwrap_or(1) });
    Ok(vec![x.reshape(dims.collect::<Vec<_>>())?])
}

/// `Transpose`.
pub(super) fn transpose<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let order = match site.attributes.ints("perm")? {
        Some(order) => order.iter().map(|&axis| axis_of(axis, x.rank())).collect::<Result<Vec<_>>>()?,
        None => (0..x.rank()).rev().collect(),
    };
    Ok(vec![x.permute(&order)?])
}

/// `Expand`.
pub(super) fn expand<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let wanted = site.ints(1)?.ok_or_else(|| Error::input("the shape is missing"))?;
    let wanted = wanted.into_iter().map(size).collect::<Result<Vec<_>>>()?;
    let dims = super::walk::broadcast_dims([x.dims(), &wanted].into_iter())?;
    check_size(dims.iter().copied())?;
    Ok(vec![x.expand(&dims)?])
}

/// `Concat`.
pub(super) fn concat<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let parts = (0..site.inputs.len()).map(|slot| site.real(slot)).collect::<Result<Vec<_>>>()?;
    let rank = parts.first().map_or(0, Tensor::rank);
    let axis = axis_of(site.attributes.require("axis", |a, name| a.int(name))?, rank)?;
    Ok(vec![Tensor::concatenate(&parts.iter().collect::<Vec<_>>(), axis)?])
}

/// `Split`.
pub(super) fn split<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let axis = axis_of(site.int("axis", 0)?, x.rank())?;
    let (whole, count) = (x.dims()[axis], site.node.output.len().max(1));
    let parts = match site.list("split", 1)? {
        Some(parts) => parts.into_iter().map(size).collect::<Result<Vec<_>>>()?,
        None => {
            let part = whole.div_ceil(count);
            (0..count).map(|i| part.min(whole - (i * part).min(whole))).collect()
        }
    };
    let mut start = 0;
    let mut results = Vec::with_capacity(parts.len());
    for part in parts {
        results.push(x.narrow(axis, start, part)?);
        start += part;
    }
    Ok(results)
}

/// `Slice`.
pub(super) fn slice<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let mut x = site.real(0)?;
    let starts = site.list("starts", 1)?.ok_or_else(|| Error::input("the starts are missing"))?;
    let ends = site.list("ends", 2)?.ok_or_else(|| Error::input("the ends are missing"))?;
    let axes = match site.list("axes", 3)? {
        Some(axes) => axes,
        None => (0..i64::try_from(starts.len()).unwrap_or(0)).collect(),
    };
    let steps = site.ints(4)?.unwrap_or_else(|| vec![1; starts.len()]);
    for (((start, end), axis), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
        let axis = axis_of(axis, x.rank())?;
        x = take(&x, axis, positions(x.dims()[axis], start, end, step)?)?;
    }
    Ok(vec![x])
}

/// Positions `start`, `start + step`, … before `end`, as `Slice` clamps them.
fn positions(whole: usize, start: i64, end: i64, step: i64) -> Result<Vec<usize>> {
    let n = i64::try_from(whole).unwrap_or(i64::MAX);
    let from_end = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
    if step == 0 {
        return Err(Error::input("a Slice has step 0"));
    }
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let mut at = from_end(start).clamp(low.max(0), high.max(0));
    let end = if step < 0 && end < -n { -1 } else { from_end(end).clamp(low, high) };
    let mut found = Vec::new();
    while (step > 0 && at < end) || (step < 0 && at > end) {
        found.push(usize::try_from(at).unwrap_or(0));
        at += step;
    }
    Ok(found)
}

/// `Gather`.
pub(super) fn gather<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let axis = axis_of(site.int("axis", 0)?, x.rank())?;
    let whole = i64::try_from(x.dims()[axis]).unwrap_or(i64::MAX);
    let indices = site.ints(1)?.ok_or_else(|| Error::input("the indices are missing"))?;
    let positions = indices.into_iter().map(|i| size(if i < 0 { i + whole } else { i })).collect::<Result<Vec<_>>>()?;
    let y = take(&x, axis, positions)?;
    let dims = [&x.dims()[..axis], &site.dims(1)?, &x.dims()[axis + 1..]].concat();
    Ok(vec![y.reshape(dims)?])
}

/// `Pad`.
pub(super) fn pad<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let mut x = site.real(0)?;
    let pads = site.list("pads", 1)?.ok_or_else(|| Error::input("the pads are missing"))?;
    let fill = match site.floats(2)? {
        Some(fill) => fill.first().copied().unwrap_or(0.0),
        None => site.float("value", 0.0)?,
    };
    let axes = match site.ints(3)? {
        Some(axes) => axes.into_iter().map(|axis| axis_of(axis, x.rank())).collect::<Result<Vec<_>>>()?,
        None => (0..x.rank()).collect(),
    };
    let mode = site.text("mode", "constant")?;
    for (index, &axis) in axes.iter().enumerate() {
        let before = pads.get(index).copied().unwrap_or(0);
        let after = pads.get(index + axes.len()).copied().unwrap_or(0);
        let n = i64::try_from(x.dims()[axis]).unwrap_or(i64::MAX);
        let padded_size = usize::try_from(n.saturating_add(before).saturating_add(after)).unwrap_or(0);
        check_size(x.dims().iter().enumerate().map(|(a, &size)| if a == axis { padded_size } else { size }))?;
        let from = (before.saturating_neg()..n.saturating_add(after))
            .map(|at| padded(at, n, mode))
            .collect::<Result<Vec<_>>>()?;
        x = pad_axis(&x, axis, from, fill)?;
    }
    Ok(vec![x])
}

/// The position that padded position `at` of an axis of size `n` shows.
fn padded(at: i64, n: i64, mode: &str) -> Result<Option<usize>> {
    let inside = usize::try_from(at).ok().filter(|_| at < n);
    let position = match mode {
        "constant" => return Ok(inside),
        _ if n == 0 => return Err(Error::input("an axis of no elements cannot be padded by its own")),
        "edge" => at.clamp(0, n - 1),
        "wrap" => at.rem_euclid(n),
        "reflect" if n > 1 => {
            let period = 2 * (n - 1);
            let folded = at.rem_euclid(period);
            folded.min(period - folded)
        }
        "reflect" => 0,
        other => return Err(Error::input(format!("Pad mode '{other}' is unknown"))),
    };
    size(position).map(Some)
}

/// `Tile`.
pub(super) fn tile<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let mut x = site.real(0)?;
    let repeats = site.ints(1)?.ok_or_else(|| Error::input("the repeats are missing"))?;
    for (axis, repeats) in repeats.into_iter().enumerate() {
        let n = *x.dims().get(axis).ok_or_else(|| Error::input("there are more repeats than axes"))?;
        let repeats = size(repeats)?;
        check_size(x.dims().iter().copied().chain([repeats]))?;
        x = take(&x, axis, (0..n * repeats).map(|i| i % n).collect())?;
    }
    Ok(vec![x])
}

/// `DepthToSpace`, `SpaceToDepth`.
pub(super) fn blocks<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let &[n, c, h, w] = x.dims() else { return Err(Error::input("the data has not four axes")) };
    let b = size(site.attributes.require("blocksize", |a, name| a.int(name))?)?;
    if b == 0 {
        return Err(Error::input("blocksize is 0"));
    }
    let y = if site.node.op_type() == "SpaceToDepth" {
        x.reshape(vec![n, c, h / b, b, w / b, b])?.permute(&[0, 3, 5, 1, 2, 4])?.reshape(vec![
            n,
            c * b * b,
            h / b,
            w / b,
        ])?
    } else if site.text("mode", "DCR")? == "CRD" {
        x.reshape(vec![n, c / (b * b), b, b, h, w])?.permute(&[0, 1, 4, 2, 5, 3])?.reshape(vec![
            n,
            c / (b * b),
            h * b,
            w * b,
        ])?
    } else {
        x.reshape(vec![n, b, b, c / (b * b), h, w])?.permute(&[0, 3, 4, 1, 5, 2])?.reshape(vec![
            n,
            c / (b * b),
            h * b,
            w * b,
        ])?
    };
    Ok(vec![y])
}
