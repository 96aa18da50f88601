//! Every backend is held to the definition of each decomposition, and to the same bits under any
//! number of threads; with the feature `lapack`, faer and OpenBLAS are held against each other.

use ndarray::{Array1, Array2, ArrayView2, s};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Backend, backends};

fn random(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Array2::from_shape_simple_fn((rows, columns), || rng.random_range(-1.0..1.0))
}

fn spd(n: usize, seed: u64) -> Array2<f64> {
    let x = random(2 * n, n, seed);
    x.t().dot(&x) + Array2::<f64>::eye(n) * 0.1
}

/// The matrix with its upper triangle overwritten, which nobody may read.
fn lower_only(a: &Array2<f64>) -> Array2<f64> {
    let mut lower = a.clone();
    for i in 0..a.nrows() {
        lower.slice_mut(s![i, i + 1..]).fill(7.0);
    }
    lower
}

fn max_abs(a: ArrayView2<'_, f64>) -> f64 {
    a.iter().fold(0.0, |m, x| m.max(x.abs()))
}

fn close(a: &Array2<f64>, b: &Array2<f64>, tolerance: f64) {
    assert_eq!(a.dim(), b.dim());
    let gap = max_abs((a - b).view());
    assert!(gap <= tolerance, "differ by {gap:e}, allowed {tolerance:e}");
}

const SHAPES: [(usize, usize); 6] = [(1, 1), (5, 3), (3, 5), (40, 40), (200, 30), (150, 160)];

#[test]
fn svd_rebuilds_the_matrix_from_orthonormal_factors() {
    for backend in backends() {
        for (m, n) in SHAPES {
            let a = random(m, n, 1);
            let svd = backend.svd_f64(a.view(), "a").unwrap();
            let k = m.min(n);
            close(&(&svd.u * &svd.sigma).dot(&svd.vt), &a, 1e-12);
            close(&svd.u.t().dot(&svd.u), &Array2::eye(k), 1e-12);
            close(&svd.vt.dot(&svd.vt.t()), &Array2::eye(k), 1e-12);
            assert!(svd.sigma.windows(2).into_iter().all(|w| w[0] >= w[1]));
        }
    }
}

#[test]
fn single_precision_svd_is_the_double_one_rounded() {
    for backend in backends() {
        for (m, n) in SHAPES {
            let a = random(m, n, 2);
            let single = backend.svd_f32(a.mapv(|x| x as f32).view(), "a").unwrap();
            let double = backend.svd_f64(a.view(), "a").unwrap();
            for (x, y) in single.sigma.iter().zip(&double.sigma) {
                assert!((f64::from(*x) - y).abs() <= 2e-6 * double.sigma[0]);
            }
            let rebuilt = (&single.u * &single.sigma).dot(&single.vt).mapv(f64::from);
            close(&rebuilt, &a, 2e-6 * double.sigma[0]);
        }
    }
}

#[test]
fn svd_of_rank_deficient_and_zero_matrices_stays_orthonormal() {
    for backend in backends() {
        let thin = random(60, 4, 3).dot(&random(4, 50, 4));
        for a in [thin, Array2::zeros((60, 50))] {
            let svd = backend.svd_f64(a.view(), "a").unwrap();
            assert!(svd.sigma.slice(s![4..]).iter().all(|&x| x < 1e-12));
            close(&svd.u.t().dot(&svd.u), &Array2::eye(50), 1e-12);
            close(&svd.vt.dot(&svd.vt.t()), &Array2::eye(50), 1e-12);
        }
    }
}

/// What is left of a weight once the directions that the data spans are taken away.
#[test]
fn svd_of_a_projected_matrix_is_finite_and_orthonormal() {
    for backend in backends() {
        for (m, n, spanned) in [(1280, 1000, 121), (300, 260, 200)] {
            let (w, v) = (random(m, n, 41), backend.qr(random(n, spanned, 42).view(), "v").unwrap().q);
            let rest = &w - &w.dot(&v).dot(&v.t());
            let svd = backend.svd_f64(rest.view(), "rest").unwrap();
            close(&svd.vt.dot(&svd.vt.t()), &Array2::eye(n), 1e-10);
            close(&(&svd.u * &svd.sigma).dot(&svd.vt), &rest, 1e-10);
        }
    }
}

#[test]
fn eigh_reads_the_lower_triangle_and_sorts_from_large_to_small() {
    for backend in backends() {
        for n in [1, 2, 33, 150] {
            let a = random(n, n, 5);
            let a = &a + &a.t();
            let eigh = backend.eigh(lower_only(&a).view(), "a").unwrap();
            close(&(&eigh.vectors * &eigh.values).dot(&eigh.vectors.t()), &a, 1e-12);
            close(&eigh.vectors.t().dot(&eigh.vectors), &Array2::eye(n), 1e-12);
            assert!(eigh.values.windows(2).into_iter().all(|w| w[0] >= w[1]));
        }
    }
}

