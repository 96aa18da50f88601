//! The losses that training minimizes.

use super::kernel::Real;
use super::samples::Mixture;
use super::tape::Tensor;
use crate::calibrate::data::Labels;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::runtime::{NamedTensor, Tensor as RunTensor};

/// The loss between a model's outputs and a teacher's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Kullback–Leibler divergence `T² Σ p log (p / q) / n` between class distributions at temperature T = 2 (Hinton et
    /// al. 2015, "Distilling the Knowledge in a Neural Network").
    KullbackLeibler,
    /// Relative squared error: `‖y − t‖²` divided by `‖t‖²` of the teacher's outputs.
    Mse,
    /// Cosine distance: `1 − cos(y, t)` of each row of the last axis, averaged.
    Cosine,
}

/// Temperature of [`Loss::KullbackLeibler`].
const TEMPERATURE: f64 = 2.0;

impl Loss {
    /// The loss called `name` on the command line.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) with the names that exist.
    pub fn by_name(name: &str) -> Result<Self> {
        match name {
            "kl" => Ok(Self::KullbackLeibler),
            "mse" => Ok(Self::Mse),
            "cosine" => Ok(Self::Cosine),
            _ => Err(Error::usage(format!("loss '{name}' is unknown; choose kl, mse or cosine"))),
        }
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::KullbackLeibler => "kl",
            Self::Mse => "mse",
            Self::Cosine => "cosine",
        }
    }
}

/// What an output holds of a distribution over classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Logits,
    Probabilities,
    LogProbabilities,
}

/// What output `name` of `graph` holds, by the operator that makes it.
pub(super) fn form(graph: &Graph, name: &str) -> Form {
    let maker = graph.value(name).and_then(|value| graph.producer(value));
    match maker.map(|id| graph.node(id).op.as_str()) {
        Some("Softmax" | "Sigmoid") => Form::Probabilities,
        Some("LogSoftmax") => Form::LogProbabilities,
        _ => Form::Logits,
    }
}

/// Whether an output looks like scores of classes: by the operator that makes it, or by its name.
pub(super) fn is_scores(graph: &Graph, name: &str) -> bool {
    let named = ["logit", "prob", "score", "class"].iter().any(|part| name.to_lowercase().contains(part));
    named || form(graph, name) != Form::Logits
}

impl Form {
    /// Log probabilities of classes (last axis) at a temperature.
    fn log_probabilities<T: Real>(self, y: &Tensor<T>, temperature: f64) -> Result<Tensor<T>> {
        let logits = match self {
            Form::Logits | Form::LogProbabilities => y.clone(),
            Form::Probabilities => y.clamp(1e-12, 1.0)?.ln()?,
        };
        logits.scaled(1.0 / temperature)?.log_softmax()
    }
}

/// Targets of one batch.
#[derive(Debug, Clone)]
pub(super) enum Target<'a> {
    /// What is right for each sample, and how samples are mixed.
    Labels(&'a Labels, Option<&'a Mixture>),
    /// The outputs of another model, and the distance to them.
    Teacher(&'a [NamedTensor], Loss),
}

/// The loss of `outputs`. Labels choose theirs themselves: cross-entropy of classes, `Σ (y − t)² / n` of real values.
///
/// # Errors
/// [`Input`](crate::ErrorKind::Input) if outputs and targets do not fit, or a label is no class of the model.
pub(super) fn loss<T: Real>(graph: &Graph, outputs: &[(String, Tensor<T>)], target: &Target<'_>) -> Result<Tensor<T>> {
    match target {
        Target::Labels(Labels::Values(values), mixture) => {
            let (_, y) = described(outputs, values)?;
            let target = Tensor::of(values)?.reshape(y.dims())?;
            let target = match mixture {
                Some(mixture) => mixture.of_rows(&target)?,
                None => target,
            };
            let samples = values.shape().first().copied().unwrap_or(1).max(1);
            y.minus(&target)?.squared()?.sum()?.scaled(1.0 / samples as f64)
        }
        Target::Labels(Labels::Classes(labels), mixture) => {
            let (name, y) = classes(outputs, labels.len())?;
            let target = one_hot(labels, *mixture, y)?;
            let log = form(graph, name).log_probabilities(y, 1.0)?;
            target.times(&log)?.sum()?.scaled(-1.0 / labels.len().max(1) as f64)
        }
        Target::Teacher(teacher, kind) => {
            let mut sum: Option<Tensor<T>> = None;
            for (name, y) in outputs {
                let Some((_, t)) = teacher.iter().find(|(known, _)| known == name) else {
                    return Err(Error::input(format!("the teacher has no output '{name}'")));
                };
                let t = Tensor::of(t)?;
                if t.dims() != y.dims() {
                    let message = format!("output '{name}' has shape {:?}, the teacher's {:?}", y.dims(), t.dims());
                    return Err(Error::input(message));
                }
                let part = distance(*kind, form(graph, name), y, &t)?;
                sum = Some(match sum {
                    Some(sum) => sum.plus(&part)?,
                    None => part,
                });
            }
            sum.ok_or_else(|| Error::input("there is no output to compare"))
        }
    }
}

