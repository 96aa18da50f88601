//! Nonlinear least squares on one attention block.
//!
//! First the values: with attention held, each head adds `z M`, z being its attention over the inputs and `M = W_v W_o` of
//! rank d. Head after head gets the best such M for what the others leave over (reduced-rank regression), a few rounds.
//! Then all weights together, queries and keys too, by Gauss–Newton steps damped as Levenberg and Marquardt do, each
//! solved by conjugate gradients, which need products with the Jacobian only. Steps are taken in f32, errors summed in f64.

use ndarray::{Array1, Array2, ArrayView2, s};
use rayon::prelude::*;

use super::block::{Chunk, Form, State, Weights};
use crate::calibrate::{Detail, Sums, rounded};
use crate::error::Result;
use crate::linalg::{Backend, default_backend};

/// Rounds of reduced-rank regression, and the gain below which there is no further one.
const ROUNDS: usize = 6;
const LEAST_GAIN: f64 = 2e-3;

/// Pull toward the values that are there, as a share of the mean variance.
const RIDGE: f64 = 1e-3;

/// Widest system of all heads' inputs that is formed: a Gram matrix of 300 MB.
const WIDEST: usize = 6144;

/// Gauss–Newton steps, and steps of conjugate gradients in each: as many as this much work allows (multiplications),
/// within bounds. Wide blocks, where a step costs much, have little left to gain from many.
const WORK: usize = 40_000_000_000;
const STEPS: (usize, usize) = (4, 24);
const INNER_STEPS: (usize, usize) = (6, 20);

/// The first steps use every fourth chunk only, if these chunks have enough rows.
const SOME: usize = 4;

/// The fewest rows that are enough for the first steps.
const ENOUGH: f64 = 4096.0;

/// At least this many steps at the end use all chunks.
const LAST: usize = 2;

/// Least share of the error on held-out samples that a step must take away for another one to follow.
const LEAST_STEP: f64 = 5e-3;

/// First damping, for inputs of unit variance.
const DAMPING: f32 = 1e-4;

/// Shortest share of a step that is tried.
const SHORTEST: f32 = 0.05;

/// Mean over rows of the squared residual.
pub(super) fn error(form: Form<f32>, chunks: &[Chunk<f32>], weights: &Weights<f32>) -> f64 {
    let sums: Vec<f64> = chunks.par_iter().map(|chunk| square(&form.forward(chunk, weights).residual)).collect();
    sums.iter().sum::<f64>() / rows(chunks)
}

#[allow(clippy::cast_precision_loss)]
fn rows<'c>(chunks: impl IntoIterator<Item = &'c Chunk<f32>>) -> f64 {
    chunks.into_iter().map(|chunk| chunk.target.nrows()).sum::<usize>().max(1) as f64
}

/// The weights that reproduce the targets best, from `start` on, on the samples held out. Inputs are of unit variance.
pub(super) fn fit(
    form: Form<f32>,
    chunks: &[Chunk<f32>],
    held_out: &[Chunk<f32>],
    start: Weights<f32>,
    name: &str,
) -> Result<Weights<f32>> {
    let mut weights = start;
    if form.heads * chunks.first().map_or(0, |chunk| chunk.inputs[2].ncols()) <= WIDEST {
        weights = values(form, chunks, weights, name)?;
    }
    let products = WORK / work(chunks, &weights).max(1);
    let inner = (products / STEPS.0).clamp(INNER_STEPS.0, INNER_STEPS.1);
    let mut steps = (products / inner).clamp(STEPS.0, STEPS.1);
    let some = || chunks.iter().step_by(SOME);
    if rows(some()) >= ENOUGH {
        let some: Vec<Chunk<f32>> = some().cloned().collect();
        let taken;
        (weights, taken) = descend(form, &some, held_out, weights, (steps - LAST, inner));
        steps -= taken;
    }
    Ok(descend(form, chunks, held_out, weights, (steps, inner)).0)
}

