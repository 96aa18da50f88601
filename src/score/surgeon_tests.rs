//! The formulas against brute force.

use ndarray::{Array2, Axis};

use super::surgeon::Surgeon;
use crate::linalg::default_backend;

/// Numbers without a pattern, from a linear congruence.
fn noise(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Array2::from_shape_simple_fn((rows, columns), || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(state >> 33).unwrap()) / f64::from(1_u32 << 30) - 1.0
    })
}

/// A covariance with its ridge of 1e-2 · mean diagonal, and a weight.
fn layer(k: usize, n: usize, seed: u64) -> (Array2<f64>, Array2<f64>) {
    let x = noise(3 * k, k, seed);
    let mut h = x.t().dot(&x) / (3.0 * k as f64);
    let ridge = 1e-2 * h.diag().sum() / k as f64;
    h.diag_mut().mapv_inplace(|d| d + ridge);
    (h, noise(k, n, seed + 1))
}

/// `min ½ tr((W − W₀)ᵀ H (W − W₀))` over W with the rows `removed` at zero: with D = W − W₀ given on the removed rows P,
/// the others R minimize at `D_R = −H_RR⁻¹ H_RP D_P`.
fn least_loss(h: &Array2<f64>, w0: &Array2<f64>, removed: &[usize]) -> f64 {
    let kept: Vec<usize> = (0..h.nrows()).filter(|k| !removed.contains(k)).collect();
    let block = |a: &[usize], b: &[usize]| h.select(Axis(0), a).select(Axis(1), b);
    let d_removed = -w0.select(Axis(0), removed);
    let mut d = Array2::zeros(w0.dim());
    for (&row, value) in removed.iter().zip(d_removed.rows()) {
        d.row_mut(row).assign(&value);
    }
    if !kept.is_empty() {
        let right = -block(&kept, removed).dot(&d_removed);
        let d_kept = default_backend().solve_spd(block(&kept, &kept).view(), right.view(), "h").unwrap();
        for (&row, value) in kept.iter().zip(d_kept.rows()) {
            d.row_mut(row).assign(&value);
        }
    }
    0.5 * (&h.dot(&d) * &d).sum()
}

/// Units of `width` rows, strided: unit u owns rows u, u + units, …
fn strided(units: usize, width: usize) -> Vec<Vec<usize>> {
    (0..units).map(|u| (0..width).map(|i| u + i * units).collect()).collect()
}

#[test]
fn saliency_is_the_true_loss_after_the_best_compensation_along_a_whole_path() {
    for (units, width, n) in [(12, 1, 5), (6, 4, 3), (90, 1, 4), (20, 9, 7)] {
        let k = units * width;
        let (h, w) = layer(k, n, units as u64);
        let rows = strided(units, width);
        let mut surgeon = Surgeon::new(default_backend(), h.view(), w.view(), rows.clone(), "h").unwrap();
        let mut removed: Vec<usize> = Vec::new();
        let mut loss = 0.0;
        // An order without a pattern; past one panel in the wide cases.
        for step in 0..units {
            let unit = (step * 7 + 3) % units;
            if !units.is_multiple_of(7) {
                let cost = surgeon.saliency(unit);
                removed.extend(&rows[unit]);
                let total = least_loss(&h, &w, &removed);
                let scale = total.max(1.0);
                assert!(
                    (loss + cost - total).abs() < 1e-9 * scale,
                    "{units}×{width}, step {step}: {} {total}",
                    loss + cost
                );
                loss = total;
                surgeon.remove(unit);
            }
        }
    }
}

#[test]
fn the_downdated_inverse_is_the_inverse_of_what_is_left() {
    for (units, width, gone) in [(10, 1, 4), (100, 1, 70), (15, 6, 11)] {
        let (h, w) = layer(units * width, 3, 17);
        let rows = strided(units, width);
        let mut surgeon = Surgeon::new(default_backend(), h.view(), w.view(), rows.clone(), "h").unwrap();
        (0..gone).for_each(|unit| surgeon.remove(unit));
        let mut kept: Vec<usize> = rows[gone..].iter().flatten().copied().collect();
        kept.sort_unstable();
        let left = h.select(Axis(0), &kept).select(Axis(1), &kept);
        let expected = default_backend().inverse_spd(left.view(), "h").unwrap();
        let worst = (&surgeon.inverse() - &expected).iter().fold(0.0_f64, |m, d| m.max(d.abs()));
        assert!(worst < 1e-9, "{units}×{width}: {worst}");
    }
}

#[test]
fn rows_without_owner_stay_in_the_hessian() {
    let (h, w) = layer(9, 4, 5);
    // Units own rows 0..6; rows 6..9 belong to another group.
    let rows: Vec<Vec<usize>> = (0..6).map(|u| vec![u]).collect();
    let mut surgeon = Surgeon::new(default_backend(), h.view(), w.view(), rows, "h").unwrap();
    let first = surgeon.saliency(2);
    surgeon.remove(2);
    surgeon.inverse();
    let second = surgeon.saliency(4);
    assert!((first + second - least_loss(&h, &w, &[2, 4])).abs() < 1e-9);
}
