//! Tables of deep networks: rows of layers that repeat are folded into one.

use std::collections::BTreeMap;

use super::GroupReport;
use super::figures::human_count;

/// Tables of up to this many rows are shown whole.
const WHOLE: usize = 16;

/// Longest text of a cell, in characters. Some converters name a node by the list of all that it was made of.
const LONGEST: usize = 120;

/// Fewest layers that are folded into one row.
const FEWEST: usize = 3;

/// Rows of groups: name, axis, role, size, `figure`, parameters, multiply–accumulates and reason. In a long table, groups
/// whose names differ in numbers only share a row, with the range of their figures and the sum of their costs.
pub(super) fn rows(groups: &[&GroupReport], figure: impl Fn(&GroupReport) -> usize) -> Vec<Vec<String>> {
    let mut alike: BTreeMap<(String, &str, &str, usize, String), Vec<&GroupReport>> = BTreeMap::new();
    let key = |group: &'_ GroupReport| (starred(&group.name), group.size, starred(group.why().unwrap_or_default()));
    for &group in groups {
        let (name, size, reason) = key(group);
        alike.entry((name, &group.axis, &group.role, size, reason)).or_default().push(group);
    }
    let mut rows = Vec::new();
    for &group in groups {
        let (name, size, reason) = key(group);
        let Some(all) = alike.get(&(name.clone(), &group.axis, &group.role, size, reason.clone())) else { continue };
        if groups.len() <= WHOLE || all.len() < FEWEST {
            let why = group.why().unwrap_or_default().to_owned();
            rows.push(row(&group.name, group, figure(group).to_string(), (group.params, group.macs), why));
        } else if all.first().is_some_and(|first| first.name == group.name) {
            let figures = all.iter().map(|group| figure(group));
            let range = match (figures.clone().min(), figures.max()) {
                (Some(least), Some(most)) if least < most => format!("{least}–{most}"),
                (least, _) => least.unwrap_or_default().to_string(),
            };
            let cost = all.iter().fold((0, 0), |(params, macs), group| (params + group.params, macs + group.macs));
            rows.push(row(&format!("{name} ({} layers)", all.len()), group, range, cost, reason));
        }
    }
    rows
}

fn row(name: &str, group: &GroupReport, figure: String, (params, macs): (u64, u64), reason: String) -> Vec<String> {
    let (axis, role, size) = (group.axis.clone(), group.role.clone(), group.size.to_string());
    vec![shortened(name), axis, role, size, figure, human_count(params), human_count(macs), shortened(&reason)]
}

/// The text without its middle where it is too long for a cell: what tells names apart is mostly at their ends.
pub(super) fn shortened(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    if characters.len() <= LONGEST {
        return text.to_owned();
    }
    let (first, last) = (LONGEST / 3, LONGEST - LONGEST / 3 - 1);
    characters.iter().take(first).chain(&['…']).chain(characters.iter().skip(characters.len() - last)).collect()
}

/// The text with a star for every number.
fn starred(text: &str) -> String {
    let mut starred = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_ascii_digit() {
            starred.push(c);
        } else if !starred.ends_with('*') {
            starred.push('*');
        }
    }
    starred
}

/// A text as the parts around its numbers, and the numbers. A number may have a fraction.
fn parts(text: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut around, mut numbers) = (Vec::new(), Vec::new());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(from.len());
        let number = from[..end].trim_end_matches('.');
        around.push(before);
        numbers.push(number);
        rest = &from[number.len()..];
    }
    around.push(rest);
    (around, numbers)
}

/// What is said of several things, once: texts that differ in numbers only become one, with the range of each number. What
/// each is said of stands beside it.
pub(super) fn once<'t>(said: impl IntoIterator<Item = (&'t str, &'t str)>) -> Vec<(String, Vec<&'t str>)> {
    let mut alike: BTreeMap<Vec<&str>, (Vec<Vec<&str>>, Vec<&str>)> = BTreeMap::new();
    for (text, of) in said {
        let (around, numbers) = parts(text);
        let (all, things) = alike.entry(around).or_default();
        all.push(numbers);
        things.push(of);
    }
    let text = |around: &[&str], all: &[Vec<&str>]| {
        let range = |at: usize| {
            let mut numbers: Vec<&str> = all.iter().filter_map(|numbers| numbers.get(at).copied()).collect();
            numbers.sort_by(|a, b| value(a).total_cmp(&value(b)));
            match (numbers.first(), numbers.last()) {
                (Some(least), Some(most)) if least != most => format!("{least}–{most}"),
                (least, _) => least.copied().unwrap_or_default().to_owned(),
            }
        };
        around.iter().enumerate().map(|(at, part)| (*part).to_owned() + &range(at)).collect::<String>()
    };
    alike.into_iter().map(|(around, (all, things))| (text(&around, &all), things)).collect()
}

fn value(number: &str) -> f64 {
    number.parse().unwrap_or(f64::INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network of 41 layers repeated one sentence 17 times, each time with another figure.
    #[test]
    fn what_differs_in_figures_only_is_said_once() {
        let said = [("within 9.5 % of 2 rows.", "a"), ("no samples", "b"), ("within 10.1 % of 2 rows.", "c")];
        let expected =
            [("no samples".to_owned(), vec!["b"]), ("within 9.5–10.1 % of 2 rows.".to_owned(), vec!["a", "c"])];
        assert_eq!(once(said), expected);
    }

    fn group(name: String, kept: usize) -> GroupReport {
        GroupReport {
            name,
            role: "free".to_owned(),
            axis: "neurons".to_owned(),
            size: 8,
            kept,
            members: Vec::new(),
            params: 10,
            macs: 20,
            reason: None,
            multiple_of: None,
            kept_whole: None,
            misaligned: None,
        }
    }

    /// A pitch network from TFLite has names of 800 characters, and its table was as wide.
    #[test]
    fn a_long_name_is_shortened_in_the_middle() {
        let name = format!("é{};tail", "relu;".repeat(200));
        let line = rows(&[&group(name, 8)], |group| group.kept).remove(0);
        assert_eq!(line[0].chars().count(), LONGEST);
        assert!(
            line[0].starts_with("érelu;") && line[0].ends_with("relu;;tail") && line[0].contains('…'),
            "{}",
            line[0]
        );
        assert_eq!(rows(&[&group("b".repeat(LONGEST), 8)], |group| group.kept)[0][0], "b".repeat(LONGEST));
    }

    #[test]
    fn layers_that_repeat_share_a_row_of_a_long_table() {
        let mut groups: Vec<GroupReport> =
            (0..20).map(|i| group(format!("layers.{i}/up neurons"), 4 + i % 2)).collect();
        groups.insert(0, group("head neurons".to_owned(), 8));
        let all: Vec<&GroupReport> = groups.iter().collect();
        let folded = rows(&all, |group| group.kept);
        let expected = ["layers.*/up neurons (20 layers)", "neurons", "free", "8", "4–5", "200", "400", ""];
        assert_eq!((folded.len(), &folded[1][..]), (2, &expected.map(str::to_owned)[..]));
        assert_eq!(rows(&all[..10], |group| group.kept).len(), 10);
    }
}
