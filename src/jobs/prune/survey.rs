//! An analysed model with its groups, ready to choose from.

use std::collections::BTreeSet;

use super::{PruneOptions, Target};
use crate::analysis::Analysis;
use crate::axes::{Role, Selection};
use crate::calibrate::Calibration;
use crate::error::{Error, Result};
use crate::jobs::inspect::check_thawed;
use crate::onnx::Model;
use crate::plan::{CostModel, Filter, Group, Request, groups, select};
use crate::runtime::probes::probe_batches;
use crate::score::{Context, Criterion};
use crate::verify::own_fault;

/// A model, its groups, and which of them are open.
pub(super) struct Survey<'m> {
    pub(super) analysis: Analysis<'m>,
    pub(super) groups: Vec<Group>,
}

impl<'m> Survey<'m> {
    pub(super) fn new(model: &'m Model, options: &PruneOptions) -> Result<Self> {
        let thaw: BTreeSet<String> = options.thaw.iter().cloned().collect();
        let analysis = Analysis::new(model, &options.setting.dims, &thaw)?;
        check_thawed(&analysis, &options.thaw)?;
        let filter = Filter::new(&options.include, &options.exclude, options.units, options.allow_shifts)?
            .aligned(options.align);
        let groups = groups(analysis.subject(), &CostModel::new(analysis.subject()), &filter);
        Ok(Self { analysis, groups })
    }

    /// Chooses the units that stay.
    pub(super) fn choose(
        &self,
        options: &PruneOptions,
        criterion: &Criterion,
        request: &Request,
        data: Option<Calibration<'_>>,
    ) -> Result<Selection> {
        let open: Vec<&Group> = self.groups.iter().filter(|group| group.is_open(options.allow_shifts)).collect();
        if open.is_empty() {
            let nothing = nothing_open(&self.groups, options);
            return Err(match self.contradiction(options).filter(|_| options.verify) {
                Some(fault) => Error::input(format!("{fault}\n{nothing}")),
                None => nothing,
            });
        }
        let subject = self.analysis.subject();
        let score = || criterion.score(&Context { subject, groups: &open, seed: options.setting.seed, data });
        match &options.target {
            Target::Plan(plan) => {
                let scored = if plan.needs_scores() { score()? } else { Vec::new() };
                plan.selection(&self.groups, &scored, request, options.allow_shifts)
            }
            _ => select(&score()?, &CostModel::new(subject), request),
        }
    }
}

impl Survey<'_> {
    /// Sizes that contradict each other freeze everything around them: then the file is to blame, if it does not run.
    fn contradiction(&self, options: &PruneOptions) -> Option<Error> {
        let Analysis { facts, network, model, .. } = &self.analysis;
        if facts.gaps.is_empty() && network.misfits == 0 {
            return None;
        }
        let sizes = self.analysis.probe_sizes(&options.setting.dims);
        let batches = probe_batches(self.analysis.subject().proto().ok()?, &sizes, 1, options.setting.seed);
        match batches.map(|batches| batches.into_iter().next()) {
            Ok(inputs) => own_fault(&model.proto, &inputs?),
            Err(error) => Some(error),
        }
    }
}

/// Why no group can be pruned: the strongest reasons, biggest groups first.
fn nothing_open(groups: &[Group], options: &PruneOptions) -> Error {
    let mut held: Vec<&Group> = groups.iter().filter(|group| group.size > 1).collect();
    held.sort_by_key(|group| std::cmp::Reverse(group.controls.params));
    let mut message = "nothing can be removed from this model".to_owned();
    for group in held.iter().take(5) {
        let reason = group.role.reason().map(ToString::to_string).or_else(|| group.excluded.clone());
        let reason = reason.unwrap_or_default();
        message += &format!("\n  {} ({} {}): {reason}", group.name, group.size, group.kind.name());
    }
    let shifts = groups.iter().any(|group| matches!(group.role, Role::Shifts(_)));
    if shifts && !options.allow_shifts {
        message += "\nsome groups only shift a statistic: `allow_shifts` removes from them too";
    }
    Error::nothing(message)
}
