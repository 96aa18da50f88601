//! Operators that move or merge axes without looking at what is in them.

use super::site::{Edit, Outcome, Refusal, Site};

/// Reshape, Flatten, Squeeze, Unsqueeze: the product of all axes stays the same, in row-major order.
pub(super) fn reshape(site: &mut Site<'_>) -> Outcome {
    let (data, result) = (site.input(0)?, site.output(0)?);
    if data.iter().chain(&result).any(|&axis| site.extent(axis).is_empty()) {
        return Err(Refusal::new("an axis has size zero"));
    }
    let (before, after) = (site.unifier.product(&data)?, site.unifier.product(&result)?);
    let aligned = site.tie(before, after);
    if site.node.op == "Reshape" {
        site.relation.edits.push(Edit::Sizes { operand: 1, like: data, axes: result, infer: true });
    }
    aligned
}

pub(super) fn transpose(site: &mut Site<'_>) -> Outcome {
    let (data, result) = (site.input(0)?, site.output(0)?);
    let rank = data.len();
    let order: Vec<i64> = match site.ints_attribute("perm") {
        Some(perm) => perm,
        None => (0..rank).rev().filter_map(|i| i64::try_from(i).ok()).collect(),
    };
    if order.len() != rank || result.len() != rank {
        return Err(Refusal::new("the permutation does not fit the rank"));
    }
    for (from, &to) in order.iter().zip(&result) {
        let from = data[site.axis(*from, rank)?];
        site.tie(from, to)?;
    }
    Ok(())
}

/// Axes of size one become new axes of their own; the others stay.
pub(super) fn expand(site: &mut Site<'_>) -> Outcome {
    let (data, result) = (site.input(0)?, site.output(0)?);
    site.broadcast(&data, &result)?;
    // A list that is shorter than the result tells the last sizes.
    let listed = site.inputs.get(1).and_then(|axes| axes.as_ref()?.first().copied());
    let listed = listed.and_then(|axis| site.extent(axis).as_fixed());
    let listed = listed.and_then(|listed| result.len().checked_sub(listed));
    let first = listed.ok_or_else(|| Refusal::new("the number of its sizes is not known"))?;
    let axes = result[first..].to_vec();
    site.relation.edits.push(Edit::Sizes { operand: 1, like: Vec::new(), axes, infer: false });
    Ok(())
}

/// Every axis becomes `(repeats axis)`; the repeats stay.
pub(super) fn tile(site: &mut Site<'_>) -> Outcome {
    let (data, result) = (site.input(0)?, site.output(0)?);
    for (&from, &to) in data.iter().zip(&result) {
        let repeats = site.extent(to).div_exact(site.extent(from));
        let repeats = repeats.ok_or_else(|| Refusal::new("the repeats do not fit the sizes"))?;
        let repeats = site.unifier.factor(repeats);
        site.freeze(repeats, "repeats of a Tile");
        let merged = site.unifier.product(&[repeats, from])?;
        site.tie(merged, to)?;
    }
    Ok(())
}

/// The result's axes are whatever its readers make of them.
pub(super) fn constant_of_shape(site: &mut Site<'_>) -> Outcome {
    let result = site.output(0)?;
    site.relation.edits.push(Edit::Sizes { operand: 0, like: Vec::new(), axes: result, infer: false });
    Ok(())
}

/// Shape values keep telling the old sizes; what depends on them is rebuilt where it is used.
pub(super) fn shape(site: &mut Site<'_>) -> Outcome {
    site.input(0)?;
    for axis in site.output(0)? {
        site.freeze(axis, "a list of sizes");
    }
    Ok(())
}

/// Axes that keep their size are channels or batch; the others are resampled.
pub(super) fn resize(site: &mut Site<'_>) -> Outcome {
    let (data, result) = (site.input(0)?, site.output(0)?);
    if data.len() != result.len() {
        return Err(Refusal::new("ranks differ"));
    }
    for (&from, &to) in data.iter().zip(&result) {
        if site.extent(from) == site.extent(to) {
            site.tie(from, to)?;
        } else {
            site.freeze(from, "resampled axis");
            site.freeze(to, "resampled axis");
        }
    }
    if site.has_input(3) {
        let axes = match site.ints_attribute("axes") {
            Some(listed) => {
                listed.iter().map(|&axis| Ok(result[site.axis(axis, result.len())?])).collect::<Outcome<_>>()?
            }
            None => result,
        };
        site.relation.edits.push(Edit::Sizes { operand: 3, like: Vec::new(), axes, infer: false });
    }
    Ok(())
}

/// Channels are pooled apart; positions of the maxima count through the whole tensor, so that it keeps its size.
pub(super) fn max_pool(site: &mut Site<'_>) -> Outcome {
    site.row("n c _..# -> n c _..#, n c _..#", &[])?;
    for axis in site.outputs.get(1).cloned().flatten().unwrap_or_default() {
        site.freeze(axis, "positions of maxima count through the whole tensor");
    }
    Ok(())
}

/// `Col2Im`: each column is a block of every channel, channels outermost.
pub(super) fn col2im(site: &mut Site<'_>) -> Outcome {
    let (columns, result) = (site.input(0)?, site.output(0)?);
    let (&[samples, blocks, positions], &[kept, channels, ..]) = (&columns[..], &result[..]) else {
        return Err(Refusal::new("columns have three axes"));
    };
    let block = site.extent(blocks).div_exact(site.extent(channels));
    let block = block.ok_or_else(|| Refusal::new("the size of a block is not known"))?;
    let block = site.unifier.factor(block);
    let merged = site.unifier.product(&[channels, block])?;
    site.tie(merged, blocks)?;
    site.tie(samples, kept)?;
    for &axis in [block, positions].iter().chain(&result[2..]) {
        site.freeze(axis, "pixels of a block");
    }
    Ok(())
}

/// `DepthToSpace`, by its mode.
pub(super) fn depth_to_space(site: &mut Site<'_>) -> Outcome {
    let block = site.size("blocksize")?;
    let row = match site.string("mode").as_deref() {
        Some("CRD") => "n (c p# q#) h w -> n c (h p) (w q)",
        _ => "n (p# q# c) h w -> n c (h p) (w q)",
    };
    site.row_with(row, &[], &[("p", block), ("q", block)]).map(drop)
}

/// `SpaceToDepth`, by its mode.
pub(super) fn space_to_depth(site: &mut Site<'_>) -> Outcome {
    let block = site.size("blocksize")?;
    let row = match site.string("mode").as_deref() {
        Some("CRD") => "n c (h p#) (w q#) -> n (c p q) h w",
        _ => "n c (h p#) (w q#) -> n (p q c) h w",
    };
    site.row_with(row, &[], &[("p", block), ("q", block)]).map(drop)
}