#[test]
fn cholesky_reads_the_lower_triangle_solves_and_inverts() {
    for backend in backends() {
        for n in [1, 7, 130] {
            let a = spd(n, 6);
            let b = random(n, 5, 7);
            let whole = a.clone();
            let a = lower_only(&whole);
            let l = backend.cholesky(a.view(), "a").unwrap();
            close(&l.dot(&l.t()), &whole, 1e-11);
            assert!(l.indexed_iter().all(|((i, j), &x)| i >= j || x == 0.0));
            let x = backend.solve_spd(a.view(), b.view(), "a").unwrap();
            close(&whole.dot(&x), &b, 1e-11);
            let inverse = backend.inverse_spd(a.view(), "a").unwrap();
            close(&whole.dot(&inverse), &Array2::eye(n), 1e-11);
            assert_eq!(inverse, inverse.t());
        }
    }
}

#[test]
fn qr_rebuilds_the_matrix() {
    for backend in backends() {
        for (m, n) in SHAPES {
            let a = random(m, n, 8);
            let qr = backend.qr(a.view(), "a").unwrap();
            close(&qr.q.dot(&qr.r), &a, 1e-12);
            close(&qr.q.t().dot(&qr.q), &Array2::eye(m.min(n)), 1e-12);
            assert!(qr.r.indexed_iter().all(|((i, j), &x)| i <= j || x == 0.0));
        }
    }
}

#[test]
fn products_accept_any_memory_layout() {
    for backend in backends() {
        let (a, b) = (random(30, 20, 9), random(20, 25, 10));
        let expected = a.dot(&b);
        let (at, bt) = (a.t().as_standard_layout().to_owned(), b.t().as_standard_layout().to_owned());
        close(&backend.matmul(a.view(), b.view()), &expected, 1e-13);
        close(&backend.matmul(at.t(), bt.t()), &expected, 1e-13);
        let (wide, high) = (random(60, 40, 11), random(40, 50, 12));
        let (a, b) = (wide.slice(s![..;2, ..;2]), high.slice(s![..;-2, ..;2]));
        close(&backend.matmul(a, b), &a.dot(&b), 1e-13);
        let single = backend.matmul_f32(a.mapv(|x| x as f32).view(), b.mapv(|x| x as f32).view());
        close(&single.mapv(f64::from), &a.dot(&b), 1e-5);
    }
}

#[test]
fn syrk_accumulates_symmetric_grams_in_double_precision() {
    for backend in backends() {
        let x = random(1300, 40, 14).mapv(|x| x as f32);
        let wide = x.mapv(f64::from);
        let mut gram = Array2::eye(40);
        backend.syrk_f32(x.view(), &mut gram);
        close(&gram, &(Array2::eye(40) + wide.t().dot(&wide)), 1e-11);
        assert_eq!(gram, gram.t());
    }
}

#[test]
fn values_that_are_not_finite_are_refused_by_name() {
    for backend in backends() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut a = spd(6, 15);
            a[[4, 2]] = bad;
            let single = a.mapv(|x| x as f32);
            let b = Array2::zeros((6, 1));
            let failures = [
                backend.svd_f32(single.view(), "layer.weight").err(),
                backend.svd_f64(a.view(), "layer.weight").err(),
                backend.eigh(a.view(), "layer.weight").err(),
                backend.cholesky(a.view(), "layer.weight").err(),
                backend.solve_spd(a.view(), b.view(), "layer.weight").err(),
                backend.solve_spd(spd(6, 15).view(), a.view(), "layer.weight").err(),
                backend.inverse_spd(a.view(), "layer.weight").err(),
                backend.qr(a.view(), "layer.weight").err(),
            ];
            for failure in failures {
                let text = failure.expect("refused").to_string();
                assert!(text.contains("'layer.weight'") && text.contains("[4, 2]"), "{text}");
            }
        }
    }
}

#[test]
fn an_indefinite_matrix_has_no_cholesky_factor() {
    for backend in backends() {
        let mut a = Array2::eye(4);
        a[[2, 2]] = -1.0;
        let text = backend.cholesky(a.view(), "gram").unwrap_err().to_string();
        assert!(text.contains("'gram' is not positive definite"), "{text}");
        assert!(backend.solve_spd(a.view(), a.view(), "gram").is_err());
        assert!(backend.inverse_spd(a.view(), "gram").is_err());
    }
}

