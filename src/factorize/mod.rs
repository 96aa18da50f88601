//! Splitting a weight W (K×N, rows = inputs) into A (K×r) and B (r×N): one layer becomes two smaller
//! ones, which pays when r < K·N / (K + N).
//!
//! | module | finds |
//! |---|---|
//! | [`svd`] | the best rank-r approximation of W itself |
//! | [`data`] | the best rank-r approximation of the layer's *outputs* on calibration data |
//! | [`randomized`] | the leading part of a large SVD, for small ranks |
//! | [`nmf`] | nonnegative A and B, for W ≥ 0 |
//! | [`semi_nmf`] | a nonnegative B, for any W |
//! | [`conv`] | the same for convolution kernels: channel, spatial and Tucker-2 splits |
//! | [`ranks`] | which rank each layer gets under a budget |
//!
//! and on a whole model, [`factorize()`]:
//!
//! | module | does |
//! |---|---|
//! | [`candidates`] | finds the layers and says why others stay |
//! | [`decompose`] | the error of every rank of one layer |
//! | [`price`] | what each rank costs |
//! | [`select`] | the rank of each layer, from what the user asked for |
//! | [`rewrite`] | writes two nodes in the place of one |
//!
//! Every split carries its squared error as theory predicts it, so that a plan can be priced before
//! anything is written. All arithmetic is in f64 unless a function says otherwise.

pub mod candidates;
mod chain;
pub mod conv;
mod correct;
pub mod data;
pub mod decompose;
mod encoded;
mod inputs;
mod low_rank;
mod model;
pub mod nmf;
pub mod price;
pub mod randomized;
pub mod ranks;
pub mod rewrite;
#[cfg(test)]
mod sample;
pub mod select;
pub mod semi_nmf;
mod sensitivity;
mod speed;
pub mod svd;
mod table;
mod tucker2;

pub use decompose::{ConvMode, Method};
pub use low_rank::{ErrorCurve, LowRank, paying_rank};
pub use model::{Factorized, Options, Target, factorize};
