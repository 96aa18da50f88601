//! The public API: jobs, their options and their results.

pub use crate::calibrate::data::images::{ImageOptions, Layout};
pub use crate::calibrate::{Merged, merge_stats};
pub use crate::error::{Error, ErrorKind, Result};
pub use crate::factorize::{ConvMode, Method as Factorization};
pub use crate::jobs::{
    Array, CompressOptions, Counted, Dataset, FactorizeOptions, GatherOptions, InspectOptions, Means, Outcome,
    PruneOptions, RecordedTimes, SweepOptions, TuneOptions, Values, VerifyOptions,
};
pub use crate::latency::{RuntimeLatency, RuntimeName, RuntimeOptions, Runtimes, Timing};
pub use crate::metric::{Metric, MetricReport};
pub use crate::onnx::{Model, SaveOptions};
pub use crate::plan::{Hardware, Plan, PlannedGroup, Remaining, Scope, Units};
pub use crate::price::Effort;
pub use crate::progress::Cancel;
pub use crate::repair::Method as Repair;
pub use crate::report::{
    BeforeAfter, BoundReport, CalibrationReport, CandidateReport, EpochReport, FrozenReport, GroupReport,
    LatencyReport, LatencyRound, LayerReport, LayerSize, MemberReport, MemoryReport, ModelFigures, NodeReport,
    OperatorTime, PriceReport, PricingReport, RepairReport, Report, SearchReport, SweepPoint, SweepReport, TrialReport,
    TuningReport,
};
pub use crate::train::{Loss, Options as Training};
pub use crate::verify::{Accuracy, Pairs, VerifyReport};

use crate::defect::contained;
use crate::jobs;
use crate::progress::Progress;

/// Lists every coupled group of a model: its kind of units, its tensors, its cost, and the node that freezes it.
///
/// # Errors
/// [`Input`](ErrorKind::Input) if the model is malformed; [`Usage`](ErrorKind::Usage) if the options name a value or
/// dimension that the graph does not have.
pub fn inspect(model: &Model, options: &InspectOptions) -> Result<Report> {
    let progress = Progress::default();
    progress.say("analysing");
    contained(&progress, || jobs::inspect(model, options))
}

/// Removes the least important neurons, channels and attention heads, and repairs the kept weights.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) for contradictory options, [`Input`](ErrorKind::Input) for a malformed model, plan or data,
/// [`Nothing`](ErrorKind::Nothing) if nothing can be removed or the budget is out of reach,
/// [`Interrupted`](ErrorKind::Interrupted) if the job was cancelled.
pub fn prune(model: &Model, options: &PruneOptions) -> Result<Outcome> {
    contained(&options.setting.progress, || jobs::prune_model(model, options))
}

/// Splits layers into smaller ones of low rank.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) for contradictory options, [`Input`](ErrorKind::Input) for a malformed model, plan or data,
/// [`Nothing`](ErrorKind::Nothing) if no layer is split or the budget is out of reach,
/// [`Interrupted`](ErrorKind::Interrupted) if the job was cancelled.
pub fn factorize(model: &Model, options: &FactorizeOptions) -> Result<Outcome> {
    contained(&options.setting.progress, || jobs::factorize(model, options))
}

/// Gathers the sums that `prune` by `obs` and `factorize` are based on, and keeps them in a file of statistics, so that several
/// machines can share the passes over the samples. Returns the number of results that are new in the file.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) without samples or without a file, [`Input`](ErrorKind::Input) for a malformed model or data,
/// [`Interrupted`](ErrorKind::Interrupted) if the job was cancelled.
pub fn gather(model: &Model, options: &GatherOptions) -> Result<usize> {
    contained(&options.setting.progress, || jobs::gather(model, options))
}

/// Makes a model smaller by all means together: removes units, removes dimensions of heads, and splits layers, whatever costs
/// the output least under one budget.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) for contradictory options or without samples, [`Input`](ErrorKind::Input) for a malformed
/// model, plan or data, [`Nothing`](ErrorKind::Nothing) if nothing can be done or the budget is out of reach,
/// [`Interrupted`](ErrorKind::Interrupted) if the job was cancelled.
pub fn compress(model: &Model, options: &CompressOptions) -> Result<Outcome> {
    contained(&options.setting.progress, || jobs::compress(model, options))
}

/// Trains the weights of a model on labels, or on the outputs of a teacher model. Nothing else in the file changes.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) if there are no samples or there is nothing to learn from, [`Input`](ErrorKind::Input) for a
/// malformed model, too few samples, or an operator without a gradient, [`Interrupted`](ErrorKind::Interrupted) if the job
/// was cancelled.
pub fn tune(model: &Model, options: &TuneOptions) -> Result<Outcome> {
    contained(&options.setting.progress, || jobs::tune(model, options))
}

/// Prunes a model to several budgets. Each result is proved, timed in `runtimes` and written, with a report and a page, to
/// the folder of the options; a sweep that was interrupted goes on there.
///
/// # Errors
/// As [`prune`] and [`Outcome::prove`]; [`Input`](ErrorKind::Input) if the folder holds another sweep,
/// [`Nothing`](ErrorKind::Nothing) if no budget can be met.
pub fn sweep(model: &Model, options: &SweepOptions, runtimes: Option<&Runtimes>) -> Result<SweepReport> {
    contained(&options.setting().progress, || jobs::sweep(model, options, runtimes))
}

/// Times the operators of a model at the sizes that pruning may leave, and writes them to the file that
/// [`RuntimeOptions::table`] names. On another machine, that file tells a latency budget how fast they are here.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) if no file is named, or it was recorded on another machine; [`Input`](ErrorKind::Input) for a
/// malformed model, or one that the runtime does not run; [`Output`](ErrorKind::Output) if the file cannot be written.
pub fn record_times(model: &Model, options: &PruneOptions) -> Result<RecordedTimes> {
    contained(&options.setting.progress, || jobs::record(model, options))
}

/// Proves a rewritten model against its original: checks that it is valid and, with the plan, exact; measures fidelity
/// and latency.
///
/// # Errors
/// [`Proof`](ErrorKind::Proof) if the rewritten model fails a check, [`Runtime`](ErrorKind::Runtime) if tract cannot
/// run it, [`Input`](ErrorKind::Input) if a model, the plan or the data is malformed.
pub fn verify(original: &Model, rewritten: &Model, options: &VerifyOptions) -> Result<Report> {
    contained(&options.setting.progress, || jobs::verify(original, rewritten, options))
}
