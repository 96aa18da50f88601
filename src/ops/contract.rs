//! Conv, ConvTranspose, Gemm, MatMul, Einsum: sums of products.

use std::collections::BTreeMap;

use super::equation::Equation;
use super::site::{Contraction, Linear, Outcome, Refusal, Site};
use crate::axes::Var;

/// Depthwise convolution needs no case of its own: `i` has size one and `g` is the factor.
pub(super) fn conv(site: &mut Site<'_>) -> Outcome {
    conv_by(site, "n (g i) _..#, (g o) i _..#, (g o)? -> n (g o) _..#")
}

/// `com.microsoft.FusedConv`: a sum may be added in front of the activation.
pub(super) fn fused_conv(site: &mut Site<'_>) -> Outcome {
    conv_by(site, "n (g i) _..#, (g o) i _..#, (g o)?, n (g o) _..#? -> n (g o) _..#")
}

fn conv_by(site: &mut Site<'_>, row: &str) -> Outcome {
    site.row(row, &[("g", "group", 1)])?;
    let linear =
        Linear { data: 0, data_axis: 1, weight: 1, weight_in: 1, weight_out: 0, bias: Some(2), result_axis: 1 };
    let macs = conv_macs(site)?;
    site.relation.contraction = Some(Contraction { macs: vec![macs], linear: Some(linear) });
    Ok(())
}

/// Every position of the result, in every channel, is a sum over the rest of the weight.
fn conv_macs(site: &Site<'_>) -> Outcome<Vec<Var>> {
    let (mut macs, result) = (site.input(1)?, site.output(0)?);
    macs.extend(result.iter().enumerate().filter(|&(axis, _)| axis != 1).map(|(_, &var)| var));
    Ok(macs)
}

/// `DeformConv`: the positions that it reads are computed beside it, so that it is no linear map of windows. Groups of
/// channels with offsets of their own keep their channels.
pub(super) fn deform_conv(site: &mut Site<'_>) -> Outcome {
    site.row("n (g i) _..#, (g o) i _..#, n _# s..#, (g o)?, n _# s..#? -> n (g o) s..", &[("g", "group", 1)])?;
    if site.int("offset_group", 1) != 1 {
        let channels = site.input(0)?[1];
        site.freeze(channels, "offsets for groups of channels");
    }
    let macs = conv_macs(site)?;
    site.relation.contraction = Some(Contraction { macs: vec![macs], linear: None });
    Ok(())
}

pub(super) fn conv_transpose(site: &mut Site<'_>) -> Outcome {
    site.row("n (g i) _..#, (g i) o _..#, (g o)? -> n (g o) _..#", &[("g", "group", 1)])?;
    let linear =
        Linear { data: 0, data_axis: 1, weight: 1, weight_in: 0, weight_out: 1, bias: Some(2), result_axis: 1 };
    let (mut macs, data) = (site.input(1)?, site.input(0)?);
    macs.extend(data.iter().enumerate().filter(|&(axis, _)| axis != 1).map(|(_, &var)| var));
    site.relation.contraction = Some(Contraction { macs: vec![macs], linear: Some(linear) });
    Ok(())
}

pub(super) fn gemm(site: &mut Site<'_>) -> Outcome {
    let (a, b, y) = (site.input(0)?, site.input(1)?, site.output(0)?);
    let (&[a0, a1], &[b0, b1], &[m, n]) = (&a[..], &b[..], &y[..]) else {
        return Err(Refusal::new("Gemm works on matrices"));
    };
    let trans_a = site.int("transA", 0) != 0;
    let trans_b = site.int("transB", 0) != 0;
    let (am, ak) = if trans_a { (a1, a0) } else { (a0, a1) };
    let (bk, bn) = if trans_b { (b1, b0) } else { (b0, b1) };
    site.tie(ak, bk)?;
    keep_table(site, ak);
    site.tie(am, m)?;
    site.tie(bn, n)?;
    if site.has_input(2) {
        let c = site.input(2)?;
        site.broadcast(&c, &y)?;
    }
    let data_axis = usize::from(!trans_a);
    site.relation.masks.push((0, data_axis));
    let linear = Linear {
        data: 0,
        data_axis,
        weight: 1,
        weight_in: usize::from(trans_b),
        weight_out: usize::from(!trans_b),
        bias: Some(2),
        result_axis: 1,
    };
    site.relation.contraction = Some(Contraction { macs: vec![vec![m, n, ak]], linear: Some(linear) });
    Ok(())
}

