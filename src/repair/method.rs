//! Ways to repair, by name.

use crate::error::{Error, Result};

/// How a pruned model is repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    None,
    /// Biases follow the shifted means.
    Bias,
    /// Statistics of batch normalizations are estimated again.
    BatchNorm,
    /// Least-squares reconstruction.
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
    Row { name: "bias", about: "biases follow the shifted means", method: Method::Bias },
    Row { name: "bn", about: "statistics of batch normalizations are estimated again", method: Method::BatchNorm },
    Row { name: "lstsq", about: "least squares: layers reproduce the results of the original", method: Method::Lstsq },
    Row { name: "none", about: "the kept weights stay as they are", method: Method::None },
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
