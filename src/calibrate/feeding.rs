//! How the samples of a data set are fed to a model: how many at once, what one takes, and where they come out.

use std::collections::BTreeMap;

use super::data::{Batch, Dataset};
use crate::error::Result;
use crate::onnx::proto::ModelProto;
use crate::runtime::{Footprint, Limits, NamedTensor, RunOptions, Runnable, Runs};

/// Batches that are looked through for one with two samples.
const LOOKED_AT: usize = 16;

/// Bytes of activations of one batch beyond which a larger batch is no faster.
const PREFERRED_BATCH: u64 = 512 << 20;

/// How a model takes samples, as its shapes at one sample and at two tell.
#[derive(Debug, Clone, Default)]
pub struct Feeding {
    /// Bytes of activations for one sample; zeros where they are not known.
    each: Each,
    /// Whether only one sample can run at a time, and why.
    single: Option<Single>,
    /// Whether samples have one length with those after them, and most are shorter than the measured one: as many run together.
    is_cropped: bool,
    axes: OutputAxes,
}

/// Why samples run one at a time although the data set would batch them.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Single {
    /// The model does not run at two samples.
    Refused(String),
    /// This output is one for all samples of a batch.
    Common(String),
}

#[derive(Debug, Clone, Copy, Default)]
struct Each {
    live: u64,
    total: u64,
}

impl Feeding {
    /// How `model` takes the samples of `data`. A model that tract does not run takes them as the data set gives them:
    /// whoever runs it will say why it fails.
    pub fn of(model: &ModelProto, data: &Dataset) -> Self {
        Runnable::new(model, &RunOptions::default())
            .map_or_else(|_| Self::default(), |model| Self::of_runnable(&model, data))
    }

    /// [`of`](Self::of) a model that tract has already.
    pub fn of_runnable(model: &Runnable, data: &Dataset) -> Self {
        let first = data.largest();
        let some = data.batches_of(first..data.samples(), 2).chain(data.batches_of(0..first, 2)).take(LOOKED_AT);
        let pair = some.filter_map(Result::ok).find(|batch| batch.samples() == 2);
        let pair = pair.filter(|batch| !batch.is_run() && data.fixed_batch().is_none());
        let Some(pair) = pair else { return Self::of_single(model, data) };
        let is_cropped = data.most_at_once().is_some();
        let Ok(one) = pair.pick(&[0]).and_then(|one| model.footprint(&one.inputs)) else { return Self::default() };
        let each = Each { live: one.live, total: one.total };
        let two = match model.footprint(&pair.inputs) {
            Ok(two) => two,
            Err(error) => {
                let single = Some(Single::Refused(error.to_string()));
                return Self { each, single, ..Self::default() };
            }
        };
        let axes = OutputAxes::between(&one, &two);
        let single = axes.common().map(|name| Single::Common(name.to_owned()));
        // What does not grow with the samples is counted once.
        let each = Each { live: two.live.saturating_sub(one.live), total: two.total.saturating_sub(one.total) };
        Self { each, single, is_cropped, axes }
    }

    /// Where every run has the same number of samples.
    fn of_single(model: &Runnable, data: &Dataset) -> Self {
        let first = data.largest();
        let one = data.batches_of(first..data.samples(), 1).next();
        let Some(batch) = one.and_then(Result::ok) else { return Self::default() };
        let Ok(found) = model.footprint(&batch.inputs) else { return Self::default() };
        let samples = batch.samples().max(1) as u64;
        let each = Each { live: found.live / samples, total: found.total / samples };
        let axes = if batch.is_run() { OutputAxes::of_runs(&found) } else { OutputAxes::default() };
        Self { each, axes, ..Self::default() }
    }

    /// Where the samples are in the outputs.
    pub fn outputs(&self) -> &OutputAxes {
        &self.axes
    }

    /// Samples that run at once where `models` of this size run side by side and their values go as soon as they are read; at
    /// most `most`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when one sample alone takes more than the budget.
    pub fn running(&self, limits: Limits, models: u64, most: usize) -> Result<usize> {
        self.batch(limits, self.each.live.saturating_mul(models), most)
    }

    /// Samples that run at once where every value may be kept, `times` times over; at most `most`.
    ///
    /// # Errors
    /// As [`running`](Self::running).
    pub fn keeping(&self, limits: Limits, times: u64, most: usize) -> Result<usize> {
        self.batch(limits, self.each.total.saturating_mul(times), most)
    }

    /// How many batches of this many samples run side by side where each runs through `models` models of this size.
    pub fn runs(&self, limits: Limits, models: u64, batch: usize) -> Runs {
        let [inside, whole] =
            [self.each.live, self.each.total].map(|each| each.saturating_mul(models).saturating_mul(batch as u64));
        let surely = usize::try_from(limits.running() / whole.max(1)).unwrap_or(usize::MAX).max(1);
        Runs { surely, inside }
    }

    fn batch(&self, limits: Limits, each: u64, most: usize) -> Result<usize> {
        let most = match self.single {
            Some(_) => 1,
            None if self.is_cropped => most,
            None => usize::try_from(PREFERRED_BATCH / each.max(1)).unwrap_or(usize::MAX).min(most),
        };
        limits.batch(each, most)
    }

