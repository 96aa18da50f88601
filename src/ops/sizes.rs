//! Sizes of results by the rules, for operators whose shapes tract does not infer.

use super::demand::demanded;
use super::table::{Relate, rule};
use crate::axes::{Extent, Row};
use crate::facts::Shapes;
use crate::graph::{Graph, NodeId, ValueId};
use crate::onnx::attributes::position;
use crate::onnx::proto::{ModelProto, NodeProto};
use crate::onnx::traits::KEEPS_SHAPE;

type Shape = Vec<Extent>;

/// What the rules know of shapes, for the analysis of a model.
#[derive(Debug, Clone, Copy)]
pub struct RuleShapes<'a> {
    /// The model.
    pub model: &'a ModelProto,
    /// View of its main graph.
    pub graph: &'a Graph,
}

impl Shapes for RuleShapes<'_> {
    fn results(
        &self,
        node: NodeId,
        operands: &[Option<Shape>],
        ints: &dyn Fn(usize) -> Option<Vec<i64>>,
    ) -> Option<Vec<Option<Shape>>> {
        output_extents(self.model, self.graph, node, operands, ints)
    }

    fn demanded(&self, value: ValueId, known: &dyn Fn(ValueId) -> Option<Vec<u64>>) -> Option<Vec<Option<u64>>> {
        demanded(self.model.graph.as_ref()?, self.graph, value, known)
    }
}

/// Sizes of the results of a node, in order; `None` where the rule does not tell. `ints` tells operands that are constant
/// integers.
pub fn output_extents(
    model: &ModelProto,
    graph: &Graph,
    id: NodeId,
    operands: &[Option<Shape>],
    ints: &dyn Fn(usize) -> Option<Vec<i64>>,
) -> Option<Vec<Option<Shape>>> {
    let node = graph.node(id);
    let proto = model.graph.as_ref()?.node.get(id.0)?;
    let operand = |index: usize| operands.get(index).cloned().flatten();
    match (node.domain.as_str(), node.op.as_str(), rule(&node.domain, &node.op).map(|rule| rule.relate)) {
        (_, _, Some(Relate::Row(text))) => {
            Row::parse(text).ok()?.output_extents(&[], operands, node.outputs.len()).ok()
        }
        (_, _, Some(Relate::Elementwise)) => Some(vec![broadcast(operands)]),
        _ if node.traits().has(KEEPS_SHAPE) => Some(vec![operand(0)]),
        ("", "Pad", _) => Some(vec![Some(padded(operand(0)?, &ints(1)?, ints(3))?)]),
        ("", "Col2Im", _) => Some(vec![Some(image(&operand(0)?, &ints(1)?, &ints(2)?)?)]),
        ("", "DeformConv", _) => {
            let mut result = operand(2)?;
            *result.get_mut(1)? = *operand(1)?.first()?;
            Some(vec![Some(result)])
        }
        ("", "Attention", _) => Some(vec![Some(attention(proto, operands)?)]),
        ("com.microsoft", "MultiHeadAttention", _) => {
            let mut result = operand(0)?;
            let value = operand(2).filter(|value| value.len() == 3 && result.len() == 3)?;
            result[2] = value[2];
            Some(vec![Some(result)])
        }
        ("com.microsoft", "GroupQueryAttention", _) => group_query(proto, operands),
        ("com.microsoft", "Attention", _) => Some(vec![Some(packed_attention(proto, operands)?)]),
        ("com.microsoft", "FusedMatMul", _) => Some(vec![Some(matmul(proto, operand(0)?, operand(1)?)?)]),
        ("com.microsoft", "MatMulNBits", _) => {
            let mut result = operand(0)?;
            *result.last_mut()? = Extent::fixed(size(proto, "N")?);
            Some(vec![Some(result)])
        }
        ("com.microsoft", "DynamicQuantizeMatMul" | "MatMulIntegerToFloat", _) => {
            let mut result = operand(0)?;
            *result.last_mut()? = *operand(1)?.last()?;
            Some(vec![Some(result)])
        }
        _ => None,
    }
}

fn size(node: &NodeProto, name: &str) -> Option<u64> {
    u64::try_from(node.attribute.iter().find(|a| a.name() == name)?.i()).ok().filter(|&n| n > 0)
}

fn flag(node: &NodeProto, name: &str) -> bool {
    node.attribute.iter().any(|a| a.name() == name && a.i() != 0)
}

