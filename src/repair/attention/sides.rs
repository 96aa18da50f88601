//! What is gathered of heads: the covariance of keys and of mixed values, the second moments of queries.

use std::collections::BTreeSet;

use ndarray::{Array1, Array2, Axis};
use rayon::prelude::*;

use super::bond::{Bond, Pair, Traced};
use super::part::Part;
use crate::analysis::Subject;
use crate::calibrate::data::Batch;
use crate::calibrate::{Activations, At, Calibration, Columns, Detail, Layer, Padding, Sampler, Stream, Sums, in_turn};
use crate::error::{Error, Result};
use crate::linalg::default_backend;

/// C and G of a bond.
pub(super) type Metric = (Array2<f64>, Array2<f64>);

/// Rows of one head, as a layer makes them or reads them.
struct Rows {
    channels: Vec<usize>,
    /// What is added to them on their way.
    added: Array1<f64>,
    sums: Sums,
}

/// What is gathered at one layer: heads among its results, or among its inputs.
struct Side {
    layer: Layer,
    is_input: bool,
    heads: Vec<Rows>,
}

/// The sides of all pairs of some widths.
pub(super) struct Sides {
    all: Vec<Side>,
    /// For each bond of each pair: where its first side is, if that is looked at, and where the others are; each by the number
    /// of the side, and that of the head there.
    places: Vec<(Option<(usize, usize)>, Vec<(usize, usize)>)>,
}

impl Sides {
    pub(super) fn of(traced: &[Traced]) -> Self {
        let mut sides = Self { all: Vec::new(), places: Vec::new() };
        for pair in traced.iter().flat_map(|width| &width.pairs) {
            let none = Array1::zeros(0);
            for bond in &pair.bonds {
                let first = pair.is_scores.then(|| sides.place(&pair.first, false, &bond.first, &none));
                let other = |other: &Vec<usize>| sides.place(&pair.other, !pair.is_scores, other, &pair.added);
                let others = bond.others.iter().map(other).collect();
                sides.places.push((first, others));
            }
        }
        sides
    }

    fn place(&mut self, layer: &Layer, is_input: bool, channels: &[usize], added: &Array1<f64>) -> (usize, usize) {
        let is_there = |side: &Side| side.layer.node == layer.node && side.is_input == is_input;
        let number = self.all.iter().position(is_there).unwrap_or_else(|| {
            self.all.push(Side { layer: layer.clone(), is_input, heads: Vec::new() });
            self.all.len() - 1
        });
        let added = if added.is_empty() { Array1::zeros(channels.len()) } else { added.select(Axis(0), channels) };
        let heads = &mut self.all[number].heads;
        heads.push(Rows { channels: channels.to_vec(), added, sums: Sums::new(channels.len(), 0, Detail::Covariance) });
        (number, heads.len() - 1)
    }

    /// The values that are looked at.
    pub(super) fn values(&self) -> Vec<String> {
        let values: BTreeSet<&String> = self.all.iter().map(Side::value).collect();
        values.into_iter().cloned().collect()
    }

    /// Runs the original over all data.
    pub(super) fn gather(&mut self, subject: Subject<'_>, data: Calibration<'_>) -> Result<()> {
        let total = data.data.samples();
        let mut stream = Stream::default();
        let segment = stream.segment(subject.model, &[], &self.values())?;
        let run = |index: usize, batch: &Batch| stream.run(&segment, index, &batch.inputs);
        let mut first = 0;
        in_turn(data.data.batches(data.batch), data.runs, run, |batch, found| {
            let samples = batch.samples();
            let padding = Padding::of(&batch.inputs);
            self.add(&found, data, At { samples, first, total, padding: padding.as_ref() })?;
            first += samples;
            Ok(())
        })
    }

    /// Adds the values of some samples.
    pub(super) fn add(&mut self, found: &Activations, data: Calibration<'_>, at: At<'_>) -> Result<()> {
        self.all.par_iter_mut().try_for_each(|side| side.add(found, data, at))
    }

