//! A model and what it has become, run over the same data stage by stage.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::at::At;
use super::data::Batch;
use super::rows::{Lines, Row};
use super::{Calibration, Division, Padding, Recorded};
use crate::error::{Error, Result};
use crate::onnx::proto::ModelProto;
use crate::runtime::{Activations, Held, NamedTensor, Segment, Stream, Tensor, in_turn, run_both};

/// Two models on their way through the data; each stage starts where the last one ended.
#[derive(Debug)]
pub(crate) struct Pair<'d> {
    data: Calibration<'d>,
    /// The samples that this process runs.
    own: Range<usize>,
    original: Stream,
    changed: Stream,
    /// What the first stage saw of each batch.
    seen: Vec<Seen>,
}

/// What stages need to know of a batch.
#[derive(Debug, Clone)]
struct Seen {
    samples: usize,
    padding: Option<Padding>,
}

/// A batch of a stage.
#[derive(Debug)]
struct Fed {
    seen: Seen,
    /// The samples, where a segment reads them.
    inputs: Vec<NamedTensor>,
}

impl Fed {
    fn of(batch: Batch) -> Self {
        Self { seen: Seen { samples: batch.samples(), padding: Padding::of(&batch) }, inputs: batch.inputs }
    }
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

/// Where the values of the original come from.
#[derive(Debug)]
pub(crate) enum Reference<'r> {
    /// From running it.
    Run(Wanted<'r>),
    /// From an earlier pass.
    Recorded(&'r Recorded),
}

/// What the original makes of some samples.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Original<'v> {
    /// Whole values of a run.
    Run(&'v Activations),
    /// Some of their rows.
    Recorded(&'v Recorded),
}

impl<'v> Original<'v> {
    /// The value called `name`.
    ///
    /// # Errors
    /// If it was not among the wanted ones.
    pub(crate) fn get(self, name: &str) -> Result<&'v Tensor> {
        match self {
            Self::Run(found) => found.get(name),
            Self::Recorded(_) => Err(Error::defect(format!("only rows of '{name}' were recorded"))),
        }
    }
}

/// What both models make of some samples.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visit<'v> {
    /// Values of the original.
    pub(crate) original: Original<'v>,
    /// Values of the changed model.
    pub(crate) changed: &'v Activations,
    /// The samples.
    pub(crate) at: At<'v>,
}

impl<'v> Visit<'v> {
    /// The shape of a value of the original, whose channels lie along `axis`.
    ///
    /// # Errors
    /// If it was not among the wanted ones.
    pub(crate) fn shape_of_original(self, name: &str, axis: usize) -> Result<&'v [usize]> {
        match self.original {
            Original::Run(found) => found.get(name).map(Tensor::shape),
            Original::Recorded(recorded) => recorded.shape(name, axis, self.at.first),
        }
    }

    /// Some rows of a value of the original.
    ///
    /// # Errors
    /// If it was not among the wanted ones, or has no such rows.
    pub(crate) fn rows_of_original(self, name: &str, axis: usize, rows: &[Row]) -> Result<Lines<'v>> {
        match self.original {
            Original::Run(found) => {
                let tensor = found.get(name)?;
                Lines::new(tensor, (axis, tensor.shape().get(axis).copied().unwrap_or(0)), rows)
            }
            Original::Recorded(recorded) => recorded.lines(name, axis, (self.at.first, rows)),
        }
    }
}

impl<'d> Pair<'d> {
    /// At the beginning of both models, for all samples.
    pub(crate) fn new(data: Calibration<'d>) -> Self {
        let own = 0..data.data.samples();
        Self { data, own, original: Stream::default(), changed: Stream::default(), seen: Vec::new() }
    }

    /// At the beginning of both models, for the samples of this process: the others of a team run the rest.
    pub(crate) fn in_team(data: Calibration<'d>) -> Self {
        let own = Division::in_quarters(data.data).samples(&data.quarters());
        Self { own, ..Self::new(data) }
    }

    /// The batches for these segments. The samples are read again only if a segment takes them.
    fn batches<'s>(&'s self, segments: &[&Segment]) -> Box<dyn Iterator<Item = Result<Fed>> + Send + 's> {
        if self.seen.is_empty() || segments.iter().any(|segment| segment.reads_samples()) {
            return Box::new(self.data.batches(self.own.clone()).map(|batch| batch.map(Fed::of)));
        }
        Box::new(self.seen.iter().map(|seen| Ok(Fed { seen: seen.clone(), inputs: Vec::new() })))
    }

    /// Runs both models as far as they are wanted, and calls `visit` for all samples of this process, in their order. The original
    /// stays where it is if it is recorded.
    ///
    /// # Errors
    /// If reading the data or running a model fails; that of `visit`.
    pub(crate) fn stage(
        &mut self,
        original: &Reference<'_>,
        changed: &Wanted<'_>,
        mut visit: impl FnMut(Visit<'_>) -> Result<()> + Send,
    ) -> Result<()> {
        if self.own.is_empty() {
            return Ok(());
        }
        let sources = match original {
            Reference::Run(wanted) => Some(self.original.segment(wanted.model, &wanted.complete, &wanted.values)?),
            Reference::Recorded(_) => None,
        };
        let images = self.changed.segment(changed.model, &changed.complete, &changed.values)?;
        let total = self.data.data.samples();
        let mut held = Held::within(self.data.limits.held());
        let mut first = self.own.start;
        let mut seen = Vec::new();
        let run = |index: usize, batch: &Fed| match &sources {
            Some(sources) => run_both([(&self.original, sources), (&self.changed, &images)], index, &batch.inputs),
            None => Ok((Activations::default(), self.changed.run(&images, index, &batch.inputs)?)),
        };
        let segments: Vec<&Segment> = sources.iter().chain([&images]).collect();
        in_turn(self.batches(&segments), (self.data.runs, self.data.limits), run, |batch, (found, changed)| {
            let Seen { samples, padding } = &batch.seen;
            let at = At { samples: *samples, first, total, padding: padding.as_ref() };
            let original = match original {
                Reference::Recorded(recorded) => Original::Recorded(recorded),
                Reference::Run(_) => Original::Run(&found),
            };
            visit(Visit { original, changed: &changed, at })?;
            first += samples;
            seen.push(batch.seen);
            held.add([found.frontier, changed.frontier]);
            Ok(())
        })?;
        self.seen = seen;
        held.advance([(&mut self.original, sources.as_ref()), (&mut self.changed, Some(&images))]);
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
        if self.own.is_empty() {
            return Ok(());
        }
        let total = self.data.data.samples();
        let names: Vec<String> = values.values().cloned().collect();
        let image = self.changed.rest(changed, &names)?;
        let Some(batch) = self.batches(&[&image]).next() else { return Ok(()) };
        let feed = |index: usize, batch: &Fed| -> Result<Vec<NamedTensor>> {
            let found = self.changed.run(&image, index, &batch.inputs)?;
            values.iter().map(|(original, changed)| Ok((original.clone(), found.get(changed)?.clone()))).collect()
        };
        let source = self.original.rest_from(original, wanted, &feed(0, &batch?)?)?;
        let run =
            |index: usize, batch: &Fed| self.original.run_from(&source, index, &batch.inputs, &feed(index, batch)?);
        let mut first = self.own.start;
        in_turn(self.batches(&[&image, &source]), (self.data.runs, self.data.limits), run, |batch, found| {
            let Seen { samples, padding } = &batch.seen;
            visit(&found, At { samples: *samples, first, total, padding: padding.as_ref() })?;
            first += samples;
            Ok(())
        })
    }
}
