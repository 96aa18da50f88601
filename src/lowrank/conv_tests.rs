//! Splits are multiplied back into one kernel, and checked against a direct convolution.

use ndarray::{Array2, ArrayD, IxDyn};

use super::*;
use crate::ErrorKind;
use crate::linalg::{Backend, backends, default_backend};
use crate::lowrank::outputs::{InputMoments, OutputPca};
use crate::lowrank::sample::uniform;
use crate::lowrank::svd::WeightSvd;

fn kernel(shape: &[usize], seed: u64) -> ArrayD<f64> {
    reshaped(uniform(1, shape.iter().product(), seed).iter(), shape)
}

/// Multiplies a chain back into one kernel [O, I/g, k…].
fn compose(backend: &dyn Backend, split: &ConvSplit, groups: usize) -> Result<ArrayD<f64>> {
    let mut chain = split.kernels.iter();
    let Some(first) = chain.next() else {
        return Err(Error::input("a chain of no convolutions has no kernel"));
    };
    chain.try_fold(first.clone(), |inner, outer| after(backend, &inner, outer, groups))
}

/// The kernel of `inner` followed by `outer`, where at most one of them is larger than 1 on each axis.
fn after(backend: &dyn Backend, inner: &ArrayD<f64>, outer: &ArrayD<f64>, groups: usize) -> Result<ArrayD<f64>> {
    let (outputs, rank) = (outer.shape()[0] / groups, outer.shape()[1]);
    if inner.ndim() != outer.ndim() || inner.shape()[0] != rank * groups {
        return Err(Error::input("kernels of a chain do not follow each other"));
    }
    let window: Vec<usize> = inner.shape()[2..].iter().zip(&outer.shape()[2..]).map(|(a, b)| a * b).collect();
    let mut shape = vec![outputs * groups, inner.shape()[1]];
    shape.extend(&window);
    let mut whole = ArrayD::zeros(IxDyn(&shape));
    let parts = inner.axis_chunks_iter(Axis(0), rank).zip(outer.axis_chunks_iter(Axis(0), outputs));
    for ((a, b), mut to) in parts.zip(whole.axis_chunks_iter_mut(Axis(0), outputs)) {
        // b [o, r, kb…] · a [r, i, ka…] → (o kb…) × (i ka…)
        let order: Vec<usize> = [0].into_iter().chain(2..b.ndim()).chain([1]).collect();
        let left = matrix(b.clone().permuted(&order), b.len() / rank, rank);
        let right = matrix(a.clone(), rank, a.len() / rank);
        let product = backend.matmul(left.view(), right.view());
        let mut split_shape = vec![outputs];
        split_shape.extend(&b.shape()[2..]);
        split_shape.extend(&a.shape()[1..]);
        let product = reshaped(product.iter(), &split_shape);
        // [o, kb…, i, ka…] → [o, i, (ka kb)…]
        let d = window.len();
        let mut axes = vec![0, 1 + d];
        for axis in 0..d {
            axes.extend([2 + d + axis, 1 + axis]);
        }
        let product = product.permuted_axes(IxDyn(&axes));
        to.iter_mut().zip(product.iter()).for_each(|(to, x)| *to = *x);
    }
    Ok(whole)
}

fn distance(a: &ArrayD<f64>, b: &ArrayD<f64>) -> f64 {
    assert_eq!(a.shape(), b.shape());
    (a - b).iter().map(|x| x * x).sum()
}

fn split_all(matrices: &[Array2<f64>], rank: usize) -> Vec<LowRank> {
    matrices.iter().map(|m| WeightSvd::new(default_backend(), m.view(), "k").unwrap().split(rank).unwrap()).collect()
}

const KERNELS: [(&[usize], usize); 6] = [
    (&[8, 6, 5], 1),
    (&[8, 6, 3, 5], 1),
    (&[6, 4, 2, 3, 2], 1),
    (&[8, 3, 3, 3], 2),
    (&[12, 2, 1, 3], 3),
    (&[9, 7, 1, 1], 1),
];

