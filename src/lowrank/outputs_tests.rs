//! Errors are measured on the samples themselves, not on their moments.

use super::*;
use crate::ErrorKind;
use crate::linalg::{backends, default_backend};
use crate::lowrank::low_rank::energy;
use crate::lowrank::sample::{decaying, uniform};
use crate::lowrank::svd::WeightSvd;

/// Inputs with decaying spectrum and a mean that is not zero.
struct Data {
    x: Array2<f64>,
    mean: Array1<f64>,
    covariance: Array2<f64>,
}

fn data(samples: usize, k: usize, seed: u64) -> Data {
    let spread = decaying(k, k, 0.85, seed) * 4.0;
    let x = uniform(samples, k, seed + 1).dot(&spread) + &uniform(1, k, seed + 2);
    let mean = x.mean_axis(Axis(0)).unwrap();
    let centred = &x - &mean;
    let covariance = centred.t().dot(&centred) / samples as f64;
    Data { x, mean, covariance }
}

impl Data {
    fn moments(&self) -> InputMoments<'_> {
        InputMoments { matrix: self.covariance.view(), mean: Some(&self.mean) }
    }
}

/// Mean squared distance between wanted outputs and those of a split layer without bias.
fn measured(x: &Array2<f64>, y: &Array2<f64>, split: &LowRank) -> f64 {
    let mut outputs = x.dot(&split.a).dot(&split.b);
    if let Some(shift) = &split.bias_shift {
        outputs += shift;
    }
    energy(&(outputs - y)) / x.nrows() as f64
}

const SHAPES: [(usize, usize); 4] = [(24, 10), (10, 24), (16, 16), (12, 1)];

#[test]
fn output_error_is_the_trailing_eigenvalues() {
    for backend in backends() {
        for (k, n) in SHAPES {
            let (w, d) = (uniform(k, n, 1), data(400, k, 2));
            let pca = OutputPca::new(backend, w.view(), d.moments(), "w").unwrap();
            let y = d.x.dot(&w);
            for rank in 1..=k.min(n) {
                let split = pca.split(backend, rank).unwrap();
                let error = measured(&d.x, &y, &split);
                let allowed = 1e-4 * split.error + 1e-20 * pca.curve().total();
                assert!((error - split.error).abs() <= allowed, "{k}×{n} {rank}: {error} {}", split.error);
            }
        }
    }
}

#[test]
fn without_a_mean_the_second_moment_decides_and_no_bias_changes() {
    for (k, n) in SHAPES {
        let (w, d) = (uniform(k, n, 3), data(400, k, 4));
        let moment = d.x.t().dot(&d.x) / 400.0;
        let inputs = InputMoments { matrix: moment.view(), mean: None };
        let pca = OutputPca::new(default_backend(), w.view(), inputs, "w").unwrap();
        let y = d.x.dot(&w);
        for rank in 1..=k.min(n) {
            let split = pca.split(default_backend(), rank).unwrap();
            assert!(split.bias_shift.is_none());
            let gap = (measured(&d.x, &y, &split) - split.error).abs();
            assert!(gap <= 1e-4 * split.error + 1e-20 * pca.curve().total());
        }
    }
}

#[test]
fn no_rank_is_worse_than_the_plain_svd_with_the_same_bias_correction() {
    let backend = default_backend();
    let (w, d) = (uniform(30, 20, 5), data(500, 30, 6));
    let pca = OutputPca::new(backend, w.view(), d.moments(), "w").unwrap();
    let plain = WeightSvd::new(backend, w.view(), "w").unwrap();
    let y = d.x.dot(&w);
    for rank in 1..20 {
        let mut split = plain.split(rank).unwrap();
        split.bias_shift = Some((&w - &split.product(backend)).t().dot(&d.mean));
        assert!(pca.split(backend, rank).unwrap().error < measured(&d.x, &y, &split));
    }
}

