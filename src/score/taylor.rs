//! `taylor`: `E|∂L/∂m|`, the first-order change of the loss when a unit's gate m closes (Molchanov et al. 2019, "Importance
//! Estimation for Neural Network Pruning").

use super::Context;
use super::gates::mean_of_slopes;
use crate::error::Result;

pub(super) fn taylor(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    mean_of_slopes(context, f64::abs)
}
