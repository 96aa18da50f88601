//! Prices corrected by depth.
//!
//! A price is measured with only the readers of its group repaired. In the pruned model, all later layers are repaired too. They
//! correct much of an error near the input; near the output, no layers follow. In MobileNetV2, the first blocks cost a third of
//! their prices. So the removals are carried out in three parts, and the loss of each part, divided by the sum of its prices,
//! corrects these prices.

use std::ops::Range;

use super::pricing::Pricing;
use super::rounds::Tried;
use super::steps::Job;
use crate::axes::Selection;
use crate::error::Result;
use crate::plan::{Quota, Scored};
use crate::price::Curve;
use crate::price::groups::Prices;

/// Parts in which a choice is carried out: near the input, in the middle, and near the output.
const PARTS: usize = 3;

/// Narrowed groups from which on parts differ in depth more than in anything else.
const ENOUGH_GROUPS: usize = 2 * PARTS;

/// Corrections are kept within these: held-out samples are few.
const FACTORS: (f64, f64) = (0.1, 10.0);

/// A choice by corrected prices.
pub(super) struct ByDepth {
    pub(super) tried: Tried,
    /// Loss of each part, as a share of its prices.
    factors: Vec<f64>,
    /// The same for each group.
    pub(super) of_groups: Vec<f64>,
}

impl ByDepth {
    /// What was found; `before` is the loss of the choice by prices that were not corrected.
    pub(super) fn note(&self, before: f64) -> String {
        let shares: Vec<String> = self.factors.iter().map(|factor| format!("{:.0} %", 100.0 * factor)).collect();
        let (loss, used) = (self.tried.loss, if self.tried.loss < before { "used" } else { "not used" });
        format!(
            "with all layers repaired, the removals cost {} of their measured losses, from the input to the output; with losses corrected by this ({used}), all removals together lose {loss:.3} instead of {before:.3}",
            shares.join(", ")
        )
    }
}

impl Job<'_, '_> {
    /// The choice by prices that are corrected by what the parts of another choice, `tried`, lose; `None` if it has too few groups,
    /// or if the correction changes nothing.
    ///
    /// # Errors
    /// If a model cannot be made, repaired or run.
    pub(super) fn tried_by_depth(&self, pricing: &Pricing, tried: &Tried) -> Result<Option<ByDepth>> {
        let request = self.request(1, 1);
        let Quota::Budget(budget) = request.quota else { return Ok(None) };
        let (scored, prices) = self.survey.priced(self.options, &request, self.judges())?;
        let Ok(prices) = prices else { return Ok(None) };
        let losses = losses(&scored, prices, &tried.selection);
        if tried.is_negligible() || losses.iter().filter(|&&loss| loss > 0.0).count() < ENOUGH_GROUPS {
            return Ok(None);
        }
        let mut factors = Vec::with_capacity(PARTS);
        let mut of_groups = Vec::with_capacity(losses.len());
        for part in parts(&losses) {
            let mut selection = Selection::all();
            for Scored { group, .. } in &scored[part.clone()] {
                if let Some(flags) = tried.selection.flags(group.factor) {
                    selection.keep(group.factor, flags.to_vec());
                }
            }
            let expected: f64 = losses[part.clone()].iter().sum();
            let loss = self.loss_of(pricing, &selection)?;
            let factor = if expected > 0.0 { (loss / expected).clamp(FACTORS.0, FACTORS.1) } else { 1.0 };
            factors.push(factor);
            of_groups.extend(part.map(|_| factor));
        }
        let choice = self.survey.choose_by(self.options, (&request, budget), self.judges(), &of_groups)?;
        if choice.selection == tried.selection {
            return Ok(None);
        }
        let tried = self.carried_out(pricing, choice)?;
        Ok(Some(ByDepth { tried, factors, of_groups }))
    }
}

/// The price of each group at the width that a selection leaves.
fn losses(scored: &[Scored<'_>], prices: &Prices, selection: &Selection) -> Vec<f64> {
    let loss = |(scored, curve): (&Scored<'_>, &std::result::Result<Curve, String>)| {
        let group = scored.group;
        let removed = group.size - selection.count(group.factor, group.size);
        curve.as_ref().map_or(0.0, |curve| curve.at(removed))
    };
    scored.iter().zip(&prices.curves).map(loss).collect()
}

/// Ranges of groups, which stand in the order of the graph, of about the same loss.
#[allow(clippy::cast_precision_loss)]
fn parts(losses: &[f64]) -> Vec<Range<usize>> {
    let total: f64 = losses.iter().sum();
    let (mut parts, mut start, mut done) = (Vec::with_capacity(PARTS), 0, 0.0);
    for part in 1..=PARTS {
        let until = total * part as f64 / PARTS as f64;
        let mut end = start;
        // A group belongs to the part that its middle lies in.
        while end < losses.len() && (part == PARTS || done + losses[end] / 2.0 < until) {
            done += losses[end];
            end += 1;
        }
        parts.push(start..end);
        start = end;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_of_about_the_same_loss() {
        assert_eq!(parts(&[1.0; 6]), [0..2, 2..4, 4..6]);
        assert_eq!(parts(&[0.0, 3.0, 1.0, 1.0, 1.0, 0.0, 1.0, 2.0, 0.0]), [0..2, 2..5, 5..9]);
        assert_eq!(parts(&[0.0, 9.0]), [0..1, 1..2, 2..2]);
        assert_eq!(parts(&[0.0; 2]), [0..0, 0..0, 0..2]);
    }
}
