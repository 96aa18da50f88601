//! Values that no gradient reaches, computed by tract: what follows from shapes alone once for each set of input shapes,
//! what follows from the inputs' values (masks, positions) for every batch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::onnx::proto::ModelProto;
use crate::runtime::{NamedTensor, Segment, Stream};

/// Sets of input shapes whose values are held.
const HELD_SHAPES: usize = 16;

type Shapes = Vec<Vec<usize>>;

/// The part of a model that tract computes.
#[derive(Debug)]
pub(super) struct Feed {
    /// Follows from the inputs' shapes.
    of_shapes: (Stream, Segment),
    /// Follows from the inputs' values.
    of_values: (Stream, Segment),
    wanted: [BTreeSet<String>; 2],
    held: Mutex<BTreeMap<Shapes, Vec<NamedTensor>>>,
}

impl Feed {
    /// Computes the values `of_shapes` and `of_values` of `model`.
    ///
    /// # Errors
    /// If tract cannot take the part of the model that makes them.
    pub(super) fn new(model: &ModelProto, of_shapes: BTreeSet<String>, of_values: BTreeSet<String>) -> Result<Self> {
        let segment = |wanted: &BTreeSet<String>| -> Result<(Stream, Segment)> {
            let mut stream = Stream::default();
            let wanted: Vec<String> = wanted.iter().cloned().collect();
            let segment = stream.segment(model, &[], &wanted)?;
            Ok((stream, segment))
        };
        Ok(Self {
            of_shapes: segment(&of_shapes)?,
            of_values: segment(&of_values)?,
            wanted: [of_shapes, of_values],
            held: Mutex::new(BTreeMap::new()),
        })
    }

    /// The values for one batch.
    ///
    /// # Errors
    /// If tract fails.
    pub(super) fn values(&self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>> {
        let mut values = self.values_of_shapes(inputs)?;
        values.extend(run(&self.of_values, &self.wanted[1], inputs)?);
        Ok(values)
    }

    fn values_of_shapes(&self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>> {
        if self.wanted[0].is_empty() {
            return Ok(Vec::new());
        }
        let shapes: Shapes = inputs.iter().map(|(_, tensor)| tensor.shape().to_vec()).collect();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(values) = held.get(&shapes) {
            return Ok(values.clone());
        }
        let values = run(&self.of_shapes, &self.wanted[0], inputs)?;
        if held.len() >= HELD_SHAPES {
            held.pop_first();
        }
        held.insert(shapes, values.clone());
        Ok(values)
    }
}

fn run(
    (stream, segment): &(Stream, Segment),
    wanted: &BTreeSet<String>,
    inputs: &[NamedTensor],
) -> Result<Vec<NamedTensor>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let found = stream.run(segment, 0, inputs)?;
    wanted.iter().map(|name| Ok((name.clone(), found.get(name)?.clone()))).collect()
}
