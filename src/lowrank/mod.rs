//! Splitting a matrix W (K×N, rows = inputs) into A (K×r) and B (r×N), which pays when r < K·N / (K + N).
//!
//! | module | finds |
//! |---|---|
//! | [`svd`] | the best rank-r approximation of W itself |
//! | [`outputs`] | the best rank-r approximation of the layer's *outputs* on calibration data |
//! | [`encoded`] | the same for spatial and Tucker-2 splits |
//! | [`nmf`] | nonnegative A and B, for W ≥ 0 |
//! | [`semi_nmf`] | a nonnegative B, for any W |
//! | [`conv`] | the same for convolution kernels: channel, spatial and Tucker-2 splits |
//!
//! Every split carries its squared error as theory predicts it, so that a plan can be priced before
//! anything is written. All arithmetic is in f64 unless a function says otherwise.

pub mod conv;
pub(crate) mod encoded;
mod factors;
pub(crate) mod low_rank;
pub mod nmf;
pub mod outputs;
#[cfg(test)]
pub(crate) mod sample;
pub mod semi_nmf;
pub mod svd;
mod tucker2;

pub use factors::Factors;
pub use low_rank::{ErrorCurve, LowRank};
