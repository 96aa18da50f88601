//! Times what calibration spends its time on, against plain products of the same size.
//!
//! `cargo bench --bench calibrate -- [OPERATION K [N]]`, operations `gram` (rows of K inputs into a K×K Gram matrix,
//! GFLOP/s beside a plain matmul's) and `obs` (all units of a K×N weight removed one by one). Without arguments
//! both run at small sizes.

use std::time::Instant;

use ndarray::Array2;
use paredown::calibrate::moments::Moments;
use paredown::linalg::default_backend;
use paredown::score::Surgeon;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Rows that are added to the Gram matrix at once.
const ROWS: usize = 1024;

fn main() {
    // `cargo bench` adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let number = |i: usize| arguments.get(i).and_then(|a| a.parse::<usize>().ok());
    match (arguments.first().map(String::as_str), number(1)) {
        (Some("gram"), Some(k)) => gram(k),
        (Some("obs"), Some(k)) => obs(k, number(2).unwrap_or(k / 4)),
        _ => {
            gram(768);
            obs(768, 192);
        }
    }
}

fn noise(rows: usize, columns: usize) -> Array2<f64> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    Array2::from_shape_simple_fn((rows, columns), || random.random_range(-1.0..1.0))
}

/// The best of three times, in seconds.
fn best(mut work: impl FnMut()) -> f64 {
    let time = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..3).map(|_| time(&mut work)).fold(f64::INFINITY, f64::min)
}

/// A Gram matrix needs half of a product's operations: one triangle. Both count as 2·rows·K² here.
fn gram(k: usize) {
    let x = noise(4 * ROWS, k);
    let empty = Array2::zeros((ROWS, 0));
    let sums = best(|| {
        let mut moments = Moments::new(k, 0);
        for first in (0..x.nrows()).step_by(ROWS) {
            moments.add(default_backend(), x.slice(ndarray::s![first..first + ROWS, ..]), empty.view());
        }
        assert!(moments.rows == x.nrows());
    });
    let product = best(|| assert!(default_backend().matmul(x.t(), x.view()).nrows() == k));
    let giga = |seconds: f64| 2.0 * (x.nrows() * k * k) as f64 / seconds / 1e9;
    println!("gram {k} {:.1} GFLOP/s, matmul {:.1} GFLOP/s, ratio {:.2}", giga(sums), giga(product), product / sums);
}

fn obs(k: usize, n: usize) {
    let x = noise(2 * k, k);
    let mut h = Array2::zeros((k, k));
    default_backend().syrk(x.view(), &mut h);
    h /= 2.0 * k as f64;
    h.diag_mut().mapv_inplace(|d| d + 0.01);
    let w = noise(k, n);
    let start = Instant::now();
    let units = (0..k).map(|row| vec![row]).collect();
    let Ok(mut surgeon) = Surgeon::new(default_backend(), h.view(), w.view(), units, "h") else { return };
    let mut left: Vec<usize> = (0..k).collect();
    while !left.is_empty() {
        let cost = |&unit: &usize| surgeon.saliency(unit);
        let Some(cheapest) = (0..left.len()).min_by(|&a, &b| cost(&left[a]).total_cmp(&cost(&left[b]))) else { break };
        surgeon.remove(left.swap_remove(cheapest));
    }
    println!("obs {k}×{n} {:.2} s", start.elapsed().as_secs_f64());
}
