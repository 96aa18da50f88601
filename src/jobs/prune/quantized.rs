//! The proof for a quantized model: exact without the rounding of activations, a step apart with it.

use crate::error::{Error, Result};
use crate::onnx::proto::ModelProto;
use crate::report::Report;
use crate::runtime::{NamedTensor, RunOptions, Runnable};
use crate::verify::{
    Exactness, Kept, Steps, exactness_of_rest, quantized_activations, steps, without_activation_quantizers,
};

/// Whether some activation is quantized.
pub(super) fn is_quantized(model: &ModelProto) -> bool {
    model.graph.as_ref().is_some_and(|graph| !quantized_activations(graph).is_empty())
}

/// Measures exactness without activation quantizers, and the distance in quantization steps with them.
///
/// # Errors
/// [`Verification`](crate::ErrorKind::Verification) if tract cannot run a model, or the two part by more than rounding.
pub(super) fn prove(
    masked: &ModelProto,
    pruned: &ModelProto,
    probes: &[Vec<NamedTensor>],
    kept: &Kept,
    report: &mut Report,
) -> Result<Exactness> {
    let plain = |model| Runnable::new(&without_activation_quantizers(model), &RunOptions::default());
    let measured = exactness_of_rest(&plain(masked)?, &plain(pruned)?, probes, kept)?;
    let taps = masked.graph.as_ref().map(quantized_activations).unwrap_or_default();
    let tapped = |model| Runnable::new(model, &RunOptions::with_taps(taps.iter().cloned()));
    let apart = steps(&tapped(masked)?, &tapped(pruned)?, probes, &taps, kept)?;
    report.verify.quantization_steps = Some(apart.worst);
    if apart.first > Steps::TOLERANCE {
        return Err(Error::verification(format!(
            "the pruned model and the masked original part by {} quantization steps (allowed: {}) at '{}'; this is a defect of paredown, please report it",
            apart.first,
            Steps::TOLERANCE,
            apart.parting.unwrap_or_default()
        )));
    }
    report.notes.push(match apart.parting {
        None => format!(
            "exactness was measured without the {} activation quantizers; with them every quantized value is the same",
            taps.len()
        ),
        Some(at) => format!(
            "exactness was measured without the {} activation quantizers; with them rounding parts the two by one step at \
             '{at}', and by up to {} steps after that",
            taps.len(),
            apart.worst
        ),
    });
    Ok(measured)
}
