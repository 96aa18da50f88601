//! How far a rewritten model is from the original, sample by sample.

use ndarray::Array2;

use super::exactness::batch_size;
use super::{Accuracy, Pairs};
use crate::calibrate::data::{Batch, Dataset, Labels, Spread};
use crate::calibrate::stats::{self, Key, Record, Stats};
use crate::calibrate::{Calibration, Feeding, in_turn};
use crate::onnx::proto::ModelProto;
use crate::runtime::{Limits, NamedTensor, Runnable, Tensor};
use crate::{Error, Result};

/// Distance between the outputs of two models over all samples and float outputs. Without a float output, each element of the others
/// counts as a vector with a one at its value: the cosine is the share of elements that are equal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faithfulness {
    /// Samples compared.
    pub samples: usize,
    /// √(Σ‖Δ‖² / Σ‖y‖²); infinite when y is zero and Δ is not.
    pub rel_l2: f64,
    /// Σ y·y' / √(Σ‖y‖² Σ‖y'‖²); 1 when both are zero.
    pub cosine: f64,
    /// max |Δ|.
    pub max_abs: f64,
    /// Share of rows with the same largest class; `None` when no output has the form `[samples, classes]`.
    pub top1_agreement: Option<f64>,
    /// Answers sample by sample: against the labels, where they are classes, else against the original's classes.
    pub pairs: Option<Pairs>,
    /// Against the labels, where they are classes.
    pub accuracy: Accuracy,
    /// Against the labels, where they are real values: 1 − Σ(y − t)² / Σ(t − mean of t)².
    pub r2: Option<(f64, f64)>,
}

impl Faithfulness {
    /// The distance between the outputs that two models gave for the same batches of inputs.
    ///
    /// # Errors
    /// As [`FaithfulnessMeter::add`]; [`ErrorKind::Input`](crate::ErrorKind::Input) when there is no batch.
    pub fn between(
        original: &[Vec<NamedTensor>],
        rewritten: &[Vec<NamedTensor>],
        batches: &[Vec<NamedTensor>],
    ) -> Result<Self> {
        let mut meter = FaithfulnessMeter::default();
        for ((before, after), inputs) in original.iter().zip(rewritten).zip(batches) {
            meter.add(before, after, batch_size(inputs), None)?;
        }
        meter.finish().ok_or_else(nothing_to_compare)
    }
}

/// Accumulates [`Faithfulness`] batch by batch, in float64.
#[derive(Debug, Clone, Default)]
pub struct FaithfulnessMeter {
    samples: usize,
    delta: f64,
    before: f64,
    after: f64,
    dot: f64,
    max_abs: f64,
    classified: usize,
    agreed: usize,
    labelled: usize,
    right_before: usize,
    right_after: usize,
    /// Samples that only one of the two models answers rightly: the original, the rewritten one.
    only: [usize; 2],
    errors: Errors,
}

/// What is needed to say how much of the variance of real-valued labels a model explains.
#[derive(Debug, Clone, Default)]
struct Errors {
    spread: Spread,
    before: f64,
    after: f64,
}

impl FaithfulnessMeter {
    /// Adds the outputs of both models for one batch of `rows` samples.
    ///
    /// # Errors
    /// [`ErrorKind::Proof`](crate::ErrorKind::Proof) when the outputs differ in number or shape.
    pub fn add(
        &mut self,
        original: &[NamedTensor],
        rewritten: &[NamedTensor],
        rows: usize,
        labels: Option<&Labels>,
    ) -> Result<()> {
        if original.len() != rewritten.len() {
            return Err(Error::proof("the rewritten model has a different number of outputs"));
        }
        let has_floats = original.iter().any(|(_, tensor)| tensor.is_float());
        for ((name, y), (_, other)) in original.iter().zip(rewritten) {
            if y.shape() != other.shape() {
                let message = format!("output '{name}' of shape {:?} now has shape {:?}", y.shape(), other.shape());
                return Err(Error::proof(message));
            }
            if y.is_float() {
                self.add_values(&y.to_vec::<f32>()?, &other.to_vec::<f32>()?);
            } else if !has_floats {
                self.add_choices(&y.to_vec::<f64>()?, &other.to_vec::<f64>()?);
            }
        }
        self.samples += rows;
        let right = labels.and_then(Labels::classes);
        let classes = |outputs: &[NamedTensor]| classes(outputs, rows, right.is_some());
        self.add_classes(classes(original)?, classes(rewritten)?, right);
        match labels {
            Some(Labels::Values(values)) => self.errors.add(original, rewritten, values),
            _ => Ok(()),
        }
    }

