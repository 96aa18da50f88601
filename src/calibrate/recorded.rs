//! What a pass over the samples keeps of a model for the repair of its layers: rows of what they make, and the covariances of
//! what they read. So the model need not run again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rayon::prelude::*;

use super::rows::{Lines, Row};
use super::statistics::{Accumulator, InputStatistics, Kept, pass_over};
use super::{Activations, At, Calibration, Columns, Detail, Layer, Sampler, Sums};
use crate::analysis::Subject;
use crate::error::{Error, Result};
use crate::runtime::Tensor;

/// A value and the axis of its channels.
type Channels = (String, usize);

/// Rows of values of a model, and sums over the inputs of its layers, for all samples.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    values: BTreeMap<Channels, Value>,
    /// By the result of the layer.
    inputs: BTreeMap<String, InputStatistics>,
}

/// The rows of one value. All runs share two vectors. Small vectors for each run would lie scattered among short-lived
/// activations, whose memory could not be returned then.
#[derive(Debug, Default)]
struct Value {
    samplers: Vec<Sampler>,
    /// By the number of the first sample of a run.
    runs: BTreeMap<usize, Run>,
    /// Numbers of the rows, ascending in every run.
    numbers: Vec<u32>,
    /// Run after run, and in each column after column, one for each channel.
    values: Vec<f32>,
}

/// Where the rows of a run are.
#[derive(Debug)]
struct Run {
    shape: Vec<usize>,
    numbers: Range<usize>,
    values: Range<usize>,
}

impl Value {
    /// Adds the chosen rows of a run.
    fn add(&mut self, tensor: &Tensor, axis: usize, at: At<'_>) -> Result<()> {
        let shape = tensor.shape().to_vec();
        // A branch of a sum that is broadcast may have no such axis: nobody asks for its rows.
        let channels = shape.get(axis).copied().unwrap_or(0);
        let all = tensor.len().checked_div(channels).unwrap_or(0);
        let chosen = self.samplers.iter().flat_map(|sampler| sampler.choose(all, at.samples, at.first, at.padding));
        let mut rows: Vec<Row> = chosen.collect();
        rows.sort_unstable_by_key(|row| row.index);
        rows.dedup();
        let number = |row: &Row| u32::try_from(row.index).map_err(|_| Error::input("a value has too many rows"));
        let numbers: Vec<u32> = rows.iter().map(number).collect::<Result<_>>()?;
        let (first, start) = (self.numbers.len(), self.values.len());
        let length = channels * rows.len();
        self.numbers.extend(numbers);
        self.values.resize(start + length, 0.0);
        if length > 0 {
            let lines = Lines::new(tensor, (axis, channels), &rows)?;
            lines.write(0, 0..rows.len(), &mut Columns::over(&mut self.values[start..], channels));
        }
        let run = Run { shape, numbers: first..self.numbers.len(), values: start..self.values.len() };
        self.runs.insert(at.first, run);
        Ok(())
    }

    /// Makes room for further runs, if they are like the first one.
    fn reserve(&mut self, runs: usize) {
        self.numbers.reserve_exact(runs * self.numbers.len());
        self.values.reserve_exact(runs * self.values.len());
    }

    /// Bytes of the rows of all samples, if the others are like those so far.
    fn expected(&self, at: At<'_>) -> usize {
        let bytes = size_of_val(self.values.as_slice()) + size_of_val(self.numbers.as_slice());
        bytes / (at.first + at.samples).max(1) * at.total
    }
}

impl Recorded {
    /// Sums over the inputs of a layer of one convolution group, with their products, if they were small enough to keep.
    pub(crate) fn inputs(&self, layer: &Layer) -> Option<&Sums> {
        self.inputs.get(&layer.result).and_then(|groups| groups.first())
    }

    /// Whether all rows of a value that `sampler` chooses are here.
    pub(crate) fn covers(&self, value: &str, axis: usize, sampler: &Sampler) -> bool {
        let value = self.values.get(&(value.to_owned(), axis));
        value.is_some_and(|value| value.samplers.iter().any(|known| known.covers(sampler)))
    }

    /// The shape of a value in the run that begins with sample number `first`.
    ///
    /// # Errors
    /// If it was not recorded.
    pub(crate) fn shape(&self, value: &str, axis: usize, first: usize) -> Result<&[usize]> {
        self.run(value, axis, first).map(|(_, run)| run.shape.as_slice())
    }

