//! How far a model's outputs are from the original's: one number, which adds up over small changes.
//!
//! | output | distance |
//! |---|---|
//! | probabilities, or scores of classes | Kullback–Leibler divergence, nats for each distribution |
//! | probabilities of single events (sigmoid) | the same, each a distribution of two |
//! | other real numbers | squared error over the variance over samples |
//! | integers and truth values, if there is nothing else | share of elements that differ |
//!
//! Distances of several outputs are added. A batch of which an output has another shape than the original's counts as 1.

use std::collections::BTreeSet;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::graph::{Graph, Node, View};
use crate::onnx::proto::ModelProto;
use crate::runtime::{Activations, Limits, NamedTensor, Stream, Tensor};
use crate::texts::hexadecimal;

/// Least probability that a logarithm is taken of.
const LEAST: f64 = 1e-12;

/// Columns from which on a matrix of unknown meaning counts as scores of classes.
const CLASSES: usize = 10;

/// What an output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Probabilities,
    LogProbabilities,
    Events,
    Logits,
    Values,
    Choices,
}

/// The outputs of the original, and how others are held against them.
#[derive(Debug)]
pub(crate) struct Reference {
    names: Vec<String>,
    forms: Vec<Form>,
    outputs: Vec<Activations>,
    /// Variance over samples of each output that is held by its squared error, summed over its elements.
    spreads: Vec<f64>,
}

impl Reference {
    /// Runs `original` on all batches. Those whose outputs would not fit into what `limits` allow to be held are taken off the end of
    /// `batches`.
    ///
    /// # Errors
    /// If it cannot be run.
    pub(crate) fn new(original: &ModelProto, batches: &mut Vec<Vec<NamedTensor>>, limits: Limits) -> Result<Self> {
        let view = View::of(original)?;
        let mut names: Vec<String> = view.proto.output.iter().map(|output| output.name().to_owned()).collect();
        let stream = Stream::default();
        let segment = stream.rest(original, &names)?;
        let (mut outputs, mut bytes) = (Vec::new(), 0);
        for (first, portion) in batches.chunks(SIDE_BY_SIDE).enumerate() {
            if bytes > limits.held() {
                break;
            }
            let run = |(at, inputs): (usize, &Vec<_>)| stream.run(&segment, first * SIDE_BY_SIDE + at, inputs);
            for found in portion.par_iter().with_max_len(1).enumerate().map(run).collect::<Result<Vec<_>>>()? {
                let taken = names.iter().filter_map(|name| found.get(name).ok());
                bytes += taken.map(|tensor| tensor.as_bytes().len() as u64).sum::<u64>();
                if outputs.is_empty() || bytes <= limits.held() {
                    outputs.push(found);
                }
            }
        }
        batches.truncate(outputs.len());
        let is_float =
            |name: &String| outputs.first().and_then(|found| found.get(name).ok()).is_some_and(Tensor::is_float);
        if names.iter().any(is_float) {
            names.retain(is_float);
        }
        let forms: Vec<Form> = names.iter().map(|name| form(&view.graph, name, &outputs)).collect::<Result<_>>()?;
        let spread = |(name, form): (&String, &Form)| match form {
            Form::Values => spread(name, &outputs),
            _ => Ok(0.0),
        };
        let spreads = names.iter().zip(&forms).map(spread).collect::<Result<_>>()?;
        Ok(Self { names, forms, outputs, spreads })
    }

    /// Whether a distance can be measured: an output is a choice, or varies.
    pub(crate) fn tells_models_apart(&self) -> bool {
        self.forms.iter().zip(&self.spreads).any(|(form, spread)| *form != Form::Values || *spread > 0.0)
    }

