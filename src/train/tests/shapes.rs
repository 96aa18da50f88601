//! Gradients for random shapes and attributes.

use proptest::prelude::*;

use super::case::Case;

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn convolutions(
        rank in 1_usize..4, groups in 1_usize..3, channels in 1_usize..3, filters in 1_usize..3, kernel in 1_usize..4,
        stride in 1_i64..3, dilation in 1_i64..3, before in 0_i64..2, after in 0_i64..2, transposed: bool,
    ) {
        let size = 5 + rank % 2;
        let mut x = vec![2, groups * channels];
        x.extend(std::iter::repeat_n(if rank == 3 { size - 1 } else { size }, rank));
        let mut w = if transposed { vec![groups * channels, filters] } else { vec![groups * filters, channels] };
        w.extend(std::iter::repeat_n(kernel.min(if rank == 3 { 2 } else { 3 }), rank));
        let pads = [vec![before.min(1); rank], vec![after; rank]].concat();
        let op = if transposed { "ConvTranspose" } else { "Conv" };
        let case = Case::new(op).real(&x).real(&w).real(&[groups * filters]).int("group", groups as i64);
        let case = case.ints("strides", &vec![stride; rank]).ints("dilations", &vec![dilation; rank]);
        // A transposed convolution cuts its padding off the result.
        let case = if transposed { case } else { case.ints("pads", &pads) };
        case.check();
        case.check_forward();
    }

    #[test]
    fn pooling(kernel in 1_i64..4, stride in 1_i64..4, pad in 0_i64..2, ceil in 0_i64..2, average: bool) {
        let pad = pad.min(kernel / 2);
        let case = Case::new(if average { "AveragePool" } else { "MaxPool" }).real(&[2, 2, 6, 5]);
        let case = case.ints("kernel_shape", &[kernel; 2]).ints("strides", &[stride; 2]).ints("pads", &[pad; 4]);
        let case = case.int("ceil_mode", ceil);
        case.check();
        case.check_forward();
    }

    #[test]
    fn products(batch in 1_usize..3, m in 1_usize..4, k in 1_usize..4, n in 1_usize..4, left in 0_usize..3, right in 0_usize..3) {
        let batches = |count: usize| vec![batch; count];
        let (left, right) = (left.max(usize::from(m * k == 1)), right.max(usize::from(k * n == 1)));
        let a = [batches(left), vec![m, k]].concat();
        let b = [batches(right), vec![k, n]].concat();
        let case = Case::new("MatMul").real(&a).real(&b);
        if a.iter().product::<usize>() > 1 && b.iter().product::<usize>() > 1 {
            case.check();
            case.check_forward();
        }
    }

    #[test]
    fn broadcasting(dims in prop::collection::vec(1_usize..4, 1..4), mask in 0_usize..8, op in 0_usize..4) {
        let narrow: Vec<usize> =
            dims.iter().enumerate().map(|(axis, &size)| if mask >> axis & 1 == 1 { 1 } else { size }).collect();
        let op = ["Add", "Mul", "Div", "Sub"][op];
        let case = Case::new(op).real(&dims).real_in(&narrow, 0.5, 1.5);
        if dims.iter().product::<usize>() > 1 {
            case.check();
        }
    }

    #[test]
    fn reductions(dims in prop::collection::vec(2_usize..4, 1..4), mask in 1_usize..8, keep in 0_i64..2, op in 0_usize..3) {
        let axes: Vec<i64> = (0..dims.len()).filter(|axis| mask >> axis & 1 == 1).map(|axis| axis as i64).collect();
        let op = ["ReduceMean", "ReduceL2", "ReduceMax"][op];
        let case = Case::new(op).real(&dims).list(&axes).int("keepdims", keep);
        if !axes.is_empty() {
            case.check();
        }
    }

    #[test]
    fn slices(n in 2_usize..6, start in -6_i64..6, end in -7_i64..7, step in prop::sample::select(vec![-2_i64, -1, 1, 2])) {
        let length = |from: i64| if from < 0 { from + n as i64 } else { from };
        let reached = if step > 0 { length(start).max(0) < length(end).min(n as i64) } else { length(start).min(n as i64 - 1) > length(end).max(-1) };
        if reached && length(start) >= 0 {
            let case = Case::new("Slice").real(&[2, n]).list(&[start]).list(&[end]).list(&[1]).list(&[step]);
            case.check();
            case.check_forward();
        }
    }
}
