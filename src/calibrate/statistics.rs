//! Statistics of layers' inputs in the original model, for criteria and for splits.

use std::sync::Arc;

use rayon::prelude::*;

use super::data::Batch;
use super::sums::{Detail, Sums};
use super::{Calibration, Evidence, Gather, Layer, Padding, Sampler, Stream, in_turn};
use crate::analysis::Subject;
use crate::error::Result;
use crate::linalg::default_backend;
use crate::runtime::Tensor;

/// Sums over the inputs of a layer, for each convolution group of it; layers that read the same rows share them.
pub type InputStatistics = Arc<[Sums]>;

/// What layers that read the same rows have in common.
struct Accumulator<'l> {
    layer: &'l Layer,
    sampler: Sampler,
    groups: Vec<Gather>,
}

impl<'l> Accumulator<'l> {
    fn new(layer: &'l Layer, data: Calibration<'_>, detail: Detail) -> Self {
        let k = layer.inputs();
        let sums = |_| Gather::new(k, 0, Evidence::Sums(Sums::new(k, 0, detail)));
        let sampler = Sampler::new(layer, data.data.samples(), data.seed);
        Self { layer, sampler, groups: (0..layer.groups).map(sums).collect() }
    }

    fn add(&mut self, data: &Tensor, samples: usize, first: usize, padding: Option<&Padding>) -> Result<()> {
        let layer = self.layer;
        let rows = self.sampler.choose(layer.row_count(data.shape()), samples, first, padding);
        let lines = layer.inputs_of(data, &rows)?;
        self.groups.par_iter_mut().enumerate().for_each(|(group, gather)| {
            gather.add(rows.len(), |rows, x, _| lines.write(group * layer.channels, rows, x));
        });
        Ok(())
    }

    fn finish(self) -> InputStatistics {
        self.groups.into_iter().map(|gather| gather.finish().into_sums(default_backend())).collect()
    }
}

/// Statistics of the inputs of `layers` of the original model.
///
/// # Errors
/// If reading the data or running the model fails.
pub fn input_statistics(
    subject: Subject<'_>,
    data: Calibration<'_>,
    layers: &[Layer],
    detail: Detail,
) -> Result<Vec<InputStatistics>> {
    let mut wanted: Vec<String> = layers.iter().map(|layer| layer.data.clone()).collect();
    wanted.sort();
    wanted.dedup();
    let mut stream = Stream::default();
    let segment = stream.segment(subject.model, &[], &wanted)?;
    let mut accumulators: Vec<Accumulator<'_>> = Vec::new();
    let mut used = Vec::with_capacity(layers.len());
    for layer in layers {
        let known = accumulators.iter().position(|other| other.layer.reads_like(layer));
        used.push(known.unwrap_or(accumulators.len()));
        if known.is_none() {
            accumulators.push(Accumulator::new(layer, data, detail));
        }
    }
    let mut first = 0;
    let run = |index: usize, batch: &Batch| stream.run(&segment, index, &batch.inputs);
    in_turn(data.data.batches(data.batch), run, |batch, activations| {
        let samples = samples_of(&batch.inputs);
        let padding = Padding::of(&batch.inputs);
        accumulators
            .par_iter_mut()
            .try_for_each(|a| a.add(activations.get(&a.layer.data)?, samples, first, padding.as_ref()))?;
        first += samples;
        Ok(())
    })?;
    let done: Vec<InputStatistics> = accumulators.into_iter().map(Accumulator::finish).collect();
    Ok(used.into_iter().filter_map(|at| done.get(at).cloned()).collect())
}

/// Number of samples of a batch.
pub(crate) fn samples_of(inputs: &[(String, Tensor)]) -> usize {
    inputs.first().and_then(|(_, tensor)| tensor.shape().first().copied()).unwrap_or(1)
}
