//! Fused attention: `h` heads of width `d`, key/value groups of `r` query heads each.

use super::site::{Edit, Outcome, Refusal, Site};
use crate::axes::{Applied, Extent, Var};

/// `Attention` of the standard domain (opset 23), on `[b, s, (h d)]` or `[b, h, s, d]`.
pub(super) fn attention(site: &mut Site<'_>) -> Outcome {
    if (4..site.node.inputs.len()).any(|i| site.has_input(i)) {
        return Err(Refusal::new("key and value caches are not supported"));
    }
    let applied = if site.input(0)?.len() == 4 {
        site.row("b# (k r) s# d, b k t# d, b k t v, _..#? -> b (k r) s v, _..#, _..#, _..#", &[])?
    } else {
        let (heads, groups) = (site.size("q_num_heads")?, site.size("kv_num_heads")?);
        let each = heads.checked_div(groups).unwrap_or(1);
        let row = "b# s# (k r d), b t# (k d), b t (k v), _..#? -> b s (k r v), _..#, _..#, _..#";
        let applied = site.row_with(row, &[], &[("k", groups), ("r", each)])?;
        head_counts(site, &applied, "q_num_heads", "kv_num_heads")?;
        applied
    };
    keep_scale(site, &applied, "scale");
    Ok(())
}

/// `com.microsoft.MultiHeadAttention` with separate query, key and value.
pub(super) fn multi_head(site: &mut Site<'_>) -> Outcome {
    if site.input(0)?.len() != 3 || !site.has_input(2) || (6..site.node.inputs.len()).any(|i| site.has_input(i)) {
        return Err(Refusal::new("packed operands and caches are not supported"));
    }
    let row = "b# s# (h d), b t# (h d), b t (h v), ((h d) + (h d) + (h v))?, _..#?, _..#? -> b s (h v)";
    let applied = site.row(row, &[("h", "num_heads", 1)])?;
    keep_scale(site, &applied, "scale");
    Ok(())
}

/// `com.microsoft.Attention`: packed projection of query, key and value inside.
pub(super) fn packed(site: &mut Site<'_>) -> Outcome {
    if site.ints_attribute("qkv_hidden_sizes").is_some() || (4..site.node.inputs.len()).any(|i| site.has_input(i)) {
        return Err(Refusal::new("unequal widths and caches are not supported"));
    }
    let row = "b# s# i, i (p# h d), (p h d)?, _..#? -> b s (h d)";
    let applied = site.row_with(row, &[("h", "num_heads", 1)], &[("p", 3)])?;
    keep_scale(site, &applied, "scale");
    Ok(())
}

/// `com.microsoft.GroupQueryAttention`: caches are named, and freeze with the graph's inputs and outputs.
pub(super) fn group_query(site: &mut Site<'_>) -> Outcome {
    if !site.has_input(1) || !site.has_input(2) {
        return Err(Refusal::new("packed operands are not supported"));
    }
    let (heads, groups) = (site.size("num_heads")?, site.size("kv_num_heads")?);
    let row = "b# s# (k r d), b s (k d), b s (k d), b k _# d?, b k _# d?, _..#?, _..#?, _..#?, _..#? \
               -> b s (k r d), b k _# d, b k _# d";
    let each = heads.checked_div(groups).unwrap_or(1);
    let applied = site.row_with(row, &[], &[("k", groups), ("r", each)])?;
    head_counts(site, &applied, "num_heads", "kv_num_heads")?;
    keep_scale(site, &applied, "scale");
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

/// Attributes that count query heads `(k r)` and key/value heads `k`.
fn head_counts(site: &mut Site<'_>, applied: &Applied, query: &'static str, groups: &'static str) -> Outcome {
    let (Some(&k), Some(&r)) = (applied.vars.get("k"), applied.vars.get("r")) else {
        return Err(Refusal::new("the head counts are not known"));
    };
    let heads = if site.extent(r) == Extent::ONE { k } else { site.unifier.product(&[k, r])? };
    site.relation.edits.push(Edit::Attribute { name: query, axis: heads });
    site.relation.edits.push(Edit::Attribute { name: groups, axis: k });
    Ok(())
}

/// Without an explicit scale the operator divides by the square root of the head width, which then must stay.
fn keep_scale(site: &mut Site<'_>, applied: &Applied, attribute: &str) {
    let explicit = site.proto.attribute.iter().any(|a| a.name() == attribute && a.f() != 0.0);
    if !explicit {
        freeze_width(site, applied, "the scale is the square root of the head width");
    }
}

fn freeze_width(site: &mut Site<'_>, applied: &Applied, why: &str) {
    if let Some(&width) = applied.vars.get("d") {
        site.freeze(width, why);
    }
}
