//! New bases of heads for a job: found from its samples, and proved by running before anything is decided on them.

use std::collections::BTreeSet;

use super::options::{PruneOptions, Target};
use crate::analysis::Subject;
use crate::analysis::attention::Obstacle;
use crate::axes::{FactorId, Selection};
use crate::calibrate::Calibration;
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::proto::ModelProto;
use crate::plan::{Align, Group, Plan, Units};
use crate::repair::Bases;
use crate::runtime::{NamedTensor, RunOptions, Runnable};
use crate::verify::Exactness;

/// Samples that a model in new bases is compared with the original on, and how many run at once.
const PROVED: (usize, usize) = (8, 2);

/// Columns of a product that are computed at a time.
const BLOCK: usize = 8;

/// The criterion that expects other units to compensate for a removal, as a change of basis does.
const CRITERION: &str = "obs";

/// Bases for the heads of a model, as far as these options use them: none without data, for another criterion than `obs`, or
/// where whole heads go.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) if a plan counts dimensions in such bases, and they cannot be found; if reading the data or
/// running the model fails.
pub(super) fn bases(subject: Subject<'_>, options: &PruneOptions, data: Option<Calibration<'_>>) -> Result<Bases> {
    let by_obs = options.criterion.as_deref().is_none_or(|name| name == CRITERION);
    let data = data.filter(|_| by_obs && options.units != Units::Heads);
    let is_rebased = |plan: &Plan| plan.groups.iter().any(|group| group.rebased);
    match (&options.target, data) {
        (Target::Plan(plan), None) if is_rebased(plan) => Err(Error::usage(
            "the plan counts dimensions of heads in a basis that samples gave them: give the same samples as `data`, \
             and leave `units` and `criterion` as they are by default",
        )),
        (Target::Plan(plan), Some(_)) if !is_rebased(plan) && !plan.needs_scores() => Ok(Bases::default()),
        (_, None) => Ok(Bases::default()),
        (_, Some(data)) => proved(subject, Bases::find(subject, data)?, data),
    }
}

/// The bases in which the model computes the same: all of `bases`, or without each that changes the output on its own; none if
/// that is not enough.
fn proved(subject: Subject<'_>, mut bases: Bases, data: Calibration<'_>) -> Result<Bases> {
    let factors: Vec<FactorId> = bases.shares().into_keys().collect();
    if factors.is_empty() {
        return Ok(bases);
    }
    let batches = data.data.batches_of(0..PROVED.0, PROVED.1);
    let batches: Vec<Vec<NamedTensor>> = batches.map(|batch| batch.map(|batch| batch.inputs)).collect::<Result<_>>()?;
    let original = Runnable::new(subject.model, &RunOptions::default())?;
    let outputs = batches.iter().map(|batch| original.run(batch)).collect::<Result<Vec<_>>>()?;
    let change = |bases: &Bases| -> Result<f64> {
        let mut model = subject.model.clone();
        bases.write(subject, &Selection::all(), &mut model)?;
        let rebased = Runnable::new(&model, &RunOptions::default())?;
        let rebased = batches.iter().map(|batch| rebased.run(batch)).collect::<Result<Vec<_>>>()?;
        match Exactness::between(&outputs, &rebased, &batches) {
            Ok(measured) => Ok(measured.max_rel()),
            // Outputs that are no numbers are the same as nothing.
            Err(error) if matches!(error.kind(), ErrorKind::Proof | ErrorKind::Runtime) => Ok(f64::INFINITY),
            Err(error) => Err(error),
        }
    };
    if change(&bases)? <= Exactness::TOLERANCE {
        return Ok(bases);
    }
    for factor in factors {
        let mut alone = bases.clone();
        alone.retain(|other| other == factor);
        let changed = change(&alone)?;
        if changed > Exactness::TOLERANCE {
            let node = bases.name(factor).unwrap_or_default().to_owned();
            let why = format!("in a new basis of its heads the outputs change by {changed:.1e}");
            bases.obstacles.push(Obstacle { factor, node, why });
            bases.retain(|other| other != factor);
        }
    }
    if change(&bases)? > Exactness::TOLERANCE {
        bases.retain(|_| false);
    }
    Ok(bases)
}

/// Widths of heads are multiples of 8 by default: products are computed in such blocks, separately for every head.
pub(super) fn align(bases: &Bases, options: &PruneOptions, groups: &mut [Group]) {
    let shares = bases.shares();
    let is_wide = |group: &&mut Group| shares.contains_key(&group.factor) && group.size >= 2 * BLOCK;
    for group in groups.iter_mut().filter(is_wide).filter(|_| matches!(options.align, Align::For(_))) {
        group.step = group.step.max(BLOCK);
    }
}

/// Leaves all groups alone but dimensions of heads that are in a new basis.
pub(super) fn only(bases: &Bases, groups: &mut [Group]) {
    let shares = bases.shares();
    for group in groups.iter_mut().filter(|group| !shares.contains_key(&group.factor)) {
        group.excluded.get_or_insert_with(|| "`means` leaves it out".to_owned());
    }
}

/// Leaves only the bases in which a plan counts dimensions, or chooses them by a ratio.
///
/// # Errors
/// [`Input`](ErrorKind::Input) if one of them was not found.
pub(super) fn follow(plan: &Plan, groups: &[Group], bases: &mut Bases) -> Result<()> {
    let factors: BTreeSet<FactorId> = bases.shares().into_keys().collect();
    let planned = |factor: FactorId| {
        let group = groups.iter().find(|group| group.factor == factor)?;
        plan.groups.iter().find(|planned| planned.name == group.name)
    };
    bases.retain(|factor| planned(factor).is_some_and(|planned| planned.rebased || planned.ratio.is_some()));
    let is_found = |name: &str| groups.iter().any(|group| group.name == name && factors.contains(&group.factor));
    match plan.groups.iter().find(|planned| planned.rebased && !is_found(&planned.name)) {
        Some(planned) => Err(Error::input(format!(
            "group '{}' of the plan: its dimensions are counted in a basis that these samples do not reproduce",
            planned.name
        ))),
        None => Ok(()),
    }
}

/// The model in the bases, if it is of the same graph: all vectors of heads are written in place.
///
/// # Errors
/// If a weight cannot be written.
pub(super) fn rebased(subject: Subject<'_>, bases: &Bases) -> Result<Option<ModelProto>> {
    if bases.shares().is_empty() {
        return Ok(None);
    }
    let mut model = subject.model.clone();
    bases.write(subject, &Selection::all(), &mut model)?;
    let tensors = |model: &ModelProto| model.graph.as_ref().map(|graph| (graph.initializer.len(), graph.node.len()));
    Ok((tensors(&model) == tensors(subject.model)).then_some(model))
}

/// What the user should know about heads that keep their basis though dimensions of them could go.
pub(super) fn notes(bases: &Bases) -> impl Iterator<Item = String> {
    bases.obstacles.iter().map(|Obstacle { node, why, .. }| {
        format!(
            "heads keep their basis: '{node}' {why}; their dimensions are not ordered, so whole heads are removed where possible"
        )
    })
}
