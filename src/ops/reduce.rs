//! Reductions, softmax and normalizations: what a statistic is taken over.

use super::site::{Edit, Outcome, Refusal, Site};
use crate::axes::{Extent, Var};
use crate::graph::ValueId;
use crate::runtime::takes_own_statistics;

/// Axes of a reduction and whether they are kept with size one.
fn reduced_axes(site: &Site<'_>, rank: usize) -> Outcome<Vec<usize>> {
    let listed = match site.ints_attribute("axes") {
        Some(axes) => Some(axes),
        None if site.has_input(1) => {
            Some(site.ints(1).ok_or_else(|| Refusal::new("the reduced axes are computed at run time"))?)
        }
        None => None,
    };
    match listed.filter(|axes| !axes.is_empty()) {
        Some(axes) => axes.iter().map(|&a| site.axis(a, rank)).collect(),
        None if site.int("noop_with_empty_axes", 0) != 0 => Ok(Vec::new()),
        None => Ok((0..rank).collect()),
    }
}

/// Reductions over `axes`: the others tie, kept ones in place.
fn tie_reduced(site: &mut Site<'_>, axes: &[usize]) -> Outcome<Vec<Var>> {
    let (data, result) = (site.input(0)?, site.output(0)?);
    let mut targets = result.into_iter();
    let keep = site.int("keepdims", 1) != 0;
    let mut reduced = Vec::new();
    for (number, &axis) in data.iter().enumerate() {
        if axes.contains(&number) {
            reduced.push(axis);
            if keep {
                targets.next();
            }
        } else {
            let target = targets.next().ok_or_else(|| Refusal::new("ranks do not fit"))?;
            site.tie(axis, target)?;
        }
    }
    Ok(reduced)
}

/// `ReduceSum`, `ReduceL1`, `ReduceL2`, `ReduceSumSquare`: a masked index contributes nothing, so removal is exact.
pub(super) fn sum(site: &mut Site<'_>) -> Outcome {
    let rank = site.input(0)?.len();
    let axes = reduced_axes(site, rank)?;
    tie_reduced(site, &axes)?;
    site.relation.masks.extend(axes.into_iter().map(|axis| (0, axis)));
    Ok(())
}

/// Other reductions: the statistic moves. A mean that only divides what it is the mean of can be exact: scaled by `k / n`, the
/// mean over the `k` channels that stay is that over all `n` with zeros for the others.
pub(super) fn statistic(site: &mut Site<'_>) -> Outcome {
    let rank = site.input(0)?.len();
    let axes = reduced_axes(site, rank)?;
    let reduced = tie_reduced(site, &axes)?;
    if divides_its_operand(site) {
        site.relation.masks.extend(axes.into_iter().map(|axis| (0, axis)));
        site.relation.edits.push(Edit::Mean { axes: reduced });
        return Ok(());
    }
    for axis in reduced {
        let why = format!("{} over this axis", site.node.op);
        site.shift(axis, &why);
    }
    Ok(())
}

/// Whether the node is the mean of `g / (mean(g) + ε)`, which compares channels with each other: the global response
/// normalization of ConvNeXt V2 (Woo et al. 2023), where `g` is the norm of each channel.
fn divides_its_operand(site: &Site<'_>) -> bool {
    let (Some(operand), Some(Some(mean))) = (site.value(0), site.node.outputs.first().copied()) else { return false };
    let only_use = |value: ValueId| match site.graph.at(value).uses[..] {
        [(node, slot)] if !site.graph.at(value).is_output && site.graph.at(value).captured_by.is_empty() => {
            Some((site.graph.node(node), slot)).filter(|(node, _)| node.domain.is_empty())
        }
        _ => None,
    };
    let (mut reader, mut slot) = match only_use(mean) {
        Some(found) if site.node.op == "ReduceMean" => found,
        _ => return false,
    };
    if reader.op == "Add" {
        let is_constant = |value: &ValueId| *value != mean && site.constants.contains(value);
        let shifted = reader.outputs.first().copied().flatten();
        match shifted.filter(|_| reader.inputs.iter().flatten().any(is_constant)).and_then(only_use) {
            Some(found) => (reader, slot) = found,
            None => return false,
        }
    }
    reader.op == "Div" && slot == 1 && reader.inputs.first().copied().flatten() == Some(operand)
}

/// `ArgMax`, `ArgMin`: positions along the axis change their meaning.
pub(super) fn arg(site: &mut Site<'_>) -> Outcome {
    let rank = site.input(0)?.len();
    let axis = site.axis(site.int("axis", 0), rank)?;
    for axis in tie_reduced(site, &[axis])? {
        let why = format!("{} over this axis", site.node.op);
        site.shift(axis, &why);
    }
    Ok(())
}

/// `TopK`: shifts along its axis; how many are taken stays.
pub(super) fn top_k(site: &mut Site<'_>) -> Outcome {
    let data = site.input(0)?;
    let axis = site.axis(site.int("axis", -1), data.len())?;
    for index in 0..site.node.outputs.len() {
        let result = site.output(index)?;
        for (number, (&from, &to)) in data.iter().zip(&result).enumerate() {
            if number == axis {
                site.freeze(to, "how many TopK takes");
            } else {
                site.tie(from, to)?;
            }
        }
    }
    site.shift(data[axis], "TopK over this axis");
    Ok(())
}

/// Softmax and its kin normalize over one axis; before opset 13 over that and all later ones.
pub(super) fn softmax(site: &mut Site<'_>) -> Outcome {
    let (data, result) = (site.input(0)?, site.output(0)?);
    site.tie_all(&data, &result)?;
    let flattens = site.opset < 13;
    let axis = site.axis(site.int("axis", if flattens { 1 } else { -1 }), data.len())?;
    let end = if flattens { data.len() } else { axis + 1 };
    for &var in &data[axis..end] {
        let why = format!("{} over this axis", site.node.op);
        site.shift(var, &why);
    }
    Ok(())
}

