//! Proves a rewrite by running it in tract: checks that it is valid and exact; measures fidelity and latency.
//!
//! * [`signature`] and [`valid`]: the file loads, runs, and keeps the names, types and shapes of inputs and outputs;
//! * [`exactness`]: the removal itself changed nothing, measured against the masked original on unrepaired weights;
//! * [`faithful`]: how far the final file is from the original, on given or synthetic inputs;
//! * [`latency`]: tract's median time for one run of each.
//!
//! [`Proof`] does all of it at once. [`VerifyReport`] is what becomes of it in the report.

mod bound;
mod exactness;
mod faithful;
mod kept;
mod probing;
mod prove;
mod quantization;
mod quantized;
mod signature;
mod trial;

use serde::{Deserialize, Serialize};

pub use crate::runtime::latency::{Latency, LatencyBudget, latency, latency_each};
pub use bound::Pairs;
pub use exactness::{Exactness, OutputExactness, exactness, exactness_of_rest};
pub use faithful::{Faithfulness, FaithfulnessMeter, faithful};
pub use kept::Kept;
pub(crate) use probing::probes_of;
pub use prove::{Doubt, Failure, Proof, Proved, Removed};
pub use quantization::{Steps, quantized_activations, steps, without_activation_quantizers};
pub use quantized::Quantized;
pub use signature::{signature, valid};
pub(crate) use trial::own_fault;

/// The results of a proof. `None` (`null` in JSON) means not measured, or not defined for this model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Whether tract loads and runs the rewritten model, and its signature is the original's.
    pub valid: Option<bool>,
    /// Largest deviation from the masked original, relative to the spread of the output over samples.
    pub exact_max_rel: Option<f64>,
    /// Samples that the figures below were measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Whether the weights were fitted to these samples, so that the figures look better than they are on others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fitted: bool,
    /// For a quantized model: the largest difference at any quantizer, in quantization steps, measured with the
    /// quantizers in place. (`exact_max_rel` is measured without them.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization_steps: Option<u64>,
    /// Relative L2 distance of the outputs: ‖Δ‖₂ / ‖y‖₂ over all samples and float outputs.
    pub rel_l2: Option<f64>,
    /// Cosine similarity of the outputs over all samples.
    pub cosine: Option<f64>,
    /// Largest absolute difference of the outputs: max |Δ|.
    pub max_abs: Option<f64>,
    /// Share of samples for which both models predict the same class.
    pub top1_agreement: Option<f64>,
    /// Accuracy on labelled samples, before and after.
    pub accuracy: Accuracy,
    /// R² on real-valued labels, before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r2: Option<(f64, f64)>,
}

/// Accuracy on labelled samples, as fractions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Accuracy {
    /// Accuracy of the original.
    pub before: Option<f64>,
    /// Accuracy of the rewritten model.
    pub after: Option<f64>,
}

impl VerifyReport {
    /// What is to be known about the samples.
    pub(crate) fn of_samples(&self) -> &'static str {
        if self.fitted {
            "the weights were fitted to them; give others with `eval`"
        } else {
            "that the outputs were compared on"
        }
    }

    /// The report of a successful proof.
    pub(crate) fn of(proved: &Proved) -> Self {
        let mut report = Self {
            valid: Some(true),
            exact_max_rel: proved.exactness.as_ref().map(Exactness::max_rel),
            quantization_steps: proved.quantized.as_ref().map(|quantized| quantized.worst),
            ..Self::default()
        };
        if let Some(measured) = &proved.faithfulness {
            report.samples = Some(measured.samples);
            report.rel_l2 = Some(measured.rel_l2);
            report.cosine = Some(measured.cosine);
            report.max_abs = Some(measured.max_abs);
            report.top1_agreement = measured.top1_agreement;
            report.accuracy = measured.accuracy;
            report.r2 = measured.r2;
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_the_keys_of_the_contract() {
        let json = serde_json::to_string(&VerifyReport { valid: Some(true), ..VerifyReport::default() }).unwrap();
        let expected = concat!(
            r#"{"valid":true,"exact_max_rel":null,"rel_l2":null,"cosine":null,"max_abs":null,"#,
            r#""top1_agreement":null,"accuracy":{"before":null,"after":null}}"#
        );
        assert_eq!(json, expected);
    }
}
