//! A model and what it has become, run over the same data stage by stage.

use std::collections::{BTreeMap, BTreeSet};

use super::data::Batch;
use super::{Calibration, Padding};
use crate::error::Result;
use crate::onnx::proto::ModelProto;
use crate::runtime::{Activations, Held, NamedTensor, Stream, in_turn, run_both};

/// Two models on their way through the data; each stage starts where the last one ended.
#[derive(Debug)]
pub(crate) struct Pair<'d> {
    data: Calibration<'d>,
    original: Stream,
    changed: Stream,
}

/// What a stage wants of one of the models.
#[derive(Debug)]
pub(crate) struct Wanted<'m> {
    model: &'m ModelProto,
    complete: Vec<String>,
    values: Vec<String>,
}

impl<'m> Wanted<'m> {
    /// Some values of a model. Those that are `complete` stay as they are from now on: the next stage starts after them.
    pub(crate) fn new<'n>(
        model: &'m ModelProto,
        complete: impl IntoIterator<Item = &'n String>,
        values: impl IntoIterator<Item = &'n String>,
    ) -> Self {
        let complete: BTreeSet<&String> = complete.into_iter().collect();
        let values: BTreeSet<&String> = values.into_iter().chain(complete.iter().copied()).collect();
        let owned = |names: BTreeSet<&String>| names.into_iter().cloned().collect();
        Self { model, complete: owned(complete), values: owned(values) }
    }
}

/// Which samples a visit is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'v> {
    /// Samples of the visit.
    pub(crate) samples: usize,
    /// Number of the first one in the data set.
    pub(crate) first: usize,
    /// Samples of the whole data set.
    pub(crate) total: usize,
    /// Positions that do not count.
    pub(crate) padding: Option<&'v Padding>,
}

/// What both models make of some samples.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visit<'v> {
    /// Values of the original.
    pub(crate) original: &'v Activations,
    /// Values of the changed model.
    pub(crate) changed: &'v Activations,
    /// The samples.
    pub(crate) at: At<'v>,
}

impl<'d> Pair<'d> {
    /// At the beginning of both models.
    pub(crate) fn new(data: Calibration<'d>) -> Self {
        Self { data, original: Stream::default(), changed: Stream::default() }
    }

    /// Runs both models as far as they are wanted, and calls `visit` for all samples, in their order.
    ///
    /// # Errors
    /// If reading the data or running a model fails; that of `visit`.
    pub(crate) fn stage(
        &mut self,
        original: &Wanted<'_>,
        changed: &Wanted<'_>,
        mut visit: impl FnMut(Visit<'_>) -> Result<()> + Send,
    ) -> Result<()> {
        let sources = self.original.segment(original.model, &original.complete, &original.values)?;
        let images = self.changed.segment(changed.model, &changed.complete, &changed.values)?;
        let total = self.data.data.samples();
        let mut held = Held::within(self.data.limits.held());
        let mut first = 0;
        let pair = [(&self.original, &sources), (&self.changed, &images)];
        let run = |index: usize, batch: &Batch| run_both(pair, index, &batch.inputs);
        in_turn(self.data.data.batches(self.data.batch), self.data.runs, run, |batch, (original, changed)| {
            let samples = batch.samples();
            let padding = Padding::of(&batch.inputs);
            let at = At { samples, first, total, padding: padding.as_ref() };
            visit(Visit { original: &original, changed: &changed, at })?;
            first += samples;
            held.add([original.frontier, changed.frontier]);
            Ok(())
        })?;
        held.advance([(&mut self.original, &sources), (&mut self.changed, &images)]);
        Ok(())
    }
    /// Runs the original, up to `wanted`, on what the changed model has in place of some of its values: `values` gives each by
    /// its name in the original and in the changed model. Where the models are on their way does not change.
    ///
    /// # Errors
    /// As [`stage`](Self::stage).
    pub(crate) fn original_on_changed(
        &self,
        (original, wanted): (&ModelProto, &[String]),
        (changed, values): (&ModelProto, &BTreeMap<String, String>),
        mut visit: impl FnMut(&Activations, At<'_>) -> Result<()> + Send,
    ) -> Result<()> {
        let total = self.data.data.samples();
        let Some(batch) = self.data.data.batches(self.data.batch).next() else { return Ok(()) };
        let names: Vec<String> = values.values().cloned().collect();
        let image = self.changed.rest(changed, &names)?;
        let feed = |index: usize, batch: &Batch| -> Result<Vec<NamedTensor>> {
            let found = self.changed.run(&image, index, &batch.inputs)?;
            values.iter().map(|(original, changed)| Ok((original.clone(), found.get(changed)?.clone()))).collect()
        };
        let source = self.original.rest_from(original, wanted, &feed(0, &batch?)?)?;
        let run =
            |index: usize, batch: &Batch| self.original.run_from(&source, index, &batch.inputs, &feed(index, batch)?);
        let mut first = 0;
        in_turn(self.data.data.batches(self.data.batch), self.data.runs, run, |batch, found| {
            let samples = batch.samples();
            let padding = Padding::of(&batch.inputs);
            visit(&found, At { samples, first, total, padding: padding.as_ref() })?;
            first += samples;
            Ok(())
        })
    }
}
