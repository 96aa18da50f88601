//! Carries out the choice that prices suggest, and compares what the whole loses with the sum of the prices.
//!
//! Prices are measured with one group narrowed alone. Where all together lose far more than that, they are measured again on
//! the way: at a part of the budget, on the model as it is then, for the rest. Before that, they are corrected by
//! [`depth`](super::depth).

use super::pricing::Pricing;
use super::steps::{Job, compose};
use super::survey::{Choice, Survey};
use crate::axes::Selection;
use crate::error::{ErrorKind, Result};
use crate::onnx::Model;
use crate::onnx::proto::ModelProto;
use crate::plan::{Quota, Request};
use crate::price::Effort;
use crate::repair::{Bases, repair};
use crate::report::PricingReport;
use crate::rewrite;

/// Prices are measured again where the whole loses more than this many times their sum.
const BEYOND: f64 = 2.0;

/// Most times that prices are measured on the way to a budget.
const ROUNDS: usize = 3;

/// Loss that is not worth another round.
const NEGLIGIBLE: f64 = 1e-3;

/// A choice that was carried out and measured.
pub(super) struct Tried {
    pub(super) selection: Selection,
    pub(super) rounds: Vec<PricingReport>,
    /// What the whole loses on held-out samples, repaired on the others.
    pub(super) loss: f64,
}

impl Tried {
    /// Whether the whole loses next to nothing.
    pub(super) fn is_negligible(&self) -> bool {
        self.loss <= NEGLIGIBLE
    }

    /// What the prices said.
    fn expected(&self) -> f64 {
        self.rounds.last().map_or(0.0, |round| round.loss)
    }

    fn is_beyond(&self) -> bool {
        self.loss > (BEYOND * self.expected()).max(NEGLIGIBLE)
    }
}

impl Job<'_, '_> {
    /// Chooses the units to keep in one step. If prices share a budget, it measures them in as many rounds as needed
    /// for reliable prices.
    ///
    /// # Errors
    /// As [`Survey::choose`], and if a model cannot be repaired or run.
    pub(in crate::jobs) fn choose_in_rounds(&self) -> Result<Choice> {
        let mut first = self.survey.choose(self.options, &self.request(1, 1), self.judges())?;
        let (false, Ok(pricing)) = (first.pricing.is_empty(), self.pricing) else { return Ok(first) };
        let mut notes = std::mem::take(&mut first.notes);
        // Another limit was tried for the same target: its corrections hold for this one.
        let known = self.survey.factors();
        if let (Some(factors), request @ Request { quota: Quota::Budget(budget), .. }) = (&known, self.request(1, 1)) {
            first = self.survey.choose_by(self.options, (&request, budget), self.judges(), factors)?;
        }
        let mut best = self.carried_out(pricing, first)?;
        if self.options.effort != Effort::Fast
            && known.is_none()
            && let Some(found) = self.tried_by_depth(pricing, &best)?
        {
            notes.push(found.note(best.loss));
            let is_better = found.tried.loss < best.loss;
            let plain = vec![1.0; found.of_groups.len()];
            self.survey.keep_factors(Some(if is_better { found.of_groups } else { plain }));
            if is_better {
                best = found.tried;
            }
        }
        for rounds in 2..=ROUNDS {
            if !best.is_beyond() {
                break;
            }
            let (loss, expected) = (best.loss, best.expected());
            let found = match self.tried(pricing, rounds) {
                Err(error) if error.kind() == ErrorKind::Nothing => break,
                Err(error) if matches!(error.kind(), ErrorKind::Input | ErrorKind::Runtime) => {
                    notes.push(format!(
                        "all removals together lose {loss:.3}, the groups one by one {expected:.3}; losses could not be measured again along the way: {error}"
                    ));
                    break;
                }
                found => found?,
            };
            notes.push(format!(
                "all removals together lose {loss:.3}, the groups one by one {expected:.3}: with losses measured {rounds} times along the way, all lose {:.3}",
                found.loss
            ));
            if found.loss >= loss {
                break;
            }
            best = found;
        }
        Ok(Choice { selection: best.selection, pricing: best.rounds, notes })
    }

    /// A choice by prices, carried out on the samples that prices are fitted on, and measured on the others.
    ///
    /// # Errors
    /// As [`loss_of`](Self::loss_of).
    pub(super) fn carried_out(&self, pricing: &Pricing, choice: Choice) -> Result<Tried> {
        let loss = self.loss_of(pricing, &choice.selection)?;
        let report = |report| PricingReport { measured: Some(loss), ..report };
        let rounds = choice.pricing.into_iter().map(report).collect();
        Ok(Tried { selection: choice.selection, rounds, loss })
    }

    /// Goes to the budget in this many steps, each by prices of the model as it is before; carried out on the samples that
    /// prices are fitted on, and measured on the others.
    fn tried(&self, pricing: &Pricing, rounds: usize) -> Result<Tried> {
        let mut reports = Vec::new();
        let mut before: Option<(Model, Selection, f64)> = None;
        for round in 1..=rounds {
            let next = before
                .as_ref()
                .map(|(model, ..)| Survey::new(model, self.options, self.fitted(), self.meter))
                .transpose()?;
            let survey = next.as_ref().unwrap_or(self.survey);
            let choice = survey.choose(self.options, &self.request(round, rounds), self.judges())?;
            let selection = match &before {
                Some((_, done, _)) => compose(&self.survey.groups, done, &survey.groups, &choice.selection)?,
                None => choice.selection,
            };
            let (rewritten, _) = self.tried_on(pricing, &selection)?;
            let loss = pricing.distance(&rewritten)?;
            let already = before.as_ref().map_or(0.0, |(.., loss)| *loss);
            reports.extend(choice.pricing.into_iter().map(|report| PricingReport {
                loss: already + report.loss,
                measured: Some(loss),
                ..report
            }));
            drop(next);
            before = Some((self.model.with_proto(rewritten), selection, loss));
        }
        let (selection, loss) = before.map(|(_, selection, loss)| (selection, loss)).unwrap_or_default();
        Ok(Tried { selection, rounds: reports, loss })
    }

    /// What a selection loses on held-out samples, repaired on the others.
    ///
    /// # Errors
    /// As [`tried_on`](Self::tried_on).
    pub(in crate::jobs) fn loss_of(&self, pricing: &Pricing, selection: &Selection) -> Result<f64> {
        pricing.distance(&self.tried_on(pricing, selection)?.0)
    }

    /// The original with only `selection` left, repaired on the samples that prices are fitted on, and the bases that its heads
    /// are in.
    ///
    /// # Errors
    /// If it cannot be rewritten, repaired or run.
    pub(in crate::jobs) fn tried_on(&self, pricing: &Pricing, selection: &Selection) -> Result<(ModelProto, Bases)> {
        let subject = self.survey.analysis.subject();
        if selection.touched().next().is_none() {
            return Ok((subject.model.clone(), Bases::default()));
        }
        let mut bases = self.survey.bases.clone();
        let mut rewritten = rewrite::prune(subject, selection)?;
        bases.write(subject, selection, &mut rewritten)?;
        let fitted = pricing.fitted();
        let data = if self.fits_weights() { self.survey.recorded_on_fitted(fitted)? } else { fitted };
        let (rewritten, _) = repair(subject, selection, rewritten, data, (self.method, &mut bases))?;
        Ok((rewritten, bases))
    }
}
