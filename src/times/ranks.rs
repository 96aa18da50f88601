//! What layers take once they are split: timed at a few ranks, and fitted between.

use std::sync::Arc;

use super::alone::alone;
use super::table::Meter;
use super::units::{Unit, units};
use super::{Case, Times, Wanted, converted, times};
use crate::analysis::Subject;
use crate::axes::Selection;
use crate::error::Result;
use crate::graph::{NodeId, View};
use crate::onnx::proto::ModelProto;
use crate::plan::{Surface, nanos};
use crate::progress::Progress;

/// A layer that may be split.
pub(crate) struct Ranked<'r> {
    /// The nodes with its weight.
    pub(crate) nodes: &'r [NodeId],
    /// The ranks that it is timed at, descending; none if it cannot be split.
    pub(crate) ranks: Vec<usize>,
    /// Its multiply–accumulates at each of them, as a share of those of the whole layer.
    pub(crate) shares: Vec<f64>,
}

/// What a layer takes, together with what runtimes compute in the same pass.
#[derive(Debug, Clone)]
pub(crate) struct RankTimes {
    /// Whole, in milliseconds.
    whole: f64,
    /// At every rank.
    split: Arc<Surface>,
    /// What both are multiplied by.
    scale: f64,
    /// Whether some ranks were not timed.
    pub(crate) is_estimate: bool,
}

impl RankTimes {
    /// Nanoseconds of the whole layer.
    pub(crate) fn whole(&self) -> u64 {
        nanos(self.whole * self.scale)
    }

    /// Nanoseconds of the layer split at `rank`.
    pub(crate) fn at(&self, rank: usize) -> u64 {
        nanos(self.split.at(&[rank as u64]) * self.scale)
    }

    /// The same, with all times multiplied by `factor`.
    pub(crate) fn scaled(&self, factor: f64) -> Self {
        Self { scale: self.scale * factor, ..self.clone() }
    }
}

/// Times the operators of a model as they are, and each of `layers` at its ranks; `write` splits the layers at these ranks. A
/// layer that cannot run alone takes what its multiply–accumulates say.
///
/// # Errors
/// If a split model cannot be made, if the runtime cannot be started, or if the job was cancelled.
pub(crate) fn rank_times(
    subject: Subject<'_>,
    layers: &[Ranked<'_>],
    write: impl Fn(&[Option<usize>]) -> Result<ModelProto>,
    (meter, progress): (&Meter, &Progress),
) -> Result<(Times, Vec<Option<RankTimes>>)> {
    let whole = times(subject, &[], 1, meter, progress)?;
    let all = units(subject);
    let overhead = meter.overhead()?;
    let is_of = |unit: &Unit, layer: &Ranked<'_>| layer.nodes.iter().any(|node| unit.nodes.contains(node));
    // A unit has one contraction, and so one layer at most.
    let layer_of = |unit: &Unit| layers.iter().position(|layer| is_of(unit, layer));
    let owners: Vec<(usize, usize)> =
        all.iter().enumerate().filter_map(|(index, unit)| Some((index, layer_of(unit)?))).collect();
    let mut cases: Vec<Case> = owners
        .iter()
        .map(|&(unit, _)| Case { unit: all[unit].clone(), axes: Vec::new(), measured: Vec::new() })
        .collect();
    let selection = Selection::all();
    for level in 0..layers.iter().map(|layer| layer.ranks.len()).max().unwrap_or(0) {
        progress.enter("timing operators")?;
        let ranks: Vec<Option<usize>> = layers.iter().map(|layer| layer.ranks.get(level).copied()).collect();
        let split = write(&ranks)?;
        let view = View::of(&split)?;
        let mut wanted = Wanted::new(meter, overhead);
        for (case, &(_, layer)) in owners.iter().enumerate() {
            let Some(rank) = ranks[layer] else { continue };
            let unit = &cases[case].unit;
            let fed = alone(subject, unit, &view, &selection);
            wanted.ask((case, vec![rank as u64]), fed, || converted(subject, unit, &selection, meter))?;
        }
        wanted.enter(&mut cases)?;
    }
    meter.keep()?;
    let of_unit = |index: usize| whole.timed.get(index).map_or(0.0, |timed| timed.surface.at(&[]));
    let of_layer = |(number, layer): (usize, &Ranked<'_>)| {
        let largest = *layer.ranks.first()?;
        let own = || owners.iter().zip(&cases).filter(move |((_, owner), _)| *owner == number);
        let dense: f64 = own().map(|((unit, _), _)| of_unit(*unit)).sum();
        let at = |(level, &rank): (usize, &usize)| {
            let sizes = vec![rank as u64];
            let of_case = |((unit, _), case): (&(usize, usize), &Case)| {
                let known = case.measured.iter().find(|(at, _)| *at == sizes).map(|(_, ms)| *ms);
                known.unwrap_or(of_unit(*unit) * layer.shares[level])
            };
            let ms = own().map(of_case).sum::<f64>();
            (sizes, ms)
        };
        let measured: Vec<(Vec<u64>, f64)> = layer.ranks.iter().enumerate().map(at).collect();
        let split = Arc::new(Surface::fit(&[largest as u64], &measured));
        let is_estimate = own().any(|(_, case)| case.measured.len() < layer.ranks.len());
        Some(RankTimes { whole: dense, split, scale: 1.0, is_estimate })
    };
    let of_layers = layers.iter().enumerate().map(of_layer).collect();
    Ok((whole, of_layers))
}