    /// SHA-256 of the outputs.
    pub(crate) fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for (batch, name) in self.outputs.iter().flat_map(|batch| self.names.iter().map(move |name| (batch, name))) {
            if let Ok(tensor) = batch.get(name) {
                hasher.update(format!("{name} {:?}\n", tensor.shape()));
                hasher.update(tensor.as_bytes());
            }
        }
        hexadecimal(&hasher.finalize()[..16])
    }

    /// Names of the outputs, in graph order.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// The distance of another model; infinite if it is not a number.
    ///
    /// # Errors
    /// If it cannot be run.
    pub(crate) fn distance_of(&self, model: &ModelProto, batches: &[Vec<NamedTensor>]) -> Result<f64> {
        let stream = Stream::default();
        let segment = stream.rest(model, &self.names)?;
        let distance = self.distance(&self.names, batches, |index, inputs| stream.run(&segment, index, inputs))?;
        Ok(if distance.is_nan() { f64::INFINITY } else { distance })
    }

    /// What distances are measured in, for a report.
    pub(crate) fn metric(&self) -> &'static str {
        let is_squared = |form: &Form| *form == Form::Values;
        if self.forms.contains(&Form::Choices) {
            return "share of elements that differ";
        }
        match (self.forms.iter().any(is_squared), self.forms.iter().all(is_squared)) {
            (_, true) => "squared error over variance",
            (true, false) => "KL divergence plus squared error over variance",
            (false, false) => "KL divergence",
        }
    }

    /// The distance of a model of which `run` gives the outputs `behind`, of each of the batches; the others have not changed.
    ///
    /// # Errors
    /// That of `run`; if an output is not there.
    pub(crate) fn distance(
        &self,
        behind: &[String],
        batches: &[Vec<NamedTensor>],
        run: impl Fn(usize, &[NamedTensor]) -> Result<Activations> + Sync,
    ) -> Result<f64> {
        let measured =
            || self.names.iter().zip(&self.forms).zip(&self.spreads).filter(|((name, _), _)| behind.contains(name));
        let losses = |(index, (before, inputs)): (usize, (&Activations, &Vec<NamedTensor>))| -> Result<Vec<_>> {
            let after = run(index, inputs)?;
            measured().map(|((name, &form), _)| Loss::of(form, before.get(name)?, after.get(name)?)).collect()
        };
        let pairs = self.outputs.par_iter().zip(batches).with_max_len(1).enumerate();
        let losses: Vec<Vec<Loss>> = pairs.map(losses).collect::<Result<_>>()?;
        let of_output = |(at, ((_, form), spread)): (usize, ((&String, &Form), &f64))| {
            let (mut loss, mut weight, mut others) = (0.0, 0.0, 0);
            for found in losses.iter().filter_map(|batch| batch.get(at)) {
                match found {
                    Loss::Part(part, of) => (loss, weight) = (loss + part, weight + of),
                    Loss::OtherShape => others += 1,
                }
            }
            let whole = if *form == Form::Values { *spread } else { weight };
            let share = if whole > 0.0 { loss / whole } else { 0.0 };
            share + f64::from(others) / losses.len().max(1) as f64
        };
        Ok(measured().enumerate().map(of_output).sum())
    }
}

/// Batches that run side by side before it is known how large their outputs are.
const SIDE_BY_SIDE: usize = 4;

/// What the output of a batch loses.
enum Loss {
    /// The loss, and the number of distributions or elements that it is of.
    Part(f64, f64),
    OtherShape,
}

impl Loss {
    fn of(form: Form, y: &Tensor, other: &Tensor) -> Result<Self> {
        if y.shape() != other.shape() {
            return Ok(Self::OtherShape);
        }
        divergence(form, y, other).map(|(loss, weight)| Self::Part(loss, weight))
    }
}

/// What an output holds, by the operator that makes it, its values, its name and its shape.
fn form(graph: &Graph, name: &str, outputs: &[Activations]) -> Result<Form> {
    match maker(graph, name).map(|node| node.op.as_str()) {
        Some("Softmax") => return Ok(Form::Probabilities),
        Some("LogSoftmax") => return Ok(Form::LogProbabilities),
        Some("Sigmoid") => return Ok(Form::Events),
        _ => {}
    }
    let Some(y) = outputs.first().map(|batch| batch.get(name)).transpose()? else { return Ok(Form::Values) };
    if !y.is_float() {
        return Ok(Form::Choices);
    }
    let (rank, columns) = (y.shape().len(), y.shape().last().copied().unwrap_or(1));
    if rank < 2 || columns < 2 || y.is_empty() {
        return Ok(Form::Values);
    }
    // A softmax that is written out.
    let values = y.to_vec::<f64>()?;
    let is_distribution = |row: &[f64]| row.iter().all(|p| *p >= 0.0) && (row.iter().sum::<f64>() - 1.0).abs() < 1e-3;
    if values.chunks(columns).all(is_distribution) {
        return Ok(Form::Probabilities);
    }
    let is_named = ["logit", "score", "class"].iter().any(|part| name.to_lowercase().contains(part));
    Ok(if is_named || (rank == 2 && columns >= CLASSES) { Form::Logits } else { Form::Values })
}