/// Some steps on the rows of `chunks`; of the weights on the way, those with the least error on the samples held out, and how
/// many steps it took.
fn descend(
    form: Form<f32>,
    chunks: &[Chunk<f32>],
    held_out: &[Chunk<f32>],
    start: Weights<f32>,
    (steps, inner): (usize, usize),
) -> (Weights<f32>, usize) {
    let mut weights = start;
    let mut damping = DAMPING;
    let mut reached = error(form, chunks, &weights);
    let mut best = (error(form, held_out, &weights), weights.clone());
    let mut taken = 0;
    while taken < steps {
        taken += 1;
        let states: Vec<State<f32>> = chunks.par_iter().map(|chunk| form.forward(chunk, &weights)).collect();
        let step = step(form, chunks, &states, &weights, (damping, inner));
        let mut length = 1.0_f32;
        loop {
            let moved = along(&weights, &step, length);
            let found = error(form, chunks, &moved);
            if found < reached {
                (weights, reached) = (moved, found);
                break;
            }
            length /= 2.0;
            if length < SHORTEST {
                break;
            }
        }
        damping = if length < 1.0 { damping * 4.0 } else { damping / 3.0 };
        let found = error(form, held_out, &weights);
        let is_over = found > (1.0 - LEAST_STEP) * best.0;
        if found < best.0 {
            best = (found, weights.clone());
        }
        if is_over && length >= SHORTEST {
            break;
        }
    }
    (best.1, taken)
}

/// The damped Gauss–Newton step: `(JᵀJ + λ) step = −Jᵀ r`, errors counted as shares of the targets' variance.
fn step(
    form: Form<f32>,
    chunks: &[Chunk<f32>],
    states: &[State<f32>],
    weights: &Weights<f32>,
    (damping, inner): (f32, usize),
) -> Weights<f32> {
    let unit = rounded(1.0 / (rows(chunks) * spread(chunks)).max(f64::MIN_POSITIVE));
    let total = |of: &(dyn Fn(&Chunk<f32>, &State<f32>) -> Weights<f32> + Sync)| -> Weights<f32> {
        let parts: Vec<Weights<f32>> = chunks.par_iter().zip(states).map(|(chunk, state)| of(chunk, state)).collect();
        let mut sum = weights.each_ref().map(|w| Array2::zeros(w.raw_dim()));
        for part in &parts {
            sum.iter_mut().zip(part).for_each(|(sum, part)| sum.scaled_add(unit, part));
        }
        sum
    };
    let mut rest = total(&|chunk, state| form.transposed(chunk, state, weights, &state.residual));
    rest.iter_mut().for_each(|r| r.mapv_inplace(|r| -r));
    let mut found = weights.each_ref().map(|w| Array2::zeros(w.raw_dim()));
    let mut direction = rest.clone();
    let mut square = dot(&rest, &rest);
    for _ in 0..inner {
        let product = total(&|chunk, state| form.normal(chunk, state, weights, &direction));
        let product = along(&product, &direction, damping);
        let curvature = dot(&direction, &product);
        if !(curvature > 0.0 && square > 0.0) {
            break;
        }
        let length = rounded(square / curvature);
        found = along(&found, &direction, length);
        rest = along(&rest, &product, -length);
        let next = dot(&rest, &rest);
        direction = along(&rest, &direction, rounded(next / square));
        square = next;
    }
    found
}

/// Multiplications of one product with JᵀJ, attention itself aside.
fn work(chunks: &[Chunk<f32>], weights: &Weights<f32>) -> usize {
    let rows: usize = chunks.iter().map(|chunk| chunk.target.nrows()).sum();
    2 * rows * weights.iter().map(Array2::len).sum::<usize>()
}

fn along(from: &Weights<f32>, direction: &Weights<f32>, length: f32) -> Weights<f32> {
    let mut moved = from.clone();
    moved.iter_mut().zip(direction).for_each(|(moved, direction)| moved.scaled_add(length, direction));
    moved
}

