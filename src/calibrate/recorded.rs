//! Rows of what layers make in a model, kept from a pass over the samples: repaired layers are held against them, and the
//! original need not run again.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::rows::{Lines, Row};
use super::statistics::pass_over;
use super::{Activations, At, Calibration, Columns, Layer, Sampler};
use crate::error::{Error, Result};
use crate::onnx::proto::ModelProto;
use crate::runtime::{Limits, Tensor};

/// A value and the axis of its channels.
type Channels = (String, usize);

/// Rows of values of a model, for all samples.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    samplers: BTreeMap<Channels, Vec<Sampler>>,
    /// By the number of the first sample of a run.
    runs: BTreeMap<usize, BTreeMap<Channels, Rows>>,
}

/// The rows of a value in one run.
#[derive(Debug)]
struct Rows {
    shape: Vec<usize>,
    /// Numbers of the rows, ascending.
    numbers: Vec<usize>,
    /// Column after column, one for each channel.
    values: Vec<f32>,
}

impl Rows {
    fn of(tensor: &Tensor, axis: usize, samplers: &[Sampler], at: At<'_>) -> Result<Self> {
        let shape = tensor.shape().to_vec();
        let channels = shape.get(axis).copied().unwrap_or(0);
        let all = tensor.len() / channels.max(1);
        let chosen = samplers.iter().flat_map(|sampler| sampler.choose(all, at.samples, at.first, at.padding));
        let mut rows: Vec<Row> = chosen.collect();
        rows.sort_unstable_by_key(|row| row.index);
        rows.dedup();
        let mut values = vec![0.0; channels * rows.len()];
        let lines = Lines::new(tensor, (axis, channels), &rows)?;
        lines.write(0, 0..rows.len(), &mut Columns::over(&mut values, channels));
        Ok(Self { shape, numbers: rows.iter().map(|row| row.index).collect(), values })
    }

    fn bytes(&self) -> usize {
        size_of_val(self.values.as_slice()) + size_of_val(self.numbers.as_slice())
    }
}

impl Recorded {
    /// Whether all rows of a value that `sampler` chooses are here.
    pub(crate) fn covers(&self, value: &str, axis: usize, sampler: &Sampler) -> bool {
        let samplers = self.samplers.get(&(value.to_owned(), axis));
        samplers.is_some_and(|samplers| samplers.iter().any(|known| known.covers(sampler)))
    }

    /// The shape of a value in the run that begins with sample number `first`.
    ///
    /// # Errors
    /// If it was not recorded.
    pub(crate) fn shape(&self, value: &str, axis: usize, first: usize) -> Result<&[usize]> {
        self.rows(value, axis, first).map(|rows| rows.shape.as_slice())
    }

    /// Some rows of a value in that run.
    ///
    /// # Errors
    /// If one of them was not recorded.
    pub(crate) fn lines(&self, value: &str, axis: usize, (first, rows): (usize, &[Row])) -> Result<Lines<'_>> {
        let known = self.rows(value, axis, first)?;
        let find = |row: &Row| known.numbers.binary_search(&row.index).map_err(|_| missing(value));
        let offsets: Vec<usize> = rows.iter().map(find).collect::<Result<_>>()?;
        Ok(Lines::of_columns((&known.values, known.numbers.len()), offsets))
    }

    fn rows(&self, value: &str, axis: usize, first: usize) -> Result<&Rows> {
        let run = self.runs.get(&first).ok_or_else(|| missing(value))?;
        run.get(&(value.to_owned(), axis)).ok_or_else(|| missing(value))
    }
}

fn missing(value: &str) -> Error {
    Error::defect(format!("rows of '{value}' were not recorded"))
}

/// Rows on their way, as long as memory allows.
#[derive(Debug)]
pub(crate) struct Recording {
    recorded: Recorded,
    /// What the layers read. It is computed too, so that rows are the same to the last digit whatever else a pass is for: tract
    /// fuses what nobody asks for.
    read: BTreeSet<String>,
    left: usize,
    is_done: bool,
}

impl Recording {
    /// No rows yet, and no more bytes of them than may be held.
    pub(crate) fn within(limits: Limits) -> Self {
        let left = usize::try_from(limits.held()).unwrap_or(usize::MAX);
        Self { recorded: Recorded::default(), read: BTreeSet::new(), left, is_done: false }
    }

    /// Records some values of which a fit of `layer` asks for rows, however many of its inputs are gone.
    pub(crate) fn want(
        &mut self,
        layer: &Layer,
        values: impl IntoIterator<Item = String>,
        (samples, seed): (usize, u64),
    ) {
        self.read.extend(layer.all_data().cloned());
        for value in values {
            let samplers = self.recorded.samplers.entry((value, layer.linear.result_axis)).or_default();
            samplers.push(Sampler::widest(layer, samples, seed));
        }
    }

    /// Whether a pass recorded the rows, or found that they are too many.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Whether the rows are too many.
    fn is_over(&self) -> bool {
        self.recorded.samplers.is_empty()
    }

    /// The values that a pass has to compute for it.
    pub(crate) fn values(&self) -> impl Iterator<Item = &String> {
        self.recorded.samplers.keys().map(|(value, _)| value).chain(&self.read)
    }

    /// Records rows of some samples. Where those of all samples will be too many, nothing is recorded at all.
    ///
    /// # Errors
    /// If a value was not computed.
    pub(crate) fn add(&mut self, found: &Activations, at: At<'_>) -> Result<()> {
        self.is_done = true;
        let rows = |(channels, samplers): (&Channels, &Vec<Sampler>)| {
            Ok((channels.clone(), Rows::of(found.get(&channels.0)?, channels.1, samplers, at)?))
        };
        let run: BTreeMap<Channels, Rows> = self.recorded.samplers.par_iter().map(rows).collect::<Result<_>>()?;
        let bytes: usize = run.values().map(Rows::bytes).sum();
        // If the others are like these.
        let expected = bytes / at.samples.max(1) * at.total.saturating_sub(at.first);
        if expected <= self.left {
            self.left -= bytes.min(self.left);
            self.recorded.runs.insert(at.first, run);
        } else {
            self.recorded = Recorded::default();
        }
        Ok(())
    }

    /// What a pass recorded; `None` if there was none yet.
    pub(crate) fn finish(self) -> Option<Recorded> {
        self.is_done.then_some(self.recorded)
    }

    /// What a pass over all samples of a model records.
    ///
    /// # Errors
    /// If reading the data or running the model fails.
    pub(crate) fn run(mut self, model: &ModelProto, data: Calibration<'_>) -> Result<Recorded> {
        let values: Vec<String> = self.values().cloned().collect();
        let total = data.data.samples();
        let first = data.batch.min(total);
        for samples in [0..first, first..total] {
            if !self.is_over() {
                pass_over(model, (data, samples), &values, |found, at| self.add(found, at))?;
            }
        }
        Ok(self.recorded)
    }
}
