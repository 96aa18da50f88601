//! Conv and ConvTranspose: im2col and a matrix product, and the gradients of both operands by the same two steps.
//!
//! A convolution reads, for each output position and kernel position (tap), one input position or padding
//! ([`Window`]); a transposed one does too, only from other positions. So one kernel serves both. Columns of some samples at
//! once, `(channels · taps) × (samples · positions)`, keep the products large enough where images are small.

use ndarray::{Array2, ArrayView2, CowArray, Ix2};
use rayon::prelude::*;

use super::product::multiply;
use super::site::check_size;
use super::take::{Run, runs};
use crate::calibrate::Window;
use crate::error::{Error, Result};
use crate::train::kernel::{Array, Kernel, Reads, Real, Slots, add_scaled};

/// The convolution of `x` (`n × channels × spatial…`) by a weight.
pub(super) struct Convolution {
    pub(super) window: Window,
    pub(super) groups: usize,
    /// Whether the weight is `channels × outputs/groups × taps…` and not `outputs × channels/groups × taps…`.
    pub(super) transposed: bool,
}

/// Elements of the columns that one task holds, where one sample does not take more.
const COLUMNS: usize = 1 << 20;

/// Tasks whose weight gradients are held at once.
const WAVE: usize = 4;

/// Sizes of one convolution.
struct Plan {
    /// For each tap, the stretches of output positions that read neighbouring input positions.
    runs: Vec<Vec<Run>>,
    outputs: Vec<usize>,
    samples: usize,
    groups: usize,
    channels: usize,
    filters: usize,
    taps: usize,
    plane: usize,
    positions: usize,
    /// Samples of one task.
    chunk: usize,
    transposed: bool,
}

/// No input position.
pub(super) const NONE: usize = usize::MAX;

/// The input positions of `window` over inputs of sizes `spatial`, tap by tap, and the sizes of the output.
pub(super) fn reads(window: &Window, spatial: &[usize]) -> Result<(Vec<usize>, Vec<usize>)> {
    let placed = window.place(spatial);
    check_size(placed.outputs.iter().copied().chain([window.taps()]))?;
    let (positions, taps) = (placed.outputs.iter().product::<usize>(), window.taps());
    let mut table = vec![NONE; positions * taps];
    let mut of_position = Vec::new();
    for position in 0..positions {
        placed.reads(position, &mut of_position);
        for (tap, read) in of_position.iter().enumerate() {
            table[tap * positions + position] = read.unwrap_or(NONE);
        }
    }
    Ok((table, placed.outputs))
}

impl Convolution {
    fn plan(&self, x: &[usize], w: &[usize]) -> Result<Plan> {
        if x.len() < 3 || w.len() != x.len() {
            return Err(Error::input(format!("data of shape {x:?} and a weight of shape {w:?} make no convolution")));
        }
        let groups = self.groups;
        let (channels, filters) = if self.transposed { (w[0] / groups, w[1]) } else { (w[1], w[0] / groups) };
        let (reads, outputs) = reads(&self.window, &x[2..])?;
        let (taps, positions) = (self.window.taps(), outputs.iter().product::<usize>());
        if x[1] != channels * groups || w[2..].iter().product::<usize>() != taps || positions == 0 || x[0] == 0 {
            return Err(Error::input(format!(
                "data of shape {x:?} does not fit a weight of shape {w:?} in {groups} groups"
            )));
        }
        let chunk = (COLUMNS / (channels * taps * positions).max(1)).clamp(1, x[0].div_ceil(WAVE));
        let plane = x[2..].iter().product();
        let (samples, transposed) = (x[0], self.transposed);
        let runs = reads
            .chunks(positions)
            .map(|reads| runs(reads.iter().map(|&read| (read != NONE).then_some(read))))
            .collect();
        Ok(Plan { runs, outputs, samples, groups, channels, filters, taps, plane, positions, chunk, transposed })
    }
}

impl Plan {
    fn inputs(&self) -> usize {
        self.channels * self.taps
    }

    /// Elements of one sample of the result.
    fn result_size(&self) -> usize {
        self.groups * self.filters * self.positions
    }