#[test]
fn channel_split_has_the_predicted_error_and_reproduces_at_full_rank() {
    for (shape, groups) in KERNELS {
        let w = kernel(shape, 1);
        let kernel = Kernel::new(w.view(), groups, "k").unwrap();
        let matrices = kernel.channel_matrices();
        assert_eq!(matrices.len(), groups);
        let full = matrices[0].nrows().min(matrices[0].ncols());
        for rank in 1..=full {
            let split = kernel.channel_split(&split_all(&matrices, rank)).unwrap();
            assert_eq!(split.kernels[0].shape()[0], rank * groups);
            assert_eq!(split.kernels[0].shape()[1..], shape[1..]);
            assert_eq!(split.kernels[1].shape()[..2], [shape[0], rank]);
            assert!(split.kernels[1].shape()[2..].iter().all(|&k| k == 1));
            let error = distance(&compose(default_backend(), &split, groups).unwrap(), &w);
            assert!((error - split.error).abs() <= 1e-4 * split.error + 1e-20);
        }
    }
}

#[test]
fn spatial_split_has_the_predicted_error_and_reproduces_at_full_rank() {
    for (shape, groups) in KERNELS.into_iter().filter(|(shape, _)| shape.len() == 4) {
        let w = kernel(shape, 2);
        let kernel = Kernel::new(w.view(), groups, "k").unwrap();
        let matrices = kernel.spatial_matrices().unwrap();
        let full = matrices[0].nrows().min(matrices[0].ncols());
        for rank in 1..=full {
            let split = kernel.spatial_split(&split_all(&matrices, rank)).unwrap();
            assert_eq!(split.kernels[0].shape(), [rank * groups, shape[1], shape[2], 1]);
            assert_eq!(split.kernels[1].shape(), [shape[0], rank, 1, shape[3]]);
            let error = distance(&compose(default_backend(), &split, groups).unwrap(), &w);
            assert!((error - split.error).abs() <= 1e-4 * split.error + 1e-20);
        }
    }
}

#[test]
fn tucker2_has_the_predicted_error_and_reproduces_at_full_rank() {
    for backend in backends() {
        for (shape, groups) in KERNELS {
            let w = kernel(shape, 3);
            let kernel = Kernel::new(w.view(), groups, "k").unwrap();
            let (full_in, full_out) = (kernel.inputs(), kernel.outputs());
            for ranks in [(1, 1), (2, 3), (full_in, 2), (1, full_out), (full_in, full_out)] {
                let ranks = Tucker2 { inputs: ranks.0.min(full_in), outputs: ranks.1.min(full_out) };
                let split = tucker2(backend, &kernel, ranks).unwrap();
                assert_eq!(split.kernels[1].shape()[..2], [ranks.outputs * groups, ranks.inputs]);
                let error = distance(&compose(backend, &split, groups).unwrap(), &w);
                assert!((error - split.error).abs() <= 1e-4 * split.error + 1e-12, "{error} {}", split.error);
            }
        }
    }
}

#[test]
fn tucker2_is_bounded_by_the_two_unfoldings() {
    let w = kernel(&[10, 8, 3, 3], 4);
    let kernel = Kernel::new(w.view(), 1, "k").unwrap();
    let tail = |m: Array2<f64>, r| WeightSvd::new(default_backend(), m.view(), "k").unwrap().curve().error(r);
    let by_output = tail(matrix(w.view(), 10, 72), 4);
    let by_input = tail(matrix(w.view().permuted_axes(IxDyn(&[1, 0, 2, 3])), 8, 90), 3);
    let error = tucker2(default_backend(), &kernel, Tucker2 { inputs: 3, outputs: 4 }).unwrap().error;
    assert!(error >= by_output.max(by_input) && error <= by_output + by_input);
}

/// y[o, p] of a plain 2-D convolution without padding, x [C, H, W], in groups.
fn convolve(x: &ArrayD<f64>, w: &ArrayD<f64>, groups: usize) -> ArrayD<f64> {
    let (s, k) = (x.shape(), w.shape());
    let (height, width) = (s[1] - k[2] + 1, s[2] - k[3] + 1);
    ArrayD::from_shape_fn(IxDyn(&[k[0], height, width]), |at| {
        let base = at[0] / (k[0] / groups) * k[1];
        let mut sum = 0.0;
        for i in 0..k[1] {
            for (r, c) in (0..k[2]).flat_map(|r| (0..k[3]).map(move |c| (r, c))) {
                sum += w[[at[0], i, r, c]] * x[[base + i, at[1] + r, at[2] + c]];
            }
        }
        sum
    })
}

