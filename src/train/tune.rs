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
use super::sums::{residual_sums, with_outputs};
use super::tape::Tensor;
use crate::calibrate::data::{Batch, Dataset, Labels};
use crate::error::{Error, Result};
use crate::graph::bodies::{decided, hoisted_like, nested};
use crate::graph::{Graph, View};
use crate::onnx::proto::ModelProto;
use crate::plan::Patterns;
use crate::runtime::{NamedTensor, RunOptions, Runnable};

/// Training whose held-out loss grows by more than this factor in the first epoch starts again with smaller steps.
const DIVERGING: f64 = 1.5;

/// How often training may start again, each time at a quarter of the rate.
const RESTARTS: usize = 4;

/// What training follows.
#[derive(Debug, Clone, Copy)]
pub struct Guidance<'a> {
    /// Whether the data's labels are followed.
    pub labels: bool,
    /// The model whose outputs are followed.
    pub teacher: Option<&'a ModelProto>,
}

/// Trains `model` on `data`. The result has the weights that were best on held-out samples, and is the same whatever the number
/// of threads. Branches that are always taken in `like`, which `model` was made from, are trained too.
///
/// # Errors
/// [`Input`](crate::ErrorKind::Input) if an operator has no gradient, a label is no class, or there are too few samples;
/// [`Usage`](crate::ErrorKind::Usage) for options out of range or if there is nothing to follow.
pub fn tune(
    (model, like): (ModelProto, &ModelProto),
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
    let model = hoisted_like(model, like);
    let mut trainer = Trainer::new(&decided(&model), data, guidance, options)?;
    let report = trainer.train(options)?;
    let trained = trainer.program.write(&model)?;
    Ok((nested(&trained).into_owned(), report))
}

