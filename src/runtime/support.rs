//! Which operators of a model tract has, by domain and name.

use std::collections::BTreeSet;

use tract_onnx::model::OnnxOpRegister;

use super::misread::{misread, takes_own_statistics};
use crate::graph::bodies::decided;
use crate::onnx::domain::canonical;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto};
use crate::onnx::tensor::from_f32;

/// Operators that tract implements by the specification of `com.microsoft`.
const MICROSOFT: &[&str] = &[
    "BiasGelu",
    "FastGelu",
    "GatherBlockQuantized",
    "Gelu",
    "GroupQueryAttention",
    "MatMulNBits",
    "MultiHeadAttention",
    "QuickGelu",
    "RotaryEmbedding",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
];

/// Operators that tract implements by the specification of `ai.onnx.ml`.
const CLASSICAL: &[&str] = &[
    "ArrayFeatureExtractor",
    "CategoryMapper",
    "LinearClassifier",
    "LinearRegressor",
    "Normalizer",
    "TreeEnsembleClassifier",
];

/// Operators of `ai.onnx.ml` that tract lacks and [`lowered`](super::lowered::lowered) says in others.
const LOWERED: &[&str] = &["Scaler"];

/// A node that tract has no operator for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnsupportedNode {
    /// Name of the node, or of its first output when it has none.
    pub node: String,
    /// Domain and operator: `com.example.Fancy`, or the bare name for the standard domain.
    pub op: String,
    /// Whether it calls a function that the model itself defines.
    pub is_function: bool,
}

/// tract's reader of ONNX, with the operators that paredown adds or replaces.
pub(crate) fn framework() -> tract_onnx::Onnx {
    let mut framework = tract_onnx::onnx();
    super::running_sum::register(&mut framework.op_register);
    super::squeeze::register(&mut framework.op_register);
    super::branch::register(&mut framework.op_register);
    super::top_k::register(&mut framework.op_register);
    framework
}

/// The nodes of `model`, those of subgraphs included, whose operator tract lacks, in graph order.
///
/// tract looks operators up by name alone: a `Attention` of another domain would run as the standard one.
/// Here the domain counts.
pub fn unsupported_nodes(model: &ModelProto) -> Vec<UnsupportedNode> {
    let registry = framework().op_register;
    let local: BTreeSet<(&str, &str)> = model.functions.iter().map(|f| (f.domain(), f.name())).collect();
    let mut missing = Vec::new();
    let mut graphs: Vec<&GraphProto> = model.graph.iter().collect();
    while let Some(graph) = graphs.pop() {
        for node in &graph.node {
            let is_function = local.contains(&(node.domain(), node.op_type()));
            if is_function || misread(node).is_some() || !is_supported(&registry, node) {
                missing.push(UnsupportedNode { node: node_label(node), op: qualified_name(node), is_function });
            }
            graphs.extend(node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)));
        }
    }
    missing
}

/// Refuses a model for the first of its [`unsupported_nodes`].
///
/// # Errors
/// [`Runtime`](crate::ErrorKind::Runtime) if there is one.
pub(crate) fn refuse_unsupported(model: &ModelProto) -> crate::Result<()> {
    let Some(missing) = unsupported_nodes(&decided(model)).into_iter().next() else { return Ok(()) };
    let what = if missing.is_function { "does not run functions of the model such as" } else { "has no operator" };
    let message = format!("tract {what} {}; pass `no_verify` to write the file without running it", missing.op);
    Err(crate::Error::runtime(message).at_node(missing.node))
}

/// Whether tract implements the operator of `node`, its domain taken into account.
pub(crate) fn is_supported(registry: &OnnxOpRegister, node: &NodeProto) -> bool {
    if !has_plausible_axis(node) || takes_own_statistics(node) {
        return false;
    }
    let op = node.op_type();
    let in_domain = match canonical(node.domain()) {
        "" => !CLASSICAL.contains(&op) && (!MICROSOFT.contains(&op) || matches!(op, "Gelu" | "RotaryEmbedding")),
        "com.microsoft" => MICROSOFT.contains(&op),
        "ai.onnx.ml" => CLASSICAL.contains(&op),
        _ => false,
    };
    let lowered = node.domain() == "ai.onnx.ml" && LOWERED.contains(&op);
    lowered || (in_domain && registry.0.contains_key(op))
}

/// Whether an `axis` is within any rank there is: tract counts from it up to the rank.
fn has_plausible_axis(node: &NodeProto) -> bool {
    node.attribute.iter().filter(|a| a.name() == "axis").all(|a| (-64..64).contains(&a.i()))
}

/// Name of a node, or of its first output when it has none.
pub(crate) fn node_label(node: &NodeProto) -> String {
    if !node.name().is_empty() {
        return node.name().to_owned();
    }
    node.output.iter().find(|output| !output.is_empty()).cloned().unwrap_or_else(|| node.op_type().to_owned())
}

fn qualified_name(node: &NodeProto) -> String {
    if let Some(form) = misread(node) {
        return format!("{} {form}", node.op_type());
    }
    match canonical(node.domain()) {
        "" => node.op_type().to_owned(),
        domain => format!("{domain}.{}", node.op_type()),
    }
}

/// Gives every result of a `Scan`'s body a name that nothing in the body reads: tract adds the scanned axis to the
/// value itself, even if the body uses it further.
pub(crate) fn set_results_apart(node: &mut NodeProto) {
    if node.op_type() != "Scan" {
        return;
    }
    for body in node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut()) {
        let read: BTreeSet<String> = body.node.iter().flat_map(|node| node.input.iter().cloned()).collect();
        let mut given = BTreeSet::new();
        for output in &mut body.output {
            let name = output.name().to_owned();
            if given.insert(name.clone()) && !read.contains(&name) {
                continue;
            }
            let apart = format!("{name} result {}", body.node.len());
            body.node.push(NodeProto {
                name: Some(apart.clone()),
                op_type: Some("Identity".to_owned()),
                input: vec![name],
                output: vec![apart.clone()],
                ..NodeProto::default()
            });
            output.name = Some(apart);
        }
    }
}

/// Writes out a default of the standard that tract takes for another, or does not know: `ConstantOfShape` without a value
/// makes float32 zeros, not float64; `Squeeze` without axes removes all of length one.
pub(crate) fn spell_out_default(node: &mut NodeProto) {
    super::squeeze::rename(node);
    if node.op_type() == "ConstantOfShape"
        && !node.attribute.iter().any(|a| a.name() == "value")
        && let Ok(zero) = from_f32("", &[1], &[0.0])
    {
        crate::onnx::attributes::set_tensor(node, "value", zero);
    }
}
