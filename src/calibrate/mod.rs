//! Calibration: reads data, runs models on it, accumulates statistics.
//!
//! [`Layer`] says how a linear operator reads its input as rows of a matrix, [`Stream`] brings the activations of a
//! model batch by batch without running any part of it twice, [`sums`] adds up their products, [`evidence`] sets them beside
//! what a layer should make of them, and [`pair`] brings two models along together.

mod at;
mod block;
pub mod data;
pub mod evidence;
mod exposed;
mod feeding;
mod layer;
mod leaves;
mod merge;
mod padding;
pub(crate) mod pair;
mod recorded;
mod rows;
pub(crate) mod stages;
mod statistics;
pub(crate) mod stats;
mod steps;
pub mod sums;
#[cfg_attr(not(feature = "cli"), allow(dead_code, unreachable_pub))] // only a program around the commands has workers
pub(crate) mod team;
mod window;

pub(crate) use crate::runtime::in_turn;
pub use crate::runtime::{Activations, Checkpoint, Held, Segment, Stream};
pub use feeding::{Feeding, OutputAxes};
pub(crate) use layer::{ALL_TAPS, WIDEST};
pub use layer::{Layer, layers, readers};
pub use rows::Sampler;
pub use statistics::{InputStatistics, input_statistics};
pub use sums::{Detail, Sums};

pub(crate) use at::At;
pub(crate) use block::{BLOCK_ROWS, Block, Columns};
pub(crate) use evidence::{Evidence, Gather};
pub(crate) use exposed::exposed;
pub(crate) use leaves::{Division, Folded, Growing, LEAVES, Portions, QUARTERS, Sum};
pub use merge::{Merged, merge_stats};
pub(crate) use padding::Padding;
pub(crate) use pair::{Pair, Reference, Visit, Wanted};
pub(crate) use recorded::{Recorded, Recording};
pub(crate) use rows::{Lines, Row, floats};
pub(crate) use statistics::{Accumulator, Kept, Product, pass, pass_over, rows_of, statistics};
pub(crate) use stats::{Key, Origin, Record, Stats, row};
pub(crate) use sums::{rounded, whole};
pub(crate) use team::Team;
pub(crate) use window::Window;

use crate::error::Result;
use crate::onnx::proto::ModelProto;
use crate::runtime::{Limits, Runs};
use data::{Batch, Dataset};
use prost::Message;
use std::ops::Range;

/// Values of the inputs of one run, where samples are smaller than that.
const VALUES_AT_ONCE: usize = 1 << 14;

/// Samples of one run.
const MOST_AT_ONCE: usize = 32;

/// Samples that calibration runs on.
#[derive(Debug, Clone, Copy)]
pub struct Calibration<'a> {
    /// The samples.
    pub data: &'a Dataset,
    /// Samples that run at once.
    pub batch: usize,
    /// How many batches run side by side.
    pub runs: Runs,
    /// Seed of the choice of positions.
    pub seed: u64,
    /// The memory that it may take.
    pub limits: Limits,
    /// What an earlier pass over these samples recorded of the original.
    pub(crate) recorded: Option<&'a Recorded>,
    /// The processes that share the repair.
    pub(crate) team: Option<&'a Team>,
}

impl<'a> Calibration<'a> {
    /// Calibration on all samples of `data`. Samples of many values run one by one, which is where tract is fastest; small
    /// ones share a run.
    pub fn new(data: &'a Dataset, seed: u64) -> Self {
        let sample = data.batches_of(0..1, 1).next().and_then(Result::ok);
        let values = sample.map_or(0, |batch| batch.inputs.iter().map(|(_, tensor)| tensor.len()).sum::<usize>());
        let batch = (VALUES_AT_ONCE / values.max(1)).clamp(1, data.most_at_once().unwrap_or(MOST_AT_ONCE));
        let runs = Runs { surely: usize::MAX, inside: 0 };
        Self { data, batch, runs, seed, limits: Limits::default(), recorded: None, team: None }
    }

    /// [`new`](Self::new) for `model`, with no more samples at once than `limits` allow: batches are run while all values of
    /// those before are summed up.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when one sample alone takes more memory than that.
    pub fn within(model: &ModelProto, data: &'a Dataset, seed: u64, limits: Limits) -> Result<Self> {
        Self::fed((model, &Feeding::of(model, data)), data, seed, limits)
    }

    /// [`within`](Self::within), where it is known how the model takes samples.
    ///
    /// # Errors
    /// As [`within`](Self::within).
    pub(crate) fn fed(
        (model, feeding): (&ModelProto, &Feeding),
        data: &'a Dataset,
        seed: u64,
        limits: Limits,
    ) -> Result<Self> {
        let limits = limits.beside(model.encoded_len() as u64);
        let all = Self { limits, ..Self::new(data, seed) };
        let batch = feeding.keeping(limits, 2, all.batch)?;
        Ok(Self { batch, runs: feeding.runs(limits, 2, batch), ..all })
    }

    /// Some samples in order, in batches none of which reaches into another quarter: so they are the same ones, whoever runs them.
    pub(crate) fn batches(self, samples: Range<usize>) -> impl Iterator<Item = Result<Batch>> + Send + use<'a> {
        let division = Division::in_quarters(self.data);
        (0..QUARTERS).flat_map(move |quarter| {
            let of_quarter = division.samples(&(quarter..quarter + 1));
            let own = of_quarter.start.max(samples.start)..of_quarter.end.min(samples.end);
            (!own.is_empty()).then(|| self.data.batches_of(own, self.batch)).into_iter().flatten()
        })
    }

    /// The quarters of the samples that this process runs in a repair.
    pub(crate) fn quarters(self) -> Range<usize> {
        self.team.map_or(0..QUARTERS, Team::own)
    }

    /// The samples that this process runs in a pass over the original.
    pub(crate) fn own(self) -> Range<usize> {
        match (self.data.stats().and_then(Stats::leaves), self.team) {
            (Some(leaves), _) => Division::of(self.data).samples(leaves),
            (None, Some(team)) if !team.is_lead() => Division::in_quarters(self.data).samples(&team.own()),
            _ => 0..self.data.samples(),
        }
    }

    /// Whether sums of portions of the samples are kept apart, because those before them are summed up elsewhere.
    pub(crate) fn is_apart(self) -> bool {
        self.quarters().start > 0 || self.data.is_apart()
    }
}