#[test]
fn full_rank_reproduces_the_weight_however_little_the_data_spans() {
    for backend in backends() {
        for (k, n) in SHAPES {
            for samples in [1, 2, 5, 300] {
                let (w, d) = (uniform(k, n, 7), data(samples, k, 8));
                let pca = OutputPca::new(backend, w.view(), d.moments(), "w").unwrap();
                let split = pca.split(backend, k.min(n)).unwrap();
                let worst = (split.product(backend) - &w).iter().fold(0.0_f64, |m, x| m.max(x.abs()));
                assert!(worst < 1e-9, "{k}×{n}, {samples} samples: {worst}");
                assert!(split.bias_shift.unwrap().iter().all(|x| x.abs() < 1e-8));
                assert!(split.error <= 1e-12 * pca.curve().total());
            }
        }
    }
}

#[test]
fn unseen_directions_are_completed_like_the_plain_svd_of_the_residual() {
    let backend = default_backend();
    for (k, n) in [(20, 12), (12, 20)] {
        let (w, d) = (decaying(k, n, 0.7, 9), data(5, k, 10));
        let pca = OutputPca::new(backend, w.view(), d.moments(), "w").unwrap();
        // Five centred samples span four directions; from there on the weight itself decides.
        let seen = pca.basis.slice(s![.., ..4]);
        let residual = &w - &w.dot(&seen).dot(&seen.t());
        let plain = WeightSvd::new(backend, residual.view(), "residual").unwrap();
        for extra in 1..6 {
            let left = energy(&(&w - &pca.split(backend, 4 + extra).unwrap().product(backend)));
            let best = plain.curve().error(extra);
            assert!((left - best).abs() < 1e-9 * energy(&w), "{extra}: {left} {best}");
        }
    }
}

#[test]
fn a_weight_of_low_rank_with_little_data_keeps_an_orthonormal_basis() {
    let backend = default_backend();
    for (k, n) in [(20, 12), (12, 20)] {
        let w = uniform(k, 3, 11).dot(&uniform(3, n, 12));
        let d = data(3, k, 13);
        let pca = OutputPca::new(backend, w.view(), d.moments(), "w").unwrap();
        let gram = pca.basis.t().dot(&pca.basis);
        assert!((gram - Array2::<f64>::eye(12)).iter().all(|x| x.abs() < 1e-10));
        let whole = pca.split(backend, 12).unwrap().product(backend);
        assert!((whole - &w).iter().all(|x| x.abs() < 1e-10));
    }
}

#[test]
fn correction_with_unchanged_inputs_is_the_plain_output_pca() {
    let backend = default_backend();
    for (k, n) in [(24, 10), (10, 24)] {
        let (w, d) = (uniform(k, n, 14), data(300, k, 15));
        let mean = w.t().dot(&d.mean);
        let cross = d.covariance.dot(&w);
        let energy = (&w * &cross).sum();
        let target = Target { cross: cross.view(), mean: Some(&mean), energy };
        let pca = OutputPca::new(backend, w.view(), d.moments(), "w").unwrap();
        let same = OutputPca::corrected(backend, w.view(), d.moments(), target, 1e-2, "w").unwrap();
        for rank in [1, 4, 9] {
            let (x, y) = (pca.split(backend, rank).unwrap(), same.split(backend, rank).unwrap());
            let gap = (x.product(backend) - y.product(backend)).iter().fold(0.0_f64, |m, x| m.max(x.abs()));
            assert!(gap < 1e-8, "{gap}");
            assert!((x.error - y.error).abs() < 1e-9 * pca.curve().total());
        }
    }
}

#[test]
fn correction_predicts_its_error_and_beats_the_uncorrected_split() {
    let backend = default_backend();
    for (k, n) in [(24, 10), (10, 24)] {
        let (w, d) = (uniform(k, n, 16), data(400, k, 17));
        // What earlier splits did to the input: a lossy map of low rank, and a shift.
        let lossy = d.x.dot(&uniform(k, k - 3, 18)).dot(&uniform(k - 3, k, 19)) * 0.1 + 0.3;
        let y = d.x.dot(&w);
        let (mean, wanted) = (lossy.mean_axis(Axis(0)).unwrap(), y.mean_axis(Axis(0)).unwrap());
        let (xc, yc) = (&lossy - &mean, &y - &wanted);
        let covariance = xc.t().dot(&xc) / 400.0;
        let cross = xc.t().dot(&yc) / 400.0;
        let inputs = InputMoments { matrix: covariance.view(), mean: Some(&mean) };
        let target = Target { cross: cross.view(), mean: Some(&wanted), energy: energy(&yc) / 400.0 };
        let fixed = OutputPca::corrected(backend, w.view(), inputs, target, 1e-6, "w").unwrap();
        let naive = OutputPca::new(backend, w.view(), inputs, "w").unwrap();
        for rank in 1..=k.min(n) {
            let split = fixed.split(backend, rank).unwrap();
            let error = measured(&lossy, &y, &split);
            assert!((error - split.error).abs() <= 1e-6 * fixed.curve().total());
            assert!(error < measured(&lossy, &y, &naive.split(backend, rank).unwrap()));
        }
    }
}

