//! What an attention block reads and should make, sample by sample; and the block, fitted to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ndarray::{Array1, Array2, Axis, concatenate, s};

use super::super::write::{self, BiasPlace};
use super::block::{Chunk, Form, Span, Weights};
use super::fit;
use super::pattern::Block;
use super::whiten::Whitening;
use crate::calibrate::{Activations, At, Layer, Padding, Record, Row, Sum, floats, rounded, row, whole};
use crate::error::{Error, Result};
use crate::graph::View;
use crate::onnx::proto::ModelProto;
use crate::runtime::Tensor;

/// Positions that a block is fitted on: as many as this many values of its input allow, within bounds.
const VALUES: usize = 1 << 21;
const ROWS: (usize, usize) = (4096, 16_384);

/// Every tenth sample is held out, of at least this many.
const HELD_OUT: usize = 10;
const MANY_SAMPLES: usize = 20;

/// Samples whose scores and mixed values are compared with the model's own.
const PROBES: usize = 8;

/// How far the block may be from the model, relative to its size.
const TOLERANCE: f64 = 1e-3;

/// What is added to scores that a mask switches off.
const SWITCHED_OFF: f64 = -1e30;

/// Chunks that are worked on side by side: fixed, so that sums do not depend on the number of threads.
const CHUNKS: usize = 16;

/// Evidence about one block.
pub(in crate::repair) struct Gathered {
    block: Block,
    found: Found,
}

/// What was found on some samples.
#[derive(Default)]
pub(in crate::repair) struct Found {
    samples: Vec<Sample>,
    /// The activations are not shaped like attention.
    misfit: bool,
}

struct Sample {
    /// Inputs by the name of their value.
    inputs: BTreeMap<String, Array2<f64>>,
    added: Vec<Array2<f64>>,
    target: Array2<f64>,
    /// Scores of each head and mixed values, for the first samples.
    probe: Option<(Vec<Array2<f64>>, Array2<f64>)>,
}

/// What a refit reached: the squared error on held-out samples as a share of the targets' variance, and the layers that
/// have new weights beside the last.
#[derive(Debug)]
pub(in crate::repair) struct Refit {
    pub(in crate::repair) after: f64,
    pub(in crate::repair) layers: Vec<String>,
}

impl Sum for Found {
    fn merge(&mut self, next: Self) {
        if self.misfit || next.misfit {
            *self = Self { misfit: true, ..Self::default() };
            return;
        }
        self.samples.extend(next.samples);
        self.samples.iter_mut().skip(PROBES).for_each(|sample| sample.probe = None);
    }

    fn to_record(&self) -> Record {
        let mut record = vec![row(&[f64::from(u8::from(self.misfit)), self.samples.len() as f64])];
        for Sample { inputs, added, target, probe } in &self.samples {
            let probed = probe.as_ref().map_or(0, |(scores, _)| 1 + scores.len());
            record.push(row(&[inputs.len() as f64, added.len() as f64, probed as f64]));
            for (name, values) in inputs {
                record.extend([row(&name.bytes().map(f64::from).collect::<Vec<f64>>()), values.clone()]);
            }
            record.extend(added.iter().cloned().chain([target.clone()]));
            record.extend(probe.iter().flat_map(|(scores, mixed)| scores.iter().chain([mixed])).cloned());
        }
        record
    }

    fn from_record(matrices: &mut impl Iterator<Item = Array2<f64>>) -> Option<Self> {
        let counted = matrices.next()?;
        let (misfit, count) = (whole(*counted.first()?)? > 0, whole(*counted.get((0, 1))?)?);
        let mut samples = Vec::new();
        for _ in 0..count {
            let counted = matrices.next()?;
            let count = |column: usize| whole(*counted.get((0, column))?);
            let mut inputs = BTreeMap::new();
            for _ in 0..count(0)? {
                let name =
                    matrices.next()?.iter().map(|&byte| u8::try_from(whole(byte)?).ok()).collect::<Option<_>>()?;
                inputs.insert(String::from_utf8(name).ok()?, matrices.next()?);
            }
            let mut several = |count: usize| (0..count).map(|_| matrices.next()).collect::<Option<Vec<_>>>();
            let (added, target) = (several(count(1)?)?, several(1)?.pop()?);
            let mut probe = several(count(2)?)?;
            let probe = probe.pop().map(|mixed| (probe, mixed));
            samples.push(Sample { inputs, added, target, probe });
        }
        Some(Self { samples, misfit })
    }
}