#[test]
fn the_chain_convolves_like_its_composed_kernel() {
    for groups in [1, 2] {
        let (w, x) = (kernel(&[8, 6, 3, 2], 5), kernel(&[6 * groups, 7, 6], 6));
        let kernel = Kernel::new(w.view(), groups, "k").unwrap();
        let splits = [
            kernel.channel_split(&split_all(&kernel.channel_matrices(), 3)).unwrap(),
            kernel.spatial_split(&split_all(&kernel.spatial_matrices().unwrap(), 4)).unwrap(),
            tucker2(default_backend(), &kernel, Tucker2 { inputs: 3, outputs: 2 }).unwrap(),
        ];
        for split in splits {
            let chained = split.kernels.iter().fold(x.clone(), |x, w| convolve(&x, w, groups));
            let composed = compose(default_backend(), &split, groups).unwrap();
            assert!(distance(&chained, &convolve(&x, &composed, groups)) < 1e-20);
        }
    }
}

#[test]
fn data_aware_channel_split_predicts_the_error_of_the_convolution() {
    let (w, x) = (kernel(&[8, 4, 3, 3], 7), kernel(&[4, 20, 20], 8));
    let kernel = Kernel::new(w.view(), 1, "k").unwrap();
    // im2col: rows are positions, columns (i, row, column) as in the channel matrix
    let columns = Array2::from_shape_fn((18 * 18, 36), |(p, c)| x[[c / 9, p / 18 + c % 9 / 3, p % 18 + c % 3]]);
    let mean = columns.mean_axis(Axis(0)).unwrap();
    let centred = &columns - &mean;
    let covariance = centred.t().dot(&centred) / 324.0;
    let inputs = InputMoments { matrix: covariance.view(), mean: Some(&mean) };
    let matrices = kernel.channel_matrices();
    let pca = OutputPca::new(default_backend(), matrices[0].view(), inputs, "k").unwrap();
    let split = kernel.channel_split(&[pca.split(default_backend(), 5).unwrap()]).unwrap();
    let mut y = split.kernels.iter().fold(x.clone(), |x, w| convolve(&x, w, 1));
    let shift = split.bias_shift.unwrap();
    y.outer_iter_mut().zip(&shift).for_each(|(mut channel, b)| channel += *b);
    let error = distance(&y, &convolve(&x, &w, 1)) / 324.0;
    assert!((error - split.error).abs() <= 1e-4 * split.error, "{error} {}", split.error);
}

#[test]
fn kernels_without_rank_are_refused_with_the_reason() {
    let cases: [(&[usize], usize, &str); 4] = [
        (&[8, 1, 3, 3], 8, "depthwise"),
        (&[8, 4], 1, "not that of a convolution"),
        (&[8, 4, 3, 3], 3, "cannot have 3 groups"),
        (&[8, 4, 3, 3], 0, "cannot have 0 groups"),
    ];
    for (shape, groups, text) in cases {
        let error = Kernel::new(kernel(shape, 9).view(), groups, "conv.weight").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(error.to_string().contains(text), "{error}");
    }
    let line = kernel(&[8, 4, 3], 10);
    let line = Kernel::new(line.view(), 1, "conv.weight").unwrap();
    assert!(line.spatial_matrices().unwrap_err().to_string().contains("use the channel split"));
}

#[test]
fn unequal_ranks_in_groups_are_refused() {
    let w = kernel(&[8, 3, 3, 3], 11);
    let kernel = Kernel::new(w.view(), 2, "k").unwrap();
    let matrices = kernel.channel_matrices();
    let mut factors = split_all(&matrices, 2);
    factors[1] = split_all(&matrices[1..], 3).remove(0);
    assert!(kernel.channel_split(&factors).is_err());
    assert!(kernel.channel_split(&factors[..1]).is_err());
}