    fn add_values(&mut self, y: &[f32], other: &[f32]) {
        for (&a, &b) in y.iter().zip(other) {
            let (a, b) = (f64::from(a), f64::from(b));
            // Equal infinities, as attention masks leave them, are no difference, and neither is what is no number in both.
            let is_same = a == b || a.is_nan() && b.is_nan();
            let delta = if is_same { 0.0 } else { (a - b).abs() };
            // A comparison with NaN is false: once there, it stays.
            if delta.is_nan() || delta > self.max_abs {
                self.max_abs = delta;
            }
            self.delta += delta * delta;
            if a.is_finite() || !is_same {
                self.before += a * a;
                self.after += b * b;
                self.dot += a * b;
            }
        }
    }

    #[allow(clippy::float_cmp)] // integers
    fn add_choices(&mut self, y: &[f64], other: &[f64]) {
        let equal = y.iter().zip(other).filter(|(a, b)| a == b).count();
        let (all, equal) = (y.len() as f64, equal as f64);
        self.before += all;
        self.after += all;
        self.dot += equal;
        self.delta += 2.0 * (all - equal);
        self.max_abs = self.max_abs.max(f64::from(u8::from(equal < all)));
    }

    fn add_classes(&mut self, before: Option<Vec<i64>>, after: Option<Vec<i64>>, labels: Option<&[i64]>) {
        let (Some(before), Some(after)) = (before, after) else { return };
        let equal = |a: &[i64], b: &[i64]| a.iter().zip(b).filter(|(a, b)| a == b).count();
        self.classified += before.len();
        self.agreed += equal(&before, &after);
        if let Some(labels) = labels {
            self.labelled += labels.len().min(before.len());
            self.right_before += equal(&before, labels);
            self.right_after += equal(&after, labels);
            for ((before, after), label) in before.iter().zip(&after).zip(labels) {
                match (before == label, after == label) {
                    (true, false) => self.only[0] += 1,
                    (false, true) => self.only[1] += 1,
                    _ => {}
                }
            }
        }
    }

    /// Answers sample by sample, if there are classes.
    fn pairs(&self) -> Option<Pairs> {
        let [lost, gained] = self.only;
        match (self.labelled, self.classified) {
            (0, 0) => None,
            (0, samples) => Some(Pairs { samples, lost: samples - self.agreed, gained: None }),
            (samples, _) => Some(Pairs { samples, lost, gained: Some(gained) }),
        }
    }

    /// What was measured, or `None` without any sample.
    pub fn finish(&self) -> Option<Faithfulness> {
        let share = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        let norms = (self.before * self.after).sqrt();
        (self.samples > 0).then(|| Faithfulness {
            samples: self.samples,
            rel_l2: if self.delta == 0.0 { 0.0 } else { (self.delta / self.before).sqrt() },
            cosine: if norms == 0.0 && self.delta == 0.0 { 1.0 } else { (self.dot / norms).clamp(-1.0, 1.0) },
            max_abs: self.max_abs,
            top1_agreement: share(self.agreed, self.classified),
            pairs: self.pairs(),
            accuracy: Accuracy {
                before: share(self.right_before, self.labelled),
                after: share(self.right_after, self.labelled),
            },
            r2: self.errors.r2(),
        })
    }
}

impl Errors {
    /// Adds the first float output whose shape `values` have, before and after.
    fn add(&mut self, original: &[NamedTensor], rewritten: &[NamedTensor], values: &Tensor) -> Result<()> {
        let fits = |tensor: &Tensor| tensor.is_float() && Labels::describe(values.shape(), tensor.shape());
        let Some(output) = original.iter().position(|(_, tensor)| fits(tensor)) else { return Ok(()) };
        let (y, other, t) =
            (original[output].1.to_vec::<f64>()?, rewritten[output].1.to_vec::<f64>()?, values.to_vec::<f64>()?);
        let error = |y: &[f64]| y.iter().zip(&t).map(|(y, t)| (y - t).powi(2)).sum::<f64>();
        self.before += error(&y);
        self.after += error(&other);
        self.spread.add(values)
    }

    fn r2(&self) -> Option<(f64, f64)> {
        let spread = self.spread.total()?;
        Some((1.0 - self.before / spread, 1.0 - self.after / spread))
    }
}

