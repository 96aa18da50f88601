//! Nonnegative factors of a nonnegative weight: W ≈ A·B with A ≥ 0 and B ≥ 0.
//!
//! Hierarchical alternating least squares (Cichocki & Phan 2009): each entry of a factor is set to its
//! exact minimizer in turn, so ‖W − AB‖² never grows. The start is NNDSVDa (Boutsidis & Gallopoulos
//! 2008): the positive or negative part of each singular pair, zeros filled with the mean of W. The
//! iteration stops when the summed projected gradient of a sweep has fallen to 1e-4 of the first
//! sweep's. Updates, order and stopping rule are those of scikit-learn's `solver='cd'`, so that the two
//! can be compared number by number.

use ndarray::{Array2, ArrayView1, ArrayView2};

use super::low_rank::{LowRank, energy, require_rank};
use crate::linalg::Backend;
use crate::{Error, Result};

/// Entries of the singular vectors below this count as zero, as in scikit-learn.
const NEGLIGIBLE: f64 = 1e-6;

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NmfOptions {
    /// Projected gradient at which to stop, as a share of the first sweep's.
    pub tolerance: f64,
    /// Sweeps over both factors after which to stop in any case.
    pub max_sweeps: usize,
}

impl Default for NmfOptions {
    fn default() -> Self {
        Self { tolerance: 1e-4, max_sweeps: 1000 }
    }
}

/// Nonnegative factors and how the iteration came to them.
#[derive(Debug, Clone)]
pub struct Nmf {
    /// The factors, balanced; `error` is ‖W − AB‖²_F.
    pub split: LowRank,
    /// ‖W − AB‖²_F after each sweep; never grows, up to rounding.
    pub errors: Vec<f64>,
    /// Whether the tolerance was reached.
    pub converged: bool,
}

/// A rank-r split of W (K×N) into nonnegative factors.
///
/// # Errors
/// Negative entries (the message names their share), entries that are not finite
/// ([`ErrorKind::Input`](crate::ErrorKind::Input)); rank 0 or above full.
pub fn split(
    backend: &dyn Backend,
    w: ArrayView2<'_, f64>,
    rank: usize,
    options: NmfOptions,
    name: &str,
) -> Result<Nmf> {
    require_rank(rank, w.nrows().min(w.ncols()), name)?;
    require_nonnegative(w, name)?;
    let (a, b) = nndsvda(backend, w, rank, name)?;
    Ok(descend(backend, w, a, b.reversed_axes(), options))
}

/// The same from factors that the caller chose, A K×r and B r×N, both ≥ 0.
///
/// # Errors
/// Negative entries in W; start factors that are negative, not finite or of other shapes.
pub fn split_from(
    backend: &dyn Backend,
    w: ArrayView2<'_, f64>,
    a: Array2<f64>,
    b: Array2<f64>,
    options: NmfOptions,
    name: &str,
) -> Result<Nmf> {
    require_nonnegative(w, name)?;
    let (k, n) = w.dim();
    if a.nrows() != k || b.ncols() != n || a.ncols() != b.nrows() {
        return Err(Error::input(format!("the start factors of '{name}' do not fit {k}×{n}")));
    }
    if a.iter().chain(&b).any(|x| !x.is_finite() || *x < 0.0) {
        return Err(Error::input(format!("the start factors of '{name}' are not all ≥ 0 and finite")));
    }
    Ok(descend(backend, w, a, b.reversed_axes(), options))
}

pub(crate) fn require_nonnegative(w: ArrayView2<'_, f64>, name: &str) -> Result<()> {
    let negative = w.iter().filter(|&&x| x < 0.0).count();
    if negative > 0 {
        let share = 100.0 * negative as f64 / w.len() as f64;
        return Err(Error::input(format!(
            "{share:.1} % of '{name}' is negative, which nonnegative factors cannot express; use `method` semi-nmf or svd"
        )));
    }
    if w.iter().any(|x| !x.is_finite()) {
        return Err(Error::input(format!("'{name}' holds NaN or infinite values; repair or exclude it")));
    }
    Ok(())
}

/// The start factors A (K×r) and B (r×N).
fn nndsvda(
    backend: &dyn Backend,
    w: ArrayView2<'_, f64>,
    rank: usize,
    name: &str,
) -> Result<(Array2<f64>, Array2<f64>)> {
    let svd = backend.svd_f64(w, name)?;
    let mut a = Array2::zeros((w.nrows(), rank));
    let mut b = Array2::zeros((rank, w.ncols()));
    for i in 0..rank {
        let (u, v) = (svd.u.column(i), svd.vt.row(i));
        // The first pair of a nonnegative matrix has one sign, so the rule below is exact for it too.
        let (plus, minus) = ((part(u, 1.0), part(v, 1.0)), (part(u, -1.0), part(v, -1.0)));
        let size = |(x, y): &(Vec<f64>, Vec<f64>)| norm(x) * norm(y);
        let (x, y) = if size(&plus) >= size(&minus) { plus } else { minus };
        let (left, right) = (norm(&x), norm(&y));
        if left == 0.0 || right == 0.0 {
            continue;
        }
        let scale = (svd.sigma[i] * left * right).sqrt();
        a.column_mut(i).iter_mut().zip(x).for_each(|(to, x)| *to = scale * x / left);
        b.row_mut(i).iter_mut().zip(y).for_each(|(to, y)| *to = scale * y / right);
    }
    let mean = w.mean().unwrap_or(0.0);
    let fill = |x: &mut f64| *x = if *x < NEGLIGIBLE { mean } else { *x };
    a.iter_mut().for_each(fill);
    b.iter_mut().for_each(fill);
    Ok((a, b))
}

