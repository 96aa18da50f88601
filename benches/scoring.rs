//! Times what `obs` and `lstsq` spend their time on, beside plain products of matrices of the same size, one thread each
//! where nothing else is said:
//!
//! * `gram`: sums over rows in f64, and of f32 products, beside `XᵀX` in either precision;
//! * `downdate`: a panel of removals from a matrix in surgery, beside the products `K×64 · 64×K` and `K×128 · 128×K` that
//!   update `H⁻¹` and `W Wᵀ`;
//! * `ridge`: a system of `lstsq` at one λ and at four of them, which are solved side by side on all threads, beside the product
//!   `K×K · K×N`; the throughput counts a Cholesky factorization and two triangular solves for each λ;
//! * `obs`: all removals of a layer, on all threads.
//!
//! `cargo bench --bench scoring`; throughput counts the multiplications of the plain products.

// Small numbers that the benchmark wrote itself.
#![allow(clippy::cast_possible_truncation)]

use std::sync::LazyLock;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use paredown::internals::calibrate::Sums;
use paredown::internals::linalg::default_backend;
use paredown::internals::linalg::ridge::Ridge;
use paredown::internals::score::surgeon::Surgeon;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Rows that a panel of the surgeon holds.
const PANEL: usize = 64;

/// Inputs and outputs of the layers: the feed-forward layers of a small and of a base-size transformer.
const LAYERS: [(usize, usize); 2] = [(1536, 384), (3072, 768)];

/// What products of `default_backend()` run on.
fn one_thread() -> &'static ThreadPool {
    static POOL: LazyLock<ThreadPool> =
        LazyLock::new(|| ThreadPoolBuilder::new().num_threads(1).build().expect("a thread"));
    &POOL
}

fn uniform(rows: usize, columns: usize) -> Array2<f64> {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    Array2::from_shape_simple_fn((rows, columns), || random.random_range(-1.0..1.0))
}

/// A covariance of `k` inputs with its ridge, and a weight.
fn layer(k: usize, n: usize) -> (Array2<f64>, Array2<f64>) {
    let mut hessian = Array2::zeros((k, k));
    default_backend().syrk(uniform(2 * k, k).view(), &mut hessian);
    hessian.diag_mut().mapv_inplace(|d| d * 1.01);
    (hessian, uniform(k, n))
}

fn gram(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gram");
    group.sample_size(10);
    for (k, _) in LAYERS {
        let x = uniform(4096, k);
        let none = Array2::zeros((4096, 0));
        group.throughput(Throughput::Elements((x.nrows() * k * k) as u64));
        let single = x.mapv(|value| value as f32).reversed_axes().as_standard_layout().into_owned();
        let mut sums = Array2::zeros((k, k));
        group.bench_function(format!("sums {k}"), |bencher| {
            bencher.iter(|| one_thread().install(|| Sums::of(default_backend(), x.view(), none.view())));
        });
        group.bench_function(format!("f32 products, f64 sums {k}"), |bencher| {
            bencher.iter(|| default_backend().add_product_f32(single.view(), single.t(), sums.view_mut()));
        });
        group.bench_function(format!("matmul f32 {k}"), |bencher| {
            bencher.iter(|| default_backend().matmul_f32(single.view(), single.t()));
        });
        group.bench_function(format!("matmul {k}"), |bencher| {
            bencher.iter(|| default_backend().matmul(x.t(), x.view()));
        });
    }
}

fn downdate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("downdate");
    group.sample_size(10);
    for (k, n) in LAYERS {
        let (hessian, weight) = layer(k, n);
        let units: Vec<Vec<usize>> = (0..k).map(|row| vec![row]).collect();
        let surgeon =
            Surgeon::new(default_backend(), hessian.view(), weight.view(), units, "layer").expect("a surgeon");
        let panel = |columns: usize| (uniform(k, columns), uniform(columns, k));
        let products = [panel(PANEL), panel(2 * PANEL)];
        group.throughput(Throughput::Elements((3 * PANEL * k * k) as u64));
        group.bench_function(format!("surgeon {k}"), |bencher| {
            bencher.iter_batched(
                || surgeon.clone(),
                |surgeon| one_thread().install(|| without_panel(surgeon)),
                BatchSize::LargeInput,
            );
        });
        group.bench_function(format!("matmul {k}"), |bencher| {
            bencher
                .iter(|| products.each_ref().map(|(left, right)| default_backend().matmul(left.view(), right.view())));
        });
    }
}

fn without_panel(mut surgeon: Surgeon<'_>) -> Surgeon<'_> {
    (0..PANEL).for_each(|unit| surgeon.remove(unit));
    surgeon
}

fn ridge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ridge");
    group.sample_size(10);
    for (k, n) in LAYERS {
        let (covariance, cross) = layer(k, n);
        let ridge = Ridge::primal(default_backend(), &covariance, cross.view(), None);
        let mean = covariance.diag().sum() / k as f64;
        let solve = k * k * k / 6 + k * k * n;
        for lambdas in [&[1e-2][..], &[1e-3, 1e-2, 1e-1, 1.0]] {
            let lambdas: Vec<f64> = lambdas.iter().map(|share| share * mean).collect();
            group.throughput(Throughput::Elements((lambdas.len() * solve) as u64));
            let name = format!("{} of {k}", lambdas.len());
            group.bench_function(name, |bencher| bencher.iter(|| ridge.path(&lambdas, "layer").expect("solutions")));
        }
        group.throughput(Throughput::Elements((k * k * n) as u64));
        group.bench_function(format!("matmul {k}"), |bencher| {
            bencher.iter(|| default_backend().matmul(covariance.view(), cross.view()));
        });
    }
}

fn obs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("obs");
    group.sample_size(10);
    for (k, n) in LAYERS {
        let (hessian, weight) = layer(k, n);
        let remove_all = || {
            let units: Vec<Vec<usize>> = (0..k).map(|row| vec![row]).collect();
            let mut surgeon =
                Surgeon::new(default_backend(), hessian.view(), weight.view(), units, "layer").expect("a surgeon");
            let mut left: Vec<usize> = (0..k).collect();
            while !left.is_empty() {
                let costs = left.iter().map(|&unit| surgeon.saliency(unit));
                let cheapest = costs.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(place, _)| place);
                surgeon.remove(left.remove(cheapest));
            }
        };
        group.bench_function(format!("layer {k}"), |bencher| bencher.iter(remove_all));
    }
}

criterion_group!(scoring, gram, downdate, ridge, obs);
criterion_main!(scoring);
