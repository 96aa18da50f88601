//! The masked original: the reference against which a rewrite is exact.

use crate::axes::{Expr, Selection};
use crate::error::Result;
use crate::graph::NodeId;
use crate::onnx::proto::{ModelProto, TensorProto};
use crate::onnx::tensor::{ElementType, from_f64_as, from_i64};

use super::{Patch, Subject};

/// The original model with every removed index multiplied by zero where it is contracted.
///
/// Pruning is exact if it computes the same as this. Masking the data of a contraction is the same as zeroing the
/// weight's slice, and works as well where both operands are computed.
///
/// # Errors
/// If the model holds no graph.
pub fn masked(subject: Subject<'_>, selection: &Selection) -> Result<ModelProto> {
    let mut patch = Patch::new(subject)?;
    for &node in &subject.graph.order {
        for &(operand, axis) in &subject.network.relations[node.0].masks {
            let Some(axes) = subject.network.operand(subject.graph, node, operand) else { continue };
            let Some(flags) = axes.get(axis).and_then(|e| subject.network.solution.kept_flags(e, selection)) else {
                continue;
            };
            patch.mask_operand(node, operand, (axis, axes), &flags)?;
        }
    }
    Ok(patch.finish())
}

impl Patch<'_> {
    fn mask_operand(
        &mut self,
        node: NodeId,
        operand: usize,
        (axis, axes): (usize, &[Expr]),
        flags: &[bool],
    ) -> Result<()> {
        let view = self.subject.graph.node(node);
        let element = view.inputs[operand].and_then(|v| self.subject.facts.at(v).element);
        let mut dims = vec![1; axes.len() - axis];
        dims[0] = flags.len();
        let stem = format!("{}_mask", view.name);
        let mask = self.add_tensor(&stem, mask_tensor(element, &dims, flags)?);
        let data = self.node_mut(node)?.input[operand].clone();
        let product = self.wire(node, "Mul", vec![data, mask], &format!("{stem}ed"));
        self.redirect(node, operand, product)
    }
}

fn mask_tensor(element: Option<i32>, dims: &[usize], flags: &[bool]) -> Result<TensorProto> {
    let element = element.map_or(Ok(ElementType::Float), ElementType::from_code)?;
    if !element.is_float() {
        let ints: Vec<i64> = flags.iter().map(|&keep| i64::from(keep)).collect();
        return from_i64("", dims, &ints);
    }
    let values: Vec<f64> = flags.iter().map(|&keep| f64::from(u8::from(keep))).collect();
    from_f64_as("", dims, &values, element)
}