/// The positive part of sign·x.
fn part(x: ArrayView1<'_, f64>, sign: f64) -> Vec<f64> {
    x.iter().map(|&x| (sign * x).max(0.0)).collect()
}

fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

/// Sweeps A (K×r) and Bᵀ (N×r) until the projected gradient is small.
fn descend(backend: &dyn Backend, w: ArrayView2<'_, f64>, a: Array2<f64>, bt: Array2<f64>, options: NmfOptions) -> Nmf {
    let mut a = a.as_standard_layout().to_owned();
    let mut bt = bt.as_standard_layout().to_owned();
    let total: f64 = w.iter().map(|x| x * x).sum();
    let (mut errors, mut first, mut converged) = (Vec::new(), None, false);
    while errors.len() < options.max_sweeps && !converged {
        let gram = backend.matmul(bt.t(), bt.view());
        let violation = sweep(&mut a, &backend.matmul(w, bt.view()), &gram);
        let (target, gram) = (backend.matmul(w.t(), a.view()), backend.matmul(a.t(), a.view()));
        let violation = violation + sweep(&mut bt, &target, &gram);
        // ‖W − AB‖² = ‖W‖² − 2⟨B, AᵀW⟩ + ⟨BBᵀ, AᵀA⟩
        let cross = (&bt * &target).sum();
        let square = (&backend.matmul(bt.t(), bt.view()) * &gram).sum();
        errors.push((total - 2.0 * cross + square).max(0.0));
        let first = *first.get_or_insert(violation);
        converged = violation <= options.tolerance * first;
    }
    let split = LowRank { a, b: bt.reversed_axes(), bias_shift: None, error: 0.0 };
    let error = energy(&(&w - &split.product(backend)));
    Nmf { split: LowRank { error, ..split }.balanced(), errors, converged }
}

/// Sets each entry of a factor (m×r) to its best nonnegative value, row by row, given the target (m×r)
/// and the Gram matrix (r×r) of the other factor. Returns the sum of the projected gradients met.
pub(crate) fn sweep(factor: &mut Array2<f64>, target: &Array2<f64>, gram: &Array2<f64>) -> f64 {
    let curvatures = gram.diag().to_vec();
    let lines: Vec<Vec<f64>> = gram.rows().into_iter().map(|row| row.to_vec()).collect();
    let mut values = vec![0.0; curvatures.len()];
    let mut violation = 0.0;
    for (mut row, wanted) in factor.rows_mut().into_iter().zip(target.rows()) {
        values.iter_mut().zip(&row).for_each(|(to, x)| *to = *x);
        for (t, (line, &curvature)) in lines.iter().zip(&curvatures).enumerate() {
            let slope = dot(line, &values) - wanted[t];
            violation += if values[t] == 0.0 { slope.min(0.0) } else { slope }.abs();
            if curvature > 0.0 {
                values[t] = (values[t] - slope / curvature).max(0.0);
            }
        }
        row.iter_mut().zip(&values).for_each(|(to, x)| *to = *x);
    }
    violation
}

