//! Sums over samples that several machines may share: a fixed number of portions, each summed up by itself.
//!
//! The samples of a data set are divided into [`LEAVES`] consecutive portions. Rows of one portion never share a block with
//! those of another, and the sums of the portions are added in their order. So the sums are the same to the last bit, whether
//! one machine sums up all portions or several machines sum up some each.

use std::ops::Range;

use ndarray::Array2;
use rayon::prelude::*;

use super::Calibration;
use super::block::Columns;
use super::data::Dataset;
use super::evidence::{Evidence, Gather};
use super::rows::Row;
use super::stats::{Record, row};
use super::sums::{Detail, Sums, whole};
use crate::linalg::default_backend;

/// Portions that the samples of a data set are divided into.
pub(crate) const LEAVES: usize = 8;

/// Portions that they are divided into for a repair, whose sums move at every stage.
pub(crate) const QUARTERS: usize = 4;

/// How the samples of a data set are divided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Division {
    samples: usize,
    /// Samples that stay together: those of one run, if the model fixes its batch, and those that are cropped to one length.
    unit: usize,
    /// Number of portions.
    portions: usize,
}

impl Division {
    /// The division of a data set.
    pub(crate) fn of(data: &Dataset) -> Self {
        Self { samples: data.samples(), unit: data.together().max(1), portions: LEAVES }
    }

    /// The division of a data set for a repair.
    pub(crate) fn in_quarters(data: &Dataset) -> Self {
        Self { portions: QUARTERS, ..Self::of(data) }
    }

    /// The portion that a sample belongs to.
    pub(crate) fn leaf(self, sample: usize) -> usize {
        (sample / self.unit * self.portions / (self.samples / self.unit).max(1)).min(self.portions - 1)
    }

    /// The samples of some portions.
    pub(crate) fn samples(self, leaves: &Range<usize>) -> Range<usize> {
        let first = |leaf: usize| (leaf * (self.samples / self.unit)).div_ceil(self.portions) * self.unit;
        first(leaves.start)..if leaves.end < self.portions { first(leaves.end) } else { self.samples }
    }

    /// Runs of consecutive rows of one portion, each with the number of the portion.
    pub(crate) fn runs(self, rows: &[Row]) -> Vec<(usize, Range<usize>)> {
        let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            let leaf = self.leaf(row.sample);
            match runs.last_mut() {
                Some((last, run)) if *last == leaf => run.end = number + 1,
                _ => runs.push((leaf, number..number + 1)),
            }
        }
        runs
    }

    /// The runs of several sources of rows, portion by portion: the portion, the number of the source, the rows.
    pub(crate) fn order<L>(self, sources: &[(Vec<Row>, L)]) -> Vec<(usize, usize, Range<usize>)> {
        let of_source = |(source, (rows, _)): (usize, &(Vec<Row>, L))| {
            self.runs(rows).into_iter().map(move |(leaf, run)| (leaf, source, run)).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = sources.iter().enumerate().flat_map(of_source).collect();
        all.sort_by_key(|(leaf, source, run)| (*leaf, *source, run.start));
        all
    }
}

/// What is known of some samples, to which the same of the next ones can be added.
pub(crate) trait Sum: Sized {
    /// Adds what the samples after these say.
    fn merge(&mut self, next: Self);

    /// The same as matrices.
    fn to_record(&self) -> Record;

    /// What [`to_record`](Self::to_record) gave; takes as many matrices as it needs. `None` if their sizes contradict each other.
    fn from_record(matrices: &mut impl Iterator<Item = Array2<f64>>) -> Option<Self>;
}

impl Sum for Sums {
    fn merge(&mut self, next: Self) {
        Sums::merge(self, &next);
    }

    fn to_record(&self) -> Record {
        Sums::to_record(self)
    }

    fn from_record(matrices: &mut impl Iterator<Item = Array2<f64>>) -> Option<Self> {
        Self::from_matrices(matrices)
    }
}

impl Sum for Evidence {
    fn merge(&mut self, next: Self) {
        Evidence::merge(self, &next, default_backend());
    }

    fn to_record(&self) -> Record {
        match self {
            Self::Sums(sums) => std::iter::once(row(&[0.0])).chain(sums.to_record()).collect(),
            Self::Rows(x, y) => vec![row(&[1.0]), x.clone(), y.clone()],
        }
    }

