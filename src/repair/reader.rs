//! Layers that read the same rows: evidence on them is gathered, and their weights are solved for, together.

use std::ops::Range;

use ndarray::{Array1, Array2, Axis, concatenate, s};
use rayon::prelude::*;

use super::Method;
use super::member::{Member, Targets};
use super::write::BiasPlace;
use crate::calibrate::{Activations, Calibration, Evidence, Gather, Row, Sampler, Visit};
use crate::error::{Error, Result};
use crate::linalg::default_backend;

/// Every tenth sample (or row, where samples are few) is held out.
pub(super) const HELD_OUT: usize = 10;

/// Samples from which on whole samples are held out.
pub(super) const MANY_SAMPLES: usize = 20;

/// Shares of the inputs' mean variance that may pull towards the kept weights; held-out data chooses.
const RIDGES: [f64; 3] = [1e-2, 1e-3, 1e-4];

/// Members of a stage that read the same rows.
pub(super) struct Reader<'m> {
    /// The members with their numbers in the stage.
    members: Vec<(usize, &'m Member)>,
    sampler: Sampler,
    by_sample: bool,
    /// One for each convolution group.
    matrices: Vec<Split>,
}

/// Evidence on one matrix, to fit and to judge by. The targets of all members stand side by side.
struct Split {
    train: Gather,
    held_out: Gather,
}

/// What became of a matrix: weights, bias, errors on held-out rows before and after, and the targets' spread.
pub(super) struct Solved {
    pub(super) weights: Array2<f64>,
    pub(super) bias: Array1<f64>,
    pub(super) before: f64,
    pub(super) after: f64,
    pub(super) spread: f64,
    pub(super) rows: usize,
}

