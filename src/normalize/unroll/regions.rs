//! Regions of a tensor that are written to, where their positions are known.
//!
//! PyTorch writes `x[:, 1:] = u` as a `ScatterND` with the position of every element, computed from shapes. A rule for
//! `ScatterND` must freeze what it addresses. If the positions are a grid without holes, then
//!
//! ```text
//! y = ScatterND(x, positions, u)     is     y = Concat(x[:, ..start], u, x[:, start + n..])
//! ```
//!
//! and a grid that leaves something of several axes is written from the inside out.

use super::Unroller;
use crate::axes::{BINDINGS, Extent};
use crate::graph::{Source, ValueId};
use crate::onnx::attributes::{Attributes, set_int};
use crate::onnx::proto::NodeProto;

/// What a grid of positions leaves of an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Margin {
    axis: usize,
    front: i64,
    behind: i64,
}

/// A tensor whose entry at `i` is `values[i[axis]]`, or `values[0]` if that is the only one.
struct Ramp {
    sizes: Vec<usize>,
    axis: usize,
    values: Vec<i64>,
}

impl Ramp {
    /// A tensor with at most one axis that is longer than one.
    fn of(values: &[i64], sizes: &[usize]) -> Option<Self> {
        let mut long = (0..sizes.len()).filter(|&axis| sizes[axis] != 1);
        let axis = long.next().unwrap_or(0);
        (long.next().is_none()).then(|| Self { sizes: sizes.to_vec(), axis, values: values.to_vec() })
    }

    /// The same entries in order, where only axes of length one come and go.
    fn reshaped(self, sizes: Vec<usize>) -> Option<Self> {
        let long = |sizes: &[usize]| (0..sizes.len()).filter(|&axis| sizes[axis] != 1).collect::<Vec<_>>();
        let (before, after) = (long(&self.sizes), long(&sizes));
        let same = before.len() == after.len() && before.iter().zip(&after).all(|(&b, &a)| self.sizes[b] == sizes[a]);
        let axis = before.iter().zip(&after).find(|(b, _)| **b == self.axis).map_or(0, |(_, &a)| a);
        same.then_some(Self { sizes, axis, ..self })
    }
}

