//! Operator times of a model, recorded in a file that can be carried to another machine.

use std::collections::BTreeSet;

use super::latency::{inputs, signature_of};
use super::prune::PruneOptions;
use crate::analysis::Analysis;
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::plan::{CostModel, Filter, Group, groups};
use crate::times::table::Meter;
use crate::times::times;

/// Operator times that were recorded.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct RecordedTimes {
    /// Runtime, version, processor and threads.
    pub runtime: String,
    /// Median time of one run of the whole model, in milliseconds.
    pub whole_ms: f64,
    /// Number of operators, as the runtime groups nodes.
    pub operators: usize,
    /// Number of operators that cannot be run alone.
    pub untimed: usize,
    /// Number of operator sizes that were timed now; the others were in the file.
    pub timed: usize,
    /// Number of times in the file.
    pub known: usize,
}

/// Times the operators of a model at the sizes that `options` allow, and writes them to the table of `options`.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) if no table is named; as [`Meter::open`] and [`times`].
pub(crate) fn record(model: &Model, options: &PruneOptions) -> Result<RecordedTimes> {
    if options.runtimes.table.is_none() {
        return Err(Error::usage("name the file that times are written to"));
    }
    // Operators are timed at the sizes of the samples, if there are any.
    let (options, _) = options.opened(model)?;
    let options = &options;
    let progress = &options.setting.progress;
    progress.enter("analysing")?;
    let meter = Meter::open(&options.runtimes)?;
    let Some(stopwatch) = meter.stopwatch() else {
        return Err(Error::usage("the table was recorded on another machine: name a new file"));
    };
    let thaw: BTreeSet<String> = options.thaw.iter().cloned().collect();
    let analysis = Analysis::new(model, &options.setting.dims, &thaw)?;
    let subject = analysis.subject();
    let filter =
        Filter::new(&options.include, &options.exclude, options.units, options.allow_shifts)?.aligned(options.align);
    let groups = groups(subject, &CostModel::new(subject), &filter);
    let open: Vec<&Group> = groups.iter().filter(|group| group.is_open(options.allow_shifts)).collect();
    let inputs = inputs(&analysis, &options.setting)?;
    progress.enter("timing the model")?;
    let whole_ms = stopwatch.compare(model, model, &inputs)?.before.median_ms;
    meter.note(signature_of(model, &inputs), whole_ms);
    let found = times(subject, &open, options.min_keep, &meter, progress)?;
    Ok(RecordedTimes {
        runtime: meter.place().to_string(),
        whole_ms,
        operators: found.units,
        untimed: found.estimated,
        timed: meter.measured(),
        known: meter.len(),
    })
}