impl<'m> Reader<'m> {
    /// Readers for all members; `found` are the first samples' activations in the repaired model.
    pub(super) fn all(
        members: &'m [Member],
        data: Calibration<'_>,
        found: &Activations,
        samples: usize,
    ) -> Result<Vec<Self>> {
        let mut shared: Vec<Vec<(usize, &'m Member)>> = Vec::new();
        for (number, member) in members.iter().enumerate() {
            let known = shared.iter_mut().find(|known| known[0].1.pruned.reads_like(&member.pruned));
            match known {
                Some(known) => known.push((number, member)),
                None => shared.push(vec![(number, member)]),
            }
        }
        shared.into_iter().map(|members| Self::new(members, data, found, samples)).collect()
    }

    fn new(
        members: Vec<(usize, &'m Member)>,
        data: Calibration<'_>,
        found: &Activations,
        samples: usize,
    ) -> Result<Self> {
        let layer = &members[0].1.pruned;
        let total = data.data.samples();
        let sampler = Sampler::new(layer, total, data.seed);
        let rows = layer.row_count(found.get(&layer.data)?.shape());
        let expected = sampler.choose(rows, samples, 0, None).len().div_ceil(samples.max(1)) * total;
        let inputs = layer.inputs();
        let outputs = members.iter().map(|(_, member)| member.pruned.outputs).sum();
        let gather = || Gather::new(inputs, outputs, Evidence::expecting(expected, inputs, outputs));
        let matrices = (0..layer.groups).map(|_| Split { train: gather(), held_out: gather() }).collect();
        Ok(Self { members, sampler, by_sample: total >= MANY_SAMPLES, matrices })
    }

    /// Adds the chosen rows of some samples.
    pub(super) fn add(&mut self, visit: Visit<'_>) -> Result<()> {
        let layer = &self.members[0].1.pruned;
        let (at, data) = (visit.at, visit.changed.get(&layer.data)?);
        let rows = self.sampler.choose(layer.row_count(data.shape()), at.samples, at.first, at.padding);
        let is_held_out = |row: &Row| (if self.by_sample { row.sample } else { row.index }) % HELD_OUT == HELD_OUT - 1;
        let (held_out, train): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(is_held_out);
        for (rows, is_held_out) in [(train, false), (held_out, true)] {
            let inputs = layer.inputs_of(data, &rows)?;
            let targets = self.members.iter().map(|(_, member)| member.targets(visit, &rows));
            let targets: Vec<Targets<'_>> = targets.collect::<Result<_>>()?;
            let members = &self.members;
            self.matrices.par_iter_mut().enumerate().for_each(|(matrix, split)| {
                let gather = if is_held_out { &mut split.held_out } else { &mut split.train };
                gather.add(rows.len(), |rows, x, y| {
                    inputs.write(matrix * layer.channels, rows.clone(), x);
                    for (((_, member), targets), columns) in members.iter().zip(&targets).zip(parts(members)) {
                        member.write_targets(targets, matrix, rows.clone(), &mut y.part(columns));
                    }
                });
            });
        }
        Ok(())
    }

    /// New weights for every member, as far as they are better: its number, and what became of each of its matrices.
    pub(super) fn solve(self, method: Method) -> Result<Vec<(usize, Vec<Solved>)>> {
        let members = &self.members;
        let solve = |(matrix, split): (usize, Split)| solve(members, matrix, split, method);
        let solved: Vec<Vec<Solved>> = self.matrices.into_par_iter().enumerate().map(solve).collect::<Result<_>>()?;
        let mut of_members: Vec<(usize, Vec<Solved>)> =
            members.iter().map(|(number, _)| (*number, Vec::new())).collect();
        for of_matrix in solved {
            of_members.iter_mut().zip(of_matrix).for_each(|((_, all), solved)| all.push(solved));
        }
        Ok(of_members)
    }
}

/// The columns of each member's targets.
fn parts(members: &[(usize, &Member)]) -> impl Iterator<Item = Range<usize>> {
    members.iter().scan(0, |end, (_, member)| {
        let first = *end;
        *end += member.pruned.outputs;
        Some(first..*end)
    })
}

fn solve(members: &[(usize, &Member)], matrix: usize, split: Split, method: Method) -> Result<Vec<Solved>> {
    let backend = default_backend();
    let (train, held_out) = (split.train.finish(), split.held_out.finish());
    let weights: Vec<_> = members.iter().map(|(_, member)| member.weights[matrix].view()).collect();
    let biases: Vec<_> = members.iter().map(|(_, member)| member.bias.slice(s![member.outputs(matrix)])).collect();
    let misfit = |e: ndarray::ShapeError| Error::input(e.to_string());
    let w0 = concatenate(Axis(1), &weights).map_err(misfit)?;
    let b0 = concatenate(Axis(0), &biases).map_err(misfit)?;
    let (before, spreads) = (held_out.errors(backend, &w0, &b0), held_out.spreads());
    let mut candidates = Vec::new();
    if train.rows() > 0 && held_out.rows() > 0 && members.iter().any(|(_, member)| member.is_free()) {
        candidates.push(w0.clone());
        if method == Method::Lstsq {
            candidates.extend(train.weights(backend, &w0, &RIDGES, &members[0].1.pruned.name)?);
        }
    }
    let judged = candidates.into_par_iter().map(|weights| {
        let bias = train.bias(&weights);
        let errors = held_out.errors(backend, &weights, &bias);
        (weights, bias, errors)
    });
    let judged: Vec<_> = judged.collect();
    let of_member = |((_, member), part): (&(usize, &Member), Range<usize>)| {
        let total = |errors: &Array1<f64>| errors.slice(s![part.clone()]).sum();
        let mut best = Solved {
            weights: member.weights[matrix].clone(),
            bias: b0.slice(s![part.clone()]).to_owned(),
            before: total(&before),
            after: total(&before),
            spread: total(&spreads),
            rows: train.rows(),
        };
        for (weights, bias, errors) in judged.iter().filter(|_| member.is_free()) {
            let after = total(errors);
            if after < best.after {
                let weights = weights.slice(s![.., part.clone()]).to_owned();
                best = Solved { weights, bias: bias.slice(s![part.clone()]).to_owned(), after, ..best };
            }
        }
        best
    };
    Ok(members.iter().zip(parts(members)).map(of_member).collect())
}

impl Member {
    /// Whether it can have another bias, and so other weights.
    fn is_free(&self) -> bool {
        self.place != BiasPlace::Computed
    }
}
