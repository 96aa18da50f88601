//! The equation of an Einsum.

use std::collections::BTreeMap;

/// A name for each axis of the operands and of the result; axes of the same name are one. The axes of an ellipsis are
/// numbered from the right, as they broadcast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Equation {
    /// For each operand.
    pub(crate) operands: Vec<Vec<String>>,
    /// For the result.
    pub(crate) result: Vec<String>,
}

impl Equation {
    /// Reads `text` for operands of these ranks, and a result of this one where it is known.
    ///
    /// # Errors
    /// What does not fit.
    pub(crate) fn parse(text: &str, ranks: &[usize], result: Option<usize>) -> Result<Self, String> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left.to_owned(), right.to_owned()),
            None => (text.clone(), implicit_result(&text)),
        };
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != ranks.len() {
            return Err(format!("'{text}' has {} terms for {} operands", terms.len(), ranks.len()));
        }
        let operands =
            terms.iter().zip(ranks).map(|(term, &rank)| axis_names(term, rank)).collect::<Result<Vec<_>, _>>()?;
        let broadcast = |names: &Vec<String>| names.iter().filter(|name| name.starts_with("...")).count();
        let free = operands.iter().map(broadcast).max().unwrap_or(0);
        let named = right.replace("...", "").chars().count();
        let whole = named + if right.contains("...") { free } else { 0 };
        let result = axis_names(&right, result.unwrap_or(whole))?;
        Ok(Self { operands, result })
    }
}

fn axis_names(term: &str, rank: usize) -> Result<Vec<String>, String> {
    let (head, tail) = match term.split_once("...") {
        Some((head, tail)) => (head, Some(tail)),
        None => (term, None),
    };
    let named = head.chars().count() + tail.map_or(0, |t| t.chars().count());
    let free = rank.checked_sub(named).filter(|&n| tail.is_some() || n == 0);
    let free = free.ok_or_else(|| format!("'{term}' does not fit rank {rank}"))?;
    let mut names: Vec<String> = head.chars().map(String::from).collect();
    names.extend((0..free).rev().map(|i| format!("...{i}")));
    names.extend(tail.unwrap_or("").chars().map(String::from));
    Ok(names)
}

/// Letters that occur once, in alphabetical order, after the ellipsis if there is one.
fn implicit_result(left: &str) -> String {
    let mut counts: BTreeMap<char, usize> = BTreeMap::new();
    left.chars().filter(|c| c.is_alphabetic()).for_each(|c| *counts.entry(c).or_default() += 1);
    let mut result = if left.contains("...") { "...".to_owned() } else { String::new() };
    result.extend(counts.into_iter().filter(|&(_, n)| n == 1).map(|(c, _)| c));
    result
}
