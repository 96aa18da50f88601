//! Stored tensors: initializers, and what `Constant` nodes hold in whichever attribute.

use std::borrow::Cow;

use super::{Graph, NodeId, Source, ValueId};
use crate::onnx::attributes::set_tensor;
use crate::onnx::domain::is_standard;
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto};
use crate::onnx::tensor::{from_f32, from_i64};

/// Where a stored tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Position in `GraphProto::initializer`.
    Initializer(usize),
    /// A `Constant` node.
    Constant(NodeId),
}

impl Graph {
    /// Where the tensor of a value is stored; `None` if the value is fed, computed or sparse.
    pub fn place(&self, value: ValueId) -> Option<Place> {
        match self.at(value).source {
            Source::Initializer { index, .. } => Some(Place::Initializer(index)),
            Source::Node(node, _) if self.node(node).is_constant() => Some(Place::Constant(node)),
            _ => None,
        }
    }

    /// Whether a value is a stored tensor that whoever runs the model may replace: since IR version 4, an initializer that
    /// is a graph input too.
    pub fn is_overridable(&self, value: ValueId) -> bool {
        matches!(self.at(value).source, Source::Initializer { overridable: true, .. })
    }
}

impl Place {
    /// The tensor as it lies in the file; `None` for a `Constant` that spells its value as numbers.
    pub fn tensor(self, proto: &GraphProto) -> Option<&TensorProto> {
        match self {
            Self::Initializer(index) => proto.initializer.get(index),
            Self::Constant(node) => proto.node.get(node.0).and_then(constant_tensor),
        }
    }

    /// The tensor, made from numbers where a `Constant` spells it so; `None` for text and sparse constants.
    pub fn read(self, proto: &GraphProto) -> Option<Cow<'_, TensorProto>> {
        match self {
            Self::Initializer(index) => proto.initializer.get(index).map(Cow::Borrowed),
            Self::Constant(node) => proto.node.get(node.0).and_then(constant_value),
        }
    }

    /// Stores another tensor here; a `Constant` holds it as `value` from now on.
    pub fn write(self, proto: &mut GraphProto, tensor: TensorProto) {
        match self {
            Self::Initializer(index) => {
                if let Some(slot) = proto.initializer.get_mut(index) {
                    *slot = tensor;
                }
            }
            Self::Constant(node) => {
                if let Some(node) = proto.node.get_mut(node.0) {
                    node.attribute.retain(|attribute| attribute.name() == "value");
                    set_tensor(node, "value", tensor);
                }
            }
        }
    }
}

/// Whether a node is a `Constant`.
pub(crate) fn is_constant(node: &NodeProto) -> bool {
    node.op_type() == "Constant" && is_standard(node)
}

/// The tensor that a `Constant` node holds as such.
pub(crate) fn constant_tensor(node: &NodeProto) -> Option<&TensorProto> {
    let value = node.attribute.iter().find(|attribute| attribute.name() == "value").filter(|_| is_constant(node));
    value?.t.as_ref()
}

/// What a `Constant` node holds, as a tensor, if it is numbers.
pub(crate) fn constant_value(node: &NodeProto) -> Option<Cow<'_, TensorProto>> {
    if let Some(tensor) = constant_tensor(node) {
        return Some(Cow::Borrowed(tensor));
    }
    let attribute = node.attribute.first().filter(|_| is_constant(node))?;
    let name = node.output.first()?;
    let tensor = match attribute.name() {
        "value_float" => from_f32(name, &[], &[attribute.f()]),
        "value_floats" => from_f32(name, &[attribute.floats.len()], &attribute.floats),
        "value_int" => from_i64(name, &[], &[attribute.i()]),
        "value_ints" => from_i64(name, &[attribute.ints.len()], &attribute.ints),
        _ => return None,
    };
    tensor.ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::attributes::{set_float, set_floats, set_int, set_ints};
    use crate::onnx::proto::ModelProto;
    use crate::onnx::tensor::TensorView;
    use crate::runtime::sample_models::{model, node, weight};

    /// An initializer, and a `Constant` for each spelling.
    fn spellings() -> ModelProto {
        let mut constants = ["t", "f", "fs", "i", "is", "s"].map(|name| node("Constant", &[], &[name], vec![]));
        set_tensor(&mut constants[0], "value", weight("", &[2], |i| i as f32));
        set_float(&mut constants[1], "value_float", 0.5);
        set_floats(&mut constants[2], "value_floats", &[1.0, 2.0]);
        set_int(&mut constants[3], "value_int", 7);
        set_ints(&mut constants[4], "value_ints", &[3, 4]);
        crate::onnx::attributes::set_string(&mut constants[5], "value_string", "text");
        model(vec![], constants.to_vec(), vec![weight("w", &[1], |_| 9.0)], vec![])
    }

    #[test]
    fn every_spelling_is_read_and_written() {
        let mut proto = spellings().graph.unwrap();
        let graph = Graph::new(&proto, 8).unwrap();
        let place = |name: &str| graph.place(graph.value(name).unwrap()).unwrap();
        let read = |proto: &GraphProto, name: &str| -> Option<(Vec<usize>, Vec<f64>)> {
            let tensor = place(name).read(proto)?;
            let view = TensorView::new(&tensor).unwrap();
            Some((view.dims().to_vec(), view.to_f64().unwrap()))
        };
        assert_eq!(read(&proto, "w"), Some((vec![1], vec![9.0])));
        assert_eq!(read(&proto, "t"), Some((vec![2], vec![0.0, 1.0])));
        assert_eq!(read(&proto, "f"), Some((vec![], vec![0.5])));
        assert_eq!(read(&proto, "fs"), Some((vec![2], vec![1.0, 2.0])));
        assert_eq!(read(&proto, "i"), Some((vec![], vec![7.0])));
        assert_eq!(read(&proto, "is"), Some((vec![2], vec![3.0, 4.0])));
        assert_eq!(read(&proto, "s"), None);
        let is_dense = |name: &str| place(name).tensor(&proto).is_some();
        assert_eq!(["w", "t", "f", "fs", "i", "is"].map(is_dense), [true, true, false, false, false, false]);
        for name in ["w", "t", "fs"] {
            place(name).write(&mut proto, weight("", &[3], |_| 5.0));
            assert_eq!(read(&proto, name), Some((vec![3], vec![5.0; 3])), "{name}");
        }
    }
}