    /// Some rows of a value in that run.
    ///
    /// # Errors
    /// If one of them was not recorded.
    pub(crate) fn lines(&self, name: &str, axis: usize, (first, rows): (usize, &[Row])) -> Result<Lines<'_>> {
        let (value, run) = self.run(name, axis, first)?;
        let (numbers, values) = (&value.numbers[run.numbers.clone()], &value.values[run.values.clone()]);
        let find = |row: &Row| numbers.binary_search_by_key(&row.index, |&number| number as usize);
        let places: std::result::Result<Vec<usize>, usize> = rows.iter().map(find).collect();
        let channels = run.shape.get(axis).copied().unwrap_or(0);
        Ok(Lines::of_columns(values, (channels, numbers.len()), places.map_err(|_| missing(name))?))
    }

    fn run(&self, name: &str, axis: usize, first: usize) -> Result<(&Value, &Run)> {
        let found = self.values.get(&(name.to_owned(), axis)).and_then(|value| Some((value, value.runs.get(&first)?)));
        found.ok_or_else(|| missing(name))
    }
}

fn missing(value: &str) -> Error {
    Error::defect(format!("rows of '{value}' were not recorded"))
}

/// What a pass that is still going on records, as long as memory allows.
#[derive(Debug)]
pub(crate) struct Recording {
    recorded: Recorded,
    /// Layers whose inputs are summed up.
    summed: Vec<Layer>,
    /// What the layers read. Every pass computes it too, because tract fuses operators between the values that it is asked for.
    /// So the rows are the same to the last digit in all passes.
    read: BTreeSet<String>,
    /// Most bytes of rows.
    most: usize,
    /// Bytes that further sums may take.
    room: usize,
    is_done: bool,
}