impl Gathered {
    pub(in crate::repair) fn new(block: Block) -> Self {
        Self { block, found: Found::default() }
    }

    /// Puts what all processes found in the place of what this one found.
    ///
    /// # Errors
    /// That of `all`.
    pub(in crate::repair) fn share(&mut self, all: impl FnOnce(Found) -> Result<Option<Found>>) -> Result<()> {
        self.found = all(std::mem::take(&mut self.found))?.unwrap_or_default();
        Ok(())
    }

    /// Adds the chosen samples of a batch; `target` gives the rows that the block should make. Nothing counts once a batch
    /// is not shaped like attention.
    ///
    /// # Errors
    /// If a value was not computed.
    pub(in crate::repair) fn add(
        &mut self,
        output: &Layer,
        found: &Activations,
        at: At<'_>,
        target: impl Fn(&[Row]) -> Result<Vec<f64>>,
    ) -> Result<()> {
        if !self.found.misfit && !self.try_add(output, found, at, &target)? {
            self.found = Found { misfit: true, ..Found::default() };
        }
        Ok(())
    }

    fn try_add(
        &mut self,
        output: &Layer,
        found: &Activations,
        at: At<'_>,
        target: &impl Fn(&[Row]) -> Result<Vec<f64>>,
    ) -> Result<bool> {
        let mixed = found.get(&output.data)?;
        let [scores, logits] = self.block.taps().map(|name| found.get(name));
        let (scores, logits) = (scores?, logits?);
        let (&[n, t, width], &[batch, heads, queries, _]) = (mixed.shape(), scores.shape()) else { return Ok(false) };
        let is_attention = n == batch && n == at.samples && queries == t && logits.shape() == scores.shape();
        if !is_attention
            || heads == 0
            || !width.is_multiple_of(heads)
            || !self.block.query.outputs.is_multiple_of(heads)
        {
            return Ok(false);
        }
        let wanted = (VALUES / self.block.query.inputs().max(1)).clamp(ROWS.0, ROWS.1);
        // Interval at which samples are taken.
        let stride = (at.total * t / wanted).max(1);
        for sample in (0..n).filter(|sample| (at.first + sample).is_multiple_of(stride)) {
            match self.sample(found, (scores, logits, mixed), sample, at, target)? {
                Some(sample) => self.found.samples.push(sample),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Sample number `sample` of a batch; `None` if an input is not shaped like attention's.
    fn sample(
        &self,
        found: &Activations,
        (scores, logits, mixed): (&Tensor, &Tensor, &Tensor),
        sample: usize,
        at: At<'_>,
        target: &impl Fn(&[Row]) -> Result<Vec<f64>>,
    ) -> Result<Option<Sample>> {
        let &[n, heads, t, keys] = scores.shape() else { return Ok(None) };
        let (rows, columns) = (valid(at.padding, sample, t), valid(at.padding, sample, keys));
        let mut inputs = BTreeMap::new();
        for (name, length) in self.block.reads().into_iter().zip([t, keys, keys]) {
            let data = found.get(name)?;
            if data.shape().len() != 3 || data.shape()[..2] != [n, length] {
                return Ok(None);
            }
            inputs.insert(name.clone(), lines(data, sample, if length == t { &rows } else { &columns })?);
        }
        let (before, after) = (floats(scores)?, floats(logits)?);
        let per_head = |of: &dyn Fn(usize) -> f64| -> Vec<Array2<f64>> {
            let at = |head: usize, i: usize, j: usize| ((sample * heads + head) * t + rows[i]) * keys + columns[j];
            let head = |head| Array2::from_shape_fn((rows.len(), columns.len()), |(i, j)| of(at(head, i, j)));
            (0..heads).map(head).collect()
        };
        let difference = |at: usize| (f64::from(after[at]) - f64::from(before[at])).max(SWITCHED_OFF);
        let added = if self.block.scores == self.block.logits { Vec::new() } else { per_head(&difference) };
        let probe = if self.found.samples.len() < PROBES {
            Some((per_head(&|at| f64::from(before[at])), lines(mixed, sample, &rows)?))
        } else {
            None
        };
        let row = |row: &usize| Row { sample: at.first + sample, index: sample * t + row };
        let target = target(&rows.iter().map(row).collect::<Vec<Row>>())?;
        let outputs = target.len() / rows.len().max(1);
        let target = Array2::from_shape_vec((rows.len(), outputs), target).map_err(|e| Error::input(e.to_string()))?;
        Ok(Some(Sample { inputs, added, target, probe }))
    }

    /// Fits the block of `model` whose last layer is `output`, and writes its weights if that helps on held-out samples.
    ///
    /// # Errors
    /// If a weight cannot be read or written.
    pub(in crate::repair) fn refit(self, model: &mut ModelProto, output: &Layer) -> Result<Option<Refit>> {
        if self.found.misfit || self.found.samples.len() < MANY_SAMPLES {
            return Ok(None);
        }
        let view = View::of(model)?;
        let Some(output) = output.found_in(&view)? else { return Ok(None) };
        let layers = [&self.block.query, &self.block.key, &self.block.value, &output];
        let mut parts = Vec::new();
        for layer in layers {
            let Some(part) = Part::read(&view, layer)? else { return Ok(None) };
            parts.push(part);
        }
        let Some(form) = self.form(&parts) else { return Ok(None) };
        let whitenings = self.whitenings(&output.name)?;
        let inputs = self.block.reads();
        let white = |i: usize| &whitenings[inputs[i]];
        let start: Weights<f64> = [
            white(0).enter(&parts[0].weights, &parts[0].bias),
            white(1).enter(&parts[1].weights, &parts[1].bias),
            white(2).enter(&parts[2].weights, &parts[2].bias),
            with_row(&parts[3].weights, &parts[3].bias)?,
        ];
        let start = start.map(|weights| weights.mapv(rounded));
        let is_held_out = |index: usize| index % HELD_OUT == HELD_OUT - 1;
        let (train, held_out): (Vec<_>, Vec<_>) =
            self.found.samples.iter().enumerate().partition(|(i, _)| !is_held_out(*i));
        let chunked = |samples: Vec<(usize, &Sample)>| -> Result<Vec<Chunk<f32>>> {
            let size = samples.len().div_ceil(CHUNKS).max(1);
            samples.chunks(size).map(|samples| self.chunk(samples, &whitenings)).collect()
        };
        let (train, held_out) = (chunked(train)?, chunked(held_out)?);
        if !self.agrees(form, &train, &start) {
            return Ok(None);
        }
        let before = fit::error(form, &held_out, &start);
        let fitted = fit::fit(form, &train, &held_out, start, &output.name)?;
        let after = fit::error(form, &held_out, &fitted);
        let fitted = fitted.map(|weights| weights.mapv(f64::from));
        let names: Vec<String> = layers[..3].iter().map(|layer| layer.name.clone()).collect();
        if after < before {
            let last = fitted[3].nrows() - 1;
            let split = (fitted[3].slice(s![..last, ..]).to_owned(), fitted[3].row(last).to_owned());
            let solved = [white(0).leave(&fitted[0]), white(1).leave(&fitted[1]), white(2).leave(&fitted[2]), split];
            for ((layer, part), (weights, bias)) in layers.into_iter().zip(&parts).zip(solved) {
                write::replace(model, layer, Some(&[weights]), &(bias - &part.added))?;
            }
        }
        Ok((after < before).then(|| Refit { after: after / fit::spread(&held_out), layers: names }))
    }

    /// The number of heads, and α, as the model's own scores show it.
    fn form(&self, parts: &[Part]) -> Option<Form<f32>> {
        let heads = self.found.samples.first()?.probe.as_ref()?.0.len();
        let (mut product, mut square, mut whole) = (0.0, 0.0, 0.0);
        let [query, key, _] = self.block.reads();
        for sample in &self.found.samples {
            let Some((scores, _)) = &sample.probe else { break };
            let q = sample.inputs[query].dot(&parts[0].weights) + &parts[0].bias;
            let k = sample.inputs[key].dot(&parts[1].weights) + &parts[1].bias;
            let width = q.ncols() / heads;
            for (head, scores) in scores.iter().enumerate() {
                let columns = s![.., head * width..(head + 1) * width];
                let plain = q.slice(columns).dot(&k.slice(columns).t());
                product += (&plain * scores).sum();
                square += (&plain * &plain).sum();
                whole += (scores * scores).sum();
            }
        }
        let scale = product / square;
        // ‖scores − α q kᵀ‖² of the best α.
        let rest = whole - scale * product;
        (scale.is_finite() && rest <= TOLERANCE * TOLERANCE * whole).then(|| Form { heads, scale: rounded(scale) })
    }

    /// Whether the block, computed from its parts, mixes values as the model does.
    fn agrees(&self, form: Form<f32>, train: &[Chunk<f32>], start: &Weights<f32>) -> bool {
        let Some(chunk) = train.first() else { return false };
        let mixed = form.forward(chunk, start).mixed;
        let (mut rest, mut whole) = (0.0, 0.0);
        for (span, sample) in chunk.spans.iter().zip(&self.found.samples) {
            let Some((_, wanted)) = &sample.probe else { break };
            let found = mixed.slice(s![span.queries.clone(), ..mixed.ncols() - 1]);
            rest += (&found.mapv(f64::from) - wanted).iter().map(|d| d * d).sum::<f64>();
            whole += wanted.iter().map(|d| d * d).sum::<f64>();
        }
        rest <= TOLERANCE * TOLERANCE * whole
    }

    fn whitenings(&self, name: &str) -> Result<BTreeMap<String, Whitening>> {
        let mut all = BTreeMap::new();
        for input in self.block.reads() {
            let rows = || self.found.samples.iter().map(|sample| &sample.inputs[input]);
            let width = rows().next().map_or(0, Array2::ncols);
            all.insert(input.clone(), Whitening::of(rows(), width, name)?);
        }
        Ok(all)
    }

    fn chunk(&self, samples: &[(usize, &Sample)], whitenings: &BTreeMap<String, Whitening>) -> Result<Chunk<f32>> {
        let stack = |parts: Vec<_>| concatenate(Axis(0), &parts).map_err(|e| Error::input(e.to_string()));
        let mut inputs = BTreeMap::new();
        for (name, whitening) in whitenings {
            let rows = stack(samples.iter().map(|(_, sample)| sample.inputs[name].view()).collect())?;
            inputs.insert(name, Arc::new(whitening.apply(&rows).mapv(rounded)));
        }
        let [query, key, value] = self.block.reads();
        let (mut spans, mut first) = (Vec::new(), (0, 0));
        for (_, sample) in samples {
            let next = (first.0 + sample.target.nrows(), first.1 + sample.inputs[key].nrows());
            let added = sample.added.iter().map(|added| added.mapv(rounded)).collect();
            spans.push(Span { queries: first.0..next.0, keys: first.1..next.1, added });
            first = next;
        }
        let target = stack(samples.iter().map(|(_, sample)| sample.target.view()).collect())?.mapv(rounded);
        Ok(Chunk { spans, inputs: [query, key, value].map(|name| Arc::clone(&inputs[name])), target })
    }
}

/// Weights and bias of a layer, including the addition after it.
struct Part {
    weights: Array2<f64>,
    bias: Array1<f64>,
    /// The part of the bias that the addition after the layer holds.
    added: Array1<f64>,
}

impl Part {
    /// `None` if the layer cannot have other weights or another bias.
    fn read(view: &View<'_>, layer: &Layer) -> Result<Option<Self>> {
        let weight = view.graph.value(&layer.weight).and_then(|value| view.tensor(value));
        let Some(tensor) = weight else { return Ok(None) };
        let (place, own) = write::bias(view, layer, layer.outputs)?;
        let added = match place {
            BiasPlace::Computed => return Ok(None),
            BiasPlace::Addition { node, slot } => {
                let value = view.operand(node, slot);
                let vector = value.map(|value| write::vector(view, value, layer.outputs)).transpose()?.flatten();
                vector.unwrap_or_else(|| Array1::zeros(layer.outputs))
            }
            _ => Array1::zeros(layer.outputs),
        };
        let mut weights = layer.matrices(tensor)?;
        Ok(Some(Self { weights: weights.swap_remove(0), bias: own + &added, added }))
    }
}

fn with_row(weights: &Array2<f64>, row: &Array1<f64>) -> Result<Array2<f64>> {
    let row = row.view().insert_axis(Axis(0));
    concatenate(Axis(0), &[weights.view(), row]).map_err(|e| Error::input(e.to_string()))
}

/// Positions of one sample that are no padding.
fn valid(padding: Option<&Padding>, sample: usize, length: usize) -> Vec<usize> {
    let is_valid = |position: &usize| padding.is_none_or(|p| p.counts(sample, *position, length));
    (0..length).filter(is_valid).collect()
}

/// Chosen lines of one sample of a tensor `[samples, positions, width]`.
fn lines(data: &Tensor, sample: usize, positions: &[usize]) -> Result<Array2<f64>> {
    let &[_, length, width] = data.shape() else { return Err(Error::input("activations are not of rank 3")) };
    let values = floats(data)?;
    Ok(Array2::from_shape_fn((positions.len(), width), |(i, j)| {
        f64::from(values[(sample * length + positions[i]) * width + j])
    }))
}
