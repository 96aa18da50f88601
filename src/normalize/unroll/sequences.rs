//! Sequences whose tensors are known, and what reads them.

use super::{MOST_ITEMS, Unroller};
use crate::onnx::attributes::{Attributes, position, set_int, set_ints};
use crate::onnx::proto::NodeProto;
use crate::onnx::tensor::from_i64;

impl Unroller<'_> {
    /// The index that operand `slot` gives into `count` places, from the end if negative.
    fn position(&self, node: &NodeProto, slot: usize, count: usize) -> Option<usize> {
        let &[at] = self.ints(node, slot)?.as_slice() else { return None };
        position(at, count)
    }

    /// What a new sequence holds.
    pub(super) fn make(&self, node: &NodeProto) -> Option<Vec<String>> {
        let given = |slot: usize| node.input.get(slot).is_some_and(|name| !name.is_empty());
        match node.op_type() {
            "SequenceEmpty" => Some(Vec::new()),
            "SequenceConstruct" => Some(node.input.clone()),
            "SequenceInsert" => {
                let mut held = self.operand(node, 0)?;
                let at = if given(2) { self.position(node, 2, held.len() + 1)? } else { held.len() };
                held.insert(at, node.input.get(1)?.clone());
                Some(held)
            }
            "SequenceErase" => {
                let mut held = self.operand(node, 0)?;
                let last = held.len().checked_sub(1)?;
                let at = if given(1) { self.position(node, 1, held.len())? } else { last };
                held.remove(at);
                Some(held)
            }
            _ => None,
        }
    }

    /// A reader of a known sequence, by what stands in its place.
    pub(super) fn read(&mut self, node: &NodeProto) -> Option<()> {
        let held = self.operand(node, 0)?;
        let result = node.output.first()?;
        match node.op_type() {
            "SequenceAt" => {
                let element = held.get(self.position(node, 1, held.len())?)?.clone();
                self.becomes(result, element);
            }
            "SequenceLength" => {
                let count = from_i64(result, &[], &[i64::try_from(held.len()).ok()?]).ok()?;
                self.store(count);
            }
            _ => self.concat(node, held)?,
        }
        Some(())
    }

    fn concat(&mut self, node: &NodeProto, held: Vec<String>) -> Option<()> {
        let attributes = Attributes::of(node);
        let axis = attributes.int("axis").ok()??;
        let parts: Vec<String> = if attributes.int_or("new_axis", 0).ok()? == 0 {
            held
        } else {
            held.iter().map(|part| self.with_axes("Unsqueeze", part, axis)).collect::<Option<_>>()?
        };
        let mut concat = NodeProto { op_type: Some("Concat".to_owned()), input: parts, ..node.clone() };
        concat.attribute.clear();
        set_int(&mut concat, "axis", axis);
        self.new.push(concat);
        Some(())
    }

    /// `Split` with as many results as the sequence has tensors, and the sequence of these.
    pub(super) fn split(&mut self, node: &NodeProto) -> Option<()> {
        let attributes = Attributes::of(node);
        let axis = attributes.int_or("axis", 0).ok()?;
        let data = self.graph.value(node.input.first()?)?;
        let extents = self.facts.at(data).extents.as_ref()?;
        let at = position(axis, extents.len())?;
        let length = extents.get(at)?.as_fixed().and_then(|size| i64::try_from(size).ok());
        let given = node.input.get(1).filter(|name| !name.is_empty());
        let of_size = |size: i64| {
            let length = length.filter(|&n| size > 0 && n / size <= MOST_ITEMS)?;
            Some((0..length).step_by(usize::try_from(size).ok()?).map(|start| size.min(length - start)).collect())
        };
        let sizes: Vec<i64> = match given {
            None => of_size(1)?,
            Some(name) => {
                let sizes = self.ints(node, 1)?;
                let is_scalar = self.facts.rank(self.graph.value(name)?) == Some(0);
                if is_scalar { of_size(*sizes.first()?)? } else { sizes }
            }
        };
        let parts: Vec<String> = (0..sizes.len()).map(|part| self.fresh(node, &format!("part{part}"))).collect();
        let mut split = NodeProto {
            op_type: Some("Split".to_owned()),
            input: vec![node.input.first()?.clone()],
            output: parts.clone(),
            ..node.clone()
        };
        split.attribute.clear();
        set_int(&mut split, "axis", axis);
        if self.opset < 13 {
            set_ints(&mut split, "split", &sizes);
        } else {
            let sizes = self.constant(node, &sizes)?;
            split.input.push(sizes);
        }
        self.new.push(split);
        let drops_axis = given.is_none() && attributes.int_or("keepdims", 1).ok()? == 0;
        let held = if drops_axis {
            parts.iter().map(|part| self.with_axes("Squeeze", part, axis)).collect::<Option<_>>()?
        } else {
            parts
        };
        let mut sequence =
            NodeProto { op_type: Some("SequenceConstruct".to_owned()), input: held.clone(), ..node.clone() };
        sequence.attribute.clear();
        self.new.push(sequence);
        self.held.insert(node.output.first()?.clone(), Some(held));
        Some(())
    }

    /// `Squeeze` or `Unsqueeze` of one axis; its result.
    fn with_axes(&mut self, op: &str, operand: &str, axis: i64) -> Option<String> {
        let mut node = NodeProto {
            name: Some(operand.to_owned()),
            op_type: Some(op.to_owned()),
            input: vec![operand.to_owned()],
            ..NodeProto::default()
        };
        let result = self.fresh(&node, op);
        if self.opset < 13 {
            set_ints(&mut node, "axes", &[axis]);
        } else {
            let axes = self.constant(&node, &[axis])?;
            node.input.push(axes);
        }
        node.name = Some(result.clone());
        node.output = vec![result.clone()];
        self.new.push(node);
        Some(result)
    }

    /// A stored list of integers.
    pub(super) fn constant(&mut self, node: &NodeProto, values: &[i64]) -> Option<String> {
        let name = self.fresh(node, "sizes");
        self.store(from_i64(&name, &[values.len()], values).ok()?);
        Some(name)
    }
}