/// The node that computes a value, looking through nodes that only rearrange elements.
fn maker<'g>(graph: &'g Graph, name: &str) -> Option<&'g Node> {
    let mut value = graph.value(name)?;
    loop {
        let node = graph.node(graph.producer(value)?);
        match node.op.as_str() {
            "Identity" | "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Flatten" | "Cast" => {
                value = (*node.inputs.first()?)?;
            }
            _ => return Some(node),
        }
    }
}

/// Loss, and the number of distributions or elements that it is of. Where the original is not a number, there is nothing to lose.
fn divergence(form: Form, y: &Tensor, other: &Tensor) -> Result<(f64, f64)> {
    let (a, b) = (y.to_vec::<f64>()?, other.to_vec::<f64>()?);
    let pairs = || a.iter().zip(&b).map(|(&a, &b)| (a, b)).filter(|(a, _)| !a.is_nan());
    let log = |p: f64| p.max(LEAST).ln();
    Ok(match form {
        Form::Probabilities => pairs().fold((0.0, 0.0), |(sum, n), (p, q)| (sum + p * (log(p) - log(q)), n + p)),
        Form::LogProbabilities => pairs().fold((0.0, 0.0), |(sum, n), (p, q)| {
            let share = p.exp();
            (if share > 0.0 { sum + share * (p - q) } else { sum }, n + share)
        }),
        Form::Events => pairs().fold((0.0, 0.0), |(sum, n), (p, q)| {
            (sum + p * (log(p) - log(q)) + (1.0 - p) * (log(1.0 - p) - log(1.0 - q)), n + 1.0)
        }),
        Form::Logits => {
            let width = y.shape().last().copied().unwrap_or(1).max(1);
            let rows = a.chunks_exact(width).zip(b.chunks_exact(width)).filter(|(a, _)| !a.iter().any(|a| a.is_nan()));
            rows.fold((0.0, 0.0), |(sum, n), (a, b)| (sum + of_logits(a, b), n + 1.0))
        }
        Form::Values => {
            // Equal infinities, as masks leave them, are no difference.
            let square = |(a, b): (f64, f64)| if a == b { 0.0 } else { (a - b) * (a - b) };
            (pairs().map(square).sum(), 1.0)
        }
        #[allow(clippy::float_cmp)] // integers
        Form::Choices => pairs().fold((0.0, 0.0), |(sum, n), (a, b)| (sum + f64::from(u8::from(a != b)), n + 1.0)),
    })
}

/// `Σ p ln (p / q)` of the softmax of both.
fn of_logits(a: &[f64], b: &[f64]) -> f64 {
    let normalizer = |row: &[f64]| {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        largest + row.iter().map(|v| (v - largest).exp()).sum::<f64>().ln()
    };
    let (of_a, of_b) = (normalizer(a), normalizer(b));
    let term = |(&a, &b): (&f64, &f64)| {
        let p = (a - of_a).exp();
        if p > 0.0 { p * ((a - of_a) - (b - of_b)) } else { 0.0 }
    };
    a.iter().zip(b).map(term).sum()
}

