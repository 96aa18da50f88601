//! Criteria that need the diagonal of the second moments only. `W_u` are the rows of unit u, `x_u` its inputs.
//!
//! * `activation`: Σ E[x_u²] (Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference");
//! * `apoz`: the share of inputs that are not zero (Hu et al. 2016, "Network Trimming");
//! * `wanda`: Σ ‖W_k‖² E[x_k²] (Sun et al. 2024, "A Simple and Effective Pruning Approach for Large Language Models");
//! * `fluctuation`: Σ ‖W_k‖² Var(x_k) (An et al. 2024, FLAP);
//! * `obd`: ½ Σ C_kk W_k² (`LeCun` et al. 1989, "Optimal Brain Damage"), as a share of the layer's `Σ_k C_kk W_k²`.

use ndarray::{Array1, Array2, Axis};

use super::Context;
use super::consumers::Consumers;
use crate::calibrate::InputStatistics;
use crate::error::Result;

pub(super) fn activation(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    Consumers::new(context)?.sum(context, |x, _, rows| rows.iter().map(|&k| x.square[k]).sum())
}

pub(super) fn apoz(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    Consumers::new(context)?.sum(context, |x, _, rows| rows.iter().map(|&k| 1.0 - x.zeros[k]).sum())
}

pub(super) fn wanda(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    Consumers::new(context)?.sum(context, |x, w, rows| weighted(&x.square, w, rows))
}

pub(super) fn fluctuation(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    Consumers::new(context)?.sum(context, |x, w, rows| weighted(&x.variance(), w, rows))
}

pub(super) fn obd(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    Consumers::new(context)?.sum(context, obd_share)
}

/// `½ Σ C_kk W_k²` over the unit's rows, as a share of the sum over all rows.
pub(super) fn obd_share(x: &InputStatistics, w: &Array2<f64>, rows: &[usize]) -> f64 {
    let variance = x.variance();
    let all: Vec<usize> = (0..w.nrows()).collect();
    0.5 * weighted(&variance, w, rows) / weighted(&variance, w, &all).max(f64::MIN_POSITIVE)
}

/// Σ over rows k of `‖W_k‖² scale_k`.
fn weighted(scale: &Array1<f64>, w: &Array2<f64>, rows: &[usize]) -> f64 {
    rows.iter().map(|&k| scale[k] * w.index_axis(Axis(0), k).iter().map(|w| w * w).sum::<f64>()).sum()
}
