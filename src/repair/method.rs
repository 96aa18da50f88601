//! Repair methods, by name.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A method of repairing the kept weights of a pruned model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// No repair.
    None,
    /// Biases are corrected for the shift of the means.
    Bias,
    /// Batch-normalization statistics are estimated again.
    BatchNorm,
    /// Kept weights are fitted by least squares to the layer outputs of the original.
    Lstsq,
}

/// A line of the table of methods.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// Name on the command line.
    pub(crate) name: &'static str,
    /// One line of help.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))] // the command line's help shows it
    pub(crate) about: &'static str,
    method: Method,
}

/// All methods, sorted by name.
pub(crate) const METHODS: &[Row] = &[
    Row { name: "bias", about: "biases are corrected for the shift of the means", method: Method::Bias },
    Row { name: "bn", about: "batch-normalization statistics are estimated again", method: Method::BatchNorm },
    Row {
        name: "lstsq",
        about: "kept weights are fitted by least squares to the layer outputs of the original",
        method: Method::Lstsq,
    },
    Row { name: "none", about: "kept weights are not changed", method: Method::None },
];

impl Method {
    /// The method called `name` on the command line.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) with the names that exist.
    pub fn by_name(name: &str) -> Result<Self> {
        METHODS.iter().find(|row| row.name == name).map(|row| row.method).ok_or_else(|| {
            let names: Vec<&str> = METHODS.iter().map(|row| row.name).collect();
            Error::usage(format!("repair '{name}' is unknown; choose one of {}", names.join(", ")))
        })
    }
}