    fn from_record(matrices: &mut impl Iterator<Item = Array2<f64>>) -> Option<Self> {
        if whole(*matrices.next()?.first()?)? == 0 {
            return Some(Self::Sums(Box::new(Sums::from_matrices(matrices)?)));
        }
        let (x, y) = (matrices.next()?, matrices.next()?);
        (x.nrows() == y.nrows()).then_some(Self::Rows(x, y))
    }
}

impl<S: Sum> Sum for Option<S> {
    fn merge(&mut self, next: Self) {
        match (&mut *self, next) {
            (Some(all), Some(next)) => all.merge(next),
            (None, next) => *self = next,
            (Some(_), None) => {}
        }
    }

    fn to_record(&self) -> Record {
        let is_there = row(&[f64::from(u8::from(self.is_some()))]);
        std::iter::once(is_there).chain(self.iter().flat_map(Sum::to_record)).collect()
    }

    fn from_record(matrices: &mut impl Iterator<Item = Array2<f64>>) -> Option<Self> {
        let is_there = whole(*matrices.next()?.first()?)? > 0;
        if is_there { S::from_record(matrices).map(Some) } else { Some(None) }
    }
}

impl<S: Sum> Sum for [S; 2] {
    fn merge(&mut self, next: Self) {
        self.iter_mut().zip(next).for_each(|(all, next)| all.merge(next));
    }

    fn to_record(&self) -> Record {
        self.iter().flat_map(Sum::to_record).collect()
    }

    fn from_record(matrices: &mut impl Iterator<Item = Array2<f64>>) -> Option<Self> {
        Some([S::from_record(matrices)?, S::from_record(matrices)?])
    }
}

impl<S: Sum + Send> Sum for Vec<S> {
    fn merge(&mut self, next: Self) {
        self.par_iter_mut().zip(next).for_each(|(all, next)| all.merge(next));
    }

    fn to_record(&self) -> Record {
        let parts = self.iter().flat_map(Sum::to_record);
        std::iter::once(row(&[self.len() as f64])).chain(parts).collect()
    }

    fn from_record(matrices: &mut impl Iterator<Item = Array2<f64>>) -> Option<Self> {
        let length = whole(*matrices.next()?.first()?)?;
        (0..length).map(|_| S::from_record(matrices)).collect()
    }
}

/// What is known of portions, in the order of these: added up, or each by itself.
#[derive(Debug)]
pub(crate) struct Folded<S> {
    /// Whether the portions are kept apart.
    apart: bool,
    portions: Vec<(usize, S)>,
}

impl<S: Sum> Folded<S> {
    /// Nothing yet.
    pub(crate) fn new(apart: bool) -> Self {
        Self { apart, portions: Vec::new() }
    }

    /// Adds what is known of the next portion.
    pub(crate) fn push(&mut self, portion: usize, next: S) {
        match self.portions.last_mut().filter(|_| !self.apart) {
            Some((_, all)) => all.merge(next),
            None => self.portions.push((portion, next)),
        }
    }

    /// What is known of the portions so far, if they are added up.
    pub(crate) fn so_far(&self) -> Option<&S> {
        self.portions.last().filter(|_| !self.apart).map(|(_, all)| all)
    }

    /// What there is: one entry, unless portions are kept apart; none without rows.
    pub(crate) fn finish(self) -> Vec<(usize, S)> {
        self.portions
    }

    /// What is known of all portions, which are added up; nothing without rows.
    pub(crate) fn total(mut self) -> Option<S> {
        self.portions.pop().map(|(_, sums)| sums)
    }
}

/// Rows with their targets on their way to evidence, portion by portion.
#[derive(Debug)]
pub(crate) struct Growing {
    now: Option<(usize, Gather)>,
    folded: Folded<Evidence>,
}

impl Growing {
    /// No rows yet. Portions are added up, unless they are kept `apart`.
    pub(crate) fn new(apart: bool) -> Self {
        Self { now: None, folded: Folded::new(apart) }
    }

