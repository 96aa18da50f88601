//! Layers decomposed, once for all ranks.

use rayon::prelude::*;

use super::options::FactorizeOptions;
use crate::analysis::Subject;
use crate::calibrate::Calibration;
use crate::defect::at_node;
use crate::error::Result;
use crate::factorize::candidates::Candidate;
use crate::factorize::correct::Chosen;
use crate::factorize::decompose::Decomposition;
use crate::factorize::inputs::input_moments;
use crate::factorize::price::PriceList;
use crate::factorize::rewrite::added_by_bias;
use crate::factorize::select::{Decision, Offer, ranks_of};
use crate::linalg::default_backend;
use crate::lowrank::Factors;
use crate::lowrank::conv::ConvMode;
use crate::lowrank::low_rank::ErrorCurve;
use crate::lowrank::outputs::Inputs;
use crate::plan::Align;
use crate::price::Curve;

/// A layer with everything that the choice needs.
pub(crate) struct Prepared<'c> {
    pub(crate) candidate: &'c Candidate,
    mode: ConvMode,
    pub(crate) decomposition: Decomposition,
    pub(crate) prices: PriceList,
    /// What the network's output loses without this many components.
    pub(super) loss: Option<Curve>,
    /// Whether that was measured.
    pub(super) is_weighed: bool,
}

impl<'c> Prepared<'c> {
    pub(super) fn offer(&self) -> Offer<'_> {
        Offer {
            name: &self.candidate.name,
            curve: self.decomposition.curve(),
            prices: &self.prices,
            loss: self.loss.as_ref(),
        }
    }

    /// What the network's output loses at `rank`, or with the layer whole, and the next smaller rank with its loss.
    pub(super) fn losses(&self, rank: Option<usize>, align: Align) -> (Option<f64>, Option<(usize, f64)>) {
        let Some(loss) = self.loss.as_ref().filter(|_| self.is_weighed) else { return (None, None) };
        let full = self.decomposition.curve().full_rank();
        let at = |rank: usize| loss.at(full.saturating_sub(rank));
        let next = ranks_of(&self.prices, full, align).take_while(|&other| rank.is_none_or(|rank| other < rank)).last();
        (Some(rank.map_or(0.0, at)), next.map(|next| (next, at(next))))
    }

    pub(super) fn chosen(&self, rank: usize) -> Result<Chosen<'c>> {
        Ok(Chosen {
            candidate: self.candidate,
            mode: self.mode,
            rank,
            factors: self.factors(rank)?,
            energies: self.decomposition.output_energies(),
        })
    }

    pub(super) fn factors(&self, rank: usize) -> Result<Factors> {
        let name = || self.candidate.name.as_str();
        self.decomposition.split(default_backend(), self.candidate, self.mode, rank).map_err(|e| e.at_node(name()))
    }
}

/// Decomposes all layers. The error, if any, is that of the first layer that has one, not of the first that is done.
pub(super) fn prepare_all<'c>(
    subject: Subject<'_>,
    candidates: &'c [Candidate],
    options: &FactorizeOptions,
    moments: Vec<Option<Vec<Inputs>>>,
) -> Result<Vec<Prepared<'c>>> {
    let layers = candidates.par_iter().zip(moments);
    let prepared: Vec<Result<Prepared<'c>>> = layers
        .map(|(candidate, inputs)| {
            options.setting.progress.check()?;
            at_node(&candidate.name, || prepare(subject, candidate, options, inputs))
        })
        .collect();
    prepared.into_iter().collect()
}

/// Decomposes one layer.
fn prepare<'c>(
    subject: Subject<'_>,
    candidate: &'c Candidate,
    options: &FactorizeOptions,
    inputs: Option<Vec<Inputs>>,
) -> Result<Prepared<'c>> {
    let mode = candidate.mode(options.conv);
    let weight = candidate.values(subject)?;
    let decomposition = Decomposition::new(default_backend(), candidate, weight, (options.method, mode), inputs)
        .map_err(|e| e.at_node(candidate.name.as_str()))?;
    let added = if decomposition.is_of_outputs() { added_by_bias(subject, candidate) } else { 0 };
    Ok(Prepared {
        candidate,
        mode,
        prices: PriceList::new(subject, candidate, mode, added),
        loss: Curve::proportional(&components(decomposition.curve())),
        is_weighed: false,
        decomposition,
    })
}

/// Decomposes the layers that are split again, on all samples.
pub(super) fn refit(
    subject: Subject<'_>,
    prepared: &mut [Prepared<'_>],
    decisions: &[Decision],
    options: &FactorizeOptions,
    data: Calibration<'_>,
) -> Result<()> {
    let split = prepared.iter_mut().zip(decisions).filter(|(_, decision)| matches!(decision, Decision::Split(_)));
    let mut split: Vec<&mut Prepared<'_>> = split.map(|(layer, _)| layer).collect();
    let candidates: Vec<Candidate> = split.iter().map(|layer| layer.candidate.clone()).collect();
    let moments = input_moments(subject, data, (&candidates, options.conv))?;
    split.par_iter_mut().zip(moments).try_for_each(|(layer, inputs)| {
        let again = at_node(&layer.candidate.name, || prepare(subject, layer.candidate, options, inputs))?;
        layer.decomposition = again.decomposition;
        Ok(())
    })
}

/// What each component of a layer explains, the smallest one first.
pub(super) fn components(curve: &ErrorCurve) -> Vec<f64> {
    (0..curve.full_rank()).rev().map(|rank| curve.error(rank) - curve.error(rank + 1)).collect()
}
