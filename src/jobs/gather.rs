//! Gathering: the passes over the samples alone, so that several machines can share them.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::setting::{Setting, configured, recalling};
use crate::analysis::{Analysis, Subject};
use crate::calibrate::{Calibration, Recorded, Recording, Stats};
use crate::error::{Error, Result};
use crate::factorize::candidates::candidates;
use crate::factorize::inputs::input_moments;
use crate::lowrank::conv::ConvMode;
use crate::onnx::Model;
use crate::plan::{Align, CostModel, Filter, Group, Units, groups};
use crate::price::samples::Samples as Apart;
use crate::repair::{Bases, recording};
use crate::score::{self, Context};

/// Options of [`gather`](crate::gather).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct GatherOptions {
    pub(crate) setting: Setting,
}

configured!(GatherOptions);
recalling!(GatherOptions);

impl GatherOptions {
    /// Gathers from all samples.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gathers from one share of the samples only: share `number` of `of`, counted from 1. Every machine gets all samples as
    /// [`data`](Self::data), so that it knows which are its own; [`merge_stats`](crate::merge_stats) puts the shares together.
    pub fn share(mut self, number: usize, of: usize) -> Self {
        self.setting.share = Some((number, of));
        self
    }
}

/// Gathers the sums that `prune` by `obs` and `factorize` are based on, and keeps them in a file. Returns the number of new ones.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) without samples or without a file to keep them in, [`Input`](crate::ErrorKind::Input) for
/// a malformed model or data.
pub(crate) fn gather(model: &Model, options: &GatherOptions) -> Result<usize> {
    if options.setting.stats.is_none() {
        return Err(Error::usage("say where to keep what is gathered: give a file with `stats`"));
    }
    options.setting.progress.enter("analysing")?;
    let (options, samples) = options.opened(model)?;
    let Setting { dims, seed, limits, progress, .. } = &options.setting;
    let Some(data) = &samples.data else { return Err(Error::usage("there are no samples: give some with `data`")) };
    let analysis = Analysis::new(model, dims, &BTreeSet::new())?;
    let subject = analysis.subject();
    let calibration = Calibration::within(subject.model, data, *seed, *limits)?;
    progress.enter("gathering")?;
    let passes = Passes { scores: true, dimensions: true, splits: true, prices: true };
    gather_for(subject, calibration, (passes, Recording::without_rows))?;
    let added = data.stats().map_or(0, |stats: &Stats| stats.counts().1);
    samples.kept(Ok(added))
}

/// Which sums a pass over the samples collects.
#[allow(clippy::struct_excessive_bools)] // each stands by itself
#[cfg_attr(not(feature = "cli"), allow(unreachable_pub))] // only a program around the commands has workers
#[derive(Debug, Clone, Copy, Default)]
pub struct Passes {
    /// For scores of units.
    pub scores: bool,
    /// For scores of the dimensions of heads as well. A job that takes these in new bases knows theirs from the bases.
    pub dimensions: bool,
    /// For splits of layers.
    pub splits: bool,
    /// For prices, which are fitted on a part of the samples.
    pub prices: bool,
}

/// Gathers sums into the statistics of the samples. Returns what the pass for the scores recorded besides, which is what `kept`
/// leaves of a recording.
///
/// # Errors
/// If reading the data or running the model fails.
pub(super) fn gather_for(
    subject: Subject<'_>,
    calibration: Calibration<'_>,
    (passes, kept): (Passes, fn(Recording) -> Recording),
) -> Result<Option<Recorded>> {
    let heads = if passes.scores { Bases::gather(subject, calibration)? } else { BTreeSet::new() };
    let filter = Filter::new(&[], &[], Units::default(), false)?.aligned(Align::default());
    let ordered = if passes.dimensions { BTreeSet::new() } else { heads.clone() };
    let all = groups(subject, &CostModel::new(subject), &filter.ordered(ordered.clone()));
    let is_scored = |group: &&Group| group.is_open(false) && !ordered.contains(&group.factor);
    let open: Vec<&Group> = all.iter().filter(is_scored).collect();
    let score = |data: Calibration<'_>, kept: fn(Recording) -> Recording| -> Result<Option<Recorded>> {
        let recording = Mutex::new(kept(recording(subject, data)?));
        let context =
            Context { subject, groups: &open, seed: data.seed, data: Some(data), recording: Some(&recording) };
        score::gather(&context)?;
        Ok(recording.into_inner().unwrap_or_else(PoisonError::into_inner).finish())
    };
    let recorded = if passes.scores { score(calibration, kept)? } else { None };
    let (candidates, conv) = (candidates(subject).open, ConvMode::default());
    let apart = if passes.prices { Apart::new(calibration)? } else { None };
    if let Some(apart) = &apart {
        if passes.scores {
            score(apart.fitted(), Recording::without_rows)?;
            // Groups of a model with heads are priced in new bases, which are known once all shares are merged.
            if heads.is_empty() {
                apart.gather(subject, &open)?;
            }
        }
        if passes.splits {
            input_moments(subject, apart.fitted(), (&candidates, conv))?;
        }
    }
    if passes.splits {
        input_moments(subject, calibration, (&candidates, conv))?;
    }
    Ok(recorded)
}
