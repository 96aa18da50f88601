//! Statistics of layers' inputs in the original model, for criteria and for splits.

use std::collections::BTreeSet;
use std::sync::Arc;

use rayon::prelude::*;

use super::data::Batch;
use super::sums::{Detail, Sums};
use super::{Activations, At, Calibration, Evidence, Gather, Layer, Padding, Sampler, Stream, exposed, in_turn};
use crate::analysis::Subject;
use crate::error::Result;
use crate::linalg::default_backend;
use crate::onnx::proto::ModelProto;
use crate::runtime::Tensor;

/// Sums over the inputs of a layer, for each convolution group of it; layers that read the same rows share them.
pub type InputStatistics = Arc<[Sums]>;

/// What layers that read the same rows have in common.
pub(crate) struct Accumulator<'l> {
    layer: &'l Layer,
    sampler: Sampler,
    groups: Vec<Gather>,
}

impl<'l> Accumulator<'l> {
    pub(crate) fn new(layer: &'l Layer, sampler: Sampler, detail: Detail) -> Self {
        let k = layer.inputs();
        let sums = |_| Gather::new(k, 0, Evidence::sums(k, 0, detail));
        Self { layer, sampler, groups: (0..layer.groups).map(sums).collect() }
    }

    /// Adds the chosen rows of some samples, at every node of the layer.
    pub(crate) fn add(&mut self, found: &Activations, at: At<'_>) -> Result<()> {
        self.layer.all_data().try_for_each(|data| self.add_rows(found.get(data)?, at))
    }

    fn add_rows(&mut self, data: &Tensor, at: At<'_>) -> Result<()> {
        let layer = self.layer;
        let rows = self.sampler.choose(layer.row_count(data.shape()), at.samples, at.first, at.padding);
        let lines = layer.inputs_of(data, &rows)?;
        self.groups.par_iter_mut().enumerate().for_each(|(group, gather)| {
            gather.add(rows.len(), |rows, x, _| lines.write(group * layer.channels, rows, x));
        });
        Ok(())
    }

    pub(crate) fn finish(self) -> InputStatistics {
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
    let mut accumulators: Vec<Accumulator<'_>> = Vec::new();
    let mut used = Vec::with_capacity(layers.len());
    for layer in layers {
        let known = accumulators.iter().position(|other| other.layer.reads_like(layer));
        used.push(known.unwrap_or(accumulators.len()));
        if known.is_none() {
            let sampler = Sampler::new(layer, data.data.samples(), data.seed);
            accumulators.push(Accumulator::new(layer, sampler, detail));
        }
    }
    let model = exposed(subject.model, layers)?;
    pass(&model, data, layers.iter().flat_map(Layer::all_data), |found, at| {
        accumulators.par_iter_mut().try_for_each(|a| a.add(found, at))
    })?;
    let done: Vec<InputStatistics> = accumulators.into_iter().map(Accumulator::finish).collect();
    Ok(used.into_iter().filter_map(|at| done.get(at).cloned()).collect())
}

/// Runs a model over all samples, and calls `visit` with some of its values for all samples, in their order.
///
/// # Errors
/// If reading the data or running the model fails; that of `visit`.
pub(crate) fn pass<'n>(
    model: &ModelProto,
    data: Calibration<'_>,
    values: impl IntoIterator<Item = &'n String>,
    mut visit: impl FnMut(&Activations, At<'_>) -> Result<()> + Send,
) -> Result<()> {
    let values: BTreeSet<&String> = values.into_iter().collect();
    let values: Vec<String> = values.into_iter().cloned().collect();
    let mut stream = Stream::default();
    let segment = stream.segment(model, &[], &values)?;
    let total = data.data.samples();
    let mut first = 0;
    let run = |index: usize, batch: &Batch| stream.run(&segment, index, &batch.inputs);
    in_turn(data.data.batches(data.batch), data.runs, run, |batch, found| {
        let samples = batch.samples();
        let padding = Padding::of(&batch.inputs);
        visit(&found, At { samples, first, total, padding: padding.as_ref() })?;
        first += samples;
        Ok(())
    })
}