    /// Adds rows of one portion, which is not before the last one; `start` makes what gathers a portion. `write` is called with
    /// the numbers of some of the rows, and with where their x and y belong.
    pub(crate) fn add(
        &mut self,
        portion: usize,
        start: impl FnOnce() -> Gather,
        rows: usize,
        write: impl FnMut(Range<usize>, &mut Columns<'_>, &mut Columns<'_>),
    ) {
        if self.now.as_ref().is_some_and(|(now, _)| *now != portion) {
            self.close();
        }
        self.now.get_or_insert_with(|| (portion, start())).1.add(rows, write);
    }

    fn close(&mut self) {
        if let Some((portion, gather)) = self.now.take() {
            self.folded.push(portion, gather.finish());
        }
    }

    /// What there is: one entry, unless portions are kept apart; none without rows.
    pub(crate) fn finish(mut self) -> Folded<Evidence> {
        self.close();
        self.folded
    }
}

/// Sums of matrices, with the number of their portion: the first one, where portions are added up.
pub(crate) type Portion = (usize, Vec<Sums>);

/// Rows of several matrices on their way to sums.
#[derive(Debug)]
pub(crate) struct Portions {
    widths: Vec<usize>,
    detail: Detail,
    division: Division,
    now: Option<(usize, Vec<Gather>)>,
    folded: Folded<Vec<Sums>>,
}

impl Portions {
    /// For matrices of these widths, over all samples of a data set.
    pub(crate) fn new(widths: Vec<usize>, detail: Detail, data: Calibration<'_>) -> Self {
        let folded = Folded::new(data.is_apart());
        Self { widths, detail, division: Division::of(data.data), now: None, folded }
    }

    /// How the samples are divided.
    pub(crate) fn division(&self) -> Division {
        self.division
    }

    /// Adds rows to each matrix: `write` gets the number of the matrix, the numbers of some rows, and where these belong.
    pub(crate) fn add(&mut self, rows: &[Row], write: impl Fn(usize, Range<usize>, &mut Columns<'_>) + Sync) {
        for (leaf, run) in self.division.runs(rows) {
            self.add_run(leaf, run, &write);
        }
    }

    /// [`add`](Self::add) for rows of one portion, which is not before the last one.
    pub(crate) fn add_run(
        &mut self,
        leaf: usize,
        run: Range<usize>,
        write: impl Fn(usize, Range<usize>, &mut Columns<'_>) + Sync,
    ) {
        if self.now.as_ref().is_some_and(|(now, _)| *now != leaf) {
            self.close();
        }
        let (widths, detail) = (&self.widths, self.detail);
        let gather = |&width: &usize| Gather::new(width, 0, Evidence::sums(width, 0, detail));
        let (_, gathers) = self.now.get_or_insert_with(|| (leaf, widths.iter().map(gather).collect()));
        gathers.par_iter_mut().enumerate().for_each(|(matrix, gather)| {
            gather.add(run.len(), |rows, x, _| write(matrix, run.start + rows.start..run.start + rows.end, x));
        });
    }

    fn close(&mut self) {
        if let Some((leaf, gathers)) = self.now.take() {
            self.folded.push(leaf, gathers.into_par_iter().map(Gather::finish_sums).collect());
        }
    }

    /// The sums of all rows, or of each portion by itself.
    pub(crate) fn finish(mut self) -> Vec<Portion> {
        self.close();
        self.folded.finish()
    }

    /// The sums of all rows, for a data set that is not shared.
    pub(crate) fn total(mut self) -> Vec<Sums> {
        self.close();
        let (widths, detail) = (self.widths, self.detail);
        self.folded.total().unwrap_or_else(|| widths.iter().map(|&width| Sums::new(width, 0, detail)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every sample is in one portion, and these are in order; whole runs stay together.
    #[test]
    fn portions_are_consecutive_and_cover_all_samples() {
        for (samples, unit) in [(1, 1), (7, 1), (8, 1), (100, 1), (101, 1), (96, 32), (4096, 32)] {
            let division = Division { samples, unit, portions: LEAVES };
            let mut next = 0;
            for leaf in 0..LEAVES {
                let range = division.samples(&(leaf..leaf + 1));
                assert_eq!((range.start, range.start % unit), (next, 0), "{samples} {unit}");
                assert!(range.clone().all(|sample| division.leaf(sample) == leaf), "{samples} {unit}");
                next = range.end;
            }
            assert_eq!(next, samples);
        }
    }
}
