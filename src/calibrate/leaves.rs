//! Sums over samples that several machines may share: a fixed number of portions, each summed up by itself.
//!
//! The samples of a data set are divided into [`LEAVES`] consecutive portions. Rows of one portion never share a block with
//! those of another, and the sums of the portions are added in their order. So the sums are the same to the last bit, whether
//! one machine sums up all portions or several machines sum up some each.

use std::ops::Range;

use rayon::prelude::*;

use super::block::Columns;
use super::data::Dataset;
use super::evidence::{Evidence, Gather};
use super::rows::Row;
use super::sums::{Detail, Sums};

/// Portions that the samples of a data set are divided into.
pub(crate) const LEAVES: usize = 8;

/// How the samples of a data set are divided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Division {
    samples: usize,
    /// Samples that stay together: those of one run, if the model fixes its batch.
    unit: usize,
}

impl Division {
    /// The division of a data set.
    pub(crate) fn of(data: &Dataset) -> Self {
        Self { samples: data.samples(), unit: data.fixed_batch().unwrap_or(1).max(1) }
    }

    /// The portion that a sample belongs to.
    fn leaf(self, sample: usize) -> usize {
        (sample / self.unit * LEAVES / (self.samples / self.unit).max(1)).min(LEAVES - 1)
    }

    /// The samples of some portions.
    pub(crate) fn samples(self, leaves: &Range<usize>) -> Range<usize> {
        let first = |leaf: usize| (leaf * (self.samples / self.unit)).div_ceil(LEAVES) * self.unit;
        first(leaves.start)..if leaves.end < LEAVES { first(leaves.end) } else { self.samples }
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

/// Sums of matrices, with the number of their portion: the first one, where portions are added up.
pub(crate) type Portion = (usize, Vec<Sums>);

/// Sums of portions, added up in their order, or each by itself.
#[derive(Debug)]
pub(crate) struct Folded {
    /// Whether the portions are kept apart.
    apart: bool,
    portions: Vec<Portion>,
}

impl Folded {
    /// Nothing yet.
    pub(crate) fn new(apart: bool) -> Self {
        Self { apart, portions: Vec::new() }
    }

    /// Adds the sums of the next portion.
    pub(crate) fn push(&mut self, leaf: usize, sums: Vec<Sums>) {
        match self.portions.last_mut().filter(|_| !self.apart) {
            Some((_, all)) => all.par_iter_mut().zip(&sums).for_each(|(all, sums)| all.merge(sums)),
            None => self.portions.push((leaf, sums)),
        }
    }

    /// What there is: one entry, unless portions are kept apart; none without rows.
    pub(crate) fn finish(self) -> Vec<Portion> {
        self.portions
    }
}

/// Rows of several matrices on their way to sums.
#[derive(Debug)]
pub(crate) struct Portions {
    widths: Vec<usize>,
    detail: Detail,
    division: Division,
    now: Option<(usize, Vec<Gather>)>,
    folded: Folded,
}

impl Portions {
    /// For matrices of these widths, over all samples of a data set.
    pub(crate) fn new(widths: Vec<usize>, detail: Detail, data: &Dataset) -> Self {
        let folded = Folded::new(data.is_shared());
        Self { widths, detail, division: Division::of(data), now: None, folded }
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
    pub(crate) fn total(self) -> Vec<Sums> {
        let (widths, detail) = (self.widths.clone(), self.detail);
        let found = self.finish().pop().map(|(_, sums)| sums);
        found.unwrap_or_else(|| widths.iter().map(|&width| Sums::new(width, 0, detail)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every sample is in one portion, and these are in order; whole runs stay together.
    #[test]
    fn portions_are_consecutive_and_cover_all_samples() {
        for (samples, unit) in [(1, 1), (7, 1), (8, 1), (100, 1), (101, 1), (96, 32), (4096, 32)] {
            let division = Division { samples, unit };
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
