//! Options of training that several subcommands share.

use crate::error::{Error, Result};
use crate::train::{Duration, Loss, Options};

/// How training is done.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Training {
    /// Peak of the step size
    #[arg(long, value_name = "RATE", default_value_t = 1e-3)]
    lr: f64,
    /// Samples of a step, unless the model fixes them
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch: usize,
    /// Distance to the teacher's outputs: kl, mse or cosine [default: kl for scores of classes, else mse]
    #[arg(long, value_name = "LOSS")]
    loss: Option<String>,
    /// Share of the samples that are mixed with another, where all inputs are real numbers
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    mixup: f64,
    /// Decay of weights, times the step size
    #[arg(long, value_name = "D", default_value_t = 1e-2)]
    weight_decay: f32,
}

impl Training {
    /// The options as typed, for this long.
    pub(super) fn options(&self, duration: Duration, seed: u64) -> Result<Options> {
        let options = Options {
            rate: self.lr,
            batch: self.batch,
            loss: self.loss.as_deref().map(Loss::by_name).transpose()?,
            mixup: self.mixup,
            decay: self.weight_decay,
            seed,
            ..Options::new(duration)
        };
        options.check()?;
        Ok(options)
    }
}

/// Training after each step of a rewrite.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Retraining {
    /// Train for so many epochs after each step, towards the original's outputs, and the data's labels if there are any
    #[arg(long, value_name = "EPOCHS")]
    retrain: Option<usize>,
    #[command(flatten)]
    training: Training,
}

impl Retraining {
    /// The options as typed, if training was asked for.
    pub(super) fn options(&self, seed: u64) -> Result<Option<Options>> {
        let Some(epochs) = self.retrain else { return Ok(None) };
        if epochs == 0 {
            return Err(Error::usage("--retrain is at least one epoch"));
        }
        self.training.options(Duration::Epochs(epochs), seed).map(Some)
    }
}