    /// C and G of every bond of every pair of the widths that the sides were made of.
    pub(super) fn metrics(self, subject: Subject<'_>, traced: &[Traced]) -> Result<Vec<Vec<Vec<Metric>>>> {
        let moments: Vec<Vec<Rows>> = self.all.into_iter().map(|side| side.heads).collect();
        let mut places = self.places.into_iter();
        let mut of_pair = |pair: &Pair| -> Result<Vec<Metric>> {
            let bonds = pair.bonds.iter().zip(places.by_ref().take(pair.bonds.len()));
            bonds.map(|(bond, place)| pair.metric(subject, bond, place, &moments)).collect()
        };
        traced.iter().map(|traced| traced.pairs.iter().map(&mut of_pair).collect()).collect()
    }
}

impl Pair {
    fn metric(
        &self,
        subject: Subject<'_>,
        bond: &Bond,
        (first, others): (Option<(usize, usize)>, Vec<(usize, usize)>),
        moments: &[Vec<Rows>],
    ) -> Result<Metric> {
        let at = |(side, head): (usize, usize)| &moments[side][head];
        let sum = |all: Vec<Array2<f64>>| all.into_iter().reduce(|a, b| a + b).unwrap_or_default();
        let others: Vec<&Rows> = others.into_iter().map(at).collect();
        Ok(if let Some(keys) = first {
            (at(keys).sums.covariance(), sum(others.iter().map(|queries| queries.second_moments()).collect()))
        } else {
            let mixed = sum(others.iter().map(|mixed| mixed.sums.covariance()).collect()) / others.len().max(1) as f64;
            let part = Part::of(subject, &self.other)?;
            let weights = part.ok_or_else(|| Error::input("an attention layer no longer exists"))?.weights;
            let rows = bond.others.iter().map(|rows| weights.select(Axis(0), rows));
            (mixed, sum(rows.map(|rows| rows.dot(&rows.t())).collect()))
        })
    }
}

impl Side {
    fn value(&self) -> &String {
        if self.is_input { &self.layer.data } else { &self.layer.result }
    }

    fn add(&mut self, found: &Activations, data: Calibration<'_>, at: At<'_>) -> Result<()> {
        let tensor = found.get(self.value())?;
        let (axis, width) = if self.is_input {
            (self.layer.linear.data_axis, self.layer.inputs())
        } else {
            (self.layer.linear.result_axis, self.layer.outputs)
        };
        if tensor.shape().get(axis) != Some(&width) {
            return Err(Error::input(format!("'{}' is of shape {:?}", self.value(), tensor.shape())));
        }
        let sampler = Sampler::new(&self.layer, at.total, data.seed);
        let rows = sampler.choose(tensor.len() / width.max(1), at.samples, at.first, at.padding);
        let lines =
            if self.is_input { self.layer.inputs_of(tensor, &rows)? } else { self.layer.results_of(tensor, &rows)? };
        let (count, backend) = (rows.len(), default_backend());
        self.heads.par_iter_mut().for_each(|head| {
            let mut values = vec![0.0; head.channels.len() * count];
            let mut columns = Columns::over(&mut values, head.channels.len());
            lines.write_channels(&head.channels, 0..count, &mut columns);
            let x = Array2::from_shape_fn((count, head.channels.len()), |(row, column)| {
                f64::from(values[column * count + row])
            });
            head.sums.merge(&Sums::of(backend, x.view(), Array2::zeros((count, 0)).view()));
        });
        Ok(())
    }
}

impl Rows {
    /// `E[x xᵀ]` of the rows with what is added to them.
    fn second_moments(&self) -> Array2<f64> {
        let mean = (self.sums.mean_x() + &self.added).insert_axis(Axis(1));
        self.sums.covariance() + mean.dot(&mean.t())
    }
}
