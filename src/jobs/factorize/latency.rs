//! `latency`: ranks are chosen by predicted times, and the result is measured before the layers are fitted.

use super::offers::{Offers, chosen, pairs, predicted};
use super::options::FactorizeOptions;
use super::prepare::Prepared;
use super::table::nothing;
use crate::analysis::{Analysis, Subject};
use crate::axes::Selection;
use crate::error::Result;
use crate::factorize::candidates::Candidate;
use crate::factorize::rewrite::split_layers;
use crate::factorize::select::{Offer, Target, choose, timed_ranks};
use crate::jobs::clock::Clock;
use crate::jobs::latency::{Aim, Tried};
use crate::lowrank::Factors;
use crate::onnx::Model;
use crate::onnx::proto::ModelProto;
use crate::plan::{Align, Remaining};
use crate::report::LatencyReport;
use crate::times::ranks::{Ranked, rank_times};
use crate::times::table::Meter;

/// The predicted time to split to, for a result that is as fast as asked for, and what the report says about it; `None` without a
/// latency budget.
///
/// # Errors
/// As [`Aim::new`]; [`Nothing`](crate::ErrorKind::Nothing) if the budget is out of reach.
pub(super) fn within(
    analysis: &Analysis<'_>,
    (model, options): (&Model, &FactorizeOptions),
    offers: &mut Offers<'_>,
    clock: &mut Clock,
) -> Result<Option<(Target, (LatencyReport, Vec<String>))>> {
    let Target::Latency(remaining) = options.target else { return Ok(None) };
    let (subject, meter) = (analysis.subject(), Meter::open(&options.runtimes)?);
    offers.time(subject, options, &meter)?;
    clock.lap("time operators")?;
    let whole = offers.cost(subject).cost(&Selection::all()).nanos;
    let aim = Aim::new(model, analysis, &options.setting, (remaining, whole), &meter)?;
    let tried = aim.approach(|limit| {
        options.setting.progress.enter("measuring a result")?;
        let target = Target::Latency(Remaining::Share(limit));
        let (split, nanos) = offers.tried(subject, &options.clone().target(target))?;
        let predicted = nanos as f64 / whole.max(1) as f64;
        Ok(Tried { choice: (), limit, predicted, measured: aim.measure(&model.with_proto(split))? })
    })?;
    clock.lap("measure results")?;
    let limit = tried.last().map_or(aim.wanted, |best| best.limit);
    Ok(Some((Target::Latency(Remaining::Share(limit)), aim.report(&offers.times, &tried))))
}

impl Offers<'_> {
    /// Times the operators of the model, and each layer at several ranks.
    ///
    /// # Errors
    /// As [`rank_times`].
    pub(in crate::jobs) fn time(
        &mut self,
        subject: Subject<'_>,
        options: &FactorizeOptions,
        meter: &Meter,
    ) -> Result<()> {
        let prepared = &self.prepared;
        let layers: Vec<Ranked<'_>> = prepared.iter().map(|layer| ranked(layer, options.align)).collect();
        let write = |ranks: &[Option<usize>]| {
            let factors = |(layer, rank): (&Prepared<'_>, &Option<usize>)| {
                rank.map(|rank| Ok((layer.candidate.clone(), layer.factors(rank)?)))
            };
            let split: Vec<(Candidate, Factors)> =
                prepared.iter().zip(ranks).filter_map(factors).collect::<Result<_>>()?;
            split_layers(subject, &split.iter().map(|(candidate, factors)| (candidate, factors)).collect::<Vec<_>>())
        };
        let (times, of_layers) = rank_times(subject, &layers, write, (meter, &options.setting.progress))?;
        drop(layers);
        self.times = times;
        let guessed = of_layers.iter().flatten().filter(|times| times.is_estimate).count();
        if guessed > 0 {
            let plural = if guessed == 1 { "" } else { "s" };
            self.notes.push(format!(
                "the times of {guessed} split layer{plural} are estimates from multiply–accumulates, because the table of times has no splits"
            ));
        }
        for (layer, times) in self.prepared.iter_mut().zip(of_layers) {
            layer.prices.set_times(times);
        }
        Ok(())
    }

    /// The model with its layers split as `options` ask, and its predicted nanoseconds. The layers after a split one are not
    /// fitted.
    fn tried(&self, subject: Subject<'_>, options: &FactorizeOptions) -> Result<(ModelProto, u64)> {
        let offers: Vec<Offer<'_>> = self.prepared.iter().map(Prepared::offer).collect();
        let whole = self.cost(subject).cost(&Selection::all());
        let decisions = choose(&offers, &options.target, (whole, 0), options.align)?.layers;
        let split = chosen(&self.prepared, &decisions)?;
        if split.is_empty() {
            return Err(nothing(&self.prepared, &decisions, &[]));
        }
        Ok((split_layers(subject, &pairs(&split))?, predicted(&self.prepared, whole.nanos, &decisions)))
    }
}

/// A layer, and the ranks that it is timed at.
fn ranked<'p>(layer: &'p Prepared<'_>, align: Align) -> Ranked<'p> {
    let ranks = timed_ranks(&layer.offer(), align);
    let dense = layer.prices.dense().macs.max(1) as f64;
    let shares = ranks.iter().map(|&rank| layer.prices.split(rank).macs as f64 / dense).collect();
    Ranked { nodes: &layer.candidate.nodes, ranks, shares }
}
