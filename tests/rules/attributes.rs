//! Attributes that no rule understands.

use paredown::internals::graph::Graph;
use paredown::internals::ops::{HARMLESS, Network, RULES, rule};

use super::build::build;
use super::examples::{EXAMPLES, Example};

/// Why the only node of an example is refused.
fn refusal(example: Example) -> Option<String> {
    let built = build(example);
    let graph = Graph::new(built.model.graph.as_ref().unwrap(), 10).unwrap();
    let (_, network) = Network::analyse(&built.model, &graph, &Default::default(), &built.ends).unwrap();
    network.refusals.into_iter().next().map(|(_, why)| why)
}

#[test]
fn an_attribute_that_no_rule_reads_freezes_the_node_and_is_named() {
    let unknown = Some("the rule does not understand attribute 'layout'".to_owned());
    for (op, operands) in [("Relu", "2,3"), ("MaxPool", "2,3,4,4"), ("Conv", "2,4,5,5 6,4,3,3"), ("Softmax", "2,3")] {
        let known = if op == "MaxPool" { "kernel_shape=[2,2]" } else { "" };
        assert_eq!(refusal((op, operands, known, 1)), None, "{op}");
        assert_eq!(refusal((op, operands, &*format!("{known} layout=NHWC").leak(), 1)), unknown, "{op}");
    }
}

#[test]
fn an_attribute_of_another_type_than_the_rule_reads_is_not_understood() {
    assert_eq!(refusal(("Softmax", "2,3", "axis=1", 1)), None);
    let why = refusal(("Softmax", "2,3", "axis=first", 1));
    assert_eq!(why.as_deref(), Some("the rule does not understand attribute 'axis'"));
}

/// Before opset 7, `axis` says where the second operand begins in the first.
#[test]
fn the_broadcasting_of_old_operator_sets_is_not_taken_for_that_of_numpy() {
    assert_eq!(refusal(("Add", "2,3,3 3", "broadcast=1", 1)), None);
    let why = refusal(("Add", "2,3,3 3", "broadcast=1 axis=1", 1));
    assert_eq!(why.as_deref(), Some("the rule does not understand attribute 'axis'"));
}

#[test]
fn examples_have_no_attribute_that_their_rule_does_not_understand() {
    for &example in EXAMPLES {
        let why = refusal(example).unwrap_or_default();
        assert!(!why.contains("does not understand"), "{}: {why}", example.0);
    }
}

#[test]
fn harmless_attributes_are_sorted_and_belong_to_rules() {
    assert!(HARMLESS.windows(2).all(|pair| (pair[0].0, pair[0].1) < (pair[1].0, pair[1].1)));
    for &(domain, op, names) in HARMLESS {
        assert!(rule(domain, op).is_some(), "{domain} {op} has no rule");
        assert!(names.is_sorted() && !names.is_empty(), "{domain} {op}");
    }
    assert!(HARMLESS.len() < RULES.len());
}
