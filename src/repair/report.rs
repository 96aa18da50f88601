//! What repair says about a layer.

use serde::{Deserialize, Serialize};

/// Error of one repaired layer's output, relative to its variance.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RepairReport {
    /// Name of the node.
    pub name: String,
    /// Relative squared error with the kept weights as they were; `None` if the layer was not looked at.
    pub before: Option<f64>,
    /// Relative squared error after repair, on held-out data.
    pub after: Option<f64>,
    /// Why the weights were left alone.
    pub reason: Option<String>,
    /// What makes a repair doubtful: fewer rows of data than inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// Rows of data that were fitted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<usize>,
    /// How many parameters an output really has: `tr C (C + λI)⁻¹` for the covariance C of the layer's inputs. Groups of a
    /// convolution differ; the largest counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimension: Option<f64>,
    /// λ as a share of the inputs' mean variance, as held-out samples chose it; the largest of a convolution's groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ridge: Option<f64>,
    /// Layers in front that were fitted together with this one: queries, keys and values of attention.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<String>,
}
