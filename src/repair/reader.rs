//! Layers that read the same rows: evidence on them is gathered, and their weights are solved for, together.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use ndarray::{Array1, Array2, Axis, concatenate, s};
use rayon::prelude::*;

use super::Method;
use super::member::{Member, Targets};
use super::touch::{Seen, Touch};
use super::write::BiasPlace;
use crate::calibrate::{
    Calibration, Detail, Division, Evidence, Folded, Gather, Layer, Record, Row, Sampler, Sum, Visit, row, whole,
};
use crate::error::{Error, Result};
use crate::linalg::default_backend;
use crate::runtime::Tensor;

/// Every fifth sample is held out: rows of one sample are alike, so none of them may judge what the others fitted.
pub(super) const HELD_OUT: usize = 5;

/// Samples from which on whole samples are held out; of fewer, every fifth row.
pub(super) const MANY_SAMPLES: usize = HELD_OUT;

/// Shares of the inputs' mean variance that may pull towards the kept weights; held-out samples choose.
pub(crate) const RIDGES: [f64; 4] = [1e-3, 1e-2, 1e-1, 1.0];

/// Members of a stage that read the same rows.
pub(super) struct Reader<'m> {
    /// The members with their numbers in the stage.
    members: Vec<(usize, &'m Member)>,
    sampler: Sampler,
    by_sample: bool,
    samples: usize,
    division: Division,
    /// The quarter of the samples that is being summed up, and the evidence of it: one for each convolution group.
    now: Option<(usize, Vec<Split>)>,
    /// Evidence of the quarters before.
    folded: Folded<Vec<Found>>,
}

/// Evidence on one matrix, to fit and to judge by, of the rows so far of a quarter of the samples. The targets of all members stand
/// side by side.
struct Split {
    train: Gather,
    held_out: Gather,
    /// Whether the results are hardly others than in the original, where that would leave nothing to repair.
    touch: Option<Touch>,
}

/// Evidence on one matrix of some quarters.
pub(super) struct Found {
    /// The first quarter.
    first: usize,
    train: Evidence,
    held_out: Evidence,
    touch: Option<Seen>,
}

/// Whether it is known from the first rows of all that nothing is to be repaired.
fn is_over(first: usize, touch: Option<&Seen>) -> bool {
    first == 0 && touch.is_some_and(|touch| touch.is_known() && touch.hardly().is_some())
}

impl Split {
    fn finish(self, first: usize) -> Found {
        let (train, held_out) = (self.train.finish(), self.held_out.finish());
        Found { first, train, held_out, touch: self.touch.map(|touch| touch.seen) }
    }
}

impl Found {
    /// No rows of `inputs` and `outputs` values.
    fn nothing(inputs: usize, outputs: usize) -> Self {
        let none = || Evidence::sums(inputs, outputs, Detail::Covariance);
        Self { first: 0, train: none(), held_out: none(), touch: None }
    }

    fn is_over(&self) -> bool {
        is_over(self.first, self.touch.as_ref())
    }
}

impl Sum for Found {
    fn merge(&mut self, next: Self) {
        if self.is_over() {
            return;
        }
        Sum::merge(&mut self.train, next.train);
        Sum::merge(&mut self.held_out, next.held_out);
        Sum::merge(&mut self.touch, next.touch);
    }

    fn to_record(&self) -> Record {
        let parts = self.train.to_record().into_iter().chain(self.held_out.to_record()).chain(self.touch.to_record());
        std::iter::once(row(&[self.first as f64])).chain(parts).collect()
    }

    fn from_record(matrices: &mut impl Iterator<Item = Array2<f64>>) -> Option<Self> {
        let first = whole(*matrices.next()?.first()?)?;
        let [train, held_out] = Sum::from_record(matrices)?;
        Some(Self { first, train, held_out, touch: Sum::from_record(matrices)? })
    }
}

/// What became of a matrix.
pub(super) struct Solved {
    pub(super) weights: Array2<f64>,
    pub(super) bias: Array1<f64>,
    /// Errors on held-out rows with the kept weights, and with those that were fitted on the others.
    pub(super) before: f64,
    pub(super) after: f64,
    /// Variance of the targets of held-out rows.
    pub(super) spread: f64,
    /// All rows.
    pub(super) rows: usize,
    /// Whether there were rows both to fit and to judge.
    pub(super) is_judged: bool,
    /// How far its results are from those of the original, where they are too close for a repair.
    pub(super) untouched: Option<f64>,
    /// The chosen share of the inputs' variance, and how many parameters an output really has then.
    pub(super) ridge: Option<(f64, f64)>,
}

