//! Activations as rows of a matrix: im2col for the chosen positions only.

use std::borrow::Cow;

use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use super::layer::Layer;
use super::padding::Padding;
use crate::error::{Error, Result};
use crate::runtime::Tensor;

/// Rows of a layer's input that statistics need: so many for each input of the layer.
const ROWS_PER_INPUT: usize = 20;

/// Rows that are taken in any case.
const LEAST_ROWS: usize = 4096;

/// Chooses the positions of each sample that count, seeded: the same whatever the batches.
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
    /// About 20·K rows (at least 4096) of a layer, spread over `samples` samples.
    pub fn new(layer: &Layer, samples: usize, seed: u64) -> Self {
        let wanted = (layer.inputs() * ROWS_PER_INPUT).max(LEAST_ROWS);
        Self { seed, stream: layer.node.0 as u64, per_sample: wanted.div_ceil(samples.max(1)).max(1) }
    }

    /// Rows of this batch, of which there are `rows`, whose samples are numbered from `first`; padding is left out.
    pub(crate) fn choose(&self, rows: usize, samples: usize, first: usize, padding: Option<&Padding>) -> Vec<Row> {
        let mut chosen = self.choose_any(rows, samples, first);
        if let Some(padding) = padding
            && rows.is_multiple_of(samples.max(1))
        {
            let each = rows / samples.max(1);
            chosen.retain(|row| padding.counts(row.sample - first, row.index % each.max(1), each));
        }
        chosen
    }

    fn choose_any(&self, rows: usize, samples: usize, first: usize) -> Vec<Row> {
        let samples = if samples > 0 && rows.is_multiple_of(samples) { samples } else { 1 };
        let each = rows / samples;
        let mut chosen = Vec::with_capacity(samples * self.per_sample.min(each));
        for sample in 0..samples {
            let row = |position: usize| Row { sample: first + sample, index: sample * each + position };
            if self.per_sample >= each {
                chosen.extend((0..each).map(row));
                continue;
            }
            let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ (self.stream << 32) ^ (first + sample) as u64);
            let mut positions = index::sample(&mut random, each, self.per_sample).into_vec();
            positions.sort_unstable();
            chosen.extend(positions.into_iter().map(row));
        }
        chosen
    }
}

impl Layer {
    /// Rows of data of this shape.
    pub(crate) fn row_count(&self, data: &[usize]) -> usize {
        match &self.window {
            Some(window) if data.len() >= 2 => data[0] * window.place(&data[2..]).outputs.iter().product::<usize>(),
            Some(_) => 0,
            None => data.iter().product::<usize>() / data.get(self.linear.data_axis).copied().unwrap_or(1).max(1),
        }
    }

    /// Appends row after row of group `group`'s input, each K long.
    ///
    /// # Errors
    /// If the data is not of the layer's width.
    pub(crate) fn input_rows(
        &self,
        data: &Tensor,
        values: &[f32],
        group: usize,
        rows: &[Row],
        into: &mut Vec<f64>,
    ) -> Result<()> {
        let shape = data.shape();
        let Some(window) = &self.window else {
            return line_rows(shape, values, (self.linear.data_axis, self.channels), rows, None, into)
                .map_err(|e| e.at_node(self.name.as_str()));
        };
        if shape.len() < 3 || shape[1] != self.groups * self.channels {
            return Err(misfit(shape, self.groups * self.channels).at_node(self.name.as_str()));
        }
        let placed = window.place(&shape[2..]);
        let each: usize = placed.outputs.iter().product::<usize>().max(1);
        let plane: usize = shape[2..].iter().product();
        let mut reads = Vec::new();
        for row in rows {
            placed.reads(row.index % each, &mut reads);
            let first = (row.index / each * shape[1] + group * self.channels) * plane;
            for channel in 0..self.channels {
                let base = first + channel * plane;
                into.extend(reads.iter().map(|at| at.map_or(0.0, |at| f64::from(values[base + at]))));
            }
        }
        Ok(())
    }

    /// Appends row after row of group `group`'s result: the channels `kept` of all channels, N of each group.
    ///
    /// # Errors
    /// If the result is not of the layer's width.
    pub(crate) fn result_rows(
        &self,
        result: &Tensor,
        values: &[f32],
        kept: &[usize],
        rows: &[Row],
        into: &mut Vec<f64>,
    ) -> Result<()> {
        let axis = self.linear.result_axis;
        let width = result.shape().get(axis).copied().unwrap_or(0);
        line_rows(result.shape(), values, (axis, width), rows, Some(kept), into)
            .map_err(|e| e.at_node(self.name.as_str()))
    }
}

/// The elements as float32, borrowed where they are.
pub(crate) fn floats(tensor: &Tensor) -> Result<Cow<'_, [f32]>> {
    Ok(match tensor.as_slice::<f32>() {
        Some(values) => Cow::Borrowed(values),
        None => Cow::Owned(tensor.to_vec::<f32>()?),
    })
}

/// The lines along one axis, numbered in row-major order of the other axes.
fn line_rows(
    shape: &[usize],
    values: &[f32],
    (axis, width): (usize, usize),
    rows: &[Row],
    kept: Option<&[usize]>,
    into: &mut Vec<f64>,
) -> Result<()> {
    if shape.get(axis) != Some(&width) {
        return Err(misfit(shape, width));
    }
    let inner: usize = shape[axis + 1..].iter().product();
    for row in rows {
        let first = row.index / inner * width * inner + row.index % inner;
        let line = |k: usize| f64::from(values[first + k * inner]);
        match kept {
            Some(kept) => into.extend(kept.iter().map(|&k| line(k))),
            None => into.extend((0..width).map(line)),
        }
    }
    Ok(())
}

fn misfit(shape: &[usize], width: usize) -> Error {
    Error::input(format!("activations of shape {shape:?} where {width} channels are expected"))
}
