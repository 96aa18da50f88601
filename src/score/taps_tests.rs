//! Filtered taps against all of them.

use super::*;
use crate::score::surgeon::Surgeon;

const CHANNELS: usize = 6;
const TAPS: usize = 9;

fn noise(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Array2::from_shape_simple_fn((rows, columns), || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = f64::from(u32::try_from(state >> 33).unwrap()) / f64::from(1_u32 << 30) - 1.0;
        f64::from(value as f32)
    })
}

fn feed(filtered: &mut Filtered, x: &Array2<f64>, leaf: usize) {
    filtered.enter(leaf).unwrap();
    let mut done = 0;
    while done < x.nrows() {
        let rows = filtered.raw().room().min(x.nrows() - done);
        let mut into = filtered.raw().next(rows);
        for number in 0..x.ncols() {
            let values = x.column(number);
            into.column(number).iter_mut().enumerate().for_each(|(row, to)| *to = values[done + row] as f32);
        }
        done += rows;
        filtered.flush().unwrap();
    }
}

fn heard(x: &Array2<f64>, weight: &Array2<f64>, count: usize) -> Heard {
    let mut filtered = Filtered::new(weight.clone(), (TAPS, count), "w", false);
    feed(&mut filtered, x, 0);
    filtered.finish().unwrap().pop().unwrap().1
}

/// The second machine finds the filters by the rows of the first one, and forgets these rows.
#[test]
fn the_portions_of_two_machines_are_those_of_one() {
    let weight = noise(CHANNELS * TAPS, 4, 1);
    let [early, late] = [2, 3].map(|seed| noise(1500, CHANNELS * TAPS, seed));
    let filtered = |apart| Filtered::new(weight.clone(), (TAPS, FILTERS), "w", apart);
    let [mut one, mut first, mut second] = [false, true, true].map(filtered);
    feed(&mut one, &early, 0);
    feed(&mut one, &late, 4);
    feed(&mut first, &early, 0);
    feed(&mut second, &early, 0);
    second.forget_rows().unwrap();
    feed(&mut second, &late, 4);
    let finish = |filtered: Filtered| filtered.finish().unwrap().pop().unwrap();
    let ((_, one), (start, first), (next, second)) = (finish(one), finish(first), finish(second));
    assert_eq!((start, next), (0, 4));
    assert!(one.weight == first.weight && one.weight == second.weight);
    let mut merged = first.sums;
    merged.merge(&second.sums);
    assert_eq!(merged.finish().to_record(), one.sums.to_record());
}

fn variance(covariance: &Array2<f64>, weight: &Array2<f64>) -> f64 {
    (&covariance.dot(weight) * weight).sum()
}

/// What removing channel after channel costs, `width` rows each.
fn costs(mut covariance: Array2<f64>, weight: &Array2<f64>, width: usize, lambda: f64) -> Vec<f64> {
    covariance.diag_mut().mapv_inplace(|d| d + lambda);
    let units = (0..CHANNELS).map(|channel| (channel * width..(channel + 1) * width).collect()).collect();
    let mut surgeon = Surgeon::new(default_backend(), covariance.view(), weight.view(), units, "w").unwrap();
    let cost = |channel| {
        let cost = surgeon.saliency(channel);
        surgeon.remove(channel);
        cost
    };
    (0..CHANNELS).map(cost).collect()
}

#[test]
fn as_many_filters_as_taps_change_nothing() {
    let (x, weight) = (noise(2500, CHANNELS * TAPS, 1), noise(CHANNELS * TAPS, 4, 2));
    let covariance = Sums::of(default_backend(), x.view(), x.slice(s![.., ..0])).covariance();
    let heard = heard(&x, &weight, TAPS);
    assert_eq!((heard.sums.rows(), heard.weight.dim()), (2500, weight.dim()));
    let expected = costs(covariance, &weight, TAPS, 1e-2);
    for (found, expected) in costs(heard.sums.covariance(), &heard.weight, TAPS, 1e-2).iter().zip(expected) {
        assert!((found / expected - 1.0).abs() < 1e-4, "{found} {expected}");
    }
}

/// Every channel is a picture of two sources, seen at nine places: two filters hear all of it.
#[test]
fn two_filters_hear_all_of_two_sources() {
    let (sources, weight) = (noise(2500, 2 * CHANNELS, 3), noise(CHANNELS * TAPS, 4, 4));
    let mut x = Array2::zeros((2500, CHANNELS * TAPS));
    for channel in 0..CHANNELS {
        let seen = sources.slice(s![.., 2 * channel..2 * channel + 2]).dot(&noise(2, TAPS, 5 + channel as u64));
        x.slice_mut(s![.., channel * TAPS..(channel + 1) * TAPS]).assign(&seen);
    }
    let x = x.mapv(|v| f64::from(v as f32));
    let covariance = Sums::of(default_backend(), x.view(), x.slice(s![.., ..0])).covariance();
    let all = variance(&covariance, &weight);
    let two = heard(&x, &weight, 2);
    assert!((variance(&two.sums.covariance(), &two.weight) / all - 1.0).abs() < 1e-3);
    let one = heard(&x, &weight, 1);
    let share = variance(&one.sums.covariance(), &one.weight) / all;
    assert!(share < 0.999, "{share}");
}