    /// Position in the weight of group `g`, filter `f`, channel `c`, tap `t`.
    fn weight_at(&self, g: usize, f: usize, c: usize, t: usize) -> usize {
        if self.transposed {
            ((g * self.channels + c) * self.filters + f) * self.taps + t
        } else {
            ((g * self.filters + f) * self.channels + c) * self.taps + t
        }
    }

    /// The weight of each group, filters × (channels · taps).
    fn matrices<'w, T: Real>(&self, w: &'w [T]) -> Vec<CowArray<'w, T, Ix2>> {
        let shape = (self.filters, self.inputs());
        let matrix = |g: usize| {
            let stored = w.get(g * shape.0 * shape.1..).unwrap_or_default();
            match ArrayView2::from_shape(shape, stored) {
                Ok(stored) if !self.transposed => stored.into(),
                _ => {
                    Array2::from_shape_fn(shape, |(f, k)| w[self.weight_at(g, f, k / self.taps, k % self.taps)]).into()
                }
            }
        };
        (0..self.groups).map(matrix).collect()
    }

    /// Columns of group `g` of the samples in `x`; padding, which is the same for all groups, stays as it was: zeros.
    fn columns<T: Real>(&self, x: &[T], g: usize, into: &mut Array2<T>) {
        let samples = into.ncols() / self.positions;
        for (k, mut row) in into.outer_iter_mut().enumerate() {
            let (channel, tap) = (g * self.channels + k / self.taps, k % self.taps);
            let row = row.as_slice_mut().unwrap_or_default();
            for sample in 0..samples {
                let plane = &x[(sample * self.groups * self.channels + channel) * self.plane..][..self.plane];
                let slots = &mut row[sample * self.positions..][..self.positions];
                for run in &self.runs[tap] {
                    slots[run.to..][..run.count].copy_from_slice(&plane[run.from..][..run.count]);
                }
            }
        }
    }

    /// Adds columns of group `g` back to where they were read from.
    fn scatter<T: Real>(&self, columns: &Array2<T>, g: usize, x: &mut [T]) {
        let samples = columns.ncols() / self.positions;
        for (k, row) in columns.outer_iter().enumerate() {
            let (channel, tap) = (g * self.channels + k / self.taps, k % self.taps);
            let row = row.to_slice().unwrap_or_default();
            for sample in 0..samples {
                let plane = &mut x[(sample * self.groups * self.channels + channel) * self.plane..][..self.plane];
                let values = &row[sample * self.positions..][..self.positions];
                for run in &self.runs[tap] {
                    add_scaled(&mut plane[run.from..][..run.count], T::from_f64(1.0), &values[run.to..]);
                }
            }
        }
    }

    /// Results of group `g` of some samples, filters × (samples · positions).
    fn gather_results<T: Real>(&self, y: &[T], g: usize, into: &mut Array2<T>) {
        for (f, mut row) in into.outer_iter_mut().enumerate() {
            for (sample, slots) in row.as_slice_mut().into_iter().flat_map(|r| r.chunks_mut(self.positions)).enumerate()
            {
                slots.copy_from_slice(&y[self.result_at(sample, g, f)..][..self.positions]);
            }
        }
    }

    fn result_at(&self, sample: usize, g: usize, f: usize) -> usize {
        ((sample * self.groups + g) * self.filters + f) * self.positions
    }
}

fn zeros<T: Real>(rows: usize, columns: usize) -> Array2<T> {
    Array2::from_elem((rows, columns), T::ZERO)
}

impl<T: Real> Kernel<T> for Convolution {
    fn reads(&self) -> Reads {
        Reads::Operands
    }