impl<'m> Reader<'m> {
    /// Readers for all members.
    pub(super) fn all(members: &'m [Member], data: Calibration<'_>) -> Vec<Self> {
        shared(members).into_iter().map(|members| Self::new(members, data)).collect()
    }

    /// Whether all that the members ask of the original was recorded.
    pub(super) fn are_recorded(members: &[Member], data: Calibration<'_>) -> bool {
        let is_recorded = |recorded| {
            let of_reader = |members: Vec<(usize, &Member)>| {
                let sampler = sampler(members[0].1, data);
                members.iter().all(|(_, member)| member.is_recorded(recorded, &sampler))
            };
            shared(members).into_iter().all(of_reader)
        };
        data.recorded.is_some_and(is_recorded)
    }

    fn new(members: Vec<(usize, &'m Member)>, data: Calibration<'_>) -> Self {
        let samples = data.data.samples();
        let sampler = sampler(members[0].1, data);
        let (division, folded) = (Division::in_quarters(data.data), Folded::new(data.is_apart()));
        Self { members, sampler, by_sample: samples >= MANY_SAMPLES, samples, division, now: None, folded }
    }

    /// What tells its sums from those of others: the result of its first member.
    pub(super) fn key(&self) -> &'m str {
        &self.members[0].1.original.result
    }

    /// Nothing yet of a quarter of which a sample has `rows` rows at each node.
    fn begin(&self, rows: usize) -> Result<Vec<Split>> {
        let (layer, nodes) = (&self.members[0].1.pruned, self.members[0].1.uses.len());
        let expected = self.sampler.choose(rows, 1, 0, None).len() * self.samples * nodes;
        let inputs = layer.inputs();
        let outputs = self.members.iter().map(|(_, member)| member.pruned.outputs).sum();
        let gather = || Gather::new(inputs, outputs, Evidence::expecting(expected, inputs, outputs));
        let may_be_untouched = self.members.iter().all(|(_, member)| member.may_be_untouched());
        let is_touch_known = |matrix: usize| {
            let found = self.folded.so_far().and_then(|found| found.get(matrix)?.touch.as_ref());
            found.is_some_and(Seen::is_known)
        };
        let split = |matrix: usize| {
            let is_touched = may_be_untouched && !is_touch_known(matrix);
            let touch = if is_touched { Some(Touch::new(kept(&self.members, matrix)?)) } else { None };
            Ok(Split { train: gather(), held_out: gather(), touch })
        };
        (0..layer.groups).map(split).collect()
    }

    /// Which matrices need no more rows, now that those of `quarter` come.
    fn over(&self, quarter: usize) -> Vec<bool> {
        let groups = self.members[0].1.pruned.groups;
        let now = self.now.as_ref().filter(|(now, _)| *now == quarter && quarter == 0);
        match (now, self.folded.so_far()) {
            (Some((_, splits)), _) => {
                splits.iter().map(|split| is_over(0, split.touch.as_ref().map(|touch| &touch.seen))).collect()
            }
            (None, Some(found)) => found.iter().map(Found::is_over).collect(),
            (None, None) => vec![false; groups],
        }
    }

    fn close(&mut self) {
        if let Some((quarter, splits)) = self.now.take() {
            let found = splits.into_par_iter().map(|split| split.finish(quarter)).collect();
            self.folded.push(quarter, found);
        }
    }

    /// Adds the chosen rows of some samples of one quarter.
    pub(super) fn add(&mut self, visit: Visit<'_>) -> Result<()> {
        let quarter = self.division.leaf(visit.at.first);
        if self.now.as_ref().is_some_and(|(now, _)| *now != quarter) {
            self.close();
        }
        let first = self.members[0].1;
        for (node, (original, layer)) in first.uses.iter().enumerate() {
            let over = self.over(quarter);
            if over.iter().all(|&over| over) {
                break;
            }
            let data = match &first.taught {
                Some(_) => visit.original.get(&original.data)?,
                None => visit.changed.get(&layer.data)?,
            };
            let (all, at) = (layer.row_count(data.shape()), visit.at);
            let (now, mut splits) = match self.now.take() {
                Some(now) => now,
                None => (quarter, self.begin(all / at.samples.max(1))?),
            };
            let rows = self.sampler.choose(all, at.samples, at.first, at.padding);
            self.add_rows(visit, (node, rows), (original, layer, data), &over, &mut splits)?;
            self.now = Some((now, splits));
        }
        Ok(())
    }