fn distance<T: Real>(kind: Loss, form: Form, y: &Tensor<T>, t: &Tensor<T>) -> Result<Tensor<T>> {
    let rows = (t.len() / t.dims().last().copied().unwrap_or(1).max(1)).max(1) as f64;
    match kind {
        Loss::KullbackLeibler => {
            let log_p = form.log_probabilities(t, TEMPERATURE)?;
            let log_q = form.log_probabilities(y, TEMPERATURE)?;
            log_p.exp()?.times(&log_p.minus(&log_q)?)?.sum()?.scaled(TEMPERATURE * TEMPERATURE / rows)
        }
        Loss::Mse => {
            let whole = t.squared()?.sum()?.item()?.max(f64::MIN_POSITIVE);
            y.minus(t)?.squared()?.sum()?.scaled(1.0 / whole)
        }
        Loss::Cosine => {
            let dot = y.times(t)?.sum_last()?;
            let norms = y.squared()?.sum_last()?.times(&t.squared()?.sum_last()?)?.affine(1.0, 1e-12)?.sqrt()?;
            dot.over(&norms)?.sum()?.affine(-1.0 / rows, 1.0)
        }
    }
}

/// The output that has the shape of `values`.
fn described<'a, T: Real>(outputs: &'a [(String, Tensor<T>)], values: &RunTensor) -> Result<(&'a str, &'a Tensor<T>)> {
    let found = outputs.iter().find(|(_, y)| Labels::describe(values.shape(), y.dims()));
    let shapes: Vec<&[usize]> = outputs.iter().map(|(_, y)| y.dims()).collect();
    found.map(|(name, y)| (name.as_str(), y)).ok_or_else(|| {
        let shape = values.shape();
        Error::input(format!(
            "real-valued labels of shape {shape:?} need an output of that shape; the model's have {shapes:?}"
        ))
    })
}

/// The output `[samples, classes]`.
fn classes<T: Real>(outputs: &[(String, Tensor<T>)], samples: usize) -> Result<(&str, &Tensor<T>)> {
    let found = outputs.iter().find(|(_, y)| matches!(y.dims(), &[n, classes] if n == samples && classes > 1));
    let shapes: Vec<&[usize]> = outputs.iter().map(|(_, y)| y.dims()).collect();
    found.map(|(name, y)| (name.as_str(), y)).ok_or_else(|| {
        Error::input(format!(
            "integer labels are classes and need an output of shape [samples, classes]; the model's have {shapes:?} \
             (save real values as floats)"
        ))
    })
}

fn one_hot<T: Real>(labels: &[i64], mixture: Option<&Mixture>, y: &Tensor<T>) -> Result<Tensor<T>> {
    let classes = y.dims()[1];
    let class = |label: i64| {
        let class = usize::try_from(label).ok().filter(|&class| class < classes);
        class.ok_or_else(|| Error::input(format!("label {label} is no class: the model has {classes}")))
    };
    let mut target = vec![0.0; labels.len() * classes];
    for (row, &label) in labels.iter().enumerate() {
        let weight = mixture.map_or(1.0, |mixture| mixture.weight[row]);
        target[row * classes + class(label)?] += weight;
        if let Some(mixture) = mixture {
            target[row * classes + class(labels[mixture.partner[row]])?] += 1.0 - weight;
        }
    }
    Tensor::new([labels.len(), classes], target.into_iter().map(T::from_f64).collect())
}

/// Samples whose largest score is that of their class.
///
/// # Errors
/// As [`loss`].
pub(super) fn right<T: Real>(outputs: &[(String, Tensor<T>)], labels: &[i64]) -> Result<usize> {
    let (_, y) = classes(outputs, labels.len())?;
    let largest =
        |scores: &[T]| (1..scores.len()).fold(0, |best, at| if scores[at] > scores[best] { at } else { best });
    let found = y.data().chunks(y.dims()[1]).map(largest);
    Ok(found.zip(labels).filter(|&(found, &label)| i64::try_from(found) == Ok(label)).count())
}

/// The mean loss of `outputs` against `labels`: cross-entropy of classes, squared error of real values.
///
/// # Errors
/// [`Input`](crate::ErrorKind::Input) if no output fits them, or a label is no class.
pub fn label_loss<T: Real>(graph: &Graph, outputs: &[(String, Tensor<T>)], labels: &Labels) -> Result<Tensor<T>> {
    loss(graph, outputs, &Target::Labels(labels, None))
}