    fn forward(&self, operands: &[Array<'_, T>]) -> Result<(Vec<T>, Vec<usize>)> {
        let (x, w) = (operands[0], operands[1]);
        let plan = self.plan(x.dims, w.dims)?;
        let matrices = plan.matrices(w.data);
        let mut result = vec![T::ZERO; plan.samples * plan.result_size()];
        let sample = plan.groups * plan.channels * plan.plane;
        let tasks = result.par_chunks_mut(plan.chunk * plan.result_size()).zip(x.data.par_chunks(plan.chunk * sample));
        tasks.for_each(|(y, x)| {
            let width = x.len() / sample * plan.positions;
            let (mut columns, mut product) = (zeros(plan.inputs(), width), zeros(plan.filters, width));
            for (g, matrix) in matrices.iter().enumerate() {
                plan.columns(x, g, &mut columns);
                multiply(matrix.view(), columns.view(), 0.0, product.as_slice_mut().unwrap_or_default());
                for (f, row) in product.outer_iter().enumerate() {
                    for (sample, values) in
                        row.as_slice().into_iter().flat_map(|r| r.chunks(plan.positions)).enumerate()
                    {
                        y[plan.result_at(sample, g, f)..][..plan.positions].copy_from_slice(values);
                    }
                }
            }
        });
        let dims = [plan.samples, plan.groups * plan.filters].into_iter().chain(plan.outputs.iter().copied());
        Ok((result, dims.collect()))
    }

    fn backward(
        &self,
        operands: &[Array<'_, T>],
        _result: Array<'_, T>,
        gradient: Vec<T>,
        into: &mut Slots<'_, T>,
    ) -> Result<()> {
        let (x, w) = (operands[0], operands[1]);
        let plan = self.plan(x.dims, w.dims)?;
        if let Some(into) = into.of(0) {
            data_gradient(&plan, w.data, &gradient, into);
        }
        if let Some(into) = into.of(1) {
            weight_gradient(&plan, x.data, &gradient, into);
        }
        Ok(())
    }
}

fn data_gradient<T: Real>(plan: &Plan, w: &[T], gradient: &[T], into: &mut [T]) {
    let matrices = plan.matrices(w);
    let sample = plan.groups * plan.channels * plan.plane;
    let tasks = into.par_chunks_mut(plan.chunk * sample).zip(gradient.par_chunks(plan.chunk * plan.result_size()));
    tasks.for_each(|(x, y)| {
        let width = x.len() / sample * plan.positions;
        let (mut columns, mut results) = (zeros(plan.inputs(), width), zeros(plan.filters, width));
        for (g, matrix) in matrices.iter().enumerate() {
            plan.gather_results(y, g, &mut results);
            multiply(matrix.t(), results.view(), 0.0, columns.as_slice_mut().unwrap_or_default());
            plan.scatter(&columns, g, x);
        }
    });
}

/// Tasks are summed in order, so that the sum does not depend on the number of threads.
fn weight_gradient<T: Real>(plan: &Plan, x: &[T], gradient: &[T], into: &mut [T]) {
    let sample = plan.groups * plan.channels * plan.plane;
    let tasks: Vec<(&[T], &[T])> =
        x.chunks(plan.chunk * sample).zip(gradient.chunks(plan.chunk * plan.result_size())).collect();
    let mut sums: Vec<Array2<T>> = (0..plan.groups).map(|_| zeros(plan.filters, plan.inputs())).collect();
    for wave in tasks.chunks(WAVE) {
        let parts: Vec<Vec<Array2<T>>> = wave
            .par_iter()
            .map(|&(x, y)| {
                let width = x.len() / sample * plan.positions;
                let (mut columns, mut results) = (zeros(plan.inputs(), width), zeros(plan.filters, width));
                let mut part = |g: usize| {
                    plan.columns(x, g, &mut columns);
                    plan.gather_results(y, g, &mut results);
                    let mut part = zeros(plan.filters, plan.inputs());
                    multiply(results.view(), columns.t(), 0.0, part.as_slice_mut().unwrap_or_default());
                    part
                };
                (0..plan.groups).map(&mut part).collect()
            })
            .collect();
        for part in parts {
            sums.iter_mut().zip(part).for_each(|(sum, part)| sum.zip_mut_with(&part, |s, &p| *s += p));
        }
    }
    for (g, sum) in sums.iter().enumerate() {
        for ((f, k), &value) in sum.indexed_iter() {
            into[plan.weight_at(g, f, k / plan.taps, k % plan.taps)] += value;
        }
    }
}
