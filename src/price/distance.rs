//! How far a model's outputs are from the original's: one number, which adds up over small changes.
//!
//! | output | distance |
//! |---|---|
//! | probabilities, or scores of classes | Kullback–Leibler divergence, nats for each distribution |
//! | probabilities of single events (sigmoid) | the same, each a distribution of two |
//! | anything else | squared error over the variance over samples |
//!
//! Distances of several outputs are added.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::graph::{Graph, Node, View};
use crate::onnx::proto::ModelProto;
use crate::runtime::{Activations, NamedTensor, Segment, Stream, Tensor};
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
    /// Runs `original` on all batches.
    ///
    /// # Errors
    /// If it cannot be run.
    pub(crate) fn new(original: &ModelProto, batches: &[Vec<NamedTensor>]) -> Result<Self> {
        let view = View::of(original)?;
        let names: Vec<String> = view.proto.output.iter().map(|output| output.name().to_owned()).collect();
        let stream = Stream::default();
        let outputs = run_all(&stream, &stream.rest(original, &names)?, batches)?;
        let forms = names.iter().map(|name| form(&view.graph, name, &outputs)).collect::<Result<_>>()?;
        let spreads = names.iter().map(|name| spread(name, &outputs)).collect::<Result<_>>()?;
        Ok(Self { names, forms, outputs, spreads })
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

    /// The distance of another model.
    ///
    /// # Errors
    /// If it cannot be run.
    pub(crate) fn distance_of(&self, model: &ModelProto, batches: &[Vec<NamedTensor>]) -> Result<f64> {
        let stream = Stream::default();
        self.distance(&self.names, &run_all(&stream, &stream.rest(model, &self.names)?, batches)?)
    }

    /// What distances are measured in, for a report.
    pub(crate) fn metric(&self) -> &'static str {
        let is_squared = |form: &Form| *form == Form::Values;
        match (self.forms.iter().any(is_squared), self.forms.iter().all(is_squared)) {
            (_, true) => "squared error over variance",
            (true, false) => "KL divergence plus squared error over variance",
            (false, false) => "KL divergence",
        }
    }

    /// The distance of `changed`, which holds the outputs `behind` of the same batches; the others have not changed.
    ///
    /// # Errors
    /// If an output is not there.
    pub(crate) fn distance(&self, behind: &[String], changed: &[Activations]) -> Result<f64> {
        let mut sum = 0.0;
        for ((name, &form), &spread) in self.names.iter().zip(&self.forms).zip(&self.spreads) {
            if !behind.contains(name) {
                continue;
            }
            let (mut loss, mut weight) = (0.0, 0.0);
            for (before, after) in self.outputs.iter().zip(changed) {
                let (y, other) = (before.get(name)?, after.get(name)?);
                if y.is_float() && y.shape() == other.shape() {
                    let part = divergence(form, y, other)?;
                    (loss, weight) = (loss + part.0, weight + part.1);
                }
            }
            let whole = if form == Form::Values { spread } else { weight };
            if whole > 0.0 {
                sum += loss / whole;
            }
        }
        Ok(sum)
    }
}

/// Runs a segment on all batches, as many side by side as there are threads.
///
/// # Errors
/// If tract fails.
pub(super) fn run_all(stream: &Stream, segment: &Segment, batches: &[Vec<NamedTensor>]) -> Result<Vec<Activations>> {
    batches.par_iter().with_max_len(1).enumerate().map(|(index, inputs)| stream.run(segment, index, inputs)).collect()
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
    let (rank, columns) = (y.shape().len(), y.shape().last().copied().unwrap_or(1));
    if !y.is_float() || rank < 2 || columns < 2 {
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

/// Loss, and the number of distributions that it is of.
fn divergence(form: Form, y: &Tensor, other: &Tensor) -> Result<(f64, f64)> {
    let (a, b) = (y.to_vec::<f64>()?, other.to_vec::<f64>()?);
    let pairs = || a.iter().zip(&b).map(|(&a, &b)| (a, b));
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
            let rows = a.chunks_exact(width).zip(b.chunks_exact(width));
            rows.fold((0.0, 0.0), |(sum, n), (a, b)| (sum + of_logits(a, b), n + 1.0))
        }
        Form::Values => {
            // Equal infinities, as masks leave them, are no difference.
            let square = |(a, b): (f64, f64)| if a == b { 0.0 } else { (a - b) * (a - b) };
            (pairs().map(square).sum(), 1.0)
        }
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

/// `Σ (y − mean over samples)²`; around zero where there is one sample, or where samples differ in size.
fn spread(name: &str, outputs: &[Activations]) -> Result<f64> {
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for batch in outputs {
        let y = batch.get(name)?;
        if !y.is_float() {
            return Ok(0.0);
        }
        let values = y.to_vec::<f64>()?;
        let samples = y.shape().first().copied().unwrap_or(1).max(1);
        let width = (values.len() / samples).max(1);
        rows.extend(values.chunks(width).map(<[f64]>::to_vec));
    }
    let width = rows.first().map_or(0, Vec::len);
    let is_even = rows.len() > 1 && rows.iter().all(|row| row.len() == width);
    let mean = |column: usize| {
        let values = rows.iter().map(|row| row[column]).filter(|value| value.is_finite());
        if is_even { values.sum::<f64>() / rows.len() as f64 } else { 0.0 }
    };
    let means: Vec<f64> = if is_even { (0..width).map(mean).collect() } else { Vec::new() };
    let squares = rows.iter().flat_map(|row| row.iter().enumerate()).map(|(column, value)| {
        let centred = value - means.get(column).copied().unwrap_or(0.0);
        if centred.is_finite() { centred * centred } else { 0.0 }
    });
    Ok(squares.sum())
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

    #[test]
    fn masked_scores_are_no_difference() {
        let a = [f32::NEG_INFINITY, 1.0];
        assert_eq!(divergence_of(Form::Values, &a, &a), 0.0);
        assert!(divergence_of(Form::Logits, &a, &a).abs() < 1e-12);
    }
}
