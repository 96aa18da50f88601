//! Options of training that several subcommands share.

use crate::error::{Error, Result};
use crate::{Loss, Training};

/// How training is done.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Fitting {
    /// Peak learning rate, as a share of each tensor's root mean square [default: 0.01]
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Batch size, unless the model fixes it [default: 64]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Loss against the teacher's outputs: kl, mse or cosine [default: kl for class scores, mse otherwise]
    #[arg(long, value_name = "LOSS")]
    loss: Option<String>,
    /// Share of the samples to mix with another sample (mixup), if all inputs are real numbers [default: 0.5]
    #[arg(long, value_name = "SHARE")]
    mixup: Option<f64>,
    /// Weight decay; each step applies it times the learning rate [default: 0.001]
    #[arg(long, value_name = "D")]
    weight_decay: Option<f32>,
    /// Stop after this many epochs without improvement on held-out samples [default: run all epochs]
    #[arg(long, value_name = "EPOCHS")]
    patience: Option<usize>,
}

impl Fitting {
    /// `training`, as typed otherwise.
    pub(super) fn options(&self, mut training: Training) -> Result<Training> {
        training.rate = self.lr.unwrap_or(training.rate);
        training.batch = self.batch.unwrap_or(training.batch);
        training.loss = self.loss.as_deref().map(Loss::by_name).transpose()?;
        training.mixup = self.mixup.unwrap_or(training.mixup);
        training.decay = self.weight_decay.unwrap_or(training.decay);
        training.patience = self.patience;
        training.check()?;
        Ok(training)
    }

    /// The first option that was typed.
    fn first_typed(&self) -> Option<&'static str> {
        let typed = [
            ("--lr", self.lr.is_some()),
            ("--batch", self.batch.is_some()),
            ("--loss", self.loss.is_some()),
            ("--mixup", self.mixup.is_some()),
            ("--weight-decay", self.weight_decay.is_some()),
            ("--patience", self.patience.is_some()),
        ];
        typed.into_iter().find_map(|(option, is_typed)| is_typed.then_some(option))
    }
}

/// Training after each step of a rewrite.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Retraining {
    /// Train the rewritten model for this many epochs (`prune`: after each step) on the original's outputs, and on the
    /// data's labels if there are any
    #[arg(long, value_name = "EPOCHS")]
    retrain: Option<usize>,
    /// Train the result for this many minutes on the original's outputs, without labels; the file then depends on the speed
    /// of the machine
    #[arg(long, value_name = "MINUTES", conflicts_with = "retrain")]
    finish: Option<f64>,
    #[command(flatten)]
    training: Fitting,
}

impl Retraining {
    /// The options as typed, if training was asked for.
    pub(super) fn options(&self) -> Result<Option<Training>> {
        let training = match (self.retrain, self.finish) {
            (Some(0), _) => return Err(Error::usage("--retrain must be at least one epoch")),
            (Some(epochs), _) => Training::epochs(epochs),
            (None, Some(minutes)) => Training::minutes(minutes).labels(false).follow_sums(true),
            (None, None) => {
                return match self.training.first_typed() {
                    Some(option) => {
                        let message = format!("{option} is for training: add --retrain EPOCHS or --finish MINUTES");
                        Err(Error::usage(message))
                    }
                    None => Ok(None),
                };
            }
        };
        self.training.options(training).map(Some)
    }
}