    /// What the user should know: that samples do not run together, and why.
    pub fn note(&self) -> Option<String> {
        Some(match self.single.as_ref()? {
            Single::Refused(why) => format!("samples run one at a time: the model does not run at two ({why})"),
            Single::Common(output) => {
                format!("samples run one at a time: output '{output}' has no axis that grows with their number")
            }
        })
    }
}

/// The axis of samples of each output of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutputAxes(BTreeMap<String, Option<usize>>);

impl OutputAxes {
    /// By the shapes for one sample and for two: the one axis that grows.
    pub fn between(one: &Footprint, two: &Footprint) -> Self {
        let known = one
            .outputs
            .iter()
            .zip(&two.outputs)
            .filter_map(|((name, one), (_, two))| Some((name.clone(), growing(one.as_deref()?, two.as_deref()?))));
        Self(known.collect())
    }

    /// [`between`](Self::between), by outputs for one sample and for two.
    pub fn observed(one: &[NamedTensor], two: &[NamedTensor]) -> Self {
        let pairs = one.iter().zip(two);
        Self(pairs.map(|((name, one), (_, two))| (name.clone(), growing(one.shape(), two.shape()))).collect())
    }

    /// Of a model that takes one sample a run: no output has an axis of samples.
    fn of_runs(found: &Footprint) -> Self {
        Self(found.outputs.iter().map(|(name, _)| (name.clone(), None)).collect())
    }

    /// The first output that does not grow with the samples.
    fn common(&self) -> Option<&str> {
        self.0.iter().find(|(_, axis)| axis.is_none()).map(|(name, _)| name.as_str())
    }

    /// Where the `samples` samples of the output `name` of this shape are: `None` where the output is one for all.
    ///
    /// An output of which nothing is known has them in front, or else on the only axis of that size.
    pub fn of(&self, name: &str, shape: &[usize], samples: usize) -> Option<usize> {
        if let Some(axis) = self.0.get(name) {
            return *axis;
        }
        if shape.first() == Some(&samples) {
            return Some(0);
        }
        let mut fitting = shape.iter().enumerate().filter(|(_, size)| **size == samples);
        match (fitting.next(), fitting.next()) {
            (Some((axis, _)), None) if samples > 1 => Some(axis),
            _ => None,
        }
    }

    /// `outputs` of a run of `batch`, samples in front where they have an axis.
    ///
    /// # Errors
    /// If an output lacks the axis that it is known to have.
    pub fn in_front(&self, outputs: Vec<NamedTensor>, batch: &Batch) -> Result<Vec<NamedTensor>> {
        let samples = batch.samples();
        let moved = |(name, tensor): NamedTensor| match self.of(&name, tensor.shape(), samples) {
            Some(axis) if axis > 0 => tensor.with_first(axis).map(|moved| (name, moved)),
            _ => Ok((name, tensor)),
        };
        outputs.into_iter().map(moved).collect()
    }
}

/// The only axis that is twice as long.
fn growing(one: &[usize], two: &[usize]) -> Option<usize> {
    if one.len() != two.len() {
        return None;
    }
    let mut differing = (0..one.len()).filter(|&axis| one[axis] != two[axis]);
    match (differing.next(), differing.next()) {
        (Some(axis), None) if two[axis] == 2 * one[axis] => Some(axis),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Tensor;

    fn outputs(shape: &[usize]) -> Vec<NamedTensor> {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
        vec![("y".to_owned(), Tensor::new(shape, &values).unwrap())]
    }

    fn batch(samples: usize) -> Batch {
        Batch::of_rows(vec![("x".to_owned(), Tensor::new(&[samples, 1], &vec![0_f32; samples]).unwrap())], None)
    }

    /// The axis of time is as long as the batch: only what grows is the axis of samples.
    #[test]
    fn samples_of_a_recurrent_network_come_in_front() {
        let axes = OutputAxes::observed(&outputs(&[2, 1, 3]), &outputs(&[2, 2, 3]));
        assert_eq!(axes.of("y", &[2, 2, 3], 2), Some(1));
        let moved = axes.in_front(outputs(&[2, 2, 3]), &batch(2)).unwrap();
        assert_eq!(moved[0].1.as_slice::<f32>().unwrap(), [0., 1., 2., 6., 7., 8., 3., 4., 5., 9., 10., 11.]);
    }

    #[test]
    fn an_output_that_does_not_grow_is_one_for_all_samples() {
        let axes = OutputAxes::observed(&outputs(&[5, 4]), &outputs(&[5, 4]));
        assert_eq!((axes.of("y", &[5, 4], 5), axes.common()), (None, Some("y")));
        let unknown = OutputAxes::default();
        assert_eq!(unknown.of("y", &[5, 4], 5), Some(0));
        assert_eq!(unknown.of("y", &[7, 5, 4], 5), Some(1));
        assert_eq!(unknown.of("y", &[7, 5, 5], 5), None);
    }
}
