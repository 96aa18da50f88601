//! What is gathered of heads: the covariance of keys and of mixed values, the second moments of queries.

use std::collections::BTreeSet;

use ndarray::{Array1, Array2, Axis};
use rayon::prelude::*;

use super::bond::{Bond, Pair, Traced};
use super::part::Part;
use crate::analysis::Subject;
use crate::calibrate::{
    Activations, At, Calibration, Detail, Folded, Layer, Portions, Sampler, Sums, Team, pass, stats,
};
use crate::error::{Error, Result};

/// C and G of a bond.
pub(super) type Metric = (Array2<f64>, Array2<f64>);

/// Rows of one head, as a layer makes them or reads them.
struct Rows {
    /// What is added to them on their way.
    added: Array1<f64>,
    sums: Sums,
}

/// A head as a layer makes it or reads it.
struct Head {
    channels: Vec<usize>,
    added: Array1<f64>,
}

/// What is gathered at one layer: heads among its results, or among its inputs.
struct Side {
    layer: Layer,
    is_input: bool,
    heads: Vec<Head>,
    /// Rows of all heads, once there are some.
    gathered: Option<Portions>,
    /// The sums, where they are known already.
    known: Option<Vec<Sums>>,
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
            self.all.push(Side { layer: layer.clone(), is_input, heads: Vec::new(), gathered: None, known: None });
            self.all.len() - 1
        });
        let added = if added.is_empty() { Array1::zeros(channels.len()) } else { added.select(Axis(0), channels) };
        let heads = &mut self.all[number].heads;
        heads.push(Head { channels: channels.to_vec(), added });
        (number, heads.len() - 1)
    }

    /// The values that are looked at.
    pub(super) fn values(&self) -> Vec<String> {
        let values: BTreeSet<&String> = self.all.iter().map(Side::value).collect();
        values.into_iter().cloned().collect()
    }

    /// Runs the original over all data, unless an earlier job did so.
    pub(super) fn gather(&mut self, subject: Subject<'_>, data: Calibration<'_>) -> Result<()> {
        let kept = data.data.stats();
        for side in &mut self.all {
            let Some(stats) = kept else { break };
            side.known = stats.get(&side.key(subject, data), |record| side.read(record))?;
        }
        let values: Vec<String> =
            self.all.iter().filter(|side| side.known.is_none()).map(Side::value).cloned().collect();
        if values.is_empty() {
            return Ok(());
        }
        pass(subject.model, data, &values, |found, at| self.add(found, data, at))?;
        let Some(stats) = kept else { return Ok(()) };
        for side in self.all.iter_mut().filter(|side| side.known.is_none()) {
            let key = side.key(subject, data);
            for (leaf, sums) in side.gathered.take().map(Portions::finish).unwrap_or_default() {
                let key = if data.data.is_shared() { stats::portion(&key, stats::SUMS, leaf) } else { key.clone() };
                let record: stats::Record = sums.iter().flat_map(Sums::to_record).collect();
                stats.put(&key, &record)?;
                side.known = Some(sums.into_iter().map(Sums::finish).collect());
            }
        }
        Ok(())
    }

    /// Adds up what all processes saw in a repair that they share. `key` tells this sum from others.
    ///
    /// # Errors
    /// As [`Team::shared`].
    pub(super) fn share(&mut self, team: &Team, key: &str) -> Result<()> {
        for (number, side) in self.all.iter_mut().enumerate().filter(|(_, side)| side.known.is_none()) {
            let mut own = Folded::new(team.own().start > 0);
            for (portion, sums) in side.gathered.take().map(Portions::finish).unwrap_or_default() {
                own.push(portion, sums);
            }
            let total = team.shared(&format!("{key}/{number}"), own)?;
            side.known = total.map(|sums: Vec<Sums>| sums.into_iter().map(Sums::finish).collect());
        }
        Ok(())
    }

    /// Adds the values of some samples.
    pub(super) fn add(&mut self, found: &Activations, data: Calibration<'_>, at: At<'_>) -> Result<()> {
        let mut unknown: Vec<&mut Side> = self.all.iter_mut().filter(|side| side.known.is_none()).collect();
        unknown.par_iter_mut().try_for_each(|side| side.add(found, data, at))
    }

    /// C and G of every bond of every pair of the widths that the sides were made of.
    pub(super) fn metrics(self, subject: Subject<'_>, traced: &[Traced]) -> Result<Vec<Vec<Vec<Metric>>>> {
        let moments: Vec<Vec<Rows>> = self.all.into_iter().map(Side::finish).collect();
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
        let heads = &self.heads;
        let widths = || heads.iter().map(|head| head.channels.len()).collect();
        let gathered = self.gathered.get_or_insert_with(|| Portions::new(widths(), Detail::Covariance, data));
        gathered.add(&rows, |head, rows, into| lines.write_channels(&heads[head].channels, rows, into));
        Ok(())
    }

    /// The key of its sums.
    fn key(&self, subject: Subject<'_>, data: Calibration<'_>) -> String {
        let heads: Vec<&Vec<usize>> = self.heads.iter().map(|head| &head.channels).collect();
        let key = stats::Key::of("heads").model(subject.model).on("samples", data.data.identity());
        let sampler = Sampler::new(&self.layer, data.data.samples(), data.seed);
        key.on("reads", self.value()).on("heads", &heads).on("chosen by", &sampler).done()
    }

    /// Its sums from a record.
    fn read(&self, record: stats::Record) -> Option<Vec<Sums>> {
        let mut matrices = record.into_iter();
        let heads = self.heads.iter();
        heads.map(|head| Sums::from_record(&mut matrices, head.channels.len(), Detail::Covariance)).collect()
    }

    /// The rows of all heads.
    fn finish(self) -> Vec<Rows> {
        let gathered = self.gathered.map(|gathered| gathered.total().into_iter().map(Sums::finish).collect());
        let sums: Vec<Sums> = self.known.or(gathered).unwrap_or_default();
        let rows = |(head, sums): (Head, Sums)| Rows { added: head.added, sums };
        self.heads.into_iter().zip(sums).map(rows).collect()
    }
}

impl Rows {
    /// `E[x xᵀ]` of the rows with what is added to them.
    fn second_moments(&self) -> Array2<f64> {
        let mean = (self.sums.mean_x() + &self.added).insert_axis(Axis(1));
        self.sums.covariance() + mean.dot(&mean.t())
    }
}
