//! What training says about itself.

use serde::{Deserialize, Serialize};

/// What training did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TuningReport {
    /// Stored tensors that were trained.
    pub tensors: usize,
    /// Their elements.
    pub params: u64,
    /// Samples that were trained on.
    pub samples: usize,
    /// Samples that were held out to judge by.
    pub held_out: usize,
    /// Name of the loss.
    pub loss: String,
    /// How the model did on the held-out samples at the start.
    pub before: EpochReport,
    /// Every pass over the samples.
    pub epochs: Vec<EpochReport>,
    /// The epoch whose weights were kept; 0 if none was better than the start.
    pub best_epoch: usize,
    /// Why training stopped early.
    pub note: Option<String>,
}

/// One pass over the samples.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EpochReport {
    /// Its number, counted from 1.
    pub epoch: usize,
    /// Mean loss of the training samples on the way.
    pub loss: Option<f64>,
    /// Loss of the held-out samples after it.
    pub held_out: f64,
    /// Share of held-out samples whose class is right, where labels are followed.
    pub accuracy: Option<f64>,
}