    /// Adds rows that node number `node` reads to the matrices that are not `over`.
    fn add_rows(
        &self,
        visit: Visit<'_>,
        (node, rows): (usize, Vec<Row>),
        (original, layer, data): (&Layer, &Layer, &Tensor),
        over: &[bool],
        splits: &mut [Split],
    ) -> Result<()> {
        let taught = self.members[0].1.taught.as_deref();
        let is_held_out = |row: &Row| (if self.by_sample { row.sample } else { row.index }) % HELD_OUT == HELD_OUT - 1;
        let (held_out, train): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(is_held_out);
        for (rows, is_held_out) in [(train, false), (held_out, true)] {
            let inputs = if taught.is_some() { original } else { layer }.inputs_of(data, &rows)?;
            let targets = self.members.iter().map(|(_, member)| member.targets(visit, node, &rows));
            let targets: Vec<Targets<'_>> = targets.collect::<Result<_>>()?;
            let members = &self.members;
            let open = splits.par_iter_mut().zip(over).enumerate().filter(|(_, (_, over))| !**over);
            open.for_each(|(matrix, (split, _))| {
                let gather = if is_held_out { &mut split.held_out } else { &mut split.train };
                let first = matrix * layer.channels;
                gather.add(rows.len(), |rows, x, y| {
                    match taught {
                        Some(channels) => inputs.write_channels(channels, rows.clone(), x),
                        None => inputs.write(first, rows.clone(), x),
                    }
                    for (((_, member), targets), columns) in members.iter().zip(&targets).zip(parts(members)) {
                        member.write_targets(targets, matrix, rows.clone(), &mut y.part(columns));
                    }
                    if let Some(touch) = split.touch.as_mut().filter(|_| !is_held_out) {
                        touch.add(x, y);
                    }
                });
            });
        }
        Ok(())
    }

    /// The evidence on each matrix; of each quarter by itself where these are kept apart.
    pub(super) fn found(&mut self) -> Folded<Vec<Found>> {
        self.close();
        std::mem::replace(&mut self.folded, Folded::new(false))
    }

    /// Bytes that a solve takes beside the sums: a factor and the weights for each ridge.
    pub(super) fn solving(&self) -> usize {
        let (inputs, outputs) = (self.members[0].1.pruned.inputs(), self.members[0].1.pruned.outputs);
        RIDGES.len() * inputs * (inputs + outputs) * size_of::<f64>()
    }

    /// New weights for every member, as far as they are better, from the evidence on each matrix: the member's number, and what
    /// became of each of its matrices. `starts` are what the fits of all members start from, where it is not their weights.
    pub(super) fn solve(
        &self,
        found: Option<Vec<Found>>,
        starts: &[Option<Array2<f64>>],
        method: Method,
    ) -> Result<Vec<(usize, Vec<Solved>)>> {
        let members = &self.members;
        let found = found.unwrap_or_else(|| {
            let outputs = members.iter().map(|(_, member)| member.pruned.outputs).sum();
            let layer = &members[0].1.pruned;
            (0..layer.groups).map(|_| Found::nothing(layer.inputs(), outputs)).collect()
        });
        let solve = |(matrix, found): (usize, Found)| solve((members, starts), matrix, found, method);
        let solved: Vec<Vec<Solved>> = found.into_par_iter().enumerate().map(solve).collect::<Result<_>>()?;
        let mut of_members: Vec<(usize, Vec<Solved>)> =
            members.iter().map(|(number, _)| (*number, Vec::new())).collect();
        for of_matrix in solved {
            of_members.iter_mut().zip(of_matrix).for_each(|((_, all), solved)| all.push(solved));
        }
        Ok(of_members)
    }
}

/// The members with their numbers, those that read the same rows together.
fn shared(members: &[Member]) -> Vec<Vec<(usize, &Member)>> {
    let mut shared: Vec<Vec<(usize, &Member)>> = Vec::new();
    for (number, member) in members.iter().enumerate() {
        match shared.iter_mut().find(|known| known[0].1.reads_like(member)) {
            Some(known) => known.push((number, member)),
            None => shared.push(vec![(number, member)]),
        }
    }
    shared
}

/// How the rows of a member and of those that read the same ones are chosen: by what it reads in the original.
fn sampler(member: &Member, data: Calibration<'_>) -> Sampler {
    Sampler::narrowed(&member.original, member.pruned.inputs(), data.data.samples(), data.seed)
}

/// The columns of each member's targets.
fn parts(members: &[(usize, &Member)]) -> impl Iterator<Item = Range<usize>> {
    members.iter().scan(0, |end, (_, member)| {
        let first = *end;
        *end += member.pruned.outputs;
        Some(first..*end)
    })
}