/// `MatMul` by numpy's rules, batch axes broadcast; `transA`, `transB` as in `com.microsoft.FusedMatMul`.
pub(super) fn matmul(site: &mut Site<'_>) -> Outcome {
    let (a, b, y) = (site.input(0)?, site.input(1)?, site.output(0)?);
    if site.int("transBatchA", 0) != 0 || site.int("transBatchB", 0) != 0 {
        return Err(Refusal::new("transposed batch axes are not supported"));
    }
    let (a_rank, b_rank) = (a.len(), b.len());
    if a_rank == 0 || b_rank == 0 {
        return Err(Refusal::new("an operand is a scalar"));
    }
    let trans_a = site.int("transA", 0) != 0 && a_rank > 1;
    let trans_b = site.int("transB", 0) != 0 && b_rank > 1;
    let ak = if trans_a { a_rank - 2 } else { a_rank - 1 };
    let bk = if b_rank == 1 || trans_b { b_rank - 1 } else { b_rank - 2 };
    site.tie(a[ak], b[bk])?;
    keep_table(site, a[ak]);
    let mut result = y.clone();
    if b_rank > 1 {
        let bn = if trans_b { b_rank - 2 } else { b_rank - 1 };
        let n = result.pop().ok_or_else(|| Refusal::new("the result lacks an axis"))?;
        site.tie(b[bn], n)?;
    }
    if a_rank > 1 {
        let am = if trans_a { a_rank - 1 } else { a_rank - 2 };
        let m = result.pop().ok_or_else(|| Refusal::new("the result lacks an axis"))?;
        site.tie(a[am], m)?;
    }
    site.broadcast(&a[..a_rank.saturating_sub(2)], &result)?;
    site.broadcast(&b[..b_rank.saturating_sub(2)], &result)?;
    site.relation.masks.push((0, ak));
    let mut macs = y.clone();
    macs.push(a[ak]);
    site.relation.contraction =
        Some(Contraction { macs: vec![macs], linear: linear_of_matmul(site, a_rank, b_rank, ak, bk) });
    Ok(())
}

/// What a stored table says, such as coordinates of positions, is no more computed than a graph input is.
fn keep_table(site: &mut Site<'_>, contracted: Var) {
    if site.is_stored(0) && site.is_stored(1) {
        site.freeze(contracted, "a stored table");
    }
}

/// A rank-2 constant on either side is the weight.
fn linear_of_matmul(site: &Site<'_>, a_rank: usize, b_rank: usize, ak: usize, bk: usize) -> Option<Linear> {
    let y_rank = a_rank.max(b_rank);
    if b_rank == 2 && site.is_weight(1) && a_rank >= 2 {
        let (data_axis, weight_in, weight_out) = (ak, bk, 1 - bk);
        let result_axis = y_rank - 1;
        return Some(Linear { data: 0, data_axis, weight: 1, weight_in, weight_out, bias: None, result_axis });
    }
    if a_rank == 2 && site.is_weight(0) && b_rank >= 2 {
        let (data_axis, weight_in, weight_out) = (bk, ak, 1 - ak);
        let result_axis = y_rank - 2;
        return Some(Linear { data: 1, data_axis, weight: 0, weight_in, weight_out, bias: None, result_axis });
    }
    None
}

/// Letters are axes; a letter that the result lacks is contracted.
pub(super) fn einsum(site: &mut Site<'_>) -> Outcome {
    let text = site.string("equation").ok_or_else(|| Refusal::new("attribute 'equation' is missing"))?;
    let operands =
        (0..).take_while(|&index| site.has_input(index)).map(|index| site.input(index)).collect::<Outcome<Vec<_>>>()?;
    let ranks: Vec<usize> = operands.iter().map(Vec::len).collect();
    let result = site.output(0)?;
    let equation = Equation::parse(&text, &ranks, Some(result.len())).map_err(Refusal::new)?;
    let mut letters: BTreeMap<String, Vec<Var>> = BTreeMap::new();
    let mut macs: BTreeMap<String, Var> = BTreeMap::new();
    let mut places = Vec::new();
    for (index, (names, axes)) in equation.operands.iter().zip(&operands).enumerate() {
        for (axis, (name, &var)) in names.iter().zip(axes).enumerate() {
            letters.entry(name.clone()).or_default().push(var);
            places.push((name.clone(), index, axis));
        }
    }
    let result_names = &equation.result;
    for (name, &var) in result_names.iter().zip(&result) {
        letters.entry(name.clone()).or_default().push(var);
    }
    for (name, vars) in letters {
        let full: Vec<Var> = vars.iter().copied().filter(|&v| !site.extent(v).is_one()).collect();
        if let Some((&first, rest)) = full.split_first() {
            rest.iter().try_for_each(|&var| site.tie(first, var))?;
            macs.insert(name, first);
        }
    }
    let mut masked: Vec<String> = Vec::new();
    for (name, operand, axis) in places {
        if !result_names.contains(&name) && !masked.contains(&name) {
            masked.push(name);
            site.relation.masks.push((operand, axis));
        }
    }
    site.relation.contraction = Some(Contraction { macs: vec![macs.into_values().collect()], linear: None });
    Ok(())
}
