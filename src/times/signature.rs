//! What the time of a small model depends on, as text: operators, attributes, and the shapes of what they read.

use std::collections::BTreeMap;

use prost::Message as _;
use sha2::{Digest, Sha256};

use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use crate::onnx::tensor::{ElementType, TensorView};
use crate::runtime::inputs::declared_inputs;
use crate::runtime::latency::Fed;
use crate::texts::hexadecimal;

/// Integer tensors of at most this many elements are sizes, axes or bounds: their elements count, not only their shape.
const MOST_ELEMENTS: usize = 16;

/// Longer signatures are cut, and end in a hash.
const MOST_CHARACTERS: usize = 200;

/// The signature of a model with its inputs: `Conv{strides=1,1}(float32[1,64,56,56], float32[64,64,3,3]) Relu(%0)`. A size that the
/// model leaves open has a question mark.
pub(crate) fn of(fed: &Fed) -> String {
    let Some(graph) = &fed.model.graph else { return String::new() };
    let declared = declared_inputs(graph).unwrap_or_default();
    let mut known: BTreeMap<&str, String> = BTreeMap::new();
    for (name, tensor) in &fed.inputs {
        let input = declared.iter().find(|input| input.name == *name);
        let is_open = |axis: usize| input.is_some_and(|input| input.axis_name(axis).is_some());
        let sizes = tensor.shape().iter().enumerate();
        let sizes: Vec<String> =
            sizes.map(|(axis, size)| format!("{size}{}", if is_open(axis) { "?" } else { "" })).collect();
        known.insert(name, format!("{}[{}]", tensor.type_name().to_lowercase(), sizes.join(",")));
    }
    for tensor in &graph.initializer {
        known.insert(tensor.name(), stored(tensor));
    }
    let text: Vec<String> = nodes(graph).enumerate().map(|(index, node)| operator(index, node, &mut known)).collect();
    let text = text.join(" ");
    if text.len() <= MOST_CHARACTERS {
        return text;
    }
    let ops: Vec<&str> = graph.node.iter().map(NodeProto::op_type).take(MOST_NAMED).collect();
    let more = graph.node.len().saturating_sub(MOST_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let shapes: Vec<&str> =
        fed.inputs.iter().filter_map(|(name, _)| known.get(name.as_str())).map(String::as_str).collect();
    let hash = hexadecimal(&Sha256::digest(text.as_bytes()));
    format!("{}{more}({}) {}", ops.join(" "), shapes.join(", "), hash.get(..16).unwrap_or_default())
}

/// The signature of a whole model.
pub(crate) fn whole(fed: &Fed) -> String {
    format!("whole model: {}", of(fed))
}

/// Operators that are named of a long signature.
const MOST_NAMED: usize = 4;

fn nodes(graph: &GraphProto) -> impl Iterator<Item = &NodeProto> {
    graph.node.iter()
}

/// One operator; its results are known by its number from now on.
fn operator<'g>(index: usize, node: &'g NodeProto, known: &mut BTreeMap<&'g str, String>) -> String {
    let mut attributes: Vec<String> = node.attribute.iter().map(attribute).collect();
    attributes.sort();
    let attributes = if attributes.is_empty() { String::new() } else { format!("{{{}}}", attributes.join(" ")) };
    let operands: Vec<&str> =
        node.input.iter().map(|name| known.get(name.as_str()).map_or("", String::as_str)).collect();
    let text = format!("{}{attributes}({})", node.op_type(), operands.join(", "));
    for (slot, result) in node.output.iter().enumerate() {
        let slot = if slot > 0 { format!(".{slot}") } else { String::new() };
        known.insert(result, format!("%{index}{slot}"));
    }
    text
}

fn attribute(attribute: &AttributeProto) -> String {
    let joined = |numbers: Vec<String>| numbers.join(",");
    let mut value = joined(attribute.ints.iter().map(ToString::to_string).collect());
    value += &joined(attribute.floats.iter().map(ToString::to_string).collect());
    attribute.i.iter().for_each(|i| value += &i.to_string());
    attribute.f.iter().for_each(|f| value += &f.to_string());
    attribute.s.iter().for_each(|s| value += &String::from_utf8_lossy(s));
    attribute.t.iter().for_each(|t| value += &stored(t));
    for body in attribute.g.iter().chain(&attribute.graphs) {
        value += &hexadecimal(&Sha256::digest(body.encode_to_vec())[..8]);
    }
    attribute.strings.iter().for_each(|s| value += &format!("{},", String::from_utf8_lossy(s)));
    format!("{}={value}", attribute.name())
}

/// Element type and shape, and the elements where they may be sizes.
fn stored(tensor: &TensorProto) -> String {
    let element = ElementType::from_code(tensor.data_type());
    let dims: Vec<String> = tensor.dims.iter().map(ToString::to_string).collect();
    let elements = match (&element, TensorView::new(tensor)) {
        (Ok(element), Ok(view)) if !element.is_float() && view.len() <= MOST_ELEMENTS => {
            let elements: Vec<String> = view.to_i64().unwrap_or_default().iter().map(ToString::to_string).collect();
            format!("={}", elements.join(","))
        }
        _ => String::new(),
    };
    format!("{}[{}]{elements}", element.map_or("?", ElementType::name), dims.join(","))
}
