//! The training loop: labels, another model's outputs, or both; best weights on held-out samples kept.

use std::time::Instant;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::adamw::{AdamW, rate};
use super::loss::{Loss, Target, is_scores, loss, right};
use super::options::{Duration, Options};
use super::program::{Program, Run, Wanted};
use super::report::{EpochReport, TuningReport};
use super::samples::{Mixture, Samples};
use super::tape::Tensor;
use crate::calibrate::data::{Batch, Dataset, Labels};
use crate::error::{Error, Result};
use crate::graph::{Graph, View};
use crate::onnx::proto::ModelProto;
use crate::plan::Patterns;
use crate::runtime::inputs::declared_inputs;
use crate::runtime::{NamedTensor, RunOptions, Runnable};

/// What training follows.
#[derive(Debug, Clone, Copy)]
pub struct Guidance<'a> {
    /// Whether the data's labels are followed.
    pub labels: bool,
    /// The model whose outputs are followed.
    pub teacher: Option<&'a ModelProto>,
}

/// Trains `model` on `data`. The result has the weights that were best on held-out
/// samples, and is the same whatever the number of threads.
///
/// # Errors
/// [`Input`](crate::ErrorKind::Input) if an operator has no gradient, a label is no class, or there are too few samples;
/// [`Usage`](crate::ErrorKind::Usage) for options out of range or if there is nothing to follow.
pub fn tune(
    model: &ModelProto,
    data: &Dataset,
    guidance: Guidance<'_>,
    options: &Options,
) -> Result<(ModelProto, TuningReport)> {
    options.check()?;
    if guidance.labels && !data.has_labels() {
        return Err(Error::input("the data has no labels to train on; give some, or a teacher"));
    }
    if !guidance.labels && guidance.teacher.is_none() {
        return Err(Error::usage("there is nothing to learn from: the data has no labels, and no teacher is given"));
    }
    let mut trainer = Trainer::new(model, data, guidance, options)?;
    let report = trainer.train(options)?;
    Ok((trainer.program.write(model)?, report))
}

struct Trainer {
    graph: Graph,
    program: Program,
    samples: Samples,
    labels: bool,
    teacher: Option<Runnable>,
    loss: Loss,
    mixup: f64,
    seed: u64,
    /// What the loss of labels is divided by: the variance of real values.
    label_unit: f64,
}

/// [`Program::run`] or [`Program::evaluate`].
type Runs = fn(&Program, &[NamedTensor], usize) -> Result<Run>;

/// How the program does on the held-out samples.
#[derive(Debug, Clone, Copy)]
struct Score {
    loss: f64,
    accuracy: Option<f64>,
}

impl Trainer {
    fn new(model: &ModelProto, data: &Dataset, guidance: Guidance<'_>, options: &Options) -> Result<Self> {
        let View { proto, graph, .. } = View::of(model)?;
        let patterns = Patterns::new(&options.include, &options.exclude)?;
        let admits = |name: &str| patterns.refusal([name]).is_none();
        let program = Program::new(model, Wanted::Parameters(&admits))?;
        let fixed = declared_inputs(proto)?.iter().find_map(crate::runtime::inputs::DeclaredInput::fixed_batch);
        let samples = Samples::read(data, options.batch, fixed)?;
        let scores = program.outputs().iter().all(|name| is_scores(&graph, name));
        let by_default =
            if samples.has_classes() && guidance.labels || scores { Loss::KullbackLeibler } else { Loss::Mse };
        let loss = options.loss.unwrap_or(by_default);
        let mixup = if samples.are_real() { options.mixup } else { 0.0 };
        let teacher = guidance.teacher.map(|teacher| Runnable::new(teacher, &RunOptions::default())).transpose()?;
        let label_unit = samples.label_variance()?.unwrap_or(1.0);
        Ok(Self {
            graph,
            program,
            samples,
            labels: guidance.labels,
            teacher,
            loss,
            mixup,
            seed: options.seed,
            label_unit,
        })
    }