/// numpy broadcast of all operands; `None` if one is unknown or they do not fit.
fn broadcast(operands: &[Option<Shape>]) -> Option<Shape> {
    let rank = operands.iter().map(|o| o.as_ref().map(Vec::len)).try_fold(0, |rank, o| o.map(|o| rank.max(o)))?;
    let mut result = vec![Extent::ONE; rank];
    for operand in operands.iter().flatten() {
        for (size, to) in operand.iter().rev().zip(result.iter_mut().rev()) {
            if to.is_one() {
                *to = *size;
            } else if !size.is_one() && size != to {
                return None;
            }
        }
    }
    Some(result)
}

/// `Pad`: amounts before, then after, along `axes` or all axes.
fn padded(mut data: Shape, pads: &[i64], axes: Option<Vec<i64>>) -> Option<Shape> {
    let rank = data.len();
    let axes = axes.unwrap_or_else(|| (0..rank).filter_map(|axis| i64::try_from(axis).ok()).collect());
    for (index, &axis) in axes.iter().enumerate() {
        let amount = pads.get(index)?.checked_add(*pads.get(index + axes.len())?)?;
        let size = data.get_mut(position(axis, rank)?)?;
        let amount_size = Extent::fixed(amount.unsigned_abs());
        *size = if amount < 0 { size.checked_sub(amount_size)? } else { size.checked_add(amount_size)? };
    }
    Some(data)
}

/// `Col2Im`: the channels of an image of blocks.
fn image(columns: &Shape, image: &[i64], block: &[i64]) -> Option<Shape> {
    let [samples, channels, ..] = columns[..] else { return None };
    let sizes = |list: &[i64]| list.iter().map(|&n| u64::try_from(n).ok()).collect::<Option<Vec<u64>>>();
    let block = sizes(block)?.into_iter().try_fold(1_u64, u64::checked_mul)?;
    let spatial = sizes(image)?.into_iter().map(Extent::fixed);
    Some([samples, channels.div_exact(Extent::fixed(block))?].into_iter().chain(spatial).collect())
}

fn matmul(node: &NodeProto, mut a: Shape, mut b: Shape) -> Option<Shape> {
    let (a_rank, b_rank) = (a.len(), b.len());
    if a_rank < 2 || b_rank < 2 {
        return None;
    }
    if flag(node, "transA") {
        a.swap(a_rank - 1, a_rank - 2);
    }
    if flag(node, "transB") {
        b.swap(b_rank - 1, b_rank - 2);
    }
    let (n, m) = (b.pop()?, *a.get(a_rank - 2)?);
    b.pop();
    a.truncate(a_rank - 2);
    let mut result = broadcast(&[Some(a), Some(b)])?;
    result.extend([m, n]);
    Some(result)
}

/// `Attention` of the standard domain: the width of a head of the result is that of the values.
fn attention(node: &NodeProto, operands: &[Option<Shape>]) -> Option<Shape> {
    let (mut result, value) = (operands.first()?.clone()?, operands.get(2)?.clone()?);
    let width = *value.last()?;
    if result.len() == 4 {
        result[3] = width;
    } else {
        let (heads, groups) = (size(node, "q_num_heads")?, size(node, "kv_num_heads")?);
        let each = width.div_exact(Extent::fixed(groups))?;
        *result.last_mut()? = each.checked_mul(Extent::fixed(heads))?;
    }
    Some(result)
}

/// `com.microsoft.Attention`: a third of the packed width, or what `qkv_hidden_sizes` says.
fn packed_attention(node: &NodeProto, operands: &[Option<Shape>]) -> Option<Shape> {
    let mut result = operands.first()?.clone()?;
    let listed = node.attribute.iter().find(|a| a.name() == "qkv_hidden_sizes");
    let width = match listed.and_then(|a| a.ints.get(2)) {
        Some(&width) => Extent::fixed(u64::try_from(width).ok()?),
        None => operands.get(1)?.as_ref()?.last()?.div_exact(Extent::fixed(3))?,
    };
    *result.last_mut()? = width;
    Some(result)
}

/// `com.microsoft.GroupQueryAttention`, packed or not; the caches where nothing was cached before.
fn group_query(node: &NodeProto, operands: &[Option<Shape>]) -> Option<Vec<Option<Shape>>> {
    let mut result = operands.first()?.clone()?;
    let &[batch, length, width] = &result[..] else { return None };
    let (heads, groups) = (size(node, "num_heads")?, size(node, "kv_num_heads")?);
    let is_packed = operands.get(1).is_none_or(Option::is_none);
    let parts = if is_packed { heads.checked_add(groups.checked_mul(2)?)? } else { heads };
    let each = width.div_exact(Extent::fixed(parts))?;
    result[2] = each.checked_mul(Extent::fixed(heads))?;
    let is_cached = operands.get(3).is_some_and(Option::is_some);
    let cache = (!is_cached).then(|| vec![batch, Extent::fixed(groups), length, each]);
    Some(vec![Some(result), cache.clone(), cache])
}
