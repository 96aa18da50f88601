//! Shapes that readers ask of a value that nothing else tells: what a Gemm reads is a matrix as wide as its weight is high.
//!
//! Behind an operator without a rule, shapes would be unknown as far as the graph goes. But wherever a value meets a weight,
//! its rank and its number of channels are certain. What stays open is treated as a dynamic size.

use std::cell::Cell;

use super::table::{Relate, rule};
use crate::graph::{Graph, NodeId, ValueId};
use crate::onnx::proto::tensor_shape_proto::dimension::Value;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, ValueInfoProto, type_proto};
use crate::onnx::traits::{KEEPS_SHAPE, RECURRENT};

/// The size of each axis, where it is certain.
pub(super) type Demand = Vec<Option<u64>>;

/// Maximum number of consecutive readers that are asked.
const DEPTH: usize = 64;

/// Maximum number of readers that are asked in all: paths through a graph may be many more than its nodes.
const VISITS: usize = 1000;

/// What the readers of `value` ask of its shape; `None` if they leave its rank open. `known` tells sizes that are known.
pub(super) fn demanded(
    proto: &GraphProto,
    graph: &Graph,
    value: ValueId,
    known: &dyn Fn(ValueId) -> Option<Vec<u64>>,
) -> Option<Demand> {
    Asker { proto, graph, known, left: Cell::new(VISITS) }.value(value, DEPTH)
}

struct Asker<'a> {
    proto: &'a GraphProto,
    graph: &'a Graph,
    known: &'a dyn Fn(ValueId) -> Option<Vec<u64>>,
    /// Values that may still be asked about.
    left: Cell<usize>,
}

impl Asker<'_> {
    /// What the readers are certain of, if they agree on the rank.
    fn value(&self, value: ValueId, depth: usize) -> Option<Demand> {
        let depth = depth.checked_sub(1)?;
        self.left.set(self.left.get().checked_sub(1)?);
        let at = self.graph.at(value);
        let output = self.graph.outputs.iter().position(|&output| output == value);
        let declared = output.and_then(|index| self.proto.output.get(index)).and_then(declared);
        let readers = at.uses.iter().filter_map(|&(node, slot)| self.reader(node, slot, depth));
        let mut all: Option<Demand> = None;
        for demand in declared.into_iter().chain(readers) {
            match &mut all {
                None => all = Some(demand),
                Some(sizes) if sizes.len() != demand.len() => return None,
                Some(sizes) => sizes.iter_mut().zip(demand).for_each(|(size, other)| *size = size.or(other)),
            }
        }
        all
    }

    /// What one reader asks of its operand number `slot`.
    fn reader(&self, id: NodeId, slot: usize, depth: usize) -> Option<Demand> {
        let node = self.graph.node(id);
        let proto = self.proto.node.get(id.0)?;
        let is_elementwise = matches!(rule(&node.domain, &node.op)?.relate, Relate::Elementwise);
        if !node.domain.is_empty() || (slot != 0 && !is_elementwise) {
            return None;
        }
        let operand = |slot: usize| node.inputs.get(slot).copied().flatten().and_then(self.known);
        let result = || node.outputs.first().copied().flatten().and_then(|result| self.value(result, depth));
        match node.op.as_str() {
            "Conv" => {
                let kernel = operand(1)?;
                with(vec![None; kernel.len()], 1, kernel.get(1)?.checked_mul(positive(proto, "group")?)?)
            }
            "ConvTranspose" => {
                let kernel = operand(1)?;
                with(vec![None; kernel.len()], 1, *kernel.first()?)
            }
            "Gemm" => {
                let height = *operand(1)?.get(usize::from(flag(proto, "transB")))?;
                with(vec![None; 2], usize::from(!flag(proto, "transA")), height)
            }
            _ if node.traits().has(RECURRENT) => with(vec![None; 3], 2, *operand(1)?.get(2)?),
            "MatMul" => {
                // A matrix on the right keeps the rank, and every axis but the last.
                let &[height, _] = operand(1)?.as_slice() else { return None };
                let demand = result()?;
                let last = demand.len().checked_sub(1)?;
                with(demand, last, height)
            }
            "BatchNormalization" => with(result()?, 1, *operand(1)?.first()?),
            "Transpose" => {
                let order = &attribute(proto, "perm")?.ints;
                let mut demand = vec![None; order.len()];
                let sizes = result().filter(|sizes| sizes.len() == order.len());
                for (&from, size) in order.iter().zip(sizes.into_iter().flatten()) {
                    *demand.get_mut(usize::try_from(from).ok()?)? = size;
                }
                Some(demand)
            }
            // Batch and channels stay, the others shrink.
            "MaxPool" | "AveragePool" | "LpPool" => {
                let rank = attribute(proto, "kernel_shape")?.ints.len() + 2;
                let sizes = result().filter(|sizes| sizes.len() == rank);
                Some(first_two(sizes.unwrap_or_else(|| vec![None; rank])))
            }
            "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => result().map(first_two),
            _ if node.traits().has(KEEPS_SHAPE) => result(),
            _ if is_elementwise => {
                // The others are of lower rank, so this one has the rank of the result.
                let demand = result()?;
                let mut others = node.inputs.iter().enumerate().filter(|&(other, _)| other != slot);
                let lower = |value: ValueId| (self.known)(value).is_some_and(|shape| shape.len() < demand.len());
                others.all(|(_, value)| value.is_none_or(lower)).then_some(demand)
            }
            _ => None,
        }
    }
}

/// `demand` with `size` on `axis`.
fn with(mut demand: Demand, axis: usize, size: u64) -> Option<Demand> {
    *demand.get_mut(axis)? = Some(size);
    Some(demand)
}

/// The sizes of the first two axes only.
fn first_two(mut demand: Demand) -> Demand {
    demand.iter_mut().skip(2).for_each(|size| *size = None);
    demand
}

fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name() == name)
}

fn flag(node: &NodeProto, name: &str) -> bool {
    attribute(node, name).is_some_and(|attribute| attribute.i() != 0)
}

fn positive(node: &NodeProto, name: &str) -> Option<u64> {
    attribute(node, name).map_or(Some(1), |attribute| u64::try_from(attribute.i()).ok().filter(|&n| n > 0))
}

/// Rank and fixed sizes of a declared output.
fn declared(output: &ValueInfoProto) -> Option<Demand> {
    let type_proto::Value::TensorType(tensor) = output.r#type.as_ref()?.value.as_ref()? else { return None };
    let size = |value: Option<&Value>| match value {
        Some(&Value::DimValue(size)) => u64::try_from(size).ok().filter(|&n| n > 0),
        _ => None,
    };
    Some(tensor.shape.as_ref()?.dim.iter().map(|dim| size(dim.value.as_ref())).collect())
}
