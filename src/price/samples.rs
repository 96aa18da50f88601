//! Samples that prices are fitted on, and samples that tell them.

use std::collections::BTreeSet;

use super::distance::Reference;
use crate::analysis::Subject;
use crate::calibrate::data::{Batch, Dataset};
use crate::calibrate::{Calibration, Detail, Layer, WIDEST, input_statistics};
use crate::error::Result;
use crate::onnx::proto::ModelProto;
use crate::plan::Group;
use crate::runtime::{Limits, NamedTensor, Runs};
use crate::score::{Consumers, Context};

/// Of this many samples one is held out.
const HELD_OUT: usize = 5;

/// Most samples that are held out.
const MOST_HELD_OUT: usize = 48;

/// Samples that a price is fitted on and samples that tell it.
#[derive(Debug)]
pub(crate) struct Samples {
    pub(super) fitted: Dataset,
    pub(super) held_out: Dataset,
    batches: Vec<Vec<NamedTensor>>,
    /// Samples of each batch.
    sizes: Vec<usize>,
    at_once: usize,
    runs: Runs,
    pub(super) seed: u64,
    pub(super) limits: Limits,
}

impl Samples {
    /// Every fifth sample held out, fewer where there are many; `None` if there are too few.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn new(data: Calibration<'_>) -> Result<Option<Self>> {
        let batch = data.data.fixed_batch().unwrap_or(1);
        let every = HELD_OUT.max((data.data.samples() / batch).div_ceil((MOST_HELD_OUT / batch).max(1)));
        let [fitted, held_out] = data.data.split(every);
        let sized = |batch: Result<Batch>| batch.map(|batch| (batch.samples(), batch.inputs));
        let (sizes, batches): (Vec<_>, Vec<_>) =
            held_out.batches(data.batch).map(sized).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let is_enough = !batches.is_empty() && fitted.samples() > 0;
        Ok(is_enough.then_some(Self {
            fitted,
            held_out,
            batches,
            sizes,
            at_once: data.batch,
            runs: data.runs,
            seed: data.seed,
            limits: data.limits,
        }))
    }

    /// The samples that are fitted on.
    pub(crate) fn fitted(&self) -> Calibration<'_> {
        self.over(&self.fitted)
    }

    /// Gathers the sums that the local repairs of the readers of `groups` need, and keeps them in the statistics of the samples.
    ///
    /// # Errors
    /// If reading the data or running the model fails, or the sums cannot be written.
    pub(crate) fn gather(&self, subject: Subject<'_>, groups: &[&Group]) -> Result<()> {
        let consumers = Consumers::new(&Context::without_data(subject, groups, self.seed))?;
        let used: BTreeSet<usize> = consumers.of_group.iter().flatten().map(|consumer| consumer.layer).collect();
        let layers = used.into_iter().filter_map(|index| consumers.layers.get(index));
        let layers: Vec<Layer> = layers.filter(|layer| layer.inputs() <= WIDEST).cloned().collect();
        let square = |layer: &Layer| layer.groups * layer.inputs() * layer.inputs() * size_of::<f64>();
        for data in [&self.fitted, &self.held_out] {
            for some in self.limits.portions(layers.iter().cloned(), |_, layer| square(layer)) {
                input_statistics(subject, self.over(data), &some, Detail::Covariance)?;
            }
        }
        Ok(())
    }

    /// Calibration on some of the samples.
    pub(super) fn over<'d>(&self, data: &'d Dataset) -> Calibration<'d> {
        Calibration {
            data,
            batch: self.at_once,
            runs: self.runs,
            seed: self.seed,
            limits: self.limits,
            recorded: None,
            team: None,
        }
    }

    /// The memory that pricing may take.
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Inputs of the held-out samples.
    pub(crate) fn batches(&self) -> &[Vec<NamedTensor>] {
        &self.batches
    }

    /// What `original` makes of the held-out samples: of as many as memory allows.
    ///
    /// # Errors
    /// If it cannot be run.
    pub(crate) fn reference(&mut self, original: &ModelProto) -> Result<Reference> {
        Reference::new(original, &mut self.batches, self.limits)
    }

    /// Number of held-out samples that are measured on.
    pub(crate) fn measured(&self) -> usize {
        self.sizes.iter().take(self.batches.len()).sum()
    }
}
