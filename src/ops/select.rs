//! Operators that take parts of axes, or put parts together.

use super::site::{Cut, Edit, Outcome, Refusal, Site};
use crate::axes::{BINDINGS, Extent, Var};

/// The joined axis is the sum of the operands' axes.
pub(super) fn concat(site: &mut Site<'_>) -> Outcome {
    let result = site.output(0)?;
    let axis = site.axis(site.int("axis", 1), result.len())?;
    let mut terms = Vec::new();
    for index in 0..site.node.inputs.len() {
        let operand = site.input(index)?;
        if operand.len() != result.len() {
            return Err(Refusal::new("ranks differ"));
        }
        for (number, (&from, &to)) in operand.iter().zip(&result).enumerate() {
            if number != axis {
                site.tie(from, to)?;
            } else if !site.extent(from).is_empty() {
                terms.push(from);
            }
        }
    }
    let sum = site.unifier.sum(&terms)?;
    site.tie(sum, result[axis])
}

/// The split axis is the sum of the results' axes.
pub(super) fn split(site: &mut Site<'_>) -> Outcome {
    let data = site.input(0)?;
    let axis = site.axis(site.int("axis", 0), data.len())?;
    let mut terms = Vec::new();
    for index in 0..site.node.outputs.len() {
        let part = site.output(index)?;
        if part.len() != data.len() {
            return Err(Refusal::new("ranks differ"));
        }
        for (number, (&from, &to)) in data.iter().zip(&part).enumerate() {
            if number == axis {
                terms.push(to);
            } else {
                site.tie(from, to)?;
            }
        }
    }
    let sum = site.unifier.sum(&terms)?;
    site.tie(data[axis], sum)?;
    site.relation.edits.push(Edit::Parts { axes: terms });
    Ok(())
}

/// Starts, ends, axes and steps of a Slice, from operands or (before opset 10) from attributes.
struct SliceBounds {
    axes: Vec<usize>,
    starts: Option<Vec<i64>>,
    ends: Option<Vec<i64>>,
    steps: Option<Vec<i64>>,
}

fn slice_bounds(site: &Site<'_>, rank: usize) -> Outcome<SliceBounds> {
    if site.opset < 10 {
        let starts = site.ints_attribute("starts").unwrap_or_default();
        let axes = site.ints_attribute("axes");
        let axes = axes.unwrap_or_else(|| (0..).take(starts.len()).collect());
        let axes = axes.iter().map(|&a| site.axis(a, rank)).collect::<Outcome<_>>()?;
        let steps = Some(vec![1; starts.len()]);
        return Ok(SliceBounds { axes, ends: site.ints_attribute("ends"), starts: Some(starts), steps });
    }
    let count = site.length(1).unwrap_or(rank);
    let axes = if site.has_input(3) {
        let axes = site.ints(3).ok_or_else(|| Refusal::new("the sliced axes are computed at run time"))?;
        axes.iter().map(|&a| site.axis(a, rank)).collect::<Outcome<_>>()?
    } else {
        (0..count).collect()
    };
    let steps = if site.has_input(4) { site.ints(4) } else { Some(vec![1; count]) };
    Ok(SliceBounds { axes, starts: site.ints(1), ends: site.ints(2), steps })
}

/// Positions that `start`, `end`, `step` select from an axis of `size`: `(first, count)`.
fn slice_range(size: usize, start: i64, end: i64, step: i64) -> Option<(usize, usize)> {
    let n = i64::try_from(size).ok()?;
    let from_end = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
    let (start, end) = (from_end(start), from_end(end));
    let (first, count) = if step > 0 {
        let (start, end) = (start.clamp(0, n), end.clamp(0, n));
        (start, (end - start).max(0).checked_add(step - 1)? / step)
    } else if step < 0 {
        let (start, end) = (start.clamp(-1, n - 1), end.clamp(-1, n - 1));
        (start, (start - end).max(0).checked_add(-step - 1)? / -step)
    } else {
        return None;
    };
    Some((usize::try_from(first).ok()?, usize::try_from(count).ok()?))
}

