//! The masked original: the reference against which a rewrite is exact.

use std::collections::BTreeMap;

use crate::axes::{Expr, Selection};
use crate::error::Result;
use crate::graph::{NodeId, operator};
use crate::onnx::proto::{ModelProto, TensorProto};
use crate::onnx::tensor::{ElementType, TensorView, from_f64_as, from_i64};

use super::Patch;
use crate::analysis::Subject;

/// The original model with every removed index zeroed where it is contracted: in the weight, where one is stored, else
/// in the data, by a multiplication.
///
/// Pruning is exact if it computes the same as this.
///
/// # Errors
/// If the model holds no graph.
pub fn masked(subject: Subject<'_>, selection: &Selection) -> Result<ModelProto> {
    let mut patch = Patch::new(subject)?;
    for &node in &subject.graph.order {
        patch.mask_node(node, selection)?;
    }
    Ok(patch.editor.finish())
}

/// Which positions of an axis stay; the others become zero.
type Mask = (usize, Vec<bool>);

impl<'a> Patch<'a> {
    fn mask_node(&mut self, node: NodeId, selection: &Selection) -> Result<()> {
        let Subject { graph, network, .. } = self.subject;
        let relation = &network.relations[node.0];
        let mut in_weights: BTreeMap<usize, Vec<Mask>> = BTreeMap::new();
        let mut in_data = Vec::new();
        for &(operand, axis) in &relation.masks {
            let Some(axes) = network.operand(graph, node, operand) else { continue };
            let Some(flags) = axes.get(axis).and_then(|e| network.solution.kept_flags(e, selection)) else { continue };
            match self.stored(node, operand) {
                Some(_) => in_weights.entry(operand).or_default().push((axis, flags)),
                None => in_data.push((operand, axis, axes, flags)),
            }
        }
        let linear = relation.contraction.as_ref().and_then(|contraction| contraction.linear);
        for (operand, axis, axes, flags) in in_data {
            // A product is zero if either of its factors is.
            let weight = linear.filter(|linear| (linear.data, linear.data_axis) == (operand, axis));
            let weight = weight.and_then(|linear| Some((linear, self.stored(node, linear.weight)?)));
            let weight_axes = weight.as_ref().and_then(|(linear, _)| network.operand(graph, node, linear.weight));
            let fits = |(linear, tensor): &(crate::ops::Linear, &TensorProto)| {
                let same = weight_axes.and_then(|axes| axes.get(linear.weight_in)) == axes.get(axis);
                same && tensor.dims.get(linear.weight_in).and_then(|&n| usize::try_from(n).ok()) == Some(flags.len())
            };
            match weight.filter(fits) {
                Some((linear, _)) => {
                    let masks = in_weights.entry(linear.weight).or_default();
                    if masks.iter().all(|(known, _)| *known != linear.weight_in) {
                        masks.push((linear.weight_in, flags));
                    }
                }
                None => self.mask_data(node, operand, (axis, axes), &flags)?,
            }
        }
        in_weights.into_iter().try_for_each(|(operand, masks)| self.mask_weight(node, operand, &masks))
    }

    /// The tensor that an operand is, if it is stored and its elements can be zeroed one by one.
    fn stored(&self, node: NodeId, operand: usize) -> Option<&'a TensorProto> {
        let Subject { graph, .. } = self.subject;
        let value = graph.node(node).inputs.get(operand).copied().flatten()?;
        let tensor = self.subject.constant(graph.behind_identity(value))?;
        ElementType::from_code(tensor.data_type()).ok()?.bytes().map(|_| tensor)
    }

    /// Lets the node read a copy of its weight with zeros where the masks say so.
    fn mask_weight(&mut self, node: NodeId, operand: usize, masks: &[Mask]) -> Result<()> {
        let Some(tensor) = self.stored(node, operand) else { return Ok(()) };
        let value = self.subject.graph.node(node).inputs.get(operand).copied().flatten();
        let known = value.map(|value| (self.subject.graph.at(value).name.clone(), masks.to_vec()));
        let name = if let Some(name) = known.as_ref().and_then(|known| self.zeroed.get(known)) {
            name.clone()
        } else {
            let mut zeroed = tensor.clone();
            for (axis, flags) in masks {
                zeroed = TensorView::new(&zeroed)?.zeroed(*axis, flags)?;
            }
            self.editor.add(&format!("{}_masked", tensor.name()), zeroed)
        };
        self.zeroed.extend(known.map(|known| (known, name.clone())));
        self.editor.redirect(node, operand, name)
    }

    fn mask_data(
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
        let mask = self.editor.add(&stem, mask_tensor(element, &dims, flags)?);
        let data = self.editor.node_mut(node)?.input[operand].clone();
        let product = self.editor.wire(node, operator("Mul", [data, mask]), &format!("{stem}ed"));
        self.editor.redirect(node, operand, product)
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
