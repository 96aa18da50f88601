//! Where tract tells no shape or element type: the rule table, the file's declarations, the readers of a value.

use super::fact::ints_of;
use super::infer::Walk;
use super::known::{Known, datum_type, onnx_element};
use crate::axes::Extent;
use crate::graph::{NodeId, ValueId};
use crate::onnx::proto::{NodeProto, tensor_shape_proto, type_proto};
use crate::onnx::tensor::ElementType;

impl Walk<'_> {
    /// Shapes that tract does not give: from the rule table, else as declared.
    pub(super) fn fill_in(&self, id: NodeId, results: &mut [Known]) {
        let node = self.graph.node(id);
        let fixed = |shape: &Vec<u64>| shape.iter().map(|&d| Extent::fixed(d)).collect();
        let operands: Vec<Option<Vec<Extent>>> =
            node.inputs.iter().map(|input| input.and_then(|v| self.known[v.0].shape.as_ref()).map(fixed)).collect();
        let ints = |index: usize| {
            let value = node.inputs.get(index).copied().flatten()?;
            self.known[value.0].value.as_deref().and_then(ints_of)
        };
        let by_rule = self.rules.results(id, &operands, &ints).unwrap_or_default();
        for (slot, result) in results.iter_mut().enumerate() {
            if result.shape.is_some() {
                continue;
            }
            let ruled = by_rule.get(slot).and_then(Option::as_ref);
            result.shape = ruled.map(|extents| extents.iter().map(|e| e.under(0)).collect());
            let declared = node.outputs.get(slot).copied().flatten().and_then(|v| self.declared(v));
            if let Some((declared_element, shape)) = declared {
                result.element = result.element.or(datum_type(declared_element));
                result.raw_element = result.raw_element.or(Some(declared_element));
                result.shape = result.shape.take().or(shape);
            }
        }
    }

    /// Shapes that readers ask for. Sizes of which they are not certain are invented, different under each binding, so
    /// that they count as dynamic; axis 0 follows that of the first operand if it is dynamic there.
    pub(super) fn read_off(&mut self, id: NodeId, results: &mut [Known]) {
        let node = self.graph.node(id);
        let first = node.inputs.first().copied().flatten().and_then(|value| self.known[value.0].shape.as_ref());
        let is_dynamic = |size: &u64| self.sizes.values().any(|&sample| sample as u64 == *size);
        let batch = first.and_then(|shape| shape.first().copied()).filter(is_dynamic);
        let known = |value: ValueId| self.known[value.0].shape.clone();
        for (output, result) in node.outputs.iter().zip(results) {
            let Some(value) = output.filter(|_| result.shape.is_none()) else { continue };
            let Some(demand) = self.rules.demanded(value, &known) else { continue };
            let size = |(axis, size): (usize, Option<u64>)| {
                size.or(batch.filter(|_| axis == 0)).unwrap_or(64 + 16 * axis as u64 + 32 * self.binding as u64)
            };
            result.shape = Some(demand.into_iter().enumerate().map(size).collect());
            self.made_up = true;
        }
    }

    /// Element types that tract lacks or does not infer: what a `Cast` names, what is declared, else that of the first
    /// real operand.
    pub(super) fn inherit_element(&self, id: NodeId, proto: &NodeProto, results: &mut [Known]) {
        let node = self.graph.node(id);
        let operands = || node.inputs.iter().flatten().map(|v| &self.known[v.0]);
        let is_real = |known: &&Known| {
            let element = known.raw_element.or_else(|| known.element.and_then(onnx_element));
            element.and_then(|e| ElementType::from_code(e).ok()).is_some_and(ElementType::is_float)
        };
        for (slot, result) in results.iter_mut().enumerate() {
            if result.element.is_some() || result.raw_element.is_some() {
                continue;
            }
            let cast = if node.op == "Cast" { proto.attribute.iter().find(|a| a.name() == "to") } else { None };
            let declared = node.outputs.get(slot).copied().flatten().and_then(|v| self.declared(v));
            let named = cast.and_then(|a| i32::try_from(a.i()).ok()).or(declared.map(|(element, _)| element));
            match (named, operands().find(is_real).or_else(|| operands().next())) {
                (Some(element), _) => {
                    result.element = datum_type(element);
                    result.raw_element = Some(element);
                }
                (None, Some(like)) => {
                    result.element = like.element;
                    result.raw_element = like.raw_element;
                }
                (None, None) => {}
            }
        }
    }

    fn declared(&self, value: ValueId) -> Option<(i32, Option<Vec<u64>>)> {
        let name = &self.graph.at(value).name;
        let info = self.declared.get(name.as_str())?;
        let type_proto::Value::TensorType(tensor) = info.r#type.as_ref()?.value.as_ref()? else { return None };
        let size = |dim: &tensor_shape_proto::Dimension| match dim.value.as_ref()? {
            tensor_shape_proto::dimension::Value::DimValue(size) => u64::try_from(*size).ok(),
            tensor_shape_proto::dimension::Value::DimParam(name) => {
                self.sizes.get(name.trim()).map(|&size| size as u64)
            }
        };
        let shape = tensor.shape.as_ref().and_then(|shape| shape.dim.iter().map(size).collect());
        Some((tensor.elem_type(), shape))
    }
}
