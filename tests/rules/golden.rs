//! Every row of the table, solved on an example, printed and compared with `golden.txt`.
//!
//! After a change that is meant: `UPDATE_GOLDEN=1 cargo test --test rules golden`, and read the difference.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use paredown::internals::axes::Role;
use paredown::internals::graph::{Graph, NodeId};
use paredown::internals::ops::{Network, RULES, operator_name};

use super::build::build;
use super::examples::{EXAMPLES, Example, WITH_SUBGRAPHS};

fn line(example: Example) -> String {
    let built = build(example);
    let graph = Graph::new(built.model.graph.as_ref().unwrap(), 10).unwrap();
    let (_, network) = Network::analyse(&built.model, &graph, &Default::default(), &built.ends).unwrap();
    let node = graph.node(NodeId(0));
    let axes = |axes: Option<&[paredown::internals::axes::Expr]>| match axes {
        Some(axes) => axes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        None => "?".to_owned(),
    };
    let operands: Vec<String> = (0..node.inputs.len())
        .map(|slot| node.inputs[slot].map_or(String::new(), |_| axes(network.operand(&graph, NodeId(0), slot))))
        .collect();
    let results: Vec<String> = node.outputs.iter().flatten().map(|&value| axes(network.value(value))).collect();
    let mut text = format!("{}: {} -> {}", example.0, operands.join(", "), results.join(", "));
    for (index, factor) in network.solution.factors.iter().enumerate() {
        let role = match &factor.role {
            Role::Free => String::new(),
            Role::Shifts(reason) => format!(" shifts: {}", reason.why),
            Role::Frozen(reason) => format!(" frozen: {}", reason.why),
        };
        write!(text, "\n    f{index} = {}{role}", factor.extent).unwrap();
    }
    let relation = &network.relations[0];
    if !relation.masks.is_empty() {
        write!(text, "\n    contracts (operand, axis) {:?}", relation.masks).unwrap();
    }
    for (_, why) in &network.refusals {
        write!(text, "\n    refused: {why}").unwrap();
    }
    text
}

#[test]
fn every_row_solved_on_an_example() {
    let found: String = EXAMPLES.iter().map(|&example| line(example) + "\n").collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules/golden.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found, expected);
}

#[test]
fn every_row_has_an_example_and_every_example_a_row() {
    let with_examples: BTreeSet<String> =
        EXAMPLES.iter().map(|e| e.0.to_owned()).chain(WITH_SUBGRAPHS.map(str::to_owned)).collect();
    let rows: BTreeSet<String> = RULES.iter().map(|rule| operator_name(rule.domain, rule.op)).collect();
    assert_eq!(with_examples, rows);
}

#[test]
fn rows_are_sorted_and_unique() {
    assert!(RULES.windows(2).all(|pair| (pair[0].domain, pair[0].op) < (pair[1].domain, pair[1].op)));
}