    fn train(&mut self, options: &Options) -> Result<TuningReport> {
        let parameters = self.program.parameters();
        let mut report = TuningReport {
            tensors: parameters.len(),
            params: parameters.iter().map(|p| p.value.len() as u64).sum(),
            samples: self.samples.count(false),
            held_out: self.samples.count(true),
            loss: self.loss_name().to_owned(),
            ..TuningReport::default()
        };
        let before = self.score()?;
        report.before = EpochReport { epoch: 0, loss: None, held_out: before.loss, accuracy: before.accuracy };
        let mut best = (before, 0, self.snapshot());
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        let mut optimizer = AdamW::new(self.program.parameters(), options.decay);
        let clock = Course { duration: options.duration, started: Instant::now() };
        for epoch in 1.. {
            let batches = self.samples.shuffled(&mut random);
            let (mut sum, count) = (0.0, batches.len());
            for (index, rows) in batches.iter().enumerate() {
                let step = self.step(
                    &mut optimizer,
                    rows,
                    &mut random,
                    |done| rate(options.rate, done),
                    || clock.share(epoch - 1, index, count),
                )?;
                sum += step / count as f64;
                if !sum.is_finite() {
                    break;
                }
            }
            let score = if sum.is_finite() { self.score()? } else { Score { loss: f64::NAN, accuracy: None } };
            if !score.loss.is_finite() {
                report.note = Some(format!(
                    "the loss was no longer a number in epoch {epoch}: the weights of epoch {} were kept; try a smaller `rate`",
                    best.1
                ));
                break;
            }
            report.epochs.push(EpochReport { epoch, loss: Some(sum), held_out: score.loss, accuracy: score.accuracy });
            options.progress.say(&format!("epoch {epoch}: loss {sum:.4}, held out {}", describe(score)));
            if score.loss < best.0.loss {
                best = (score, epoch, self.snapshot());
            }
            if clock.is_over(epoch) {
                break;
            }
            if let Some(patience) = options.patience {
                let epochs = report.epochs.iter().min_by(|a, b| a.held_out.total_cmp(&b.held_out));
                let lowest = epochs.map_or(0, |found| found.epoch);
                if epoch - lowest >= patience {
                    report.note = Some(format!("stopped after epoch {epoch}: none was better than epoch {lowest}"));
                    break;
                }
            }
        }
        self.restore(best.2);
        report.best_epoch = best.1;
        Ok(report)
    }

    /// One step of training; the loss before it.
    fn step(
        &mut self,
        optimizer: &mut AdamW,
        rows: &(usize, Vec<usize>),
        random: &mut ChaCha8Rng,
        rate: impl Fn(f64) -> f32,
        done: impl Fn() -> f64,
    ) -> Result<f64> {
        let batch = self.samples.take(rows)?;
        let mixture = (self.mixup > 0.0).then(|| Mixture::draw(rows.1.len(), self.mixup, random));
        let (run, loss) = self.run(&batch, mixture.as_ref(), Program::run)?;
        let value = loss.item()?;
        if value.is_finite() {
            let mut gradients = loss.backward()?;
            let gradients: Vec<_> = run.parameters.iter().map(|parameter| gradients.take(parameter)).collect();
            drop(run);
            optimizer.step(self.program.parameters_mut(), &gradients, rate(done()));
        }
        Ok(value)
    }

    /// The program and its loss on samples, mixed or as they are.
    fn run(&self, batch: &Batch, mixture: Option<&Mixture>, run: Runs) -> Result<(Run, Tensor)> {
        let count = batch.samples();
        let mixed = mixture.map(|mixture| mixture.mix(&batch.inputs)).transpose()?;
        let inputs = mixed.as_deref().unwrap_or(&batch.inputs);
        let run = run(&self.program, inputs, count)?;
        let loss = self.loss(&run, inputs, batch.labels.as_ref(), mixture)?;
        Ok((run, loss))
    }

