//! Inspection: which groups of a model can be pruned, and why others cannot.

use crate::analysis::Analysis;
use crate::axes::Selection;
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::plan::{CostModel, Filter, Units, groups};
use crate::report::Report;
use crate::runtime::inputs::DimSizes;

/// Options of [`inspect`](crate::inspect).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct InspectOptions {
    pub(crate) dims: DimSizes,
    pub(crate) allow_shifts: bool,
    pub(crate) thaw: Vec<String>,
}

impl InspectOptions {
    /// Creates the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the size of a dynamic dimension, by name (`sequence_length`) or by input and axis (`input_ids:1`).
    pub fn dim(mut self, name: impl Into<String>, size: usize) -> Self {
        self.dims.named.insert(name.into(), size);
        self
    }

    /// Treats groups whose removal shifts a statistic (LayerNormalization, Softmax, …) as prunable; off by default.
    pub fn allow_shifts(mut self, allow: bool) -> Self {
        self.allow_shifts = allow;
        self
    }

    /// Allows pruning the axes of this graph output or input.
    pub fn thaw(mut self, value: impl Into<String>) -> Self {
        self.thaw.push(value.into());
        self
    }
}

/// Analyses a model: all its groups, nothing removed.
///
/// # Errors
/// [`Input`](crate::ErrorKind::Input) if the model is malformed; [`Usage`](crate::ErrorKind::Usage) if the options name
/// a value or dimension that the graph does not have.
pub(crate) fn inspect(model: &Model, options: &InspectOptions) -> Result<Report> {
    let analysis = Analysis::new(model, &options.dims, &options.thaw.iter().cloned().collect())?;
    check_thawed(&analysis, &options.thaw)?;
    let cost = CostModel::new(analysis.subject());
    let filter = Filter::new(&[], &[], Units::default(), options.allow_shifts)?;
    let groups = groups(analysis.subject(), &cost, &filter);
    let whole = cost.cost(&Selection::all());
    Ok(Report::new(&analysis, &groups, &Selection::all(), whole, whole))
}

/// Refuses thawed values that the graph does not have.
pub(super) fn check_thawed(analysis: &Analysis<'_>, thaw: &[String]) -> Result<()> {
    match thaw.iter().find(|name| analysis.graph.value(name).is_none()) {
        Some(name) => Err(Error::usage(format!("`thaw` {name}: the graph has no value with that name"))),
        None => Ok(()),
    }
}