pub(super) fn slice(site: &mut Site<'_>) -> Outcome {
    let (data, result) = (site.input(0)?, site.output(0)?);
    if data.len() != result.len() {
        return Err(Refusal::new("ranks differ"));
    }
    let bounds = slice_bounds(site, data.len())?;
    let mut cuts = Vec::new();
    for (number, (&from, &to)) in data.iter().zip(&result).enumerate() {
        let Some(entry) = bounds.axes.iter().position(|&a| a == number) else {
            site.tie(from, to)?;
            continue;
        };
        let at = |list: &Option<Vec<i64>>| list.as_ref().and_then(|l| l.get(entry)).copied();
        let step = at(&bounds.steps);
        if site.extent(from) == site.extent(to) && step == Some(1) {
            // As long as the axis itself: nothing is cut off, and bounds beyond its end stay beyond it.
            site.tie(from, to)?;
            continue;
        }
        match (site.extent(from).as_fixed(), at(&bounds.starts), at(&bounds.ends), step) {
            (Some(size), Some(start), Some(end), Some(step)) => {
                let range = slice_range(size, start, end, step);
                let (start, count) = range.ok_or_else(|| Refusal::new("the bounds are not valid"))?;
                cut(site, from, to, (size, start, count, step))?;
                cuts.push(Cut { number, axis: from, start, count, step });
            }
            _ => {
                site.freeze(from, "sliced at positions known at run time only");
                site.freeze(to, "sliced at positions known at run time only");
            }
        }
    }
    site.relation.edits.push(Edit::Bounds { cuts });
    Ok(())
}

/// `from[start], from[start + step], …` are `to`.
fn cut(site: &mut Site<'_>, from: Var, to: Var, range: (usize, usize, usize, i64)) -> Outcome {
    let (size, start, count, step) = range;
    if count == 0 {
        site.freeze(from, "nothing of it is taken");
        return Ok(());
    }
    if step != 1 {
        let step = isize::try_from(step).unwrap_or(isize::MAX);
        let positions: Vec<usize> =
            (0..count).filter_map(|k| start.checked_add_signed(step.checked_mul(isize::try_from(k).ok()?)?)).collect();
        let picked = site.unifier.select(from, &positions)?;
        return site.tie(picked, to);
    }
    let mut terms = Vec::new();
    if start > 0 {
        terms.push(site.unifier.factor(Extent::fixed(start as u64)));
    }
    terms.push(to);
    let rest = size.saturating_sub(start + count);
    if rest > 0 {
        terms.push(site.unifier.factor(Extent::fixed(rest as u64)));
    }
    let sum = site.unifier.sum(&terms)?;
    site.tie(from, sum)
}

/// Constant indices select positions; run-time indices freeze the axis that they index.
pub(super) fn gather(site: &mut Site<'_>) -> Outcome {
    let (data, result) = (site.input(0)?, site.output(0)?);
    let axis = site.axis(site.int("axis", 0), data.len())?;
    let rank = (result.len() + 1).checked_sub(data.len()).filter(|rank| axis + rank <= result.len());
    let rank = rank.ok_or_else(|| Refusal::new("ranks do not fit"))?;
    let (head, tail) = (&result[..axis], &result[axis + rank..]);
    site.tie_all(&data[..axis], head)?;
    site.tie_all(&data[axis + 1..], tail)?;
    let selected = &result[axis..axis + rank];
    let size = site.extent(data[axis]).as_fixed();
    match (site.ints(1), size, selected) {
        (Some(positions), Some(size), &[to]) => {
            let n = i64::try_from(size).unwrap_or(i64::MAX);
            let positions: Option<Vec<usize>> =
                positions.iter().map(|&p| usize::try_from(if p < 0 { p + n } else { p }).ok()).collect();
            let positions = positions.ok_or_else(|| Refusal::new("an index is out of range"))?;
            let picked = site.unifier.select(data[axis], &positions)?;
            site.tie(picked, to)?;
            site.relation.edits.push(Edit::Indices { operand: 1, axis: data[axis], result: to });
            Ok(())
        }
        (Some(_), _, &[]) => {
            site.freeze(data[axis], "one position is selected");
            Ok(())
        }
        _ => {
            site.freeze(data[axis], "indexed at run time");
            let indices = site.input(1)?;
            site.tie_all(&indices, selected)
        }
    }
}

/// The indexed axis freezes; the others run in step where their sizes agree.
pub(super) fn gather_elements(site: &mut Site<'_>) -> Outcome {
    let (data, indices, result) = (site.input(0)?, site.input(1)?, site.output(0)?);
    let axis = site.axis(site.int("axis", 0), data.len())?;
    site.tie_all(&indices, &result)?;
    for (number, (&from, &to)) in data.iter().zip(&result).enumerate() {
        if number == axis || site.extent(from) != site.extent(to) {
            site.freeze(from, "indexed at run time");
            site.freeze(to, "indexed at run time");
        } else {
            site.tie(from, to)?;
        }
    }
    Ok(())
}

/// The axis that is written to freezes; the others run in step where their sizes agree.
pub(super) fn scatter_elements(site: &mut Site<'_>) -> Outcome {
    let (data, indices, updates) = (site.input(0)?, site.input(1)?, site.input(2)?);
    let result = site.output(0)?;
    let axis = site.axis(site.int("axis", 0), data.len())?;
    site.tie_all(&data, &result)?;
    site.tie_all(&indices, &updates)?;
    for (number, (&from, &to)) in data.iter().zip(&updates).enumerate() {
        if number == axis || site.extent(from) != site.extent(to) {
            site.freeze(from, "written at positions known at run time");
            site.freeze(to, "written at positions known at run time");
        } else {
            site.tie(from, to)?;
        }
    }
    Ok(())
}

