//! Against brute force on small instances, against the clock and the bound on large ones.

use proptest::prelude::*;

use super::*;
use crate::ErrorKind;
use crate::lowrank::ErrorCurve;

#[path = "../../benches/common/network.rs"]
mod network;

use network::network;

fn brute_force(layers: &[Layer], budget: u64) -> Option<f64> {
    fn walk(layers: &[Layer], budget: u64, error: f64) -> Option<f64> {
        let Some((first, rest)) = layers.split_first() else { return Some(error) };
        (first.choices.iter().filter(|c| c.cost <= budget))
            .filter_map(|c| walk(rest, budget - c.cost, error + c.error))
            .min_by(f64::total_cmp)
    }
    walk(layers, budget, 0.0)
}

fn layer(choices: &[(u64, f64)]) -> Layer {
    let choices = choices.iter().map(|&(cost, error)| Choice { rank: None, cost, error }).collect();
    Layer { name: "fc".to_owned(), choices }
}

fn check(layers: &[Layer], allocation: &Allocation, budget: u64) {
    let taken = || layers.iter().zip(&allocation.chosen).map(|(layer, &i)| layer.choices[i]);
    assert_eq!(taken().map(|c| c.cost).sum::<u64>(), allocation.cost);
    assert!(allocation.cost <= budget);
    let error = taken().map(|c| c.error).sum::<f64>();
    assert!((error - allocation.error).abs() <= 1e-12 * error);
    assert!(allocation.lower_bound <= allocation.error);
}

proptest! {
    /// Any costs and errors, dominated and equal choices included.
    #[test]
    fn equals_brute_force(
        choices in prop::collection::vec(prop::collection::vec((0_u64..40, 0_u32..60), 1..6), 1..7),
        budget in 0_u64..160,
    ) {
        let layers: Vec<Layer> = choices
            .iter()
            .map(|c| layer(&c.iter().map(|&(cost, e)| (cost, f64::from(e))).collect::<Vec<_>>()))
            .collect();
        match (solve(&layers, budget), brute_force(&layers, budget)) {
            (Ok(found), Some(best)) => {
                check(&layers, &found, budget);
                prop_assert_eq!(found.error, best);
                prop_assert_eq!(found.gap(), 0.0);
            }
            (Err(error), None) => prop_assert_eq!(error.kind(), ErrorKind::Nothing),
            (found, best) => prop_assert!(false, "{:?} against {:?}", found, best),
        }
    }
}

fn dense(layers: &[Layer]) -> u64 {
    layers.iter().map(|layer| layer.choices.iter().map(|c| c.cost).max().unwrap()).sum()
}

#[test]
fn two_hundred_layers_have_a_gap_of_half_a_percent_at_most() {
    for seed in 0..3 {
        let layers = network(200, seed);
        for percent in [30, 50, 70, 90] {
            let budget = dense(&layers) * percent / 100;
            let found = solve(&layers, budget).unwrap();
            check(&layers, &found, budget);
            assert!(found.gap() <= 0.005, "gap {}", found.gap());
        }
    }
}

#[test]
fn chosen_ranks_beat_uniform_ones_at_equal_cost() {
    let layers = network(36, 7);
    for share in [3, 5, 7] {
        // The same share of its dense parameters for every layer.
        let uniform: Vec<Choice> = layers
            .iter()
            .map(|layer| {
                let dense = layer.choices.iter().map(|c| c.cost).max().unwrap();
                *layer.choices.iter().rfind(|c| c.cost * 10 <= dense * share).unwrap()
            })
            .collect();
        let budget = uniform.iter().map(|c| c.cost).sum();
        let found = solve(&layers, budget).unwrap();
        assert!(found.error < 0.9 * uniform.iter().map(|c| c.error).sum::<f64>());
    }
}

#[test]
fn a_budget_for_everything_leaves_everything_dense() {
    let layers = network(20, 9);
    let found = solve(&layers, dense(&layers)).unwrap();
    assert_eq!((found.error, found.gap()), (0.0, 0.0));
}

#[test]
fn out_of_reach_names_the_least_cost() {
    let layers = [layer(&[(5, 1.0), (9, 0.0)]), layer(&[(7, 2.0)])];
    let error = solve(&layers, 11).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Nothing);
    assert!(error.to_string().contains("still need 12"), "{error}");
    assert!(solve(&layers, 12).is_ok());
}

#[test]
fn bad_layers_are_refused_by_name() {
    for choices in [vec![], vec![(1, f64::NAN)], vec![(1, -1.0)]] {
        let error = solve(&[layer(&choices)], 10).unwrap_err();
        assert!(error.to_string().contains("'fc'"), "{error}");
    }
}

#[test]
fn no_layers_cost_nothing() {
    let found = solve(&[], 0).unwrap();
    assert_eq!((found.cost, found.error, found.gap()), (0, 0.0, 0.0));
}
