//! Fused attention: `h` heads of width `d`, key/value groups of `r` query heads each.
//!
//! Scores are sums over the head width. Where values have that width too, it is an axis of the result, and the row marks it
//! as summed over (`*`).

use super::site::{Edit, Outcome, Refusal, Site};
use crate::axes::{Applied, Extent, Var};

/// `Attention` of the standard domain (opset 23), on `[b, s, (h d)]` or `[b, h, s, d]`. Caches are `[b, h, s, d]` and
/// freeze with the graph's inputs and outputs.
pub(super) fn attention(site: &mut Site<'_>) -> Outcome {
    let applied = if site.input(0)?.len() == 4 {
        let row = "b# (k r) s# d, b k t# d, b k t v, _..?, b k _# d?, b k _# v?, _..#? \
                   -> b (k r) s v, b k _# d, b k _# v, _..#";
        let groups = site.input(1)?.get(1).and_then(|&axis| site.extent(axis).as_fixed());
        let groups = groups.ok_or_else(|| Refusal::new("the number of key heads is not known"))?;
        site.row_with(row, &[], &[("k", groups as u64)])?
    } else {
        let (heads, groups) = (site.size("q_num_heads")?, site.size("kv_num_heads")?);
        let each = heads.checked_div(groups).unwrap_or(1);
        let row = "b# s# (k r d), b t# (k d), b t (k v), _..?, b k _# d?, b k _# v?, _..#? \
                   -> b s (k r v), b k _# d, b k _# v, _..#";
        let applied = site.row_with(row, &[], &[("k", groups), ("r", each)])?;
        head_counts(site, &applied, "q_num_heads", "kv_num_heads")?;
        applied
    };
    let heads = query_heads(site, &applied)?;
    score_bias(site, 3, heads)?;
    heads_and_scale(site, &applied);
    Ok(())
}

/// `com.microsoft.MultiHeadAttention`: query, key and value apart, or packed as `[b, s, h, 3, d]`.
pub(super) fn multi_head(site: &mut Site<'_>) -> Outcome {
    let row = match (site.input(0)?.len(), site.has_input(1), site.has_input(2)) {
        (3, true, true) => {
            "b# s# (h d), b t# (h d), b t (h v), ((h d) + (h d) + (h v))?, _..#?, _..?, b h _# d?, b h _# v?, _..#?, \
             _..#? -> b s (h v), b h _# d, b h _# v"
        }
        (5, false, false) => {
            "b# s# h p# d*, _..#?, _..#?, (p h d)?, _..#?, _..?, b h _# d?, b h _# d?, _..#?, _..#? \
             -> b s (h d), b h _# d, b h _# d"
        }
        _ => return Err(Refusal::new("a packed key and value are not supported")),
    };
    let applied = site.row(row, &[("h", "num_heads", 1)])?;
    let heads = var(&applied, "h")?;
    score_bias(site, 5, heads)?;
    heads_and_scale(site, &applied);
    Ok(())
}

/// `com.microsoft.Attention`: packed projection of query, key and value inside.
pub(super) fn packed(site: &mut Site<'_>) -> Outcome {
    if site.has_input(4) || site.has_input(6) {
        return Err(Refusal::new("caches are not supported"));
    }
    let heads = site.size("num_heads")?;
    let mut known = vec![("p", 3)];
    let uneven = site.ints_attribute("qkv_hidden_sizes");
    let row = match uneven.as_deref() {
        None => "b# s# i, i (p# h d*), (p h d)?, _..#?, _..#?, _..? -> b s (h d), _..#",
        Some(&[q, _, v]) => {
            let each = |n: i64| u64::try_from(n).ok().and_then(|n| n.checked_div(heads)).unwrap_or(0);
            known.extend([("d", each(q)), ("v", each(v))]);
            "b# s# i, i ((h d) + (h d) + (h v)), ((h d) + (h d) + (h v))?, _..#?, _..#?, _..? -> b s (h v), _..#"
        }
        Some(_) => return Err(Refusal::new("attribute 'qkv_hidden_sizes' is not three sizes")),
    };
    let applied = site.row_with(row, &[("h", "num_heads", 1)], &known)?;
    let heads = var(&applied, "h")?;
    if uneven.is_some() {
        let (d, v) = (var(&applied, "d")?, var(&applied, "v")?);
        let (query, value) = (site.unifier.product(&[heads, d])?, site.unifier.product(&[heads, v])?);
        site.relation.edits.push(Edit::Attributes { name: "qkv_hidden_sizes", axes: vec![query, query, value] });
    }
    score_bias(site, 5, heads)?;
    heads_and_scale(site, &applied);
    if site.int("do_rotary", 0) != 0 {
        freeze_width(site, &applied, "rotary embedding inside");
    }
    Ok(())
}

