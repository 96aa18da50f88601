//! Domains of operators. That of the standard operators has two names: `""` and `"ai.onnx"`.

use super::proto::{ModelProto, NodeProto, OperatorSetIdProto};

/// The domain, by its first name if it is that of the standard operators.
pub(crate) fn canonical(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// Whether the node is a standard operator.
pub(crate) fn is_standard(node: &NodeProto) -> bool {
    canonical(node.domain()).is_empty()
}

/// The version of the operator set that `model` imports for `domain`.
pub(crate) fn opset_of(model: &ModelProto, domain: &str) -> Option<i64> {
    let wanted = canonical(domain);
    model.opset_import.iter().find(|set| canonical(set.domain()) == wanted).map(OperatorSetIdProto::version)
}
