//! The proof for a quantized model: exact without the rounding of activations, a step apart with it.

use std::fmt;

use super::{Exactness, Kept, Steps, exactness_of_rest, quantized_activations, steps, without_activation_quantizers};
use crate::error::{Error, Result};
use crate::onnx::proto::ModelProto;
use crate::runtime::{NamedTensor, RunOptions, Runnable};

/// How far two quantized models are apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// Number of activation quantizers, without which exactness was measured.
    pub quantizers: usize,
    /// The quantizer at which the two models part first; `None` if every quantized value is the same.
    pub parting: Option<String>,
    /// Most quantization steps between the two at any quantizer.
    pub worst: u64,
}

impl fmt::Display for Quantized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exactness was measured without the {} activation quantizers; with them ", self.quantizers)?;
        match &self.parting {
            None => f.write_str("every quantized value is the same"),
            Some(at) => {
                write!(
                    f,
                    "rounding makes the two differ by one step at '{at}', and by up to {} steps after that",
                    self.worst
                )
            }
        }
    }
}

/// Whether some activation is quantized.
///
/// # Errors
/// If the graph is malformed.
pub(super) fn is_quantized(model: &ModelProto) -> Result<bool> {
    Ok(!quantized_activations(model)?.is_empty())
}

/// Measures exactness without activation quantizers, and the distance in quantization steps with them.
///
/// # Errors
/// [`Proof`](crate::ErrorKind::Proof) if the two part by more than rounding, and what running the models returns.
pub(super) fn prove(
    masked: &ModelProto,
    pruned: &ModelProto,
    probes: &[Vec<NamedTensor>],
    kept: &Kept,
) -> Result<(Exactness, Quantized)> {
    let plain = |model| Runnable::new(&without_activation_quantizers(model)?, &RunOptions::default());
    let measured = exactness_of_rest(&plain(masked)?, &plain(pruned)?, probes, kept)?;
    let taps = quantized_activations(masked)?;
    let tapped = |model| Runnable::new(model, &RunOptions::with_taps(taps.iter().cloned()));
    let apart = steps(&tapped(masked)?, &tapped(pruned)?, probes, &taps, kept)?;
    if apart.first > Steps::TOLERANCE {
        return Err(Error::proof(format!(
            "the pruned model and the masked original differ by {} quantization steps (allowed: {}) at '{}'; this is a defect of paredown, please report it",
            apart.first,
            Steps::TOLERANCE,
            apart.parting.unwrap_or_default()
        )));
    }
    Ok((measured, Quantized { quantizers: taps.len(), parting: apart.parting, worst: apart.worst }))
}
