//! Some samples in memory.

use std::collections::{BTreeMap, BTreeSet};

use super::labels::Labels;
use crate::runtime::inputs::DeclaredInput;
use crate::runtime::{NamedTensor, Tensor};
use crate::{Error, Result};

/// Most elements of an input that may be a setting.
const MOST_ELEMENTS: usize = 16;

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

    /// The axes of samples, where `declared` leaves their size open.
    pub(crate) fn open_counts(&self, declared: &[DeclaredInput]) -> BTreeSet<String> {
        let open = |((name, _), of_samples): (&NamedTensor, &Option<usize>)| {
            declared.iter().find(|input| input.name == *name)?.axis_name((*of_samples)?)
        };
        self.inputs.iter().zip(&self.axes).filter_map(open).collect()
    }

    /// Sizes of the axes that `declared` leaves open, but for those of samples; an axis of no size is left out.
    pub(crate) fn open_sizes(&self, declared: &[DeclaredInput]) -> BTreeMap<String, usize> {
        let counts = self.open_counts(declared);
        let mut sizes = BTreeMap::new();
        for (name, tensor) in &self.inputs {
            let Some(input) = declared.iter().find(|input| input.name == *name) else { continue };
            for (axis, &size) in tensor.shape().iter().enumerate().filter(|(_, size)| **size > 0) {
                sizes.extend(input.axis_name(axis).map(|open| (open, size)));
            }
        }
        sizes.retain(|open, _| !counts.contains(open));
        sizes
    }

    /// The elements of the inputs of integers that may be settings: small ones that say the same for all samples of the batch.
    ///
    /// # Errors
    /// If the elements cannot be read.
    pub(crate) fn small_integers(&self) -> Result<BTreeMap<String, Vec<i64>>> {
        let is_setting = |tensor: &Tensor| tensor.is_integer() && tensor.len() <= MOST_ELEMENTS;
        let settings =
            self.inputs.iter().zip(&self.axes).filter(|((_, tensor), axis)| axis.is_none() && is_setting(tensor));
        settings.map(|((name, tensor), _)| Ok((name.clone(), tensor.to_vec::<i64>()?))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::GraphProto;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::Tensor;
    use crate::runtime::inputs::declared_inputs;
    use crate::runtime::sample_models::tensor_value;

    #[test]
    fn open_axes_have_the_sizes_of_the_sample_but_for_that_of_samples() {
        let float = DataType::Float;
        let graph = GraphProto {
            input: vec![
                tensor_value("image", float, &["n", "3", "?", "width"]),
                tensor_value("past", float, &["n", "0", "length"]),
                tensor_value("again", float, &["n", "n"]),
            ],
            ..GraphProto::default()
        };
        let declared = declared_inputs(&graph).unwrap();
        let zeros = |shape: &[usize]| Tensor::new(shape, &vec![0.0_f32; shape.iter().product()]).unwrap();
        let inputs = vec![
            ("image".to_owned(), zeros(&[2, 3, 4, 5])),
            ("past".to_owned(), zeros(&[2, 0, 0])),
            ("again".to_owned(), zeros(&[2, 2])),
        ];
        let mut expected = BTreeMap::from([(declared[0].axis_name(2).unwrap(), 4), ("width".to_owned(), 5)]);
        assert_eq!(Batch::of_rows(inputs.clone(), None).open_sizes(&declared), expected);
        // Where a sample is one run, its first axis is as open as the others.
        expected.insert("n".to_owned(), 2);
        assert_eq!(Batch::of_run(inputs, None).open_sizes(&declared), expected);
    }
}
