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

fn heard(x: &Array2<f64>, weight: &Array2<f64>, count: usize) -> Heard {
    let mut filtered = Filtered::new(weight.clone(), (TAPS, count), "w");
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
    filtered.finish().unwrap().unwrap()
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