/// `LayerNormalization` and `RMSNormalization` over the axes from `axis` on; per-index parameters follow.
pub(super) fn layer_norm(site: &mut Site<'_>) -> Outcome {
    let (data, result) = (site.input(0)?, site.output(0)?);
    site.tie_all(&data, &result)?;
    let axis = site.axis(site.int("axis", -1), data.len())?;
    for &var in &data[axis..] {
        let why = format!("{} over this axis", site.node.op);
        site.shift(var, &why);
    }
    for index in 1..site.node.inputs.len() {
        if site.has_input(index) {
            let parameter = site.input(index)?;
            site.broadcast(&parameter, &data)?;
        }
    }
    for index in 1..site.node.outputs.len() {
        if let Some(Some(statistics)) = site.outputs.get(index).cloned() {
            site.broadcast(&statistics, &data)?;
        }
    }
    Ok(())
}

/// Removal of a whole group is exact, removal of a channel inside the groups shifts their statistics.
pub(super) fn group_norm(site: &mut Site<'_>) -> Outcome {
    let per_channel = site.opset >= 21;
    let row =
        if per_channel { "n# (g c!) s..!, (g c), (g c) -> n (g c) s.." } else { "n# (g c!) s..!, g, g -> n (g c) s.." };
    site.row(row, &[("g", "num_groups", 1)]).map(drop)
}

/// `BatchNormalization` by stored statistics, or by those of its operand.
pub(super) fn batch_norm(site: &mut Site<'_>) -> Outcome {
    let data = if takes_own_statistics(site.proto) { "n! c s..!" } else { "n# c s.." };
    site.row(&format!("{data}, c, c, c, c -> n c s.., c, c, c, c"), &[]).map(drop)
}

/// Scale and zero point are one number, one for each index of `axis`, or one for each block of indices.
pub(super) fn quantize(site: &mut Site<'_>) -> Outcome {
    let (data, result) = (site.input(0)?, site.output(0)?);
    site.tie_all(&data, &result)?;
    let block = u64::try_from(site.int("block_size", 0)).unwrap_or(0);
    for index in 1..site.node.inputs.len() {
        if !site.has_input(index) {
            continue;
        }
        let parameter = site.input(index)?;
        if block > 0 {
            tie_blocks(site, &parameter, &data, block)?;
        } else if let &[scale] = &parameter[..]
            && !site.extent(scale).is_one()
        {
            let axis = site.axis(site.int("axis", 1), data.len())?;
            site.tie(scale, data[axis])?;
        }
    }
    Ok(())
}

/// A parameter of blocked quantization has the axes of the data, but blocks of `block` indices on one; whole blocks may go.
fn tie_blocks(site: &mut Site<'_>, parameter: &[Var], data: &[Var], block: u64) -> Outcome {
    let blocked = site.axis(site.int("axis", 1), data.len())?;
    let mut blocks = parameter.to_vec();
    if let Some(axis) = blocks.get_mut(blocked) {
        let inside = site.unifier.factor(Extent::fixed(block));
        site.freeze(inside, "a block has one scale");
        *axis = site.unifier.product(&[*axis, inside])?;
    }
    site.tie_all(&blocks, data)
}

/// A running sum: its axis keeps every index.
pub(super) fn scan_axis(site: &mut Site<'_>) -> Outcome {
    let (data, result) = (site.input(0)?, site.output(0)?);
    site.tie_all(&data, &result)?;
    let axis = site.ints(1).and_then(|axes| axes.first().copied());
    match axis {
        Some(axis) => {
            let axis = site.axis(axis, data.len())?;
            site.freeze(data[axis], "a running sum over this axis");
        }
        None => data.iter().for_each(|&axis| site.freeze(axis, "a running sum over an axis known at run time")),
    }
    Ok(())
}

/// `Trilu`: the last two axes form a triangle.
pub(super) fn triangle(site: &mut Site<'_>) -> Outcome {
    let (data, result) = (site.input(0)?, site.output(0)?);
    site.tie_all(&data, &result)?;
    for &axis in data.iter().rev().take(2) {
        site.freeze(axis, "a triangle of this axis is taken");
    }
    Ok(())
}

/// One scale for all values.
pub(super) fn dynamic_quantize(site: &mut Site<'_>) -> Outcome {
    let (data, result) = (site.input(0)?, site.output(0)?);
    site.tie_all(&data, &result)?;
    data.into_iter().for_each(|axis| site.shift(axis, "the scale of DynamicQuantizeLinear depends on all values"));
    Ok(())
}

/// `MeanVarianceNormalization` over `axes`.
pub(super) fn mean_variance(site: &mut Site<'_>) -> Outcome {
    let (data, result) = (site.input(0)?, site.output(0)?);
    site.tie_all(&data, &result)?;
    let axes = site.ints_attribute("axes").unwrap_or_else(|| vec![0, 2, 3]);
    for axis in axes {
        let axis = site.axis(axis, data.len())?;
        site.shift(data[axis], "MeanVarianceNormalization over this axis");
    }
    Ok(())
}

/// `ReverseSequence`: its time and batch axes stay.
pub(super) fn reverse(site: &mut Site<'_>) -> Outcome {
    let (data, result) = (site.input(0)?, site.output(0)?);
    site.tie_all(&data, &result)?;
    for (name, default) in [("batch_axis", 1), ("time_axis", 0)] {
        let axis = site.axis(site.int(name, default), data.len())?;
        site.freeze(data[axis], "a reversed sequence");
    }
    Ok(())
}