/// Σ xᵢ yᵢ in eight running sums, a fixed order that the compiler can vectorize.
fn dot(x: &[f64], y: &[f64]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let rest: f64 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in xs.zip(ys) {
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += x * y;
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::ErrorKind;
    use crate::linalg::{backends, default_backend};
    use crate::lowrank::sample::uniform;
    use crate::lowrank::svd::WeightSvd;

    /// Rank, then error and sweeps from the start given by hand and from NNDSVDa.
    const REFERENCE: [(usize, f64, usize, f64, usize); 2] = [
        (4, 116.865_763_254_538_82, 200, 117.357_064_670_051_76, 501),
        (12, 39.037_972_370_491_26, 490, 39.299_007_791_689_39, 327),
    ];

    fn nonnegative(k: usize, n: usize, seed: u64) -> Array2<f64> {
        uniform(k, n, seed).mapv(|x| if x > 0.3 { x } else { 0.0 })
    }

    #[test]
    fn factors_are_nonnegative_the_error_falls_and_never_goes_below_the_svd() {
        for backend in backends() {
            for (k, n, seed) in [(30, 20, 1), (20, 30, 2), (25, 25, 3)] {
                let w = nonnegative(k, n, seed);
                let best = WeightSvd::new(backend, w.view(), "w").unwrap();
                for rank in [1, 3, 10, 20] {
                    let nmf = split(backend, w.view(), rank, NmfOptions::default(), "w").unwrap();
                    assert!(nmf.split.a.iter().chain(&nmf.split.b).all(|&x| x >= 0.0));
                    let slack = 1e-12 * energy(&w);
                    assert!(nmf.errors.windows(2).all(|e| e[1] <= e[0] + slack));
                    let last = nmf.errors[nmf.errors.len() - 1];
                    assert!((nmf.split.error - last).abs() <= 1e-10 * energy(&w));
                    assert!(nmf.split.error >= best.curve().error(rank) - slack);
                }
            }
        }
    }

    #[test]
    fn an_exactly_nonnegative_product_is_found_again() {
        let w = nonnegative(40, 3, 4).dot(&nonnegative(3, 30, 5));
        let options = NmfOptions { tolerance: 1e-9, max_sweeps: 20_000 };
        let nmf = split(default_backend(), w.view(), 3, options, "w").unwrap();
        assert!(nmf.split.error < 1e-6 * energy(&w), "{}", nmf.split.error / energy(&w));
    }

    #[test]
    fn a_sweep_ends_at_the_minimizer_of_each_entry() {
        // One row, diagonal Gram matrix: entries are independent, target/curvature clipped at zero.
        let mut factor = array![[1.0, 0.0, 5.0]];
        let gram = array![[2.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 1.0]];
        let violation = sweep(&mut factor, &array![[6.0, -8.0, -1.0]], &gram);
        assert_eq!(factor, array![[3.0, 0.0, 0.0]]);
        // |2·1 − 6|, nothing for the zero entry that wants to be negative, |5 + 1|
        assert!((violation - 10.0).abs() < 1e-12);
    }

    #[test]
    fn the_same_start_given_by_hand_leads_to_the_same_factors() {
        let w = nonnegative(30, 20, 6);
        let (a, b) = nndsvda(default_backend(), w.view(), 5, "w").unwrap();
        let options = NmfOptions::default();
        let given = split_from(default_backend(), w.view(), a, b, options, "w").unwrap();
        let found = split(default_backend(), w.view(), 5, options, "w").unwrap();
        assert_eq!(given.split.a, found.split.a);
        assert!(given.converged);
    }

    /// Reference errors by scikit-learn 1.9.1:
    /// ```python
    /// i, j = np.mgrid[0:60, 0:40]
    /// w = abs(np.sin(1.7 * i + 0.3) * np.cos(0.9 * j + 0.2) + 0.5 * np.sin(0.37 * i * j))
    /// t, k, n = np.arange(rank), np.arange(60), np.arange(40)
    /// a, b = 0.5 + 0.4 * np.sin(np.outer(k, t + 1)), 0.5 + 0.4 * np.cos(np.outer(t + 1, n))
    /// nmf = NMF(rank, init='custom', solver='cd', tol=1e-4, max_iter=1000)
    /// error = np.linalg.norm(w - nmf.fit_transform(w, W=a, H=b) @ nmf.components_) ** 2
    /// ```
    /// and the same with `init='nndsvda'`, where `_nmf._randomized_svd` is replaced by `np.linalg.svd`:
    /// another singular vector is another start, and may lead to another minimum.
    #[test]
    fn error_and_number_of_sweeps_are_those_of_scikit_learn() {
        let w = Array2::from_shape_fn((60, 40), |(i, j)| {
            let (i, j) = (i as f64, j as f64);
            let wave = (1.7 * i + 0.3).sin() * (0.9 * j + 0.2).cos();
            (wave + 0.5 * (0.37 * i * j).sin()).abs()
        });
        for (rank, given, given_sweeps, found, found_sweeps) in REFERENCE {
            let a = Array2::from_shape_fn((60, rank), |(i, t)| 0.5 + 0.4 * (i as f64 * (t + 1) as f64).sin());
            let b = Array2::from_shape_fn((rank, 40), |(t, j)| 0.5 + 0.4 * (j as f64 * (t + 1) as f64).cos());
            let options = NmfOptions::default();
            let ours = split_from(default_backend(), w.view(), a, b, options, "w").unwrap();
            assert!((ours.split.error / given - 1.0).abs() < 1e-6, "{} {given}", ours.split.error);
            assert_eq!(ours.errors.len(), given_sweeps);
            let ours = split(default_backend(), w.view(), rank, options, "w").unwrap();
            assert!((ours.split.error / found - 1.0).abs() < 1e-6, "{} {found}", ours.split.error);
            assert_eq!(ours.errors.len(), found_sweeps);
        }
    }

    #[test]
    fn negative_weights_are_refused_with_their_share() {
        let w = array![[1.0, -2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]];
        let error = split(default_backend(), w.view(), 1, NmfOptions::default(), "fc").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        let text = error.to_string();
        assert!(text.contains("12.5 % of 'fc' is negative") && text.contains("semi-nmf"), "{text}");
    }

    #[test]
    fn a_weight_of_zeros_is_its_own_factorization() {
        let w = Array2::zeros((6, 5));
        let nmf = split(default_backend(), w.view(), 2, NmfOptions::default(), "w").unwrap();
        assert!(nmf.converged && nmf.split.error == 0.0);
    }
}
