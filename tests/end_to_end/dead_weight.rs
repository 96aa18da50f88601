//! Units whose slices are all zero go first, and nothing notices.

use std::collections::BTreeMap;

use paredown::{InspectOptions, Model, PruneOptions, inspect, prune};

use crate::command::{FIXTURES, fixture};
use crate::exact::{compare, removed};
use crate::mask::{is_open, zeroed};

const TOLERANCE: f64 = 1e-5;

/// Half of `size` units, spread in no order that a ranking could have by itself.
fn half(size: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by_key(|unit| (unit * 7919 + 31) % 127);
    let mut flags = vec![false; size];
    order.into_iter().take(size / 2).for_each(|unit| flags[unit] = true);
    flags
}

#[test]
fn dead_weight_goes_for_free() {
    for name in FIXTURES {
        let model = Model::load(fixture(name)).unwrap();
        let report = inspect(&model, &InspectOptions::new()).unwrap();
        let dead: BTreeMap<String, Vec<bool>> =
            report.groups.iter().filter(|group| is_open(group)).map(|g| (g.name.clone(), half(g.size))).collect();
        assert!(!dead.is_empty());
        let half_dead = Model::from_proto(zeroed(&model.proto, &report, &dead));
        let pruned = prune(&half_dead, &PruneOptions::ratio(0.5).align(1)).unwrap();
        assert_eq!(removed(&pruned.plan), dead, "{name}: what is dead goes, what lives stays");
        let found = compare(&half_dead.proto, &pruned.model.proto);
        assert!(found.proves() && found.max_rel() <= TOLERANCE, "{name}: {found:?}");
    }
}
