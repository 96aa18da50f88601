//! Sums against the rows that they are sums of, and hard cases.

use ndarray::array;

use super::*;
use crate::calibrate::block::BLOCK_ROWS;

fn noise(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Array2::from_shape_simple_fn((rows, columns), || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = f64::from(u32::try_from(state >> 33).unwrap()) / f64::from(1_u32 << 30) - 1.0;
        f64::from(value as f32)
    })
}

/// Evidence of rows that come in portions of these sizes.
fn gathered(x: &Array2<f64>, y: &Array2<f64>, portions: &[usize], evidence: Evidence) -> Evidence {
    let mut gather = Gather::new(x.ncols(), y.ncols(), evidence);
    let mut first = 0;
    for &portion in portions.iter().cycle() {
        let count = portion.min(x.nrows() - first);
        let write = |from: &Array2<f64>, rows: Range<usize>, into: &mut Columns<'_>| {
            for number in 0..from.ncols() {
                let column = into.column(number);
                column.iter_mut().zip(rows.clone()).for_each(|(to, row)| *to = from[[first + row, number]] as f32);
            }
        };
        gather.add(count, |rows, into_x, into_y| {
            write(x, rows.clone(), into_x);
            write(y, rows, into_y);
        });
        first += count;
        if first == x.nrows() {
            break;
        }
    }
    gather.finish()
}

fn sums(inputs: usize, outputs: usize) -> Evidence {
    Evidence::sums(inputs, outputs, Detail::Covariance)
}

fn worst(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    (a - b).iter().fold(0.0, |worst, d| worst.max(d.abs()))
}

#[test]
fn sums_and_rows_are_the_same_evidence() {
    let (x, y, w0) = (noise(9, 9, 5) + 0.7, noise(9, 3, 6), noise(9, 3, 7));
    let backend = default_backend();
    let (primal, dual) = (Evidence::Sums(Box::new(Sums::of(backend, x.view(), y.view()))), Evidence::Rows(x, y));
    let (a, b) = (
        primal.weights(backend, &w0, &[1e-2], "x").unwrap().swap_remove(0),
        dual.weights(backend, &w0, &[1e-2], "x").unwrap().swap_remove(0),
    );
    assert!(worst(&a, &b) < 1e-9);
    let (bias_a, bias_b) = (primal.bias(&a), dual.bias(&a));
    assert!((&bias_a - &bias_b).iter().all(|d| d.abs() < 1e-12));
    let errors = primal.errors(backend, &a, &bias_a) - dual.errors(backend, &a, &bias_a);
    let spreads = primal.spreads() - dual.spreads();
    assert!(errors.iter().chain(&spreads).all(|d| d.abs() < 1e-12));
    assert!(worst(&primal.covariance(), &dual.covariance()) < 1e-12);
    assert!(worst(&primal.cross_covariance(), &dual.cross_covariance()) < 1e-12);
}

/// A mean of a thousand deviations: without an origin, products in f32 would leave nothing of the variance.
#[test]
fn sums_in_single_precision_keep_six_digits_of_a_variance_beside_a_large_mean() {
    let (x, y) = (noise(3000, 40, 1) * 1e-3 + 1.0, noise(3000, 3, 2) + 5.0);
    let x = x.mapv(|v| f64::from(v as f32));
    let y = y.mapv(|v| f64::from(v as f32));
    let (found, exact) = (gathered(&x, &y, &[700, 1], sums(40, 3)), Sums::of(default_backend(), x.view(), y.view()));
    let scale = exact.covariance().diag().sum() / 40.0;
    assert!(worst(&found.covariance(), &exact.covariance()) < 1e-6 * scale);
    assert!(worst(&found.cross_covariance(), &exact.cross_covariance()) < 1e-6 * scale.sqrt());
    assert!((found.mean_x() - exact.mean_x()).iter().all(|d| d.abs() < 1e-9));
    assert!((found.spreads() - exact.variance_y()).iter().all(|d| d.abs() < 1e-9));
}

