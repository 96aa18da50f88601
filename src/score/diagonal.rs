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
use crate::calibrate::Sums;
use crate::error::Result;

pub(super) fn activation(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    Consumers::new(context)?.sum(context, |x, _| x.square_x())
}

pub(super) fn apoz(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    Consumers::new(context)?.sum(context, |x, _| 1.0 - x.zeros())
}

pub(super) fn wanda(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    Consumers::new(context)?.sum(context, |x, w| x.square_x() * norms(w))
}

pub(super) fn fluctuation(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    Consumers::new(context)?.sum(context, |x, w| x.variance_x() * norms(w))
}

pub(super) fn obd(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    Consumers::new(context)?.sum(context, obd_shares)
}

/// `½ C_kk ‖W_k‖²` for each row, as a share of its sum over all rows.
pub(super) fn obd_shares(x: &Sums, w: &Array2<f64>) -> Array1<f64> {
    let energies = x.variance_x() * norms(w);
    let all = energies.sum().max(f64::MIN_POSITIVE);
    energies * (0.5 / all)
}

/// `‖W_k‖²` for each row.
fn norms(w: &Array2<f64>) -> Array1<f64> {
    w.map_axis(Axis(1), |row| row.dot(&row))
}
