//! Errors are measured on the samples themselves, not on their moments.

use ndarray::{Array1, ArrayD, IxDyn};

use super::*;
use crate::linalg::default_backend;
use crate::lowrank::conv::{tucker_ranks, tucker2};
use crate::lowrank::low_rank::energy;
use crate::lowrank::outputs::Space;
use crate::lowrank::sample::{decaying, uniform};
use crate::lowrank::svd::WeightSvd;

const OUTPUTS: usize = 10;
const CHANNELS: usize = 6;
const WINDOW: [usize; 2] = [3, 3];
const ROWS: usize = CHANNELS * 9;

/// Windows of correlated values with a mean, and a kernel on them.
struct Sample {
    weight: ArrayD<f64>,
    x: Array2<f64>,
    inputs: Inputs,
}

impl Sample {
    fn new() -> Self {
        let weight = reshaped(uniform(OUTPUTS, ROWS, 1).iter(), &[OUTPUTS, CHANNELS, 3, 3]);
        let x = uniform(500, ROWS, 2).dot(&(decaying(ROWS, ROWS, 0.9, 3) * 4.0)) + &uniform(1, ROWS, 4);
        let mean: Array1<f64> = x.mean_axis(Axis(0)).unwrap();
        let centred = &x - &mean;
        let covariance = centred.t().dot(&centred) / x.nrows() as f64;
        Self { weight, inputs: Inputs { rows: x.nrows(), space: Space::Inputs, mean, covariance }, x }
    }

    fn kernel(&self) -> Kernel<'_> {
        Kernel::new(self.weight.view(), 1, "w").unwrap()
    }

    fn matrix(&self) -> Array2<f64> {
        self.kernel().channel_matrices().remove(0)
    }

    fn group(&self, mode: ConvMode) -> Group {
        Group::new(default_backend(), self.matrix(), (&self.kernel(), mode), self.inputs.clone()).unwrap()
    }

    /// Mean squared distance of the outputs of a chain of kernels, run as matrices at each place.
    fn measured(&self, mode: ConvMode, split: &Encoded) -> f64 {
        let y = self.x.dot(&self.matrix());
        let (places, size) = (places(&self.kernel(), mode), split.encoder.ncols());
        let mut z = Array2::zeros((self.x.nrows(), split.encoder.nrows() * places));
        for place in 0..places {
            let part = self.x.slice(s![.., place..;places]);
            assert_eq!(part.ncols(), size);
            z.slice_mut(s![.., place..;places]).assign(&part.dot(&split.encoder.t()));
        }
        let mut outputs = z.dot(&split.map.a).dot(&split.map.b);
        outputs += split.map.bias_shift.as_ref().unwrap();
        energy(&(outputs - y)) / self.x.nrows() as f64
    }
}

#[test]
fn the_error_is_the_measured_one_at_every_rank() {
    let sample = Sample::new();
    for (mode, full) in [(ConvMode::Spatial, CHANNELS * WINDOW[0]), (ConvMode::Tucker2, OUTPUTS)] {
        let group = sample.group(mode);
        for rank in 1..=full {
            let split = group.split(default_backend(), &sample.kernel(), mode, rank).unwrap();
            let found = sample.measured(mode, &split);
            let allowed = 1e-4 * split.map.error + 1e-9 * group.energy();
            assert!((found - split.map.error).abs() <= allowed, "{mode:?} {rank}: {found} {}", split.map.error);
        }
    }
}

#[test]
fn full_rank_gives_the_kernel_back_even_where_there_is_no_data() {
    let mut sample = Sample::new();
    // Ten samples of 54 values: most directions were never seen.
    sample.x = sample.x.slice(s![..10, ..]).to_owned();
    sample.inputs.mean = sample.x.mean_axis(Axis(0)).unwrap();
    let centred = &sample.x - &sample.inputs.mean;
    sample.inputs.covariance = centred.t().dot(&centred) / 10.0;
    for (mode, full) in [(ConvMode::Spatial, CHANNELS * WINDOW[0]), (ConvMode::Tucker2, OUTPUTS)] {
        let group = sample.group(mode);
        let split = group.split(default_backend(), &sample.kernel(), mode, full).unwrap();
        let map = split.map.a.dot(&split.map.b);
        let decoded = group.encoders.at_places(default_backend(), split.encoder.t(), map.view());
        let distance = energy(&(decoded - sample.matrix())).sqrt() / energy(&sample.matrix()).sqrt();
        assert!(distance < 1e-5, "{mode:?} {distance}");
    }
}

/// What the data-aware split is for: less error of the outputs than the best split of the weight.
#[test]
fn outputs_are_closer_than_with_a_split_of_the_weight() {
    let sample = Sample::new();
    let backend = default_backend();
    let kernel = sample.kernel();
    let spatial = WeightSvd::new(backend, kernel.spatial_matrices().unwrap()[0].view(), "w").unwrap();
    for rank in [2, 4, 6] {
        let plain = kernel.spatial_split(&[spatial.split(rank).unwrap()]).unwrap();
        let of_weight = distance(&sample, &plain, ConvMode::Spatial);
        let aware = sample.group(ConvMode::Spatial).split(backend, &kernel, ConvMode::Spatial, rank).unwrap();
        assert!(aware.map.error < of_weight, "{rank}: {} {of_weight}", aware.map.error);
        let plain = tucker2(backend, &kernel, tucker_ranks(&kernel, rank)).unwrap();
        let of_weight = distance(&sample, &plain, ConvMode::Tucker2);
        let aware = sample.group(ConvMode::Tucker2).split(backend, &kernel, ConvMode::Tucker2, rank).unwrap();
        assert!(aware.map.error < of_weight, "{rank}: {} {of_weight}", aware.map.error);
    }
}

/// Mean squared distance of a chain's outputs, their mean set right.
fn distance(sample: &Sample, split: &ConvSplit, mode: ConvMode) -> f64 {
    let matrix = |kernel: &ArrayD<f64>| {
        let (outputs, rest) = (kernel.shape()[0], kernel.len() / kernel.shape()[0]);
        kernel.to_shape((outputs, rest)).unwrap().to_owned()
    };
    let map = match mode {
        ConvMode::Spatial => {
            let last = split.kernels[1].view().permuted_axes(IxDyn(&[1, 3, 0, 2]));
            LowRank {
                a: reshaped(last.iter(), &[last.len() / OUTPUTS, OUTPUTS]).into_dimensionality().unwrap(),
                b: Array2::eye(OUTPUTS),
                bias_shift: Some(Array1::zeros(OUTPUTS)),
                error: 0.0,
            }
        }
        _ => LowRank {
            a: matrix(&split.kernels[1]).reversed_axes(),
            b: matrix(&split.kernels[2]).reversed_axes(),
            bias_shift: Some(Array1::zeros(OUTPUTS)),
            error: 0.0,
        },
    };
    let centred =
        Sample { x: &sample.x - &sample.inputs.mean, weight: sample.weight.clone(), inputs: sample.inputs.clone() };
    centred.measured(mode, &Encoded { encoder: matrix(&split.kernels[0]), map })
}