#[test]
fn neither_portions_nor_threads_change_a_bit() {
    let (x, y) = (noise(2 * BLOCK_ROWS + 77, 150, 3), noise(2 * BLOCK_ROWS + 77, 5, 4));
    let reference = gathered(&x, &y, &[x.nrows()], sums(150, 5));
    for (threads, portions) in [(1, &[1, 2, 3][..]), (3, &[BLOCK_ROWS, 5])] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let found = pool.install(|| gathered(&x, &y, portions, sums(150, 5)));
        assert_eq!(found.covariance(), reference.covariance());
        assert_eq!(found.cross_covariance(), reference.cross_covariance());
        assert_eq!(found.spreads(), reference.spreads());
    }
}

#[test]
fn merged_parts_are_the_whole() {
    let (x, y) = (noise(2000, 12, 5) + 3.0, noise(2000, 2, 6));
    let x = x.mapv(|v| f64::from(v as f32));
    let part = |rows: Range<usize>| {
        (x.slice(ndarray::s![rows.clone(), ..]).to_owned(), y.slice(ndarray::s![rows, ..]).to_owned())
    };
    let whole = Evidence::Rows(x.clone(), y.clone());
    let (first, second) = (part(0..500), part(500..2000));
    let as_sums = |(x, y): &(Array2<f64>, Array2<f64>)| gathered(x, y, &[64], sums(12, 2));
    let as_rows = |(x, y): &(Array2<f64>, Array2<f64>)| Evidence::Rows(x.clone(), y.clone());
    let pairs = [
        (as_sums(&first), as_sums(&second)),
        (as_sums(&first), as_rows(&second)),
        (as_rows(&first), as_sums(&second)),
        (as_rows(&first), as_rows(&second)),
    ];
    for (mut merged, other) in pairs {
        merged.merge(&other, default_backend());
        assert_eq!(merged.rows(), 2000);
        assert!(worst(&merged.covariance(), &whole.covariance()) < 1e-6);
        assert!(worst(&merged.cross_covariance(), &whole.cross_covariance()) < 1e-6);
        assert!((merged.mean_x() - whole.mean_x()).iter().all(|d| d.abs() < 1e-9));
        assert!((merged.spreads() - whole.spreads()).iter().all(|d| d.abs() < 1e-9));
    }
}

#[test]
fn sums_of_some_inputs_are_those_of_their_columns() {
    let (x, y) = (noise(50, 6, 7), noise(50, 2, 8));
    let picked = x.select(Axis(1), &[4, 0, 3]);
    let found = Sums::of(default_backend(), x.view(), y.view()).of_inputs(&[4, 0, 3]);
    let expected = Sums::of(default_backend(), picked.view(), y.view());
    assert!(worst(&found.covariance(), &expected.covariance()) < 1e-12);
    assert!(worst(&found.cross_covariance(), &expected.cross_covariance()) < 1e-12);
    assert_eq!(found.zeros(), expected.zeros());
}

#[test]
fn constant_and_dead_inputs_leave_the_weights_alone() {
    for value in [3.0, 0.0] {
        let x = Array2::from_elem((50, 4), value);
        let (y, w0) = (noise(50, 2, 8), noise(4, 2, 9));
        let evidence = gathered(&x, &y, &[50], sums(4, 2));
        let w = evidence.weights(default_backend(), &w0, &[1e-2], "x").unwrap().swap_remove(0);
        assert!(worst(&w, &w0) < 1e-6, "{value}");
        let expected: Array1<f64> = y.mean_axis(Axis(0)).unwrap() - w.t().dot(&Array1::from_elem(4, value));
        assert!((&evidence.bias(&w) - &expected).iter().all(|d| d.abs() < 1e-7));
    }
}

#[test]
fn one_sample_is_enough_not_to_break() {
    let evidence = gathered(&array![[1.0, 2.0, 3.0]], &array![[1.0]], &[1], Evidence::expecting(1, 3, 1));
    let w0 = array![[1.0], [0.0], [-1.0]];
    assert_eq!(evidence.weights(default_backend(), &w0, &[1e-2], "x").unwrap(), std::slice::from_ref(&w0));
    assert!((evidence.bias(&w0)[0] - 3.0).abs() < 1e-12);
}