struct Trainer {
    graph: Graph,
    program: Program,
    samples: Samples,
    labels: bool,
    teacher: Option<Runnable>,
    /// Number of outputs of the model; further outputs of the program are residual sums.
    outputs: usize,
    /// Residual sums of the teacher that are followed beside its outputs.
    sums: Vec<String>,
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
        let graph = View::of(model)?.graph;
        let patterns = Patterns::new(&options.include, &options.exclude)?;
        let admits = |name: &str| patterns.refusal([name]).is_none();
        let mut sums = match guidance.teacher {
            Some(teacher) if options.follow_sums => residual_sums(model, teacher)?,
            _ => Vec::new(),
        };
        let program = Program::new(&with_outputs(model, &sums), Wanted::Parameters(&admits))?;
        let samples = Samples::read(data, options.batch, data.fixed_batch())?;
        let outputs = program.outputs().iter().take_while(|name| !sums.contains(name)).count();
        let scores = program.outputs()[..outputs].iter().all(|name| is_scores(&graph, name));
        let by_default =
            if samples.has_classes() && guidance.labels || scores { Loss::KullbackLeibler } else { Loss::Mse };
        let loss = options.loss.unwrap_or(by_default);
        let mixup = if samples.are_real() { options.mixup } else { 0.0 };
        let run = RunOptions::with_taps(sums.iter().cloned());
        let teacher = guidance.teacher.map(|teacher| Runnable::new(teacher, &run)).transpose()?;
        if let (Some(teacher), Some(rows)) = (&teacher, samples.in_order(true).first().filter(|_| !sums.is_empty())) {
            let batch = samples.take(rows)?;
            let (ours, theirs) = (program.evaluate(&batch.inputs, batch.samples())?, teacher.run(&batch.inputs)?);
            let is_alike = |name: &String| {
                let ours = ours.outputs.iter().find(|(known, _)| known == name).map(|(_, y)| y.dims());
                let theirs = theirs.iter().find(|(known, _)| known == name).map(|(_, t)| t.shape());
                ours.is_some() && ours == theirs
            };
            sums.retain(is_alike);
        }
        let label_unit = samples.label_variance()?.unwrap_or(1.0);
        Ok(Self {
            graph,
            program,
            samples,
            labels: guidance.labels,
            teacher,
            outputs,
            sums,
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
            residual_sums: self.sums.len(),
            ..TuningReport::default()
        };
        let before = self.score()?;
        report.before = EpochReport { epoch: 0, loss: None, held_out: before.loss, accuracy: before.accuracy };
        let start = self.snapshot();
        let mut best = (before, 0, start.clone());
        let clock = Course { duration: options.duration, started: Instant::now() };
        report.rate = options.rate;
        let (mut epoch, mut random, mut optimizer) = self.start(options);
        loop {
            epoch += 1;
            let batches = self.samples.shuffled(&mut random);
            let (mut sum, count) = (0.0, batches.len());
            for (index, rows) in batches.iter().enumerate() {
                let step = self.step(
                    &mut optimizer,
                    rows,
                    &mut random,
                    |done| rate(report.rate, done),
                    || clock.share(epoch - 1, index, count),
                )?;
                sum += step / count as f64;
                if !sum.is_finite() {
                    break;
                }
            }
            let score = if sum.is_finite() { self.score()? } else { Score { loss: f64::NAN, accuracy: None } };
            let diverges = score.loss.is_nan() || score.loss > DIVERGING * before.loss;
            if epoch == 1 && diverges && report.restarts < RESTARTS && !clock.is_over(0) {
                options.progress.say(&format!(
                    "epoch 1 at rate {:.1e}: held out {}, before {}; starting again at a quarter of that rate",
                    report.rate,
                    describe(score),
                    describe(before)
                ));
                report.rate /= 4.0;
                report.restarts += 1;
                self.restore(start.clone());
                (epoch, random, optimizer) = self.start(options);
                continue;
            }
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

    /// What the first epoch starts with: no epoch yet, the random numbers, the optimizer.
    fn start(&self, options: &Options) -> (usize, ChaCha8Rng, AdamW) {
        let optimizer = AdamW::new(self.program.parameters(), options.decay);
        (0, ChaCha8Rng::seed_from_u64(options.seed), optimizer)
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
        let (mut run, inputs) = self.run(&batch, mixture.as_ref(), Program::run)?;
        let sums = run.outputs.split_off(self.outputs);
        let taught = self.taught(&inputs)?;
        let mut loss = self.loss(&run.outputs, &taught, batch.labels.as_ref(), mixture.as_ref())?;
        if let Some(apart) = self.distance_of_sums(&sums, &taught)? {
            loss = loss.plus(&apart)?;
        }
        drop(sums);
        let value = loss.item()?;
        if value.is_finite() {
            let mut gradients = loss.backward()?;
            let gradients: Vec<_> = run.parameters.iter().map(|parameter| gradients.take(parameter)).collect();
            drop(run);
            optimizer.step(self.program.parameters_mut(), &gradients, rate(done()));
        }
        Ok(value)
    }

    /// What the program makes of samples, mixed or as they are, and what it read.
    fn run(&self, batch: &Batch, mixture: Option<&Mixture>, run: Runs) -> Result<(Run, Vec<NamedTensor>)> {
        let inputs = match mixture {
            Some(mixture) => mixture.mix(&batch.inputs)?,
            None => batch.inputs.clone(),
        };
        Ok((run(&self.program, &inputs, batch.samples())?, inputs))
    }

    /// What the teacher makes of samples: nothing where there is none.
    fn taught(&self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>> {
        self.teacher.as_ref().map_or_else(|| Ok(Vec::new()), |teacher| teacher.run(inputs))
    }

    /// The mean over the followed residual sums of their squared distance to the teacher's, relative to its squares.
    fn distance_of_sums(&self, sums: &[(String, Tensor)], taught: &[NamedTensor]) -> Result<Option<Tensor>> {
        let followed: Vec<_> = sums.iter().filter(|(name, _)| self.sums.contains(name)).cloned().collect();
        if followed.is_empty() {
            return Ok(None);
        }
        let apart = loss(&self.graph, &followed, &Target::Teacher(taught, Loss::Mse))?;
        apart.scaled(1.0 / followed.len() as f64).map(Some)
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
        outputs: &[(String, Tensor)],
        taught: &[NamedTensor],
        labels: Option<&Labels>,
        mixture: Option<&Mixture>,
    ) -> Result<Tensor> {
        let of = |target: Target<'_>| loss(&self.graph, outputs, &target);
        let labels = labels.filter(|_| self.labels);
        let labels = labels.map(|labels| of(Target::Labels(labels, mixture))).transpose()?;
        let labels = labels.map(|loss| loss.scaled(1.0 / self.label_unit)).transpose()?;
        let taught = self.teacher.as_ref().map(|_| of(Target::Teacher(taught, self.loss))).transpose()?;
        match (labels, taught) {
            (Some(labels), Some(taught)) => labels.plus(&taught)?.scaled(0.5),
            (Some(only), None) | (None, Some(only)) => Ok(only),
            (None, None) => Err(Error::usage("there is nothing to learn from")),
        }
    }

    /// The run of held-out samples, without residual sums, and its loss.
    fn judged(&self, batch: &Batch, mixture: Option<&Mixture>) -> Result<(Run, f64)> {
        let (mut run, inputs) = self.run(batch, mixture, Program::evaluate)?;
        run.outputs.truncate(self.outputs);
        let loss = self.loss(&run.outputs, &self.taught(&inputs)?, batch.labels.as_ref(), mixture)?.item()?;
        Ok((run, loss))
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
            let (run, loss) = self.judged(&batch, None)?;
            sum += (1.0 - self.mixup) * weight * loss;
            if self.mixup > 0.0 {
                let mixture = Mixture::draw(rows.1.len(), 1.0, &mut random);
                sum += self.mixup * weight * self.judged(&batch, Some(&mixture))?.1;
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