/// The class of each sample: the index of the largest element in the first float output of shape `[rows, classes]`, else
/// the first integer output of shape `[rows]`. Without labels, an output that is called an embedding has no classes.
fn classes(outputs: &[NamedTensor], rows: usize, has_labels: bool) -> Result<Option<Vec<i64>>> {
    let scores =
        |tensor: &Tensor| tensor.is_float() && matches!(tensor.shape(), &[n, classes] if n == rows && classes > 1);
    let is_embedding = |name: &str| EMBEDDINGS.iter().any(|word| name.to_lowercase().contains(word));
    if let Some((_, tensor)) =
        outputs.iter().find(|(name, tensor)| scores(tensor) && (has_labels || !is_embedding(name)))
    {
        let width = tensor.shape().last().copied().unwrap_or(1);
        return Ok(Some(tensor.to_vec::<f32>()?.chunks(width).map(largest).collect()));
    }
    let is_class = |tensor: &Tensor| !tensor.is_float() && !tensor.is::<bool>() && tensor.shape() == [rows];
    outputs.iter().find(|(_, tensor)| is_class(tensor)).map(|(_, tensor)| tensor.to_vec::<i64>()).transpose()
}

/// Words in the names of outputs that are no scores: which element is the largest says nothing.
const EMBEDDINGS: [&str; 5] = ["embed", "hidden", "pool", "feature", "latent"];

/// Index of the first largest element; −1, which is no class, when nothing compares.
#[allow(clippy::cast_possible_wrap)] // an index of a slice in memory
fn largest(scores: &[f32]) -> i64 {
    let mut best = (-1_i64, f32::NEG_INFINITY);
    for (index, &score) in scores.iter().enumerate() {
        if score > best.1 || (best.0 < 0 && score == best.1) {
            best = (index as i64, score);
        }
    }
    best.0
}

/// Most values of a model's outputs that are kept for the next job.
const MOST_KEPT: usize = 4 << 20;

/// The outputs of the original on some samples, batch by batch, as an earlier job kept them.
#[derive(Default)]
struct Known(Vec<Record>);

impl Known {
    /// The outputs for a batch, named as those of the rewritten model, which has the same signature; `None` if they were not
    /// kept.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn get(&self, batch: usize, named: &[NamedTensor]) -> Result<Option<Vec<NamedTensor>>> {
        let Some(record) = self.0.get(batch) else { return Ok(None) };
        let tensor = |((name, _), pair): (&NamedTensor, &[Array2<f64>])| -> Result<NamedTensor> {
            let shape: Vec<usize> = pair[0].iter().map(|&size| size as usize).collect();
            let values: Vec<f32> = pair[1].iter().map(|&value| value as f32).collect();
            Ok((name.clone(), Tensor::new(&shape, &values)?))
        };
        let pairs = record.chunks_exact(2);
        if pairs.len() != named.len() {
            return Ok(None);
        }
        named.iter().zip(pairs).map(tensor).collect::<Result<Vec<_>>>().map(Some)
    }
}

/// The outputs of the original on their way into the statistics of the samples.
struct Keeping<'d> {
    stats: Option<(&'d Stats, String)>,
    new: Vec<Record>,
    values: usize,
}

impl<'d> Keeping<'d> {
    /// Of a model on these samples; what an earlier job kept is not kept again.
    fn new(original: Option<&ModelProto>, data: &'d Dataset, batch: usize) -> Result<(Known, Self)> {
        let key = |original: &ModelProto| {
            Key::of("outputs").model(original).on("samples", data.identity()).on("batch", &batch).done()
        };
        let stats = original.and_then(|original| Some((data.stats()?, key(original))));
        let known = stats.as_ref().map(|(stats, key)| stats.get(key, batches_of)).transpose()?.flatten();
        let stats = stats.filter(|_| known.is_none());
        Ok((Known(known.unwrap_or_default()), Self { stats, new: Vec::new(), values: 0 }))
    }

    /// Takes in the outputs for the next batch.
    fn add(&mut self, outputs: &[NamedTensor]) -> Result<()> {
        if self.stats.is_none() {
            return Ok(());
        }
        self.values += outputs.iter().map(|(_, tensor)| tensor.len()).sum::<usize>();
        if self.values > MOST_KEPT || !outputs.iter().all(|(_, tensor)| tensor.is::<f32>()) {
            (self.stats, self.new) = (None, Vec::new());
            return Ok(());
        }
        let mut record = Record::new();
        for (_, tensor) in outputs {
            record.push(stats::row(&tensor.shape().iter().map(|&size| size as f64).collect::<Vec<_>>()));
            record.push(stats::row(&tensor.to_vec::<f64>()?));
        }
        self.new.push(record);
        Ok(())
    }

    /// Keeps what is new, once all batches are in.
    fn keep(self) -> Result<()> {
        let Some((stats, key)) = self.stats else { return Ok(()) };
        let mut all = vec![stats::row(&self.new.iter().map(|record| record.len() as f64).collect::<Vec<_>>())];
        all.extend(self.new.into_iter().flatten());
        stats.put(&key, &all)
    }
}