    /// What is followed: labels before a teacher.
    fn loss_name(&self) -> &'static str {
        match (self.labels, self.samples.has_classes()) {
            (true, true) => "ce",
            (true, false) => "mse",
            (false, _) => self.loss.name(),
        }
    }

    /// Cross-entropy of classes or squared error of values (over their variance), distance to the teacher, or the mean of both.
    fn loss(
        &self,
        run: &Run,
        inputs: &[NamedTensor],
        labels: Option<&Labels>,
        mixture: Option<&Mixture>,
    ) -> Result<Tensor> {
        let taught = self.teacher.as_ref().map(|teacher| teacher.run(inputs)).transpose()?;
        let of = |target: Target<'_>| loss(&self.graph, &run.outputs, &target);
        let labels = labels.filter(|_| self.labels);
        let labels = labels.map(|labels| of(Target::Labels(labels, mixture))).transpose()?;
        let labels = labels.map(|loss| loss.scaled(1.0 / self.label_unit)).transpose()?;
        let taught = taught.as_deref().map(|taught| of(Target::Teacher(taught, self.loss))).transpose()?;
        match (labels, taught) {
            (Some(labels), Some(taught)) => labels.plus(&taught)?.scaled(0.5),
            (Some(only), None) | (None, Some(only)) => Ok(only),
            (None, None) => Err(Error::usage("there is nothing to learn from")),
        }
    }

    /// Loss and accuracy on the held-out samples. The loss is the mean that training would see: a share is mixed, always in the
    /// same way. The original knows those samples by heart, and what is close to it looks good on them; on mixtures it has
    /// to have learned the same.
    fn score(&self) -> Result<Score> {
        let (mut sum, mut count, mut found, mut labelled) = (0.0, 0.0, 0, 0);
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        for rows in self.samples.in_order(true) {
            let batch = self.samples.take(&rows)?;
            let weight = rows.1.len() as f64;
            let (run, loss) = self.run(&batch, None, Program::evaluate)?;
            sum += (1.0 - self.mixup) * weight * loss.item()?;
            if self.mixup > 0.0 {
                let mixture = Mixture::draw(rows.1.len(), 1.0, &mut random);
                sum += self.mixup * weight * self.run(&batch, Some(&mixture), Program::evaluate)?.1.item()?;
            }
            count += weight;
            if let Some(Labels::Classes(labels)) = batch.labels.as_ref().filter(|_| self.labels) {
                found += right(&run.outputs, labels)?;
                labelled += labels.len();
            }
        }
        let accuracy = (labelled > 0).then(|| found as f64 / labelled as f64);
        Ok(Score { loss: sum / f64::max(count, 1.0), accuracy })
    }

    fn snapshot(&self) -> Vec<Tensor> {
        self.program.parameters().iter().map(|p| p.value.clone()).collect()
    }

    fn restore(&mut self, values: Vec<Tensor>) {
        self.program.parameters_mut().iter_mut().zip(values).for_each(|(p, value)| p.value = value);
    }
}

fn describe(score: Score) -> String {
    let accuracy = score.accuracy.map(|share| format!(" ({:.1} % right)", 100.0 * share)).unwrap_or_default();
    format!("{:.4}{accuracy}", score.loss)
}

/// How much of training is done.
struct Course {
    duration: Duration,
    started: Instant,
}

impl Course {
    fn share(&self, epochs: usize, batch: usize, batches: usize) -> f64 {
        match self.duration {
            Duration::Epochs(all) => (epochs as f64 + batch as f64 / batches.max(1) as f64) / all as f64,
            Duration::Minutes(minutes) => self.started.elapsed().as_secs_f64() / (60.0 * minutes),
        }
    }

    fn is_over(&self, epochs: usize) -> bool {
        match self.duration {
            Duration::Epochs(all) => epochs >= all,
            Duration::Minutes(_) => self.share(0, 0, 1) >= 1.0,
        }
    }
}