/// All results of a backend on matrices large enough to be worth threads.
fn everything(backend: &dyn Backend) -> Vec<Array2<f64>> {
    let a = random(300, 260, 16);
    let g = spd(260, 17);
    let column = |v: Array1<f64>| v.insert_axis(ndarray::Axis(1));
    let svd = backend.svd_f64(a.view(), "a").unwrap();
    let single = backend.svd_f32(a.mapv(|x| x as f32).view(), "a").unwrap();
    let eigh = backend.eigh(g.view(), "g").unwrap();
    let qr = backend.qr(a.view(), "a").unwrap();
    let mut gram = g.clone();
    backend.syrk(a.view(), &mut gram);
    vec![
        svd.u,
        column(svd.sigma),
        svd.vt,
        single.u.mapv(f64::from),
        single.vt.mapv(f64::from),
        eigh.vectors,
        column(eigh.values),
        backend.solve_spd(g.view(), a.t(), "g").unwrap(),
        backend.inverse_spd(g.view(), "g").unwrap(),
        qr.q,
        qr.r,
        backend.matmul(a.view(), g.view()),
        gram,
    ]
}

#[test]
fn results_are_the_same_bits_for_any_number_of_threads() {
    for backend in backends() {
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| everything(backend))
        };
        let one = with(1);
        for threads in [2, 5] {
            assert!(with(threads) == one, "{} differs with {threads} threads", backend.name());
        }
    }
}

/// The second implementation as an oracle: what is unique must agree.
#[cfg(feature = "lapack")]
#[test]
fn faer_and_lapack_agree() {
    let (ours, theirs) = (super::Faer, super::Lapack);
    for (m, n) in SHAPES {
        let a = random(m, n, 18);
        let (x, y) = (ours.svd_f64(a.view(), "a").unwrap(), theirs.svd_f64(a.view(), "a").unwrap());
        assert!((&x.sigma - &y.sigma).iter().all(|d| d.abs() < 1e-12));
        let half = |s: &super::Svd<f64>| {
            let r = m.min(n).div_ceil(2);
            (&s.u.slice(s![.., ..r]) * &s.sigma.slice(s![..r])).dot(&s.vt.slice(s![..r, ..]))
        };
        close(&half(&x), &half(&y), 1e-10);
        let g = spd(n, 19);
        let (x, y) = (ours.eigh(g.view(), "g").unwrap(), theirs.eigh(g.view(), "g").unwrap());
        assert!((&x.values - &y.values).iter().all(|d| d.abs() < 1e-10));
        let inverse = |b: &dyn Backend| b.inverse_spd(g.view(), "g").unwrap();
        close(&inverse(&ours), &inverse(&theirs), 1e-10);
        let b = random(n, 3, 20);
        let solve = |k: &dyn Backend| k.solve_spd(g.view(), b.view(), "g").unwrap();
        close(&solve(&ours), &solve(&theirs), 1e-10);
    }
}

#[test]
fn a_product_is_added_to_the_first_columns_only() {
    for backend in backends() {
        let (a, b, start) = (random(7, 40, 11), random(40, 5, 12), random(7, 9, 13));
        let mut wide = random(7, 20, 14);
        wide.slice_mut(s![.., ..9]).assign(&start);
        let mut sum = start.clone();
        backend.add_product(-2.0, a.view(), b.view(), sum.view_mut());
        backend.add_product(-2.0, a.view(), b.view(), wide.slice_mut(s![.., ..9]));
        let mut expected = start;
        expected.slice_mut(s![.., ..5]).scaled_add(-2.0, &a.dot(&b));
        close(&sum, &expected, 1e-12);
        close(&wide.slice(s![.., ..9]).to_owned(), &expected, 1e-12);
    }
}

#[test]
fn a_product_in_single_precision_is_added_in_double() {
    for backend in backends() {
        let (a, b) = (random(30, 64, 15).mapv(|x| x as f32), random(64, 700, 16).mapv(|x| x as f32));
        let mut sum = Array2::from_elem((30, 700), 1e9);
        backend.add_product_f32(a.view(), b.view(), sum.view_mut());
        let exact = a.mapv(f64::from).dot(&b.mapv(f64::from));
        close(&(sum - 1e9), &exact, 1e-5);
    }
}

/// What the feature promises: the program computes with the system's LAPACK.
#[test]
fn the_default_backend_is_that_of_the_feature() {
    let expected = if cfg!(feature = "lapack") { "lapack" } else { "faer" };
    assert_eq!((super::default_backend().name(), backends()[0].name()), (expected, expected));
}