#[test]
fn moments_that_do_not_fit_are_refused() {
    let (w, d) = (uniform(6, 4, 20), data(50, 5, 21));
    let error = OutputPca::new(default_backend(), w.view(), d.moments(), "fc.weight").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("covariance of 'fc.weight' is 5×5 where 6×6"), "{error}");
    let d = data(50, 6, 22);
    let pca = OutputPca::new(default_backend(), w.view(), d.moments(), "fc.weight").unwrap();
    for rank in [0, 5] {
        assert_eq!(pca.split(default_backend(), rank).unwrap_err().kind(), ErrorKind::Usage);
    }
}

#[test]
fn moments_of_outputs_give_the_split_that_moments_of_inputs_give() {
    let backend = default_backend();
    for (k, n, samples) in [(24, 10, 400), (40, 6, 3)] {
        let (w, d) = (uniform(k, n, 21), data(samples, k, 22));
        let by_inputs = OutputPca::new(backend, w.view(), d.moments(), "w").unwrap();
        let (mean, covariance) = (w.t().dot(&d.mean), w.t().dot(&d.covariance).dot(&w));
        let moments = (&mean, covariance.view());
        let by_outputs = OutputPca::of_outputs(backend, w.clone(), moments, "w").unwrap();
        for rank in 1..=n {
            let [one, other] = [&by_inputs, &by_outputs].map(|pca| pca.split(backend, rank).unwrap());
            assert!((one.error - other.error).abs() <= 1e-9 * by_inputs.curve().total());
            let (one, other) = (measured(&d.x, &d.x.dot(&w), &one), measured(&d.x, &d.x.dot(&w), &other));
            assert!((one - other).abs() <= 1e-7 * by_inputs.curve().total(), "{rank}: {one} {other}");
        }
    }
}

/// The inputs were changed by a map, so that W gives other outputs; a map of its outputs brings most of them back.
#[test]
fn a_correction_by_outputs_is_better_than_none() {
    let backend = default_backend();
    let (w, d) = (uniform(30, 8, 31), data(500, 30, 32));
    let wanted = d.x.dot(&w);
    let changed = &d.x * 0.5 + d.x.dot(&uniform(30, 30, 33)) * 0.02;
    let given = changed.dot(&w);
    let (mean, mean_wanted) = (given.mean_axis(Axis(0)).unwrap(), wanted.mean_axis(Axis(0)).unwrap());
    let (centred, centred_wanted) = (&given - &mean, &wanted - &mean_wanted);
    let (covariance, cross) = (centred.t().dot(&centred) / 500.0, centred.t().dot(&centred_wanted) / 500.0);
    let target = Target { cross: cross.view(), mean: Some(&mean_wanted), energy: energy(&centred_wanted) / 500.0 };
    let inputs = InputMoments { matrix: covariance.view(), mean: Some(&mean) };
    let pca = OutputPca::corrected_outputs(backend, w.view(), inputs, target, 1e-2, "w").unwrap();
    let plain = OutputPca::new(backend, w.view(), d.moments(), "w").unwrap();
    for rank in 1..=8 {
        let split = pca.split(backend, rank).unwrap();
        let (error, before) =
            (measured(&changed, &wanted, &split), measured(&changed, &wanted, &plain.split(backend, rank).unwrap()));
        assert!(error < 0.9 * before, "{rank}: {error} {before}");
        assert!((error - split.error).abs() <= 1e-9 * target.energy, "{rank}: {error} {}", split.error);
    }
}