/// The axes that the indices address freeze, and those of the indices; the others pass.
pub(super) fn scatter_nd(site: &mut Site<'_>) -> Outcome {
    let (data, indices, updates) = (site.input(0)?, site.input(1)?, site.input(2)?);
    let result = site.output(0)?;
    let depth = addressed(site, &indices)?;
    site.tie_all(&data, &result)?;
    let lead = indices.len() - 1;
    if depth > data.len() || updates.len() != lead + data.len() - depth {
        return Err(Refusal::new("ranks do not fit"));
    }
    for &axis in data[..depth].iter().chain(&indices).chain(&updates[..lead]) {
        site.freeze(axis, "written at positions known at run time");
    }
    site.tie_all(&data[depth..], &updates[lead..])
}

/// The axes that the indices address freeze; batch axes and the rest pass.
pub(super) fn gather_nd(site: &mut Site<'_>) -> Outcome {
    let (data, indices, result) = (site.input(0)?, site.input(1)?, site.output(0)?);
    let batch = usize::try_from(site.int("batch_dims", 0)).unwrap_or(usize::MAX);
    let depth = addressed(site, &indices)?;
    let lead = indices.len() - 1;
    let tail = batch.checked_add(depth).filter(|&tail| tail <= data.len() && batch <= lead);
    let tail = tail.filter(|tail| result.len() == lead + data.len() - tail);
    let tail = tail.ok_or_else(|| Refusal::new("ranks do not fit"))?;
    data[batch..tail].iter().for_each(|&axis| site.freeze(axis, "indexed at run time"));
    site.freeze(indices[lead], "positions in several axes");
    site.tie_all(&data[..batch], &indices[..batch])?;
    site.tie_all(&indices[..lead], &result[..lead])?;
    site.tie_all(&data[tail..], &result[lead..])
}

/// How many axes a list of index tuples addresses.
fn addressed(site: &Site<'_>, indices: &[Var]) -> Outcome<usize> {
    let depth = indices.last().and_then(|&axis| site.extent(axis).as_fixed());
    depth.ok_or_else(|| Refusal::new("how many axes are indexed is not known"))
}

/// A padded axis is the sum of the padding and the data; only constant padding may reach a prunable axis.
pub(super) fn pad(site: &mut Site<'_>) -> Outcome {
    let (data, result) = (site.input(0)?, site.output(0)?);
    let rank = data.len();
    if result.len() != rank {
        return Err(Refusal::new("ranks differ"));
    }
    let constant = site.string("mode").is_none_or(|mode| mode == "constant");
    let axes: Option<Vec<usize>> = if site.has_input(3) {
        site.ints(3).and_then(|axes| axes.iter().map(|&a| site.axis(a, rank).ok()).collect())
    } else {
        Some((0..rank).collect())
    };
    let under = |binding| if site.opset < 11 { site.ints_attribute("pads") } else { site.ints_under(1, binding) };
    let pads: Option<Vec<Vec<i64>>> = (0..BINDINGS).map(under).collect();
    for (number, (&from, &to)) in data.iter().zip(&result).enumerate() {
        let amounts = |pads: &Vec<i64>| -> Option<(i64, i64)> {
            let entry = axes.as_ref()?.iter().position(|&a| a == number);
            entry.map_or(Some((0, 0)), |i| Some((*pads.get(i)?, *pads.get(i + axes.as_ref()?.len())?)))
        };
        let mut amounts = pads.iter().flatten().map(amounts);
        let first = amounts.next().flatten();
        match first.filter(|_| amounts.all(|other| other == first)) {
            Some((0, 0)) => site.tie(from, to)?,
            Some((before, after)) if constant && before >= 0 && after >= 0 => {
                pad_axis(site, (from, to), before.unsigned_abs(), after.unsigned_abs())?;
            }
            _ => {
                site.freeze(from, "padded axis");
                site.freeze(to, "padded axis");
            }
        }
    }
    Ok(())
}

fn pad_axis(site: &mut Site<'_>, (from, to): (Var, Var), before: u64, after: u64) -> Outcome {
    let mut terms = Vec::new();
    for (position, amount) in [before, after].into_iter().enumerate() {
        if amount > 0 {
            let padding = site.unifier.factor(Extent::fixed(amount));
            site.freeze(padding, "padding");
            terms.push(padding);
        }
        if position == 0 {
            terms.push(from);
        }
    }
    let sum = site.unifier.sum(&terms)?;
    site.tie(sum, to)
}