impl Unroller<'_> {
    /// A `ScatterND` that writes a whole region, by what stands in its place.
    pub(super) fn write_region(&mut self, node: &NodeProto) -> Option<()> {
        let [data, positions, updates] = node.input.as_slice() else { return None };
        if !matches!(Attributes::of(node).string("reduction"), Ok(None | Some("none"))) {
            return None;
        }
        let margins = self.margins(data, positions)?;
        let joined = self.joined(node, data, updates, &margins)?;
        self.becomes(node.output.first()?, joined);
        Some(())
    }

    /// `data` with `updates` in the middle of these margins; the name of the result.
    fn joined(&mut self, node: &NodeProto, data: &str, updates: &str, margins: &[Margin]) -> Option<String> {
        let Some((&Margin { axis, front, behind }, others)) = margins.split_first() else {
            return Some(updates.to_owned());
        };
        let mut parts = Vec::new();
        if front > 0 {
            parts.push(self.slice(node, data, axis, (0, front))?);
        }
        if others.is_empty() {
            parts.push(updates.to_owned());
        } else {
            let end = if behind > 0 { -behind } else { i64::MAX };
            let middle = self.slice(node, data, axis, (front, end))?;
            parts.push(self.joined(node, &middle, updates, others)?);
        }
        if behind > 0 {
            parts.push(self.slice(node, data, axis, (-behind, i64::MAX))?);
        }
        let result = self.fresh(node, "joined");
        let mut concat = NodeProto {
            name: Some(result.clone()),
            op_type: Some("Concat".to_owned()),
            input: parts,
            output: vec![result.clone()],
            ..NodeProto::default()
        };
        set_int(&mut concat, "axis", i64::try_from(axis).ok()?);
        self.new.push(concat);
        Some(result)
    }

    /// What is left of the addressed axes, those that are covered left out; `None` if the positions are no grid.
    fn margins(&self, data: &str, positions: &str) -> Option<Vec<Margin>> {
        let extents = self.facts.at(self.graph.value(data)?).extents.as_ref()?;
        let positions = self.graph.value(positions)?;
        let (depth, lead) = self.facts.at(positions).extents.as_ref()?.split_last()?;
        let depth = depth.as_fixed().filter(|&depth| depth > 0 && depth == lead.len())?;
        let addressed = extents.get(..depth)?;
        let under = |binding: usize| -> Option<Vec<Margin>> {
            let size = |extent: Extent| i64::try_from(extent.under(binding)).ok();
            let starts = self.starts(positions, depth, binding)?;
            let margin = |(axis, front): (usize, i64)| {
                let behind = size(addressed[axis])?.checked_sub(front)?.checked_sub(size(lead[axis])?)?;
                (front >= 0 && behind >= 0).then_some(Margin { axis, front, behind })
            };
            starts.into_iter().enumerate().map(margin).collect()
        };
        let margins = under(0)?;
        let same = (1..BINDINGS).all(|binding| under(binding).as_ref() == Some(&margins));
        let is_grid = same && self.is_arithmetic(positions);
        is_grid.then(|| margins.into_iter().filter(|margin| margin.front + margin.behind > 0).collect())
    }

    /// The first position in each axis of a grid over `depth` axes, under one binding; `None` if it is no grid.
    fn starts(&self, positions: ValueId, depth: usize, binding: usize) -> Option<Vec<i64>> {
        let Source::Node(joint, _) = self.graph.at(positions).source else { return None };
        let joint = self.graph.node(joint);
        if joint.op != "Concat" || joint.inputs.len() != depth {
            return None;
        }
        let start = |(number, component): (usize, &Option<ValueId>)| {
            let ramp = self.ramp((*component)?, binding)?;
            let start = *ramp.values.first()?;
            let is_coordinate = ramp.values.len() == 1 || ramp.axis == number;
            let counts = (0..).zip(&ramp.values).all(|(i, &value)| value.checked_sub(start) == Some(i));
            // One column of the tuples, and as long as the axis: not one position again and again.
            let is_column = ramp.sizes.len() == depth + 1 && ramp.sizes[depth] == 1;
            let is_whole = is_column && ramp.sizes[number] == ramp.values.len();
            (is_coordinate && counts && is_whole).then_some(start)
        };
        joint.inputs.iter().enumerate().map(start).collect()
    }

    /// A value whose entries depend on their position along one axis only.
    fn ramp(&self, value: ValueId, binding: usize) -> Option<Ramp> {
        let fact = self.facts.at(value);
        let sizes = fact.extents.as_ref()?.iter().map(|extent| usize::try_from(extent.under(binding)).ok());
        let sizes = sizes.collect::<Option<Vec<usize>>>()?;
        if let Some(values) = fact.ints_under(binding)
            && let Some(ramp) = Ramp::of(&values, &sizes)
        {
            return Some(ramp);
        }
        let Source::Node(node, _) = self.graph.at(value).source else { return None };
        let node = self.graph.node(node);
        let inner = self.ramp((*node.inputs.first()?)?, binding)?;
        match node.op.as_str() {
            "Expand" => {
                let axis = inner.axis + sizes.len().checked_sub(inner.sizes.len())?;
                Some(Ramp { sizes, axis, ..inner })
            }
            "Cast" | "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" => inner.reshaped(sizes),
            _ => None,
        }
    }

    /// `data[.., from..to, ..]` along `axis`; the name of the result.
    fn slice(&mut self, node: &NodeProto, data: &str, axis: usize, (from, to): (i64, i64)) -> Option<String> {
        let operands = [from, to, i64::try_from(axis).ok()?];
        let operands = operands.iter().map(|&value| self.constant(node, &[value])).collect::<Option<Vec<_>>>()?;
        let result = self.fresh(node, "kept");
        self.new.push(NodeProto {
            name: Some(result.clone()),
            op_type: Some("Slice".to_owned()),
            input: std::iter::once(data.to_owned()).chain(operands).collect(),
            output: vec![result.clone()],
            ..NodeProto::default()
        });
        Some(result)
    }
}