/// The batches of a record: the number of matrices of each, then shape and values of each output. `None` if these do not fit.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn batches_of(record: Record) -> Option<Vec<Record>> {
    let mut matrices = record.into_iter();
    let counts = matrices.next()?;
    let mut batches = Vec::new();
    for &count in &counts {
        let batch: Record = matrices.by_ref().take(count as usize).collect();
        let is_whole = |pair: &[Array2<f64>]| pair[0].iter().product::<f64>() == pair[1].len() as f64;
        if !batch.len().is_multiple_of(2) || batch.len() as f64 != count || !batch.chunks_exact(2).all(is_whole) {
            return None;
        }
        batches.push(batch);
    }
    matrices.next().is_none().then_some(batches)
}

/// Runs both models over all of `data` and measures their distance. Large samples run one by one, several side by side; small
/// ones share a run, as many as `limits` allow.
///
/// # Errors
/// What reading a batch or running a model returns, and [`FaithfulnessMeter::add`]; [`ErrorKind::Usage`](crate::ErrorKind::Usage) when
/// one sample alone takes more memory than `limits` allow; [`ErrorKind::Input`](crate::ErrorKind::Input) when there is no batch.
pub fn faithful(original: &Runnable, rewritten: &Runnable, data: &Dataset, limits: Limits) -> Result<Faithfulness> {
    measured((None, original), rewritten, data, limits)
}

/// [`faithful`] to a model, whose outputs are kept in the statistics of the samples and taken up from there.
///
/// # Errors
/// As [`faithful`]; if the outputs cannot be kept.
pub(super) fn faithful_to(
    (model, original): (&ModelProto, &Runnable),
    rewritten: &Runnable,
    data: &Dataset,
    limits: Limits,
) -> Result<Faithfulness> {
    measured((Some(model), original), rewritten, data, limits)
}

fn measured(
    (model, original): (Option<&ModelProto>, &Runnable),
    rewritten: &Runnable,
    data: &Dataset,
    limits: Limits,
) -> Result<Faithfulness> {
    let feeding = Feeding::of_runnable(original, data);
    let axes = feeding.outputs();
    let mut meter = FaithfulnessMeter::default();
    let size = feeding.running(limits, 2, Calibration::new(data, 0).batch)?;
    let (known, mut keeping) = Keeping::new(model, data, size)?;
    let run = |index: usize, batch: &Batch| -> Result<(Vec<NamedTensor>, Vec<NamedTensor>)> {
        let after = rewritten.run(&batch.inputs)?;
        let before = known.get(index, &after)?.map_or_else(|| original.run(&batch.inputs), Ok)?;
        Ok((before, after))
    };
    in_turn(data.batches(size), (feeding.runs(limits, 2, size), limits), run, |batch, (before, after)| {
        keeping.add(&before)?;
        let (before, after) = (axes.in_front(before, &batch)?, axes.in_front(after, &batch)?);
        meter.add(&before, &after, batch.samples(), batch.labels.as_ref())
    })?;
    keeping.keep()?;
    meter.finish().ok_or_else(nothing_to_compare)
}

