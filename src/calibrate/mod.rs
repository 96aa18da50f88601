//! Calibration: reads data, runs models on it, accumulates statistics.
//!
//! [`Layer`] says how a linear operator reads its input as rows of a matrix, [`Stream`] brings the activations of a
//! model batch by batch without running any part of it twice, [`moments`] sums them up in f64.

pub mod data;
mod layer;
pub mod moments;
mod padding;
mod rows;
pub(crate) mod stages;
mod statistics;
mod window;

pub use crate::runtime::{Activations, Checkpoint, Held, Segment, Stream};
pub(crate) use crate::runtime::{in_turn, run_both};
pub use layer::{Layer, layers};
pub use rows::Sampler;
pub use statistics::{Detail, InputStatistics, input_statistics};

pub(crate) use layer::{stored, stored_mut};
pub(crate) use moments::Buffered;
pub(crate) use padding::Padding;
pub(crate) use rows::{Row, floats};
pub(crate) use statistics::samples_of;
pub(crate) use window::Window;

use data::Dataset;

/// Samples that calibration runs on.
#[derive(Debug, Clone, Copy)]
pub struct Calibration<'a> {
    /// The samples.
    pub data: &'a Dataset,
    /// Samples that run at once.
    pub batch: usize,
    /// Seed of the choice of positions.
    pub seed: u64,
}

impl<'a> Calibration<'a> {
    /// Calibration on all samples of `data`.
    pub fn new(data: &'a Dataset, seed: u64) -> Self {
        Self { data, batch: 32, seed }
    }
}
