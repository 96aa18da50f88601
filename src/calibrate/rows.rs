//! Activations as rows of a matrix: im2col for the chosen positions only.

use std::borrow::Cow;
use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use super::block::Columns;
use super::layer::Layer;
use super::padding::Padding;
use super::window::Window;
use crate::error::{Error, Result};
use crate::runtime::Tensor;

/// Rows of a layer's input that statistics need: this many for each input of the layer.
const ROWS_PER_INPUT: usize = 20;

/// Rows that are recorded for each input of a layer, before it is known how many it loses.
const ROWS_RECORDED: usize = 10;

/// Rows that are taken in any case.
const LEAST_ROWS: usize = 4096;

/// Rows that are taken in any case of a convolution in groups: each of its matrices is fitted to all of them, and has few
/// inputs.
const LEAST_ROWS_IN_GROUPS: usize = 1024;

/// Multiply–accumulates that the products of a layer's inputs may take. A layer of very many inputs has a long kernel, and its rows
/// overlap: many of them add little.
const MOST_PRODUCTS: usize = 1 << 38;

/// Most rows that any number of inputs K needs: 20·K and 2³⁸ / K² meet near K = 2396.
const MOST_ROWS: usize = 47_930;

/// Chooses the positions of each sample that count, seeded: the same whatever the batches. Of two samplers for the same values,
/// the one that chooses fewer positions chooses some of those of the other.
#[derive(Debug, Clone, Copy)]
pub struct Sampler {
    seed: u64,
    stream: u64,
    per_sample: usize,
}

/// A row: the sample's number in the data set, and the position in the batch's activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    /// Number of the sample in the data set.
    pub(crate) sample: usize,
    /// Number of the row among all of the batch.
    pub(crate) index: usize,
}

impl Sampler {
    /// About 20·K rows (at least 4096, or 1024 of a convolution in groups) of a layer, spread over `samples` samples.
    pub fn new(layer: &Layer, samples: usize, seed: u64) -> Self {
        Self::of_inputs(layer, layer.inputs(), samples, seed)
    }

    /// As [`new`](Self::new), for statistics of this many values a row.
    pub(crate) fn of_inputs(layer: &Layer, inputs: usize, samples: usize, seed: u64) -> Self {
        Self::of_rows(layer, wanted(inputs), samples, seed)
    }

    /// For a layer of which `inputs` inputs are left: about 20 rows for each of them, but no more than 10 for each that it had.
    pub(crate) fn narrowed(layer: &Layer, inputs: usize, samples: usize, seed: u64) -> Self {
        Self::of_rows(layer, wanted(inputs).min(layer.inputs() * ROWS_RECORDED), samples, seed)
    }

    /// No fewer rows than [`narrowed`](Self::narrowed), however many inputs are left.
    pub(crate) fn widest(layer: &Layer, samples: usize, seed: u64) -> Self {
        Self::of_rows(layer, (layer.inputs() * ROWS_RECORDED).min(MOST_ROWS), samples, seed)
    }

    /// About `rows` rows of a layer, but no fewer than [`new`](Self::new) takes in any case, spread over `samples` samples and the
    /// nodes of the layer.
    pub fn of_rows(layer: &Layer, rows: usize, samples: usize, seed: u64) -> Self {
        let least = if layer.groups > 1 { LEAST_ROWS_IN_GROUPS } else { LEAST_ROWS };
        let (wanted, visits) = (rows.max(least), samples.max(1) * (1 + layer.more.len()));
        let read: Vec<&str> = layer.all_data().map(String::as_str).collect();
        let digest = Sha256::digest(read.join("\n"));
        let stream = digest.iter().take(4).fold(0, |stream, &byte| stream << 8 | u64::from(byte));
        Self { seed, stream, per_sample: wanted.div_ceil(visits).max(1) }
    }

    /// Whether every position that `other` chooses is one of its own.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        (self.seed, self.stream) == (other.seed, other.stream) && self.per_sample >= other.per_sample
    }

    /// Rows of this batch, of which there are `rows`, whose samples are numbered from `first`: of the positions that are no padding.
    pub(crate) fn choose(&self, rows: usize, samples: usize, first: usize, padding: Option<&Padding>) -> Vec<Row> {
        let is_even = samples > 0 && rows.is_multiple_of(samples);
        let (samples, padding) = if is_even { (samples, padding) } else { (1, None) };
        let each = rows / samples;
        let mut chosen = Vec::with_capacity(samples * self.per_sample.min(each));
        for sample in 0..samples {
            let row = |position: usize| Row { sample: first + sample, index: sample * each + position };
            let counts = |position: &usize| padding.is_none_or(|padding| padding.counts(sample, *position, each));
            let mut positions: Vec<usize> = (0..each).filter(counts).collect();
            let count = positions.len();
            if self.per_sample >= count {
                chosen.extend(positions.into_iter().map(row));
                continue;
            }
            let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ (self.stream << 32) ^ (first + sample) as u64);
            // The beginning of a shuffle: a longer one begins alike.
            for next in 0..self.per_sample {
                positions.swap(next, random.random_range(next..count));
            }
            positions.truncate(self.per_sample);
            positions.sort_unstable();
            chosen.extend(positions.into_iter().map(row));
        }
        chosen
    }
}

