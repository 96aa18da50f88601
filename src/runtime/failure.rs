//! What tract reported, as an error that names the node and its operator.

use tract_onnx::prelude::TractError;

use super::support::node_label;
use crate::Error;
use crate::onnx::proto::{GraphProto, NodeProto};

/// Longest message that is passed on; tract prints whole tensors and patches into some of its own.
const LONGEST: usize = 240;

/// Which node, if any, a failure of tract concerns, found by name in the text of its context.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeNames(Vec<NodeName>);

#[derive(Debug, Clone)]
struct NodeName {
    /// What tract calls it.
    unique: String,
    /// What the file calls it.
    label: String,
    op: String,
}

impl NodeNames {
    /// Names and operators of the nodes of `graph`.
    pub(super) fn of(graph: &GraphProto) -> Self {
        let names = graph.node.iter().enumerate().map(|(index, node)| NodeName {
            unique: unique_name(index, node),
            label: node_label(node),
            op: node.op_type().to_owned(),
        });
        Self(names.collect())
    }

    /// `error` as an [`Error`] of the kind [`Runtime`](crate::ErrorKind::Runtime).
    pub(super) fn explain(&self, doing: &str, error: &TractError) -> Error {
        let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
        let cause = shorten(chain.last().map_or("unknown reason", String::as_str).trim_end_matches(['.', ' ']));
        let named = chain.iter().flat_map(|context| names_in(context)).find_map(|name| self.find(name));
        if let Some((node, op)) = named {
            return Error::runtime(format!("tract cannot {doing} this {op}: {cause}")).at_node(node);
        }
        let context = chain.first().filter(|_| chain.len() > 1).map(|context| format!("{}: ", shorten(context)));
        Error::runtime(format!("tract cannot {doing} this model: {}{cause}", context.unwrap_or_default()))
    }

    /// The node of that name, or the one from which tract derived the name (`conv1.bias`, `conv1.split-2`).
    fn find(&self, name: &str) -> Option<(&str, &str)> {
        let derived = |node: &str| name.strip_prefix(node).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let best = self.0.iter().filter(|node| derived(&node.unique)).max_by_key(|node| node.unique.len())?;
        Some((&best.label, &best.op))
    }
}

/// What tract is to call node number `index`: its first output, for names of values are unique and those of nodes need not be.
pub(super) fn unique_name(index: usize, node: &NodeProto) -> String {
    node.output.iter().find(|output| !output.is_empty()).cloned().unwrap_or_else(|| format!("node {index}"))
}

/// The names in a context such as `Evaluating #12 "conv1" Conv` or `Building node conv1 (Conv)`.
fn names_in(context: &str) -> Vec<&str> {
    let mut names: Vec<&str> = context.split('"').skip(1).step_by(2).collect();
    if let Some((_, rest)) = context.split_once("Building node ") {
        names.extend(rest.rsplit_once(" (").map(|(name, _)| name));
    }
    names
}

fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tract_onnx::tract_hir::internal::anyhow;

    fn names() -> NodeNames {
        let name = |unique: &str, op: &str| NodeName { unique: unique.into(), label: format!("{op}_7"), op: op.into() };
        NodeNames(vec![name("conv", "Conv"), name("conv.1", "Relu")])
    }

    #[test]
    fn the_longest_node_name_in_the_context_is_named() {
        let error = anyhow!("bad size").context("Evaluating #3 \"conv.1.low\" Clip");
        let explained = names().explain("run", &error);
        assert_eq!(explained.node(), Some("Relu_7"));
        assert!(explained.to_string().contains("cannot run this Relu: bad size"), "{explained}");
    }

    #[test]
    fn a_parser_context_is_understood() {
        let error = anyhow!("no kernel").context("Building node conv (Conv)");
        assert_eq!(names().explain("read", &error).node(), Some("Conv_7"));
    }

    #[test]
    fn an_unknown_name_leaves_the_message_whole() {
        let error = anyhow!("lost").context("Translating \"other\"");
        let explained = names().explain("read", &error);
        assert_eq!(explained.node(), None);
        assert!(explained.to_string().contains("Translating \"other\": lost"), "{explained}");
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        assert_eq!(shorten(&"é".repeat(300)).chars().count(), LONGEST + 1);
    }
}
