//! Variants of operators that tract would silently run as another variant.

use crate::onnx::attributes::Attributes;
use crate::onnx::domain::is_standard;
use crate::onnx::proto::NodeProto;

/// The variant of its operator that `node` asks for and tract lacks, to be said after the operator's name; `None` if tract runs
/// the node as it is written.
pub(super) fn misread(node: &NodeProto) -> Option<&'static str> {
    if !is_standard(node) {
        return None;
    }
    let attributes = Attributes::of(node);
    // An attribute of another type is an error of its own.
    let int = |name: &str| attributes.int(name).ok().flatten();
    let float = |name: &str| attributes.float(name).ok().flatten();
    match node.op_type() {
        "Attention" if ["left_window_size", "right_window_size"].into_iter().filter_map(int).any(|size| size >= 0) => {
            Some("with a window")
        }
        "Attention" if int("is_causal") == Some(1) && has_operand(node, 4) => Some("that is causal, with past keys"),
        "BatchNormalization" if takes_own_statistics(node) => Some("in training mode"),
        "LSTM" | "GRU" | "RNN" if float("clip").is_some() => Some("with bounds (clip)"),
        "LSTM" if int("input_forget").is_some_and(|coupled| coupled != 0) => Some("with coupled gates (input_forget)"),
        "LSTM" if has_other_activations(&attributes, &["Sigmoid", "Tanh", "Tanh"]) => Some("with other activations"),
        "GRU" if has_other_activations(&attributes, &["Sigmoid", "Tanh"]) => Some("with other activations"),
        "RNN" if has_other_activations(&attributes, &["Tanh"]) => Some("with other activations"),
        "SpaceToDepth" if attributes.string("mode").ok().flatten() == Some("CRD") => Some("in mode CRD"),
        "Swish" if float("alpha").is_some_and(|alpha| alpha != 1.0) => Some("with a factor (alpha)"),
        _ => None,
    }
}

fn has_operand(node: &NodeProto, number: usize) -> bool {
    node.input.get(number).is_some_and(|name| !name.is_empty())
}

/// Whether a recurrent node has other activations than those that it has by default, in each direction.
fn has_other_activations(attributes: &Attributes<'_>, usual: &[&str]) -> bool {
    let Ok(Some(names)) = attributes.strings("activations") else { return false };
    !names.iter().zip(usual.iter().cycle()).all(|(name, usual)| name.eq_ignore_ascii_case(usual))
}

/// Whether a `BatchNormalization` normalizes by the statistics of its operand; tract takes the stored ones. Before version 14 the
/// number of results tells.
pub(crate) fn takes_own_statistics(node: &NodeProto) -> bool {
    let trains = || node.attribute.iter().any(|a| a.name() == "training_mode" && a.i() != 0);
    node.op_type() == "BatchNormalization" && (node.output.len() > 1 || trains())
}

#[cfg(test)]
mod tests {
    use super::misread;
    use crate::onnx::proto::attribute_proto::AttributeType;
    use crate::onnx::proto::{AttributeProto, NodeProto};
    use crate::runtime::sample_models::{attributes, node};

    #[test]
    fn forms_that_tract_does_not_read_are_known() {
        let said = |op: &str, text: &str| misread(&node(op, &["x", "w", "r"], &["y"], attributes(text)));
        assert_eq!(said("Attention", "left_window_size=2 right_window_size=-1"), Some("with a window"));
        assert_eq!(said("Attention", "left_window_size=-1 is_causal=1"), None);
        assert_eq!(said("LSTM", "clip=3.5"), Some("with bounds (clip)"));
        assert_eq!(said("LSTM", "input_forget=1"), Some("with coupled gates (input_forget)"));
        assert_eq!(said("SpaceToDepth", "mode=CRD"), Some("in mode CRD"));
        assert_eq!(said("SpaceToDepth", "mode=DCR"), None);
        assert_eq!(said("Swish", "alpha=0.5"), Some("with a factor (alpha)"));
        let past = node("Attention", &["q", "k", "v", "", "past_k", "past_v"], &["y"], attributes("is_causal=1"));
        assert_eq!(misread(&past), Some("that is causal, with past keys"));
    }

    #[test]
    fn usual_activations_may_be_spelled_out() {
        let with = |op: &str, names: &[&'static str]| {
            let strings = names.iter().map(|name| name.as_bytes().into()).collect();
            let activations = AttributeProto {
                name: Some("activations".to_owned()),
                r#type: Some(AttributeType::Strings as i32),
                strings,
                ..AttributeProto::default()
            };
            misread(&NodeProto { attribute: vec![activations], ..node(op, &["x", "w", "r"], &["y"], vec![]) })
        };
        assert_eq!(with("LSTM", &["Sigmoid", "Tanh", "Tanh", "sigmoid", "tanh", "tanh"]), None);
        assert_eq!(with("GRU", &["Sigmoid", "Tanh", "Sigmoid", "Relu"]), Some("with other activations"));
        assert_eq!(with("RNN", &["Relu"]), Some("with other activations"));
    }
}
