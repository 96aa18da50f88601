//! What was chosen, carried out on all samples.

use super::candidates::Candidate;
use super::options::CompressOptions;
use crate::analysis::Analysis;
use crate::error::Result;
use crate::factorize::select;
use crate::jobs::clock::Clock;
use crate::jobs::factorize::{Offers, Split, costs, layers};
use crate::jobs::prune::steps::{Finish, Job};
use crate::plan::Plan;
use crate::report::LayerReport;

/// Carries out on all samples what was chosen.
pub(super) fn finish(
    job: &Job<'_, '_>,
    options: &CompressOptions,
    chosen: Candidate,
    mut clock: Clock,
) -> Result<Finish> {
    let done = job.carry_out(chosen.choice, &mut clock)?;
    let bases = done.bases.clone();
    let mut finished = job.finish(done, Clock::start(&options.setting.progress));
    if chosen.ranks.is_empty() {
        finished.report.seconds = clock.laps;
        return Ok(finished);
    }
    let narrow = &finished.model;
    let analysis = Analysis::new(narrow, &options.setting.dims, &Default::default())?;
    let subject = analysis.subject();
    let splitting = options.splitting(select::Target::Plan(Plan::of_ranks(chosen.ranks)));
    let found = layers(subject, &splitting)?;
    let offers = Offers::new(subject, &found, &splitting, job.data, &mut clock)?;
    let split = offers.split((narrow, subject), (&found, &splitting), (job.data, None), &mut clock)?;
    let Split { model, ranks, layers, notes, .. } = split;
    let (model, refitted) = job.refitted((&finished.selection, &bases), model, ranks.keys(), job.data)?;
    clock.lap("repair")?;
    let model = narrow.with_proto(model);
    let after = costs(&model, &options.setting.dims)?;
    let figures = &mut finished.report.model.after;
    (figures.params, figures.macs) = (after.params, after.macs);
    finished.report.layers = if chosen.layers.is_empty() { layers } else { decided(chosen.layers, &layers) };
    finished.report.enter_rewritten(&job.model.proto, &model);
    finished.report.allocation_gap = chosen.gap;
    if let Some(calibration) = &mut finished.report.calibration {
        calibration.layers.retain(|layer| refitted.iter().all(|later| later.name != layer.name));
        calibration.layers.extend(refitted);
    }
    finished.report.notes.extend(notes);
    finished.plan.ranks = ranks;
    finished.plan.adjusted = true;
    finished.report.seconds = clock.laps;
    drop(found);
    finished.model = model;
    Ok(finished)
}

/// What was decided about each layer, with the error of the factors that are written.
fn decided(mut layers: Vec<LayerReport>, written: &[LayerReport]) -> Vec<LayerReport> {
    for layer in &mut layers {
        if let Some(written) = written.iter().find(|written| written.name == layer.name) {
            layer.error = written.error;
        }
    }
    layers
}
