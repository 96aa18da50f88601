//! Samples in memory, in batches of equal shapes, shuffled anew for every epoch.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::kernel::Real;
use super::ops::take;
use crate::calibrate::data::{Batch, Dataset, HELD_OUT, Labels, Spread, is_held_out};
use crate::error::{Error, Result};
use crate::runtime::{NamedTensor, Tensor};
use crate::train;

/// Samples that are read at once.
const READ: usize = 64;

/// Samples whose inputs have the same shapes, one after the other.
#[derive(Debug)]
struct Alike {
    all: Batch,
    train: Vec<usize>,
    held_out: Vec<usize>,
}

/// All samples of a data set.
#[derive(Debug)]
pub(super) struct Samples {
    alike: Vec<Alike>,
    /// Samples of a batch.
    batch: usize,
    /// Whether a batch must have exactly that many.
    fixed: bool,
}

impl Samples {
    /// Reads `data`; `fixed` is the number of samples that the model takes at once, where it is fixed.
    ///
    /// # Errors
    /// If the data cannot be read, or there are too few samples to train on and to hold some out.
    pub(super) fn read(data: &Dataset, batch: usize, fixed: Option<usize>) -> Result<Self> {
        let mut by_shape: BTreeMap<Vec<Vec<usize>>, Vec<(usize, Batch)>> = BTreeMap::new();
        let mut first = 0;
        for batch in data.batches(READ) {
            let batch = batch?;
            let rows = batch.samples();
            let each = |((_, tensor), axis): (&NamedTensor, &Option<usize>)| {
                let sizes = tensor.shape().iter().enumerate().filter(|(at, _)| Some(*at) != *axis);
                sizes.map(|(_, &size)| size).collect()
            };
            let mut shapes: Vec<Vec<usize>> = batch.inputs.iter().zip(&batch.axes).map(each).collect();
            // A run cannot stand in one batch with another.
            shapes.extend(batch.is_run().then(|| vec![first]));
            by_shape.entry(shapes).or_default().push((first, batch));
            first += rows;
        }
        let alike = by_shape.into_values().map(|parts| Alike::new(parts, fixed.unwrap_or(1)));
        let alike = alike.collect::<Result<Vec<_>>>()?;
        let samples = Self { alike, batch: fixed.unwrap_or(batch).max(1), fixed: fixed.is_some() };
        if samples.in_order(false).is_empty() || samples.in_order(true).is_empty() {
            let least = HELD_OUT * if samples.fixed { samples.batch } else { 1 };
            return Err(Error::input(format!(
                "training needs at least {least} samples: some are held out to judge it"
            )));
        }
        Ok(samples)
    }

    /// Number of samples that are trained on, or held out.
    pub(super) fn count(&self, held_out: bool) -> usize {
        self.in_order(held_out).iter().map(|(_, rows)| rows.len()).sum()
    }

    /// Batches in file order: which samples are alike, and their numbers among those.
    pub(super) fn in_order(&self, held_out: bool) -> Vec<(usize, Vec<usize>)> {
        self.batched(|alike| if held_out { alike.held_out.clone() } else { alike.train.clone() })
    }

    /// Batches of one epoch of training.
    pub(super) fn shuffled(&self, random: &mut impl Rng) -> Vec<(usize, Vec<usize>)> {
        let mut orders: Vec<Vec<usize>> = self.alike.iter().map(|alike| alike.train.clone()).collect();
        orders.iter_mut().for_each(|order| order.shuffle(random));
        let mut orders = orders.into_iter();
        let mut batches = self.batched(|_| orders.next().unwrap_or_default());
        batches.shuffle(random);
        batches
    }

    fn batched(&self, mut order: impl FnMut(&Alike) -> Vec<usize>) -> Vec<(usize, Vec<usize>)> {
        let mut batches = Vec::new();
        for (index, alike) in self.alike.iter().enumerate() {
            let chunks = order(alike);
            let whole = chunks.chunks(self.batch).filter(|rows| !self.fixed || rows.len() == self.batch);
            batches.extend(whole.map(|rows| (index, rows.to_vec())));
        }
        batches
    }

    /// The samples `rows` of those that are alike.
    ///
    /// # Errors
    /// If tensors cannot be put together.
    pub(super) fn take(&self, (index, rows): &(usize, Vec<usize>)) -> Result<Batch> {
        let alike = self.alike.get(*index).ok_or_else(|| Error::input("there is no such sample"))?;
        alike.all.pick(rows)
    }

    /// Whether samples have classes.
    pub(super) fn has_classes(&self) -> bool {
        self.alike.iter().any(|alike| matches!(alike.all.labels, Some(Labels::Classes(_))))
    }