impl Recording {
    /// Nothing yet, and no more bytes of rows than `most`, and of sums than half as many.
    pub(crate) fn within(most: u64) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let (recorded, summed, read) = (Recorded::default(), Vec::new(), BTreeSet::new());
        Self { recorded, summed, read, most, room: most / 2, is_done: false }
    }

    /// Nothing of what was wanted, from a pass that computes it nevertheless: so its sums are those of a pass that records, to the
    /// last digit.
    pub(crate) fn without_rows(self) -> Self {
        Self { most: 0, summed: Vec::new(), ..self }
    }

    /// The rows without any sums.
    #[cfg(feature = "cli")]
    pub(crate) fn without_sums(self) -> Self {
        Self { summed: Vec::new(), ..self }
    }

    /// The sums that earlier passes over the samples left, without any rows.
    ///
    /// # Errors
    /// If they are damaged.
    pub(crate) fn recalled(self, subject: Subject<'_>, data: Calibration<'_>) -> Result<Recorded> {
        let (mut recorded, kept) = (Recorded::default(), Kept::of(subject, data));
        for layer in &self.summed {
            let sampler = Sampler::widest(layer, data.data.samples(), data.seed);
            let known =
                kept.as_ref().map(|kept| kept.sums_of(layer, sampler, Detail::Covariance)).transpose()?.flatten();
            recorded.inputs.extend(known.map(|known| (layer.result.clone(), known)));
        }
        Ok(recorded)
    }

    /// Records some values of which a fit of `layer` asks for rows, however many of its inputs are gone, and sums over these.
    pub(crate) fn want(
        &mut self,
        layer: &Layer,
        values: impl IntoIterator<Item = String>,
        (samples, seed): (usize, u64),
    ) {
        self.read.extend(layer.all_data().cloned());
        for value in values {
            let value = self.recorded.values.entry((value, layer.linear.result_axis)).or_default();
            value.samplers.push(Sampler::widest(layer, samples, seed));
        }
        let bytes = layer.inputs() * layer.inputs() * size_of::<f64>();
        if layer.has_covariance() && layer.groups == 1 && bytes <= self.room {
            self.room -= bytes;
            self.summed.push(layer.clone());
        }
    }

    /// Keeps sums that were made for the scores, if they are wanted.
    pub(crate) fn keep(&mut self, layer: &Layer, sums: &InputStatistics) {
        let is_covariance = sums.iter().all(|sums| sums.detail() == Detail::Covariance);
        if is_covariance && self.summed.iter().any(|wanted| wanted.result == layer.result) {
            self.recorded.inputs.insert(layer.result.clone(), sums.clone());
        }
    }

    /// Whether a pass recorded the rows, or found that they are too many.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// The values that a pass has to compute for it.
    pub(crate) fn values(&self) -> impl Iterator<Item = &String> {
        self.recorded.values.keys().map(|(value, _)| value).chain(&self.read)
    }

    /// Records rows of some samples. Where those of all samples will be too many, no rows are recorded at all.
    ///
    /// # Errors
    /// If a value was not computed.
    pub(crate) fn add(&mut self, found: &Activations, at: At<'_>) -> Result<()> {
        self.is_done = true;
        let values = &mut self.recorded.values;
        values.par_iter_mut().try_for_each(|((name, axis), value)| value.add(found.get(name)?, *axis, at))?;
        if values.values().map(|value| value.expected(at)).sum::<usize>() > self.most {
            values.clear();
        }
        if values.values().all(|value| value.runs.len() == 1) {
            let others = at.total.div_ceil(at.samples.max(1)).saturating_sub(1);
            values.values_mut().for_each(|value| value.reserve(others));
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
    pub(crate) fn run(mut self, subject: Subject<'_>, data: Calibration<'_>) -> Result<Recorded> {
        let values: Vec<String> = self.values().cloned().collect();
        let total = data.data.samples();
        let kept = Kept::of(subject, data);
        let summed = std::mem::take(&mut self.summed);
        let mut accumulators: Vec<Accumulator<'_>> = Vec::new();
        for layer in &summed {
            let sampler = Sampler::widest(layer, total, data.seed);
            let known =
                kept.as_ref().map(|kept| kept.sums_of(layer, sampler, Detail::Covariance)).transpose()?.flatten();
            if let Some(known) = known {
                self.recorded.inputs.insert(layer.result.clone(), known);
            } else if !accumulators.iter().any(|other| other.layer().reads_like(layer)) {
                accumulators.push(Accumulator::new(layer, sampler, Detail::Covariance, data));
            }
        }
        // What is wanted changes once it is known how much the rows of the first batch take.
        let Range { start, end } = data.own();
        let first = data.batches(start..end).next().transpose()?.map_or(0, |batch| batch.samples());
        for samples in [start..start + first, start + first..end] {
            if !(self.recorded.values.is_empty() && accumulators.is_empty()) {
                pass_over(subject.model, (data, samples), &values, |found, at| {
                    accumulators.par_iter_mut().try_for_each(|sums| sums.add(found, at))?;
                    self.add(found, at)
                })?;
            }
        }
        for accumulator in accumulators {
            let (of, sums) = (accumulator.layer(), accumulator.finish(kept.as_ref())?);
            for layer in summed.iter().filter(|layer| of.reads_like(layer)) {
                self.recorded.inputs.entry(layer.result.clone()).or_insert_with(|| sums.clone());
            }
        }
        Ok(self.recorded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_values(values: BTreeMap<Channels, Value>) -> Recorded {
        Recorded { values, inputs: BTreeMap::new() }
    }

    /// What is added to a result without having its axis has no rows, and is no error.
    #[test]
    fn a_value_without_the_axis_has_no_rows() {
        let mut value = Value::default();
        let at = At { samples: 1, first: 0, total: 4, padding: None };
        value.add(&Tensor::new(&[3], &[1_f32, 2., 3.]).unwrap(), 1, at).unwrap();
        value.add(&Tensor::new(&[1, 0], &[0_f32; 0]).unwrap(), 1, At { first: 1, ..at }).unwrap();
        assert_eq!((value.runs[&0].shape.as_slice(), value.expected(at)), (&[3][..], 0));
        let recorded = of_values(BTreeMap::from([(("r".to_owned(), 1), value)]));
        assert_eq!(recorded.shape("r", 1, 0).unwrap(), [3]);
    }

    /// Rows of a run are found again; one that was not recorded, or that stands in a run without rows, is an error or nothing.
    #[test]
    fn recorded_rows_are_those_of_the_value() {
        let tensor = Tensor::new(&[2, 3, 2], &[0_f32, 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11.]).unwrap();
        let run = Run { shape: vec![2, 3, 2], numbers: 0..2, values: 0..6 };
        let empty = Run { shape: vec![2, 3, 0], numbers: 2..2, values: 6..6 };
        let value = Value {
            samplers: Vec::new(),
            runs: BTreeMap::from([(4, run), (6, empty)]),
            numbers: vec![1, 2],
            values: vec![1., 6., 3., 8., 5., 10.],
        };
        let recorded = of_values(BTreeMap::from([(("y".to_owned(), 1), value)]));
        let read = |lines: &Lines<'_>, count: usize| {
            let mut values = vec![0.0; 3 * count];
            lines.write_channels(&[0, 1, 2], 0..count, &mut Columns::over(&mut values, 3));
            values
        };
        let rows = [Row { sample: 4, index: 1 }, Row { sample: 5, index: 2 }];
        for rows in [&rows[..], &rows[1..]] {
            let whole = Lines::new(&tensor, (1, 3), rows).unwrap();
            let found = recorded.lines("y", 1, (4, rows)).unwrap();
            assert_eq!((found.channels(), read(&found, rows.len())), (3, read(&whole, rows.len())));
        }
        assert_eq!(recorded.lines("y", 1, (6, &[])).unwrap().channels(), 3);
        assert!(recorded.lines("y", 1, (4, &[Row { sample: 4, index: 0 }])).is_err());
        assert!(recorded.shape("y", 1, 5).is_err() && recorded.shape("z", 1, 4).is_err());
    }
}