/// `Σ (y − mean)²`: the mean of each element over samples, or of each index of the last axis where samples differ in size; zero where
/// there is one sample.
fn spread(name: &str, outputs: &[Activations]) -> Result<f64> {
    let tensors: Vec<&Tensor> = outputs.iter().map(|batch| batch.get(name)).collect::<Result<_>>()?;
    let samples = |y: &Tensor| y.shape().first().copied().unwrap_or(1).max(1);
    let of_samples: BTreeSet<usize> = tensors.iter().map(|y| y.len() / samples(y)).collect();
    let of_rows: BTreeSet<usize> = tensors.iter().map(|y| y.shape().last().copied().unwrap_or(1)).collect();
    let width = [of_samples, of_rows].iter().find(|sizes| sizes.len() == 1).and_then(|sizes| sizes.first().copied());
    let width = width.unwrap_or(1).max(1);
    let (mut sums, mut counts) = (vec![0.0; width], vec![0_usize; width]);
    for y in &tensors {
        for (column, value) in y.to_vec::<f64>()?.into_iter().enumerate().filter(|(_, value)| value.is_finite()) {
            sums[column % width] += value;
            counts[column % width] += 1;
        }
    }
    let mean = |(sum, &count): (f64, &usize)| if count > 1 { sum / count as f64 } else { 0.0 };
    let means: Vec<f64> = sums.into_iter().zip(&counts).map(mean).collect();
    let mut spread = 0.0;
    for y in &tensors {
        let centred = y.to_vec::<f64>()?.into_iter().enumerate().map(|(column, value)| value - means[column % width]);
        centred.filter(|value| value.is_finite()).for_each(|value| spread += value * value);
    }
    Ok(spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divergence_of(form: Form, a: &[f32], b: &[f32]) -> f64 {
        let tensor = |values: &[f32]| Tensor::new(&[1, values.len()], values).unwrap();
        let (loss, count) = divergence(form, &tensor(a), &tensor(b)).unwrap();
        loss / count
    }

    /// The same two distributions, as logits, probabilities and their logarithms: one divergence, which by hand is
    /// ½ ln (½ / ¼) + ½ ln (½ / ¾).
    #[test]
    fn a_divergence_is_the_same_in_every_form() {
        let expected = 0.5 * 2.0_f64.ln() + 0.5 * (2.0_f64 / 3.0).ln();
        let (p, q) = ([0.5_f32, 0.5], [0.25_f32, 0.75]);
        let logs = |p: [f32; 2], shift: f32| p.map(|p| p.ln() + shift);
        for (form, a, b) in [
            (Form::Probabilities, p, q),
            (Form::LogProbabilities, logs(p, 0.0), logs(q, 0.0)),
            (Form::Logits, logs(p, 3.0), logs(q, -1.0)),
        ] {
            assert!((divergence_of(form, &a, &b) - expected).abs() < 1e-6, "{form:?}");
            assert!(divergence_of(form, &a, &a).abs() < 1e-9, "{form:?}");
        }
        assert!((divergence_of(Form::Events, &[0.5], &[0.25]) - expected).abs() < 1e-6);
    }

    /// What `original` gives for two batches, and what another model does.
    fn distance_between(original: &[Tensor; 2], other: &[Tensor; 2]) -> f64 {
        let outputs = |tensors: &[Tensor; 2]| tensors.clone().map(|y| Activations::of([("y".to_owned(), y)])).to_vec();
        let (names, outputs, other) = (vec!["y".to_owned()], outputs(original), outputs(other));
        let form = if original[0].is_float() { Form::Values } else { Form::Choices };
        let spreads = vec![if form == Form::Values { spread("y", &outputs).unwrap() } else { 0.0 }];
        let reference = Reference { names: names.clone(), forms: vec![form], outputs, spreads };
        reference.distance(&names, &[Vec::new(), Vec::new()], |batch, _| Ok(other[batch].clone())).unwrap()
    }

    #[test]
    fn choices_that_differ_and_batches_of_another_shape_are_lost() {
        let integers = |values: &[i64]| Tensor::new(&[1, values.len()], values).unwrap();
        let original = [integers(&[1, 2, 3]), integers(&[4])];
        assert_eq!(distance_between(&original, &original), 0.0);
        assert_eq!(distance_between(&original, &[integers(&[1, 2, 0]), integers(&[4])]), 0.25);
        let boxes = |values: &[f32]| Tensor::new(&[values.len()], values).unwrap();
        let original = [boxes(&[1.0, 3.0]), boxes(&[5.0, 7.0])];
        assert_eq!(distance_between(&original, &[boxes(&[1.0]), boxes(&[5.0, 7.0])]), 0.5);
    }

    /// Sequences of different lengths: their variance is that around the mean of each channel.
    #[test]
    fn a_variance_is_around_the_mean_of_channels_where_lengths_differ() {
        let sequence = |values: &[f32]| Tensor::new(&[1, values.len() / 2, 2], values).unwrap();
        let outputs = [sequence(&[10.0, 1.0, 12.0, 1.0]), sequence(&[11.0, 1.0])];
        let outputs = outputs.map(|y| Activations::of([("y".to_owned(), y)]));
        assert_eq!(spread("y", &outputs).unwrap(), 2.0);
    }

    #[test]
    fn what_is_no_number_in_the_original_is_no_difference() {
        let a = [f32::NAN, 1.0];
        assert_eq!(divergence_of(Form::Values, &a, &a), 0.0);
        assert_eq!(
            divergence(Form::Logits, &Tensor::new(&[1, 2], &a).unwrap(), &Tensor::new(&[1, 2], &a).unwrap()).unwrap().0,
            0.0
        );
    }

    #[test]
    fn masked_scores_are_no_difference() {
        let a = [f32::NEG_INFINITY, 1.0];
        assert_eq!(divergence_of(Form::Values, &a, &a), 0.0);
        assert!(divergence_of(Form::Logits, &a, &a).abs() < 1e-12);
    }
}