/// `com.microsoft.GroupQueryAttention`: key and value separate, or packed after the query. Caches freeze with the
/// graph's inputs and outputs.
pub(super) fn group_query(site: &mut Site<'_>) -> Outcome {
    let row = if site.has_input(1) && site.has_input(2) {
        "b# s# (k r d*), b s (k d), b s (k d), b k _# d?, b k _# d?, _..#?, _..#?, _..#?, _..#? \
         -> b s (k r d), b k _# d, b k _# d"
    } else {
        "b# s# ((k r d*) + (k d) + (k d)), _..#?, _..#?, b k _# d?, b k _# d?, _..#?, _..#?, _..#?, _..#? \
         -> b s (k r d), b k _# d, b k _# d"
    };
    let (heads, groups) = (site.size("num_heads")?, site.size("kv_num_heads")?);
    let each = heads.checked_div(groups).unwrap_or(1);
    let applied = site.row_with(row, &[], &[("k", groups), ("r", each)])?;
    head_counts(site, &applied, "num_heads", "kv_num_heads")?;
    heads_and_scale(site, &applied);
    if site.int("do_rotary", 0) != 0 {
        freeze_width(site, &applied, "rotary embedding inside");
    }
    Ok(())
}

/// Rotary embeddings rotate pairs inside each head: the head width stays, heads may go.
pub(super) fn rotary(site: &mut Site<'_>) -> Outcome {
    let data = site.input(0)?;
    let row = match (data.len(), site.int("num_heads", 0)) {
        (4, _) => "b# h s# d# -> b h s d",
        (_, 0) => "b# s# d# -> b s d",
        _ => "b# s# (h d#) -> b s (h d)",
    };
    let result = site.outputs.clone();
    let others: Vec<Vec<Var>> = site.inputs.iter().skip(1).flatten().cloned().collect();
    let attributes: &[_] = if row.contains("(h d#)") { &[("h", "num_heads", 1)] } else { &[] };
    let operands = std::mem::replace(&mut site.inputs, vec![Some(data)]);
    let applied = site.row(row, attributes);
    site.inputs = operands;
    site.outputs = result;
    applied?;
    others.into_iter().flatten().for_each(|axis| site.freeze(axis, "rotary tables stay"));
    Ok(())
}

/// A mask or bias on the scores, broadcast to `[b, h, s, t]`: its heads go with the heads.
fn score_bias(site: &mut Site<'_>, index: usize, heads: Var) -> Outcome {
    let Some(axes) = site.inputs.get(index).cloned().flatten() else { return Ok(()) };
    for (from_right, &axis) in axes.iter().rev().enumerate() {
        if from_right == 2 && !site.extent(axis).is_one() {
            site.tie(axis, heads)?;
        } else {
            site.freeze(axis, "a mask of the attention scores");
        }
    }
    Ok(())
}

fn var(applied: &Applied, name: &str) -> Outcome<Var> {
    applied.vars.get(name).copied().ok_or_else(|| Refusal::new(format!("size '{name}' is not known")))
}

/// Query heads: groups `k` of `r` each.
fn query_heads(site: &mut Site<'_>, applied: &Applied) -> Outcome<Var> {
    let (k, r) = (var(applied, "k")?, var(applied, "r")?);
    Ok(if site.extent(r) == Extent::ONE { k } else { site.unifier.product(&[k, r])? })
}

/// Attributes that count query heads `(k r)` and key/value heads `k`.
fn head_counts(site: &mut Site<'_>, applied: &Applied, query: &'static str, groups: &'static str) -> Outcome {
    let heads = query_heads(site, applied)?;
    site.relation.edits.push(Edit::Attribute { name: query, axis: heads });
    site.relation.edits.push(Edit::Attribute { name: groups, axis: var(applied, "k")? });
    Ok(())
}

/// Names heads and what they consist of. Without an explicit scale the operator divides by the square root of the head
/// width, which then must stay.
fn heads_and_scale(site: &mut Site<'_>, applied: &Applied) {
    let named = |names: &[&str]| names.iter().filter_map(|&name| applied.vars.get(name).copied()).collect();
    site.relation.heads = named(&["h", "k", "r"]);
    site.relation.head_dims = named(&["d", "v"]);
    if site.float("scale", 0.0) == 0.0 {
        freeze_width(site, applied, "the scale is the square root of the head width");
    }
}

fn freeze_width(site: &mut Site<'_>, applied: &Applied, why: &str) {
    if let Some(&width) = applied.vars.get("d") {
        site.freeze(width, why);
    }
}