/// The members' weights of one matrix and their biases, side by side.
fn kept(members: &[(usize, &Member)], matrix: usize) -> Result<(Array2<f64>, Array1<f64>)> {
    let biases: Vec<_> = members.iter().map(|(_, member)| member.bias.slice(s![member.outputs(matrix)])).collect();
    let bias = concatenate(Axis(0), &biases).map_err(|e| Error::input(e.to_string()))?;
    Ok((side_by_side(members, |_, member| &member.weights[matrix])?, bias))
}

/// A matrix of each member, side by side.
fn side_by_side<'m>(
    members: &[(usize, &'m Member)],
    matrix: impl Fn(usize, &'m Member) -> &'m Array2<f64>,
) -> Result<Array2<f64>> {
    let all: Vec<_> = members.iter().map(|&(number, member)| matrix(number, member).view()).collect();
    concatenate(Axis(1), &all).map_err(|e| Error::input(e.to_string()))
}

fn solve(
    (members, starts): (&[(usize, &Member)], &[Option<Array2<f64>>]),
    matrix: usize,
    found: Found,
    method: Method,
) -> Result<Vec<Solved>> {
    let backend = default_backend();
    let untouched = found.touch.as_ref().and_then(Seen::hardly);
    let Found { train, held_out, .. } = found;
    let (w0, b0) = kept(members, matrix)?;
    let (before, spreads) = (held_out.errors(backend, &w0, &b0), held_out.spreads());
    let start = |number: usize| starts.get(number).and_then(Option::as_ref);
    let start = side_by_side(members, |number, member| start(number).unwrap_or(&member.weights[matrix]))?;
    let is_judged = train.rows() > 0 && held_out.rows() > 0;
    let name = members[0].1.pruned.name.as_str();
    // The weights to start from with a new bias, and those of each ridge.
    let mut shares = Vec::new();
    let mut candidates = Vec::new();
    if is_judged && untouched.is_none() && members.iter().any(|(_, member)| member.is_free()) {
        shares.push(None);
        candidates.push(start.clone());
        if method == Method::Lstsq {
            shares.extend(RIDGES.map(Some));
            candidates.extend(train.weights(backend, &start, &RIDGES, name)?);
        }
    }
    let errors = candidates.into_par_iter().map(|weights| held_out.errors(backend, &weights, &train.bias(&weights)));
    let errors: Vec<Array1<f64>> = errors.collect();
    let rows = train.rows() + held_out.rows();
    let mut all = train;
    all.merge(&held_out, backend);
    drop(held_out);
    // Members mostly agree on the ridge.
    let mut refitted: BTreeMap<usize, Refitted> = BTreeMap::new();
    let mut solved = Vec::new();
    for ((_, member), part) in members.iter().zip(parts(members)) {
        let total = |errors: &Array1<f64>| errors.slice(s![part.clone()]).sum();
        let mut best = Solved {
            weights: member.weights[matrix].clone(),
            bias: b0.slice(s![part.clone()]).to_owned(),
            before: total(&before),
            after: total(&before),
            spread: total(&spreads),
            rows,
            is_judged,
            untouched,
            ridge: None,
        };
        let judged = errors.iter().map(total).enumerate().filter(|_| member.is_free());
        if let Some((choice, after)) = judged.min_by(|a, b| a.1.total_cmp(&b.1))
            && after < best.before
        {
            let fit = match refitted.entry(choice) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(Refitted::new(&all, &start, shares[choice], name)?),
            };
            best.weights = fit.weights.slice(s![.., part.clone()]).to_owned();
            best.bias = fit.bias.slice(s![part.clone()]).to_owned();
            best.after = after;
            best.ridge = shares[choice].zip(Some(fit.dimension));
        }
        solved.push(best);
    }
    Ok(solved)
}

/// The weights of one ridge on all rows.
struct Refitted {
    weights: Array2<f64>,
    bias: Array1<f64>,
    dimension: f64,
}

impl Refitted {
    fn new(all: &Evidence, start: &Array2<f64>, share: Option<f64>, name: &str) -> Result<Self> {
        let (weights, dimension) = match share {
            Some(share) => all.weights_and_dimension(default_backend(), start, share, name)?,
            None => (start.clone(), 0.0),
        };
        Ok(Self { bias: all.bias(&weights), weights, dimension })
    }
}

impl Member {
    /// Whether another member is fitted on the same rows.
    pub(super) fn reads_like(&self, other: &Self) -> bool {
        let values = |member: &Self| member.uses.iter().map(|(_, at)| at.data.clone()).collect::<Vec<_>>();
        self.pruned.reads_like(&other.pruned) && values(self) == values(other) && self.taught == other.taught
    }

    /// Whether it can have another bias, and so other weights.
    fn is_free(&self) -> bool {
        self.place != BiasPlace::Computed
    }
}
