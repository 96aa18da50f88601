//! What training says about itself.

use serde::{Deserialize, Serialize};

/// The course of a training run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TuningReport {
    /// Number of stored tensors that were trained.
    pub tensors: usize,
    /// Number of parameters that were trained.
    pub params: u64,
    /// Number of training samples.
    pub samples: usize,
    /// Number of held-out samples, which choose the best epoch.
    pub held_out: usize,
    /// Name of the loss.
    pub loss: String,
    /// Number of the teacher's residual sums that were followed beside its outputs.
    #[serde(default)]
    pub residual_sums: usize,
    /// Peak learning rate that was used, relative to the root mean square of each tensor.
    #[serde(default)]
    pub rate: f64,
    /// How often training started again at a quarter of the rate, because the held-out loss grew in the first epoch.
    #[serde(default)]
    pub restarts: usize,
    /// Results on the held-out samples before training.
    pub before: EpochReport,
    /// Results of each epoch.
    pub epochs: Vec<EpochReport>,
    /// The epoch whose weights were kept; 0 if none was better than the start.
    pub best_epoch: usize,
    /// Why training stopped early.
    pub note: Option<String>,
}

/// Results of one epoch: a pass over the samples.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EpochReport {
    /// Number of the epoch, counted from 1.
    pub epoch: usize,
    /// Mean loss on the training samples during the epoch.
    pub loss: Option<f64>,
    /// Loss on the held-out samples after the epoch.
    pub held_out: f64,
    /// Accuracy on the held-out samples, if training follows labels.
    pub accuracy: Option<f64>,
}
