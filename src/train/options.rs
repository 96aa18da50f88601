//! Options of training.

use super::loss::Loss;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// When training ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Duration {
    /// After this many passes over the samples.
    Epochs(usize),
    /// After this many minutes; the result depends on the speed of the machine.
    Minutes(f64),
}

/// Options of training.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// When training ends.
    pub(crate) duration: Duration,
    /// Peak learning rate, relative to the root mean square of each tensor.
    pub(crate) rate: f64,
    /// Weight decay; each step applies it times the learning rate.
    pub(crate) decay: f32,
    /// Batch size, unless the model fixes it.
    pub(crate) batch: usize,
    /// The distance to the teacher's outputs; by default `kl` for scores of classes, else `mse`.
    pub(crate) loss: Option<Loss>,
    /// Share of the samples that are mixed with another, where all inputs are real numbers.
    pub(crate) mixup: f64,
    /// Training stops after this many epochs without improvement on the held-out samples; by default it does not. The
    /// learning rate follows a cosine: a model that starts out good gets worse first and improves at the end, so that
    /// stopping in between gains nothing.
    pub(crate) patience: Option<usize>,
    /// Whether labels are followed, if the data has any.
    pub(crate) labels: bool,
    /// Whether the residual sums of the teacher are followed too, where the model has the same.
    pub(crate) follow_sums: bool,
    /// Tensors that are trained, by name; all if empty.
    pub(crate) include: Vec<String>,
    /// Tensors that are not.
    pub(crate) exclude: Vec<String>,
    /// Seed of every random choice.
    pub(crate) seed: u64,
    /// The progress listener.
    pub(crate) progress: Progress,
}

impl Options {
    /// The default options, for this duration.
    pub(crate) fn new(duration: Duration) -> Self {
        Self {
            duration,
            rate: 1e-2,
            decay: 1e-3,
            batch: 64,
            loss: None,
            mixup: 0.5,
            patience: None,
            labels: true,
            follow_sums: false,
            include: Vec::new(),
            exclude: Vec::new(),
            seed: 0,
            progress: Progress::default(),
        }
    }

    /// Trains for this many passes over the samples.
    pub fn epochs(epochs: usize) -> Self {
        Self::new(Duration::Epochs(epochs))
    }

    /// Trains for this many minutes; the result depends on the speed of the machine.
    pub fn minutes(minutes: f64) -> Self {
        Self::new(Duration::Minutes(minutes))
    }

    /// Sets the peak learning rate, relative to the root mean square of each tensor; 0.01 by default. If the held-out loss grows
    /// by half or more in the first epoch, training starts again at a quarter of the rate.
    pub fn rate(mut self, rate: f64) -> Self {
        self.rate = rate;
        self
    }

    /// Sets the weight decay, which each step applies times the learning rate; 0.001 by default.
    pub fn decay(mut self, decay: f32) -> Self {
        self.decay = decay;
        self
    }

    /// Sets the batch size, unless the model fixes it; 64 by default.
    pub fn batch(mut self, samples: usize) -> Self {
        self.batch = samples;
        self
    }

    /// Sets the loss against the teacher's outputs. The default is `KullbackLeibler` for class scores, and `Mse`
    /// otherwise.
    pub fn loss(mut self, loss: Loss) -> Self {
        self.loss = Some(loss);
        self
    }

    /// Sets the share of the samples that are mixed with another sample (mixup), if all inputs are real numbers; 0.5 by
    /// default.
    pub fn mixup(mut self, share: f64) -> Self {
        self.mixup = share;
        self
    }

    /// Stops after this many epochs without improvement on held-out samples; by default all epochs run.
    pub fn patience(mut self, epochs: usize) -> Self {
        self.patience = Some(epochs);
        self
    }

    /// Sets whether training follows the data's labels, if there are any; it does by default.
    pub fn labels(mut self, follow: bool) -> Self {
        self.labels = follow;
        self
    }

    /// Sets whether training follows the teacher's residual sums beside its outputs, where both models have the same; it does
    /// not by default.
    pub fn follow_sums(mut self, follow: bool) -> Self {
        self.follow_sums = follow;
        self
    }

    /// Trains only tensors that match this pattern (`*` and `?` are wildcards). Further calls add patterns.
    pub fn include(mut self, pattern: impl Into<String>) -> Self {
        self.include.push(pattern.into());
        self
    }

    /// Does not train tensors that match this pattern. Further calls add patterns.
    pub fn exclude(mut self, pattern: impl Into<String>) -> Self {
        self.exclude.push(pattern.into());
        self
    }

    /// Refuses values out of range.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) with the option.
    pub(crate) fn check(&self) -> Result<()> {
        let is_long = match self.duration {
            Duration::Epochs(epochs) => epochs > 0,
            Duration::Minutes(minutes) => minutes > 0.0 && minutes.is_finite(),
        };
        if !is_long {
            return Err(Error::usage("training must last at least one epoch, or more than zero minutes"));
        }
        if self.patience == Some(0) {
            return Err(Error::usage("`patience` is at least one epoch"));
        }
        if !(self.rate > 0.0 && self.rate.is_finite()) || self.batch == 0 || !(0.0..=1.0).contains(&self.mixup) {
            return Err(Error::usage("`rate` is positive, `batch` at least one, `mixup` between 0 and 1"));
        }
        if !(self.decay >= 0.0 && self.decay.is_finite()) {
            return Err(Error::usage("`decay` is not negative"));
        }
        Ok(())
    }
}