fn dot(a: &Weights<f32>, b: &Weights<f32>) -> f64 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn square(of: &Array2<f32>) -> f64 {
    of.iter().map(|&r| f64::from(r) * f64::from(r)).sum()
}

/// Mean over rows of `‖target − mean‖²`.
pub(super) fn spread(chunks: &[Chunk<f32>]) -> f64 {
    let n = rows(chunks);
    let width = chunks.first().map_or(0, |chunk| chunk.target.ncols());
    let mut sum = Array1::<f64>::zeros(width);
    let mut all = 0.0;
    for chunk in chunks {
        chunk.target.rows().into_iter().for_each(|row| sum.zip_mut_with(&row, |sum, &t| *sum += f64::from(t)));
        all += square(&chunk.target);
    }
    (all / n - sum.dot(&sum) / (n * n)).max(f64::MIN_POSITIVE)
}

/// New values and outputs for the attention that there is.
fn values(form: Form<f32>, chunks: &[Chunk<f32>], weights: Weights<f32>, name: &str) -> Result<Weights<f32>> {
    let backend = default_backend();
    let sums = attended(form, chunks, &weights, backend);
    let k = weights[2].nrows() - 1;
    let width = weights[2].ncols() / form.heads;
    let mut maps: Vec<(Array2<f64>, Array2<f64>)> = (0..form.heads)
        .map(|head| {
            let columns = head * width..(head + 1) * width;
            (wide(weights[2].slice(s![..k, columns.clone()])), wide(weights[3].slice(s![columns, ..])))
        })
        .collect();
    let (covariance, mut cross) = (sums.covariance(), sums.cross_covariance());
    let lambda = RIDGE * covariance.diag().mean().unwrap_or(0.0);
    let old = stacked(&maps);
    cross.scaled_add(lambda, &old);
    let mut damped = covariance;
    damped.diag_mut().mapv_inplace(|d| d + lambda);
    let factors: Vec<Array2<f64>> = (0..form.heads)
        .into_par_iter()
        .map(|head| {
            let block = damped.slice(s![head * k..(head + 1) * k, head * k..(head + 1) * k]);
            backend.cholesky(block, name)
        })
        .collect::<Result<_>>()?;
    let mut before = f64::INFINITY;
    for _ in 0..ROUNDS {
        for head in 0..form.heads {
            let rows = head * k..(head + 1) * k;
            let mut others = stacked(&maps);
            others.slice_mut(s![rows.clone(), ..]).fill(0.0);
            let explained = backend.matmul(damped.slice(s![rows.clone(), ..]), others.view());
            let rest = &cross.slice(s![rows, ..]) - &explained;
            maps[head] = low_rank(backend, &factors[head], rest, width, name)?;
        }
        // The part of the damped loss that depends on the maps.
        let all = stacked(&maps);
        let loss = (&backend.matmul(damped.view(), all.view()) * &all).sum() - 2.0 * (&cross * &all).sum();
        if before - loss < LEAST_GAIN * loss.abs() {
            break;
        }
        before = loss;
    }
    Ok(with_maps(form, weights, &maps, &sums))
}

/// Moments of all heads' `P x̃`, the constant left out, with the targets.
fn attended(form: Form<f32>, chunks: &[Chunk<f32>], weights: &Weights<f32>, backend: &dyn Backend) -> Sums {
    let k = weights[2].nrows() - 1;
    let n = weights[3].ncols();
    let mut sums = Sums::new(form.heads * k, n, Detail::Covariance);
    for chunk in chunks {
        let attended = form.attended(chunk, &form.forward(chunk, weights));
        let mut beside = Array2::zeros((chunk.target.nrows(), form.heads * k));
        for (head, z) in attended.iter().enumerate() {
            beside.slice_mut(s![.., head * k..(head + 1) * k]).assign(&wide(z.slice(s![.., ..k])));
        }
        sums.merge(&Sums::of(backend, beside.view(), wide(chunk.target.view()).view()));
    }
    sums
}

