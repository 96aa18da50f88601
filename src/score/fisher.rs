//! `fisher`: `½ E[(∂L/∂m)²]`, the second-order change of the loss when a unit's gate m closes, by the empirical Fisher
//! matrix (Theis et al. 2018, "Faster Gaze Prediction with Dense Networks and Fisher Pruning").

use super::Context;
use super::gates::mean_of_slopes;
use crate::error::Result;

pub(super) fn fisher(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    mean_of_slopes(context, |slope| 0.5 * slope * slope)
}