    /// The variance of real-valued labels, summed over their elements; `None` if samples have classes, or the values do
    /// not vary.
    ///
    /// # Errors
    /// If they hold no numbers.
    pub(super) fn label_variance(&self) -> Result<Option<f64>> {
        let mut spread = Spread::default();
        for alike in &self.alike {
            if let Some(Labels::Values(values)) = &alike.all.labels {
                spread.add(values)?;
            }
        }
        Ok(spread.total().map(|total| total / spread.rows()))
    }

    /// Whether all inputs are real numbers, so that samples can be mixed.
    pub(super) fn are_real(&self) -> bool {
        self.alike.iter().flat_map(|alike| &alike.all.inputs).all(|(_, tensor)| tensor.is_float())
    }
}

impl Alike {
    fn new(batches: Vec<(usize, Batch)>, at_once: usize) -> Result<Self> {
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        let mut labels = Vec::new();
        let mut columns: Vec<(String, Vec<Tensor>)> = Vec::new();
        let mut row = 0;
        let axes = batches.first().map(|(_, batch)| batch.axes.clone()).unwrap_or_default();
        for (first, batch) in batches {
            for offset in 0..batch.samples() {
                if is_held_out(first + offset, at_once) {
                    held_out.push(row);
                } else {
                    train.push(row);
                }
                row += 1;
            }
            labels.extend(batch.labels);
            for (index, (name, tensor)) in batch.inputs.into_iter().enumerate() {
                match columns.get_mut(index) {
                    Some((_, parts)) => parts.push(tensor),
                    None => columns.push((name, vec![tensor])),
                }
            }
        }
        let whole = |((name, parts), axis): ((String, Vec<Tensor>), &Option<usize>)| {
            let whole = match (axis, parts.first()) {
                (None, Some(shared)) => shared.clone(),
                (axis, _) => Tensor::concatenate(axis.unwrap_or(0), &parts)?,
            };
            Ok((name, whole))
        };
        let labels = Labels::concatenate(labels)?;
        let inputs = columns.into_iter().zip(&axes).map(whole).collect::<Result<_>>()?;
        Ok(Self { all: Batch { inputs, labels, axes }, train, held_out })
    }
}

/// How samples of a batch are mixed: sample i becomes `weight[i] · i + (1 − weight[i]) · partner[i]`
/// (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization").
#[derive(Debug, Clone)]
pub(super) struct Mixture {
    pub(super) partner: Vec<usize>,
    pub(super) weight: Vec<f64>,
}

impl Mixture {
    /// A mixture of `count` samples, in which a share `share` of them is mixed with another.
    pub(super) fn draw(count: usize, share: f64, random: &mut impl Rng) -> Self {
        let mut partner: Vec<usize> = (0..count).collect();
        partner.shuffle(random);
        let mut weight = || if random.random::<f64>() < share { random.random::<f64>() } else { 1.0 };
        Self { weight: (0..count).map(|_| weight()).collect(), partner }
    }

    /// The mixed rows of a tensor whose first axis is the samples.
    ///
    /// # Errors
    /// If it has other samples.
    pub(super) fn of_rows<T: Real>(&self, values: &train::Tensor<T>) -> Result<train::Tensor<T>> {
        let mut shape = vec![1; values.rank()];
        if let Some(first) = shape.first_mut() {
            *first = self.partner.len();
        }
        let weight = train::Tensor::new(shape, self.weight.iter().map(|&weight| T::from_f64(weight)).collect())?;
        let other = take(values, 0, self.partner.clone())?;
        values.minus(&other)?.times(&weight)?.plus(&other)
    }

    /// The mixed inputs.
    ///
    /// # Errors
    /// If an input holds no numbers.
    pub(super) fn mix(&self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>> {
        let mixed = |(name, tensor): &NamedTensor| -> Result<NamedTensor> {
            let values = tensor.to_vec::<f32>()?;
            let each = values.len() / self.partner.len().max(1);
            #[allow(clippy::cast_possible_truncation)] // weights in 0..=1
            let value = |row: usize, i: usize| {
                let weight = self.weight[row] as f32;
                weight * values[row * each + i] + (1.0 - weight) * values[self.partner[row] * each + i]
            };
            let values: Vec<f32> = (0..self.partner.len())
                .flat_map(|row| (0..each).map(move |i| (row, i)))
                .map(|(r, i)| value(r, i))
                .collect();
            Ok((name.clone(), Tensor::new(tensor.shape(), &values)?))
        };
        inputs.iter().map(mixed).collect()
    }
}