fn wide(values: ArrayView2<'_, f32>) -> Array2<f64> {
    values.mapv(f64::from)
}

fn stacked(maps: &[(Array2<f64>, Array2<f64>)]) -> Array2<f64> {
    let products: Vec<Array2<f64>> = maps.iter().map(|(v, o)| v.dot(o)).collect();
    let (k, n) = products.first().map_or((0, 0), |first| first.dim());
    let mut all = Array2::zeros((k * products.len(), n));
    for (head, product) in products.iter().enumerate() {
        all.slice_mut(s![head * k..(head + 1) * k, ..]).assign(product);
    }
    all
}

/// The map of rank `width` that minimizes `tr(Mᵀ C M) − 2 tr(Mᵀ rest)` for `C = L Lᵀ`: L⁻ᵀ times the leading part of L⁻¹ rest.
fn low_rank(
    backend: &dyn Backend,
    l: &Array2<f64>,
    rest: Array2<f64>,
    width: usize,
    name: &str,
) -> Result<(Array2<f64>, Array2<f64>)> {
    let mut whitened = rest;
    solve_lower(l, &mut whitened);
    let n = whitened.ncols();
    let mut gram = Array2::zeros((n, n));
    backend.syrk(whitened.view(), &mut gram);
    let eigen = backend.eigh(gram.view(), name)?;
    let mut right = Array2::zeros((width, n));
    for i in 0..width.min(n) {
        right.row_mut(i).assign(&eigen.vectors.column(i));
    }
    let mut left = whitened.dot(&right.t());
    // Both factors of one size: steps on all weights together then move them alike.
    for i in 0..width.min(n) {
        let root = eigen.values[i].max(0.0).sqrt().sqrt();
        if root > 0.0 {
            left.column_mut(i).mapv_inplace(|v| v / root);
            right.row_mut(i).mapv_inplace(|v| v * root);
        }
    }
    solve_upper(l, &mut left);
    Ok((left, right))
}

/// `L⁻¹ B` in place, L lower triangular.
fn solve_lower(l: &Array2<f64>, b: &mut Array2<f64>) {
    for i in 0..l.nrows() {
        let (done, mut rest) = b.view_mut().split_at(ndarray::Axis(0), i);
        let mut row = rest.row_mut(0);
        row -= &l.slice(s![i, ..i]).dot(&done);
        row /= l[[i, i]];
    }
}

/// `L⁻ᵀ B` in place, L lower triangular.
fn solve_upper(l: &Array2<f64>, b: &mut Array2<f64>) {
    for i in (0..l.nrows()).rev() {
        let (mut rest, done) = b.view_mut().split_at(ndarray::Axis(0), i + 1);
        let mut row = rest.row_mut(i);
        row -= &l.slice(s![i + 1.., i]).dot(&done);
        row /= l[[i, i]];
    }
}

/// The weights with other values and outputs; the output's bias makes up for the means.
fn with_maps(
    form: Form<f32>,
    mut weights: Weights<f32>,
    maps: &[(Array2<f64>, Array2<f64>)],
    sums: &Sums,
) -> Weights<f32> {
    let k = weights[2].nrows() - 1;
    let width = weights[2].ncols() / form.heads;
    let (mut bias, means) = (sums.mean_y(), sums.mean_x());
    for (head, (v, o)) in maps.iter().enumerate() {
        let columns = head * width..(head + 1) * width;
        let mean = means.slice(s![head * k..(head + 1) * k]);
        let constant = weights[2].slice(s![k, columns.clone()]).mapv(f64::from);
        bias -= &(mean.dot(v) + constant).dot(o);
        weights[2].slice_mut(s![..k, columns.clone()]).assign(&v.mapv(rounded));
        weights[3].slice_mut(s![columns, ..]).assign(&o.mapv(rounded));
    }
    let last = weights[3].nrows() - 1;
    weights[3].row_mut(last).assign(&bias.mapv(rounded));
    weights
}
