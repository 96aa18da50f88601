//! Sizes at which operators are timed: few rewritten models that show every operator at a spread of its sizes.
//!
//! A group is left at one of four levels. The sixteen selections are the rows of an orthogonal array (Bush 1952: 4² rows over the
//! field of four elements): any two of its five columns hold each pair of levels once. So two groups with different
//! columns meet at all pairs of their levels, and groups that share an operator get different columns where possible.

use std::collections::{BTreeMap, BTreeSet};

use crate::axes::{FactorId, Selection};
use crate::plan::Group;

/// Shares of a group's units at each level, in eighths.
const LEVELS: [usize; 4] = [8, 5, 3, 1];

/// Columns of the array.
const COLUMNS: usize = 5;

/// Products in the field of four elements.
const PRODUCTS: [[usize; 4]; 4] = [[0, 0, 0, 0], [0, 1, 2, 3], [0, 2, 3, 1], [0, 3, 1, 2]];

/// The selections that operators are timed at.
pub(crate) struct Design {
    /// For each group its factor, its size, its column, and how many units each level leaves.
    groups: Vec<(FactorId, usize, usize, [usize; LEVELS.len()])>,
}

impl Design {
    /// A design for the open groups; each set of `neighbours` is mentioned by one operator.
    pub(crate) fn new(groups: &[&Group], neighbours: &[BTreeSet<FactorId>], min_keep: usize) -> Self {
        let mut columns: BTreeMap<FactorId, usize> = BTreeMap::new();
        for group in groups {
            let mut met = [0; COLUMNS];
            for set in neighbours.iter().filter(|set| set.contains(&group.factor)) {
                set.iter().filter_map(|factor| columns.get(factor)).for_each(|&column| met[column] += 1);
            }
            let column = (0..COLUMNS).min_by_key(|&column| met[column]).unwrap_or(0);
            columns.insert(group.factor, column);
        }
        let levels = |group: &Group| {
            let sizes = group.sizes(min_keep, false);
            LEVELS.map(|eighths| {
                let wanted = group.size * eighths / 8;
                sizes.iter().copied().min_by_key(|size| size.abs_diff(wanted)).unwrap_or(group.size)
            })
        };
        let groups =
            groups.iter().map(|group| (group.factor, group.size, columns[&group.factor], levels(group))).collect();
        Self { groups }
    }

    /// The selections, that of the whole first.
    pub(crate) fn selections(&self) -> impl Iterator<Item = Selection> {
        let count = if self.groups.is_empty() { 1 } else { LEVELS.len() * LEVELS.len() };
        (0..count).map(|row| {
            let mut selection = Selection::all();
            for &(factor, size, column, levels) in &self.groups {
                let kept = levels[level(row, column)];
                selection.keep(factor, (0..size).map(|unit| unit < kept).collect());
            }
            selection
        })
    }
}

/// The level of a column in a row: of row (a, b), column 0 is b, and column k is a + (k − 1) b.
fn level(row: usize, column: usize) -> usize {
    let (a, b) = (row / LEVELS.len(), row % LEVELS.len());
    if column == 0 { b } else { a ^ PRODUCTS[column - 1][b] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_two_columns_hold_every_pair_of_levels() {
        for first in 0..COLUMNS {
            assert_eq!(level(0, first), 0);
            for second in 0..first {
                let pairs: BTreeSet<(usize, usize)> =
                    (0..16).map(|row| (level(row, first), level(row, second))).collect();
                assert_eq!(pairs.len(), 16);
            }
        }
    }
}
