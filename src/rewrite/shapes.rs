//! `Shape` and `Size` of a pruned value go on telling the old sizes.
//!
//! Which literal of a chain of shape arithmetic belongs to a pruned axis is undecidable. So the arithmetic keeps its
//! old values, a head width stays `64` under the square root of an attention scale, and every operand that lays out a
//! touched tensor has been rebuilt by [`edits`](super::edits).

use crate::axes::{Expr, Selection};
use crate::error::Result;
use crate::graph::{NodeId, operator};
use crate::onnx::attributes::set_int;
use crate::onnx::traits::READS_SHAPE;

use super::Patch;

impl Patch<'_> {
    pub(super) fn keep_shape_values(&mut self, selection: &Selection) -> Result<()> {
        let subject = self.subject;
        for (index, node) in subject.graph.nodes.iter().enumerate() {
            if !node.traits().has(READS_SHAPE) {
                continue;
            }
            let id = NodeId(index);
            let Some(axes) = subject.network.operand(subject.graph, id, 0) else { continue };
            let touched = axes.iter().any(|axis| subject.network.solution.is_touched(axis, selection));
            if touched {
                self.keep_shape(id, axes, selection)?;
            }
        }
        Ok(())
    }

    /// Replaces a `Shape` by the old sizes where they are static and the new ones where they are dynamic.
    fn keep_shape(&mut self, id: NodeId, axes: &[Expr], selection: &Selection) -> Result<()> {
        let subject = self.subject;
        let node = subject.graph.node(id);
        let proto = &subject.proto()?.node[id.0];
        let rank = i64::try_from(axes.len()).unwrap_or(i64::MAX);
        let bound = |name: &str, default: i64| {
            let given = proto.attribute.iter().find(|a| a.name() == name).map_or(default, |a| a.i());
            usize::try_from(if given < 0 { given + rank } else { given }.clamp(0, rank)).unwrap_or(0)
        };
        let (start, end) = if node.op == "Shape" { (bound("start", 0), bound("end", rank)) } else { (0, axes.len()) };
        let shape = self.editor.wire(id, operator("Shape", [proto.input[0].clone()]), &format!("{}_sizes", node.name));
        let mut parts = Vec::new();
        for (number, axis) in axes.iter().enumerate().take(end).skip(start) {
            let whole = subject.network.solution.extent(axis, &Selection::all());
            let old = whole.and_then(crate::axes::Extent::as_fixed);
            let stem = format!("{}_axis", node.name);
            parts.push(match (old, subject.network.solution.is_touched(axis, selection)) {
                (Some(old), _) => self.editor.add_ints(&stem, &[i64::try_from(old).unwrap_or(i64::MAX)]),
                (None, false) => {
                    let at = self.editor.add_ints(&stem, &[i64::try_from(number).unwrap_or(0)]);
                    self.editor.wire(id, operator("Gather", [shape.clone(), at]), &stem)
                }
                (None, true) => {
                    let at = self.editor.add_ints(&stem, &[i64::try_from(number).unwrap_or(0)]);
                    let size = self.editor.wire(id, operator("Gather", [shape.clone(), at]), &stem);
                    let (new, old) = self.static_sizes(axis, selection);
                    let old = self.editor.add_ints(&stem, &[old]);
                    let new = self.editor.add_ints(&stem, &[new]);
                    let grown = self.editor.wire(id, operator("Mul", [size, old]), &stem);
                    self.editor.wire(id, operator("Div", [grown, new]), &stem)
                }
            });
        }
        let mut told = operator("Concat", parts);
        set_int(&mut told, "axis", 0);
        if node.op == "Size" {
            let list = self.editor.wire(id, told, &format!("{}_list", node.name));
            told = operator("ReduceProd", [list]);
            set_int(&mut told, "keepdims", 0);
        }
        let target = self.editor.node_mut(id)?;
        (target.op_type, target.attribute, target.input) = (told.op_type, told.attribute, told.input);
        self.editor.forget(shape);
        node.outputs.iter().flatten().for_each(|&value| self.editor.forget(subject.graph.at(value).name.clone()));
        Ok(())
    }

    fn static_sizes(&self, axis: &Expr, selection: &Selection) -> (i64, i64) {
        let size = |selection: &Selection| {
            let extent = self.subject.network.solution.extent(axis, selection);
            extent.and_then(|e| i64::try_from(e.under(0)).ok()).unwrap_or(1).max(1)
        };
        (size(selection), size(&Selection::all()))
    }
}
