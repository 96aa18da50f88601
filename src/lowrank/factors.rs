//! What a layer becomes.

use ndarray::Array1;

use super::conv::ConvSplit;
use super::low_rank::LowRank;

/// What a layer becomes.
#[derive(Debug, Clone)]
pub enum Factors {
    /// Two products.
    Matrix(LowRank),
    /// k… to r channels, then 1×1….
    Channel(ConvSplit),
    /// k₁×1, then 1×k₂.
    Spatial(ConvSplit),
    /// 1×1, k…, 1×1.
    Tucker2(ConvSplit),
}

impl Factors {
    /// What is added to the bias, N values.
    pub fn bias_shift(&self) -> Option<&Array1<f64>> {
        match self {
            Self::Matrix(split) => split.bias_shift.as_ref(),
            Self::Channel(split) | Self::Spatial(split) | Self::Tucker2(split) => split.bias_shift.as_ref(),
        }
    }

    /// Predicted squared error.
    pub fn error(&self) -> f64 {
        match self {
            Self::Matrix(split) => split.error,
            Self::Channel(split) | Self::Spatial(split) | Self::Tucker2(split) => split.error,
        }
    }
}
