//! The table of facts about operators, held against the table of rules.

use std::collections::BTreeSet;

use paredown::internals::onnx::traits::{self, AVERAGES, INTEGER, MAKES_SEQUENCE, MOVES, NONE, READS_SEQUENCE, TRAITS};
use paredown::internals::ops::{RULES, Relate, operator_name, rule};

/// Sequences of tensors are unrolled before the rules apply, and freeze what they touch where they cannot be.
const WITHOUT_RULE: [&str; 8] = [
    "ConcatFromSequence",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "SplitToSequence",
];

#[test]
fn operators_with_a_rule_are_those_with_facts_and_sequences() {
    let rules: BTreeSet<String> = RULES.iter().map(|rule| operator_name(rule.domain, rule.op)).collect();
    let facts: BTreeSet<String> = TRAITS.iter().map(|row| operator_name(row.domain, row.op)).collect();
    let without: Vec<&String> = facts.difference(&rules).collect();
    assert_eq!(without, WITHOUT_RULE);
    assert_eq!(rules.difference(&facts).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn rows_are_sorted_and_unique() {
    assert!(TRAITS.windows(2).all(|pair| (pair[0].domain, pair[0].op) < (pair[1].domain, pair[1].op)));
}

#[test]
fn facts_agree_with_the_rules() {
    for row in TRAITS {
        let (name, rule) = (operator_name(row.domain, row.op), rule(row.domain, row.op));
        let is_frozen = rule.is_some_and(|rule| matches!(rule.relate, Relate::Frozen(_)));
        assert!(!row.traits.has(INTEGER) || is_frozen, "{name}: integer weights are not sliced");
        assert!(!row.traits.has(MOVES) || !is_frozen, "{name}: what moves elements has a rule that says where to");
        assert!(!row.traits.has(MOVES.and(AVERAGES)), "{name}: a statistic is no move");
        let is_of_sequences = row.traits.has_any(MAKES_SEQUENCE.and(READS_SEQUENCE));
        assert_eq!(is_of_sequences, rule.is_none(), "{name}");
        assert_eq!(traits::of(row.domain, row.op), row.traits, "{name}");
    }
    assert_eq!(traits::of("com.example", "Concat"), NONE);
}