/// Rows for statistics of this many inputs.
fn wanted(inputs: usize) -> usize {
    (inputs * ROWS_PER_INPUT).min(MOST_PRODUCTS / inputs.saturating_mul(inputs).max(1))
}

impl Layer {
    /// Rows of data of this shape.
    pub(crate) fn row_count(&self, data: &[usize]) -> usize {
        match &self.window {
            Some(window) if data.len() == window.rank() + 2 => {
                data[0] * window.place(&data[2..]).outputs.iter().product::<usize>()
            }
            Some(_) => 0,
            None => data.iter().product::<usize>() / data.get(self.linear.data_axis).copied().unwrap_or(1).max(1),
        }
    }

    /// The rows of the layer's input; group g reads the channels from `g · channels` on.
    ///
    /// # Errors
    /// If the data is not of the layer's width.
    pub(crate) fn inputs_of<'t>(&self, data: &'t Tensor, rows: &[Row]) -> Result<Lines<'t>> {
        let located = |e: Error| e.at_node(self.name.as_str());
        let width = self.groups * self.channels;
        match &self.window {
            None => Lines::new(data, (self.linear.data_axis, width), rows),
            Some(window) => Lines::under_window(data, (window, width), rows),
        }
        .map_err(located)
    }

    /// The rows of the layer's result, one value for each channel of all groups; their number is that of the result.
    ///
    /// # Errors
    /// If the result has no such axis.
    pub(crate) fn results_of<'t>(&self, result: &'t Tensor, rows: &[Row]) -> Result<Lines<'t>> {
        let axis = self.linear.result_axis;
        let width = result.shape().get(axis).copied().unwrap_or(0);
        Lines::new(result, (axis, width), rows).map_err(|e| e.at_node(self.name.as_str()))
    }
}

/// Chosen rows of an activation: for each channel the values at some places, zero where a place lies in the padding.
#[derive(Debug)]
pub(crate) struct Lines<'t> {
    values: Cow<'t, [f32]>,
    /// Places of a channel that belong to a row: kernel positions of a convolution, otherwise one.
    taps: usize,
    channels: usize,
    /// Distance of a channel from the next.
    stride: usize,
    /// Position of channel 0 for each row, tap by tap; [`PADDING`] outside of the data.
    offsets: Vec<usize>,
    rows: usize,
}

/// The offset of what lies in the padding.
const PADDING: usize = usize::MAX;

/// Channels that are read at once where they lie side by side: a cache line.
const SIDE_BY_SIDE: usize = 16;

impl<'t> Lines<'t> {
    /// The lines along one axis, numbered in row-major order of the other axes.
    ///
    /// # Errors
    /// If the axis is not of that width, or a row does not exist.
    pub(crate) fn new(data: &'t Tensor, (axis, width): (usize, usize), rows: &[Row]) -> Result<Self> {
        let shape = data.shape();
        if shape.get(axis) != Some(&width) {
            return Err(misfit(shape, width));
        }
        let stride: usize = shape[axis + 1..].iter().product();
        let count = shape.iter().product::<usize>() / width.max(1);
        let offset = |row: &Row| row.index / stride * width * stride + row.index % stride;
        let offsets = rows.iter().map(offset).collect();
        Self { values: floats(data)?, taps: 1, channels: width, stride, offsets, rows: rows.len() }
            .checked(shape, (rows, count))
    }

    /// What a sliding window reads, numbered by its positions, sample after sample.
    fn under_window(data: &'t Tensor, (window, width): (&Window, usize), rows: &[Row]) -> Result<Self> {
        let shape = data.shape();
        if shape.len() != window.rank() + 2 || shape[1] != width {
            return Err(misfit(shape, width));
        }
        let placed = window.place(&shape[2..]);
        let each: usize = placed.outputs.iter().product();
        let plane: usize = shape[2..].iter().product();
        let taps = window.taps();
        let mut offsets = vec![PADDING; taps * rows.len()];
        let mut reads = Vec::with_capacity(taps);
        for (number, row) in rows.iter().enumerate() {
            placed.reads(row.index % each, &mut reads);
            let first = row.index / each * width * plane;
            for (tap, at) in reads.iter().enumerate() {
                if let (Some(at), Some(offset)) = (at, offsets.get_mut(tap * rows.len() + number)) {
                    *offset = first + at;
                }
            }
        }
        Self { values: floats(data)?, taps, channels: width, stride: plane, offsets, rows: rows.len() }
            .checked(shape, (rows, shape[0] * each))
    }

    /// Rows that were written column after column, one for each channel and `count` values each: those at some places of every
    /// column.
    pub(crate) fn of_columns(values: &'t [f32], (channels, count): (usize, usize), places: Vec<usize>) -> Self {
        let rows = places.len();
        Self { values: Cow::Borrowed(values), taps: 1, channels, stride: count, offsets: places, rows }
    }