fn nothing_to_compare() -> Error {
    Error::input("there are no samples to compare the models on")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(rows: &[[f32; 3]]) -> Vec<NamedTensor> {
        vec![("y".into(), Tensor::new(&[rows.len(), 3], rows.as_flattened()).unwrap())]
    }

    fn measure(before: &[[f32; 3]], after: &[[f32; 3]], labels: Option<&[i64]>) -> Faithfulness {
        let mut meter = FaithfulnessMeter::default();
        for (index, (a, b)) in before.iter().zip(after).enumerate() {
            let label = labels.map(|labels| Labels::Classes(vec![labels[index]]));
            meter.add(&outputs(&[*a]), &outputs(&[*b]), 1, label.as_ref()).unwrap();
        }
        meter.finish().unwrap()
    }

    #[test]
    fn distances_follow_their_definitions_over_batches() {
        let found = measure(&[[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]], &[[3.0, 0.0, 0.0], [0.0, 4.0, 5.0]], Some(&[0, 1]));
        assert!((found.rel_l2 - 1.0).abs() < 1e-12 && (found.max_abs - 5.0).abs() < 1e-12);
        assert!((found.cosine - 25.0 / (5.0 * 50_f64.sqrt())).abs() < 1e-12);
        assert_eq!((found.samples, found.top1_agreement), (2, Some(0.5)));
        assert_eq!(found.accuracy, Accuracy { before: Some(1.0), after: Some(0.5) });
    }

    #[test]
    fn real_labels_give_the_share_of_variance_explained() {
        let mut meter = FaithfulnessMeter::default();
        let rows = [[1.0, 2.0, 0.0], [3.0, 6.0, 0.0]];
        for (row, target) in rows.iter().zip([[0.0_f32, 2.0, 0.0], [4.0, 6.0, 0.0]]) {
            let label = Labels::Values(Tensor::new(&[1, 3], &target).unwrap());
            meter.add(&outputs(&[*row]), &outputs(&[[2.0, 4.0, 0.0]]), 1, Some(&label)).unwrap();
        }
        // The means of the columns are 2, 4, 0: spread 8 + 8; errors 1 + 1 before, all of the spread after.
        let (before, after) = meter.finish().unwrap().r2.unwrap();
        assert!((before - (1.0 - 2.0 / 16.0)).abs() < 1e-12 && after.abs() < 1e-12, "{before} {after}");
    }

    #[test]
    fn equal_models_are_at_distance_zero_even_when_zero_or_masked() {
        for row in [[0.0; 3], [f32::NEG_INFINITY, 1.0, 2.0]] {
            let found = measure(&[row], &[row], None);
            assert_eq!((found.rel_l2, found.cosine, found.max_abs), (0.0, 1.0, 0.0));
            assert_eq!(found.accuracy, Accuracy::default());
        }
    }

    #[test]
    fn what_is_no_number_in_both_is_no_difference() {
        let row = [1.0, f32::NAN, 3.0];
        let found = measure(&[row], &[row], None);
        assert_eq!((found.rel_l2, found.cosine, found.max_abs), (0.0, 1.0, 0.0));
    }

    #[test]
    fn a_result_that_is_not_a_number_is_not_hidden() {
        let found = measure(&[[1.0, 2.0, 3.0]], &[[1.0, f32::NAN, 3.0]], None);
        assert!(found.rel_l2.is_nan() && found.max_abs.is_nan() && found.cosine.is_nan());
        let later = measure(&[[1.0, 2.0, 3.0]; 2], &[[1.0, f32::NAN, 3.0], [1.0, 2.0, 3.0]], None);
        assert!(later.max_abs.is_nan());
    }

    #[test]
    fn the_largest_element_of_an_embedding_is_no_class() {
        let outputs = |name: &str| vec![(name.to_owned(), Tensor::new(&[1, 3], &[1_f32, 2.0, 3.0]).unwrap())];
        for (name, expected) in [("sentence_embedding", None), ("logits", Some(1.0))] {
            let mut meter = FaithfulnessMeter::default();
            meter.add(&outputs(name), &outputs(name), 1, None).unwrap();
            assert_eq!(meter.finish().unwrap().top1_agreement, expected);
            // Whoever gives classes says that there are some.
            meter.add(&outputs(name), &outputs(name), 1, Some(&Labels::Classes(vec![2]))).unwrap();
            assert_eq!(meter.finish().unwrap().accuracy.after, Some(1.0));
        }
    }

    #[test]
    fn answers_are_paired_sample_by_sample() {
        let (before, after) =
            ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]);
        let found = measure(&before, &after, Some(&[0, 0, 2]));
        assert_eq!(found.pairs, Some(Pairs { samples: 3, lost: 1, gained: Some(1) }));
        assert_eq!(measure(&before, &after, None).pairs, Some(Pairs { samples: 3, lost: 2, gained: None }));
    }

    /// A segmentation model that ends with `ArgMax`, which has no other output.
    #[test]
    fn without_real_numbers_the_share_of_equal_elements_counts() {
        let choices = |values: &[i64]| vec![("classes".to_owned(), Tensor::new(&[1, 2, 2], values).unwrap())];
        let mut meter = FaithfulnessMeter::default();
        meter.add(&choices(&[7, 7, 3, 2]), &choices(&[7, 7, 3, 9]), 1, None).unwrap();
        let found = meter.finish().unwrap();
        assert_eq!((found.cosine, found.max_abs, found.top1_agreement), (0.75, 1.0, None));
        assert!((found.rel_l2 - 0.5_f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn integer_classes_count_too() {
        let classes = |values: &[i64]| vec![("label".to_owned(), Tensor::new(&[values.len()], values).unwrap())];
        let mut meter = FaithfulnessMeter::default();
        meter.add(&classes(&[1, 2]), &classes(&[1, 3]), 2, Some(&Labels::Classes(vec![1, 2]))).unwrap();
        let found = meter.finish().unwrap();
        assert_eq!(found.top1_agreement, Some(0.5));
        assert_eq!(found.accuracy, Accuracy { before: Some(1.0), after: Some(0.5) });
    }
}
