//! Structured pruning, from a model to a pruned one.

mod checkpoint;
mod depth;
mod heads;
pub(in crate::jobs) mod judge;
mod latency;
pub(in crate::jobs) mod options;
pub(in crate::jobs) mod pricing;
mod pruned;
mod remarks;
mod rounds;
pub(in crate::jobs) mod search;
mod series;
pub(in crate::jobs) mod steps;
pub(in crate::jobs) mod survey;

use super::clock::Clock;
use super::outcome::Outcome;
use crate::calibrate::data::Dataset;
use crate::error::Result;
use crate::onnx::Model;
use pruned::Pruned;

pub(in crate::jobs) use checkpoint::job_name;
pub use options::{PruneOptions, Target};
pub(in crate::jobs) use series::Series;

/// Chooses what is removed, rewrites the model and repairs the kept weights; if asked, trains them.
///
/// With several steps, each is scored on the result of the one before. Without training, what was chosen is carried out and
/// repaired on the original, so that no error of a repair is carried on; trained weights are carried on.
///
/// With [`Target::MaxDrop`], the smallest model (in multiply–accumulates) is searched that loses no more than that: of the
/// user's own metric, or on a fifth of the samples that nothing else is decided on.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) for contradictory options, [`Input`](crate::ErrorKind::Input) for a malformed model or plan,
/// [`Nothing`](crate::ErrorKind::Nothing) if nothing can be removed, the budget is out of reach, or even the smallest removal
/// loses too much.
pub(crate) fn prune(model: &Model, options: &PruneOptions) -> Result<Outcome> {
    options.check()?;
    let (options, samples) = options.with_those_of_plan().opened(model)?;
    let options = &options;
    let data = samples.data.as_ref();
    let pruned = match options.target {
        Target::MaxDrop(allowed) => search::search(model, options, &samples, allowed),
        Target::Latency(remaining) => latency::prune(model, options, data, remaining),
        _ => to_target(model, options, data),
    };
    Ok(samples.kept(pruned)?.into_outcome(options, samples))
}

fn to_target<'m>(model: &'m Model, options: &PruneOptions, data: Option<&Dataset>) -> Result<Pruned<'m>> {
    let mut clock = Clock::start(&options.setting.progress);
    let series = Series::new(model, options, data, None)?;
    clock.lap("analyse")?;
    Ok(series.carry_out(options, clock)?.of(series.survey))
}
