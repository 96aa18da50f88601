//! What repair says about a layer.

use serde::{Deserialize, Serialize};

/// The repair of one layer. Errors are those of the layer's output, relative to its variance.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RepairReport {
    /// Name of the node.
    pub name: String,
    /// Relative squared error before repair; `None` if the layer was not examined.
    pub before: Option<f64>,
    /// Relative squared error after repair, on held-out samples.
    pub after: Option<f64>,
    /// Why the weights were not changed.
    pub reason: Option<String>,
    /// Why the repair may be unreliable: fewer rows of data than inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// Number of rows of data that the weights were fitted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<usize>,
    /// Effective number of parameters of each output: `tr C (C + λI)⁻¹` for the covariance C of the layer's inputs. For
    /// a grouped convolution, this is the largest over the groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimension: Option<f64>,
    /// Ridge strength λ, as a share of the inputs' mean variance, chosen on held-out samples. For a grouped
    /// convolution, this is the largest over the groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ridge: Option<f64>,
    /// Preceding layers that were fitted together with this one: queries, keys and values of attention.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<String>,
}
