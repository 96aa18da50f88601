//! Times the linear algebra of every backend that is built, and the rank allocation.
//!
//! `cargo bench --bench linalg -- [OPERATION SIZE [REPEATS]]`, operations `svd_f32`, `svd_f64`, `eigh_f64`,
//! `matmul_f32`, `matmul_f64`, `allocate` (SIZE = layers). Without arguments all of them run at small
//! sizes. Each line is `operation size backend seconds`, the best of the repeats;
//! `bench/linalg.py` sets them beside NumPy and SciPy.

// Small numbers that the tests wrote themselves.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::case_sensitive_file_extension_comparisons,
    clippy::needless_update
)]

use std::time::Instant;

use ndarray::Array2;
use paredown::internals::factorize::ErrorCurve;
use paredown::internals::linalg::{Backend, backends};
use paredown::internals::plan::knapsack::{Choice, Layer, solve};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[path = "common/network.rs"]
mod network;

use network::network;

const SMALL: [(&str, usize); 6] = [
    ("svd_f32", 512),
    ("svd_f64", 512),
    ("eigh_f64", 512),
    ("matmul_f32", 1024),
    ("matmul_f64", 1024),
    ("allocate", 200),
];

fn main() {
    // `cargo bench` adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let number = |i: usize| arguments.get(i).and_then(|a| a.parse::<usize>().ok());
    let repeats = number(2).unwrap_or(3);
    match (arguments.first(), number(1)) {
        (Some(operation), Some(size)) => run(operation, size, repeats),
        _ => SMALL.iter().for_each(|(operation, size)| run(operation, *size, repeats)),
    }
}

fn run(operation: &str, size: usize, repeats: usize) {
    if operation == "allocate" {
        let layers = network(size, 0);
        let dense: u64 = layers.iter().filter_map(|l| l.choices.last()).map(|c| c.cost).sum();
        let seconds = best(repeats, || drop(solve(&layers, dense / 2)));
        println!("allocate {size} - {seconds:.6}");
        return;
    }
    for backend in backends() {
        let seconds = best_of_operation(backend, operation, size, repeats);
        println!("{operation} {size} {} {seconds:.6}", backend.name());
    }
}

fn best_of_operation(backend: &dyn Backend, operation: &str, n: usize, repeats: usize) -> f64 {
    let a = uniform(n);
    let single = a.mapv(|x| x as f32);
    match operation {
        "svd_f32" => best(repeats, || drop(backend.svd_f32(single.view(), "a"))),
        "svd_f64" => best(repeats, || drop(backend.svd_f64(a.view(), "a"))),
        "eigh_f64" => {
            let mut gram = Array2::zeros((n, n));
            backend.syrk(a.view(), &mut gram);
            best(repeats, || drop(backend.eigh(gram.view(), "a")))
        }
        "matmul_f32" => best(repeats, || drop(backend.matmul_f32(single.view(), single.view()))),
        "matmul_f64" => best(repeats, || drop(backend.matmul(a.view(), a.view()))),
        other => panic!("no operation '{other}'"),
    }
}

/// The shortest of a few runs, in seconds.
fn best(repeats: usize, work: impl Fn()) -> f64 {
    let once = || {
        let began = Instant::now();
        work();
        began.elapsed().as_secs_f64()
    };
    (0..repeats.max(1)).map(|_| once()).fold(f64::INFINITY, f64::min)
}

fn uniform(n: usize) -> Array2<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    Array2::from_shape_simple_fn((n, n), || rng.random_range(-1.0..1.0))
}
