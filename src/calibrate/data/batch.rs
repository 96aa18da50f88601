//! Some samples in memory.

use super::labels::Labels;
use crate::runtime::NamedTensor;
use crate::{Error, Result};

/// Some samples: a tensor for each input of the graph, in graph order.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Inputs by name.
    pub inputs: Vec<NamedTensor>,
    /// What is right for each sample.
    pub labels: Option<Labels>,
    /// The axis of samples of each input; `None` for an input that all samples share.
    pub(crate) axes: Vec<Option<usize>>,
}

impl Batch {
    /// A batch whose samples are the rows of axis 0 of every input; one of rank 0 is shared by all.
    pub fn of_rows(inputs: Vec<NamedTensor>, labels: Option<Labels>) -> Self {
        let axes = inputs.iter().map(|(_, tensor)| (!tensor.shape().is_empty()).then_some(0)).collect();
        Self { inputs, labels, axes }
    }

    /// A single sample that is one run of the graph, with inputs of any shape.
    pub fn of_run(inputs: Vec<NamedTensor>, labels: Option<Labels>) -> Self {
        let axes = vec![None; inputs.len()];
        Self { inputs, labels, axes }
    }

    /// Number of samples; one where the batch is one run of the graph.
    pub fn samples(&self) -> usize {
        let sampled = self.inputs.iter().zip(&self.axes).find_map(|((_, tensor), axis)| Some((tensor, (*axis)?)));
        sampled.and_then(|(tensor, axis)| tensor.shape().get(axis).copied()).unwrap_or(1)
    }

    /// The samples `rows`, in this order.
    ///
    /// # Errors
    /// If there is none, or the batch has fewer.
    pub fn pick(&self, rows: &[usize]) -> Result<Self> {
        if rows.iter().any(|&row| row >= self.samples()) || (rows.len() != 1 && self.is_run()) {
            return Err(Error::input(format!("samples {rows:?} of a batch of {}", self.samples())));
        }
        let pick = |((name, tensor), axis): (&NamedTensor, &Option<usize>)| {
            Ok((name.clone(), axis.map_or_else(|| Ok(tensor.clone()), |axis| tensor.take(axis, rows))?))
        };
        Ok(Self {
            inputs: self.inputs.iter().zip(&self.axes).map(pick).collect::<Result<_>>()?,
            labels: self.labels.as_ref().map(|labels| labels.pick(rows)).transpose()?,
            axes: self.axes.clone(),
        })
    }

    /// Whether the batch is one run of the graph: no input has an axis of samples.
    pub(crate) fn is_run(&self) -> bool {
        self.axes.iter().all(Option::is_none)
    }
}