    /// Every row and every value that is read exists.
    fn checked(self, shape: &[usize], (rows, count): (&[Row], usize)) -> Result<Self> {
        let last = self.offsets.iter().filter(|&&offset| offset != PADDING).max();
        let end = last.map_or(0, |last| last + self.channels.saturating_sub(1) * self.stride + 1);
        if rows.iter().any(|row| row.index >= count) || end > self.values.len() {
            return Err(Error::input(format!("activations of shape {shape:?} have fewer rows than are to be read")));
        }
        Ok(self)
    }

    /// Values of a row along the axis.
    pub(crate) fn channels(&self) -> usize {
        self.channels
    }

    /// Writes some of the rows of the channels from `first` on: as many as the columns hold, the taps of a channel side by
    /// side.
    pub(crate) fn write(&self, first: usize, rows: Range<usize>, into: &mut Columns<'_>) {
        let channels = into.width() / self.taps.max(1);
        if self.stride == 1 && self.taps == 1 {
            for start in (0..channels).step_by(SIDE_BY_SIDE) {
                let end = channels.min(start + SIDE_BY_SIDE);
                let mut columns: Vec<&mut [f32]> = into.columns(start..end).collect();
                for (slot, &offset) in self.offsets[rows.clone()].iter().enumerate() {
                    let values = &self.values[offset + first + start..offset + first + end];
                    columns.iter_mut().zip(values).for_each(|(column, &value)| column[slot] = value);
                }
            }
            return;
        }
        for channel in 0..channels {
            for tap in 0..self.taps {
                let offsets = &self.offsets[tap * self.rows..][rows.clone()];
                self.read(first + channel, offsets, into.column(channel * self.taps + tap), |to, value| *to = value);
            }
        }
    }

    /// Writes some of the rows of these channels.
    pub(crate) fn write_channels(&self, channels: &[usize], rows: Range<usize>, into: &mut Columns<'_>) {
        for (column, &channel) in channels.iter().enumerate() {
            self.read(channel, &self.offsets[rows.clone()], into.column(column), |to, value| *to = value);
        }
    }

    /// Adds `factor` times a channel's values at some of the rows.
    pub(crate) fn add(&self, channel: usize, rows: Range<usize>, factor: f64, into: &mut [f32]) {
        #[allow(clippy::cast_possible_truncation)]
        let factor = factor as f32;
        self.read(channel, &self.offsets[rows], into, |to, value| *to += factor * value);
    }

    fn read(&self, channel: usize, offsets: &[usize], into: &mut [f32], put: impl Fn(&mut f32, f32)) {
        let values = self.values.get(channel * self.stride..).unwrap_or_default();
        for (to, &offset) in into.iter_mut().zip(offsets) {
            // Padding is beyond any value.
            put(to, values.get(offset).copied().unwrap_or(0.0));
        }
    }
}

/// The elements as float32, borrowed where they are.
pub(crate) fn floats(tensor: &Tensor) -> Result<Cow<'_, [f32]>> {
    Ok(match tensor.as_slice::<f32>() {
        Some(values) => Cow::Borrowed(values),
        None => Cow::Owned(tensor.to_vec::<f32>()?),
    })
}

fn misfit(shape: &[usize], width: usize) -> Error {
    Error::input(format!("activations of shape {shape:?} where {width} channels are expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLER: Sampler = Sampler { seed: 3, stream: 7, per_sample: 0 };

    #[test]
    fn fewer_rows_are_some_of_more_rows() {
        let (few, many) = (Sampler { per_sample: 5, ..SAMPLER }, Sampler { per_sample: 40, ..SAMPLER });
        assert!(many.covers(&few) && !few.covers(&many) && !many.covers(&Sampler { stream: 8, ..few }));
        let (few, many) = (few.choose(300, 3, 6, None), many.choose(300, 3, 6, None));
        assert_eq!((few.len(), many.len()), (15, 120));
        assert!(few.iter().all(|row| many.contains(row)));
        // All that there are, where more are wanted.
        let all = Sampler { per_sample: 101, ..SAMPLER }.choose(300, 3, 6, None);
        assert!(all.iter().map(|row| row.index).eq(0..300));
    }

    /// A bias of shape `[1, C, 1, 1]` was read as if it had a row for each sample: index 32 of 32.
    #[test]
    fn a_row_that_is_not_there_is_an_error() {
        let values: Vec<f32> = (0..32_u8).map(f32::from).collect();
        let lines = |shape: &[usize], index: usize| {
            let tensor = Tensor::new(shape, &values).unwrap();
            Lines::new(&tensor, (1, shape[1]), &[Row { sample: 0, index }]).map(|lines| lines.channels())
        };
        assert_eq!(lines(&[1, 32, 1, 1], 0).unwrap(), 32);
        assert_eq!(lines(&[2, 4, 2, 2], 7).unwrap(), 4);
        assert!(lines(&[1, 32, 1, 1], 1).is_err() && lines(&[2, 4, 2, 2], 8).is_err());
    }
}
