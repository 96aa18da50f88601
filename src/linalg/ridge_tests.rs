//! The two forms against each other, against the objective, and against a closed form.

use ndarray::{Array2, Axis};

use super::*;
use crate::linalg::default_backend;

fn noise(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Array2::from_shape_simple_fn((rows, columns), || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(state >> 33).unwrap()) / f64::from(1_u32 << 30) - 1.0
    })
}

fn centred(a: &Array2<f64>) -> Array2<f64> {
    a - &a.mean_axis(Axis(0)).unwrap()
}

#[test]
fn without_ridge_the_solution_for_a_population_is_the_closed_form_optimum() {
    // y = Wᵀx over all of x, of which only the kept part R is seen: the optimum is W_R + C_RR⁻¹ C_RP W_P.
    let (k, kept, n) = (12, 7, 5);
    let factor = noise(40, k, 3);
    let (c, w) = (factor.t().dot(&factor) / 40.0, noise(k, n, 4));
    let (r, p): (Vec<usize>, Vec<usize>) = ((0..kept).collect(), (kept..k).collect());
    let block = |a: &[usize], b: &[usize]| c.select(Axis(0), a).select(Axis(1), b);
    let cross = c.dot(&w).select(Axis(0), &r);
    let w0 = w.select(Axis(0), &r);
    let kept = block(&r, &r);
    let found = Ridge::primal(default_backend(), &kept, cross.view(), Some(w0.view())).weights(0.0, "c").unwrap();
    let right = block(&r, &p).dot(&w.select(Axis(0), &p));
    let expected = &w0 + &default_backend().solve_spd(kept.view(), right.view(), "c").unwrap();
    assert!((&found - &expected).iter().all(|d| d.abs() < 1e-6));
}

#[test]
fn the_solution_minimizes_its_objective() {
    let (x, y, w0) = (centred(&noise(30, 6, 1)), centred(&noise(30, 2, 2)), noise(6, 2, 3));
    let lambda = 0.3;
    let (covariance, cross) = (x.t().dot(&x) / 30.0, x.t().dot(&y) / 30.0);
    for start in [Some(w0.view()), None] {
        let w = Ridge::primal(default_backend(), &covariance, cross.view(), start).weights(lambda, "x").unwrap();
        let pull = |w: &Array2<f64>| match start {
            Some(start) => (w - &start).mapv(|v| v * v).sum(),
            None => w.mapv(|v| v * v).sum(),
        };
        let loss = |w: &Array2<f64>| (&y - &x.dot(w)).mapv(|v| v * v).sum() / 30.0 + lambda * pull(w);
        let best = loss(&w);
        for (i, j) in [(0, 0), (3, 1), (5, 0)] {
            for step in [-1e-3, 1e-3] {
                let mut other = w.clone();
                other[[i, j]] += step;
                assert!(loss(&other) > best);
            }
        }
    }
}

#[test]
fn both_forms_give_the_same_weights_and_dimension() {
    for (rows, inputs) in [(9, 9), (40, 120), (120, 40)] {
        let (x, y, w0) = (centred(&noise(rows, inputs, 5)), centred(&noise(rows, 3, 6)), noise(inputs, 3, 7));
        let n = rows as f64;
        let (covariance, cross) = (x.t().dot(&x) / n, x.t().dot(&y) / n);
        let primal = Ridge::primal(default_backend(), &covariance, cross.view(), Some(w0.view()));
        let dual = Ridge::dual(default_backend(), x.view(), y.view(), w0.view());
        for lambda in [1e-2, 1.0] {
            let (a, d) = primal.weights_and_dimension(lambda, "x").unwrap();
            let (b, e) = dual.weights_and_dimension(lambda, "x").unwrap();
            assert!((&a - &b).iter().all(|d| d.abs() < 1e-9));
            assert!((&a - &primal.weights(lambda, "x").unwrap()).iter().all(|d| d.abs() < 1e-12));
            let values = default_backend().eigh(covariance.view(), "c").unwrap().values;
            let exact: f64 = values.iter().map(|v| v / (v + lambda)).sum();
            let slack = 0.2 * exact + 0.5;
            assert!((d - exact).abs() < slack && (e - exact).abs() < slack, "{rows}×{inputs}: {d}, {e}, {exact}");
        }
    }
}

#[test]
fn a_path_is_its_single_solutions_on_any_number_of_threads() {
    let (x, y, w0) = (centred(&noise(200, 80, 8)), centred(&noise(200, 4, 9)), noise(80, 4, 10));
    let (covariance, cross) = (x.t().dot(&x) / 200.0, x.t().dot(&y) / 200.0);
    let ridge = Ridge::primal(default_backend(), &covariance, cross.view(), Some(w0.view()));
    let lambdas = [1e-3, 1e-2, 1e-1, 1.0];
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let path = pool.install(|| ridge.path(&lambdas, "x")).unwrap();
        for (found, &lambda) in path.iter().zip(&lambdas) {
            assert_eq!(found, ridge.weights(lambda, "x").unwrap());
        }
    }
}

#[test]
fn a_strength_is_a_share_of_the_variance_and_never_zero() {
    assert!((strength(0.1, 30.0, 60.0, 3) - 1.0).abs() < 1e-12);
    assert!((strength(0.1, 0.0, 60.0, 3) / 2e-8 - 1.0).abs() < 1e-12);
    assert_eq!(strength(0.1, 0.0, 0.0, 3), 1.0);
}

#[test]
fn a_covariance_with_small_negative_eigenvalues_is_solved_with_the_least_ridge_that_is_enough() {
    let direction = noise(6, 1, 5);
    let covariance = direction.dot(&direction.t()) - Array2::<f64>::eye(6) * 1e-6;
    let cross = covariance.dot(&noise(6, 2, 6));
    let ridge = Ridge::primal(default_backend(), &covariance, cross.view(), None);
    let found = ridge.weights(1e-8, "c").unwrap();
    assert_eq!(found, ridge.weights(1e-5, "c").unwrap());
    let (same, dimension) = ridge.weights_and_dimension(1e-8, "c").unwrap();
    assert!(same.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-9) && dimension < 2.0, "{dimension}");
    let broken = Array2::from_elem((6, 6), f64::NAN);
    let error = Ridge::primal(default_backend(), &broken, cross.view(), None).weights(1.0, "c").unwrap_err();
    assert!(error.to_string().contains("NaN"), "{error}");
}
