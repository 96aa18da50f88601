//! The rank of each layer, from what the user asked for.

use std::fmt;

use super::price::PriceList;
use crate::error::{Error, Result};
use crate::lowrank::low_rank::ErrorCurve;
use crate::plan::knapsack::{self, Choice};
use crate::plan::{Align, Budget, Cost, Plan, Remaining};
use crate::price::Curve;

/// How small the layers are to become.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// This rank in every layer where it pays; never rounded.
    Rank(usize),
    /// The smallest rank that keeps this share of Σσ².
    Energy(f64),
    /// What remains of the whole model: parameters.
    Params(Remaining),
    /// What remains: multiply–accumulates.
    Macs(Remaining),
    /// What remains: bytes of the file.
    Size(Remaining),
    /// What remains: predicted nanoseconds of one run.
    Latency(Remaining),
    /// The ranks of a plan file.
    Plan(Plan),
}

/// A layer to choose for.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Its name.
    pub name: &'a str,
    /// Squared error at every rank.
    pub curve: &'a ErrorCurve,
    /// Cost of every rank.
    pub prices: &'a PriceList,
    /// What the network's output loses without this many components, the smallest ones.
    pub loss: Option<&'a Curve>,
}

/// What becomes of a layer.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It is split at this rank.
    Split(usize),
    /// It is kept whole.
    Keep(Why),
}

/// Why a layer that could be split is kept whole.
#[derive(Debug, Clone, PartialEq)]
pub enum Why {
    /// The rank is above its full one.
    AboveFull {
        /// What was asked for.
        rank: usize,
        /// Rows or columns of the weight, whichever is less.
        full: usize,
    },
    /// The split would have at least as many parameters.
    Unprofitable {
        /// What was asked for.
        rank: usize,
        /// Parameters of the layer at that rank.
        split: u64,
        /// Parameters of the layer as it is.
        dense: u64,
        /// The largest rank that saves parameters.
        most: usize,
    },
    /// No rank that could be chosen saves parameters; the largest that does, if any.
    NoRank(usize),
    /// No rank makes it faster.
    NoFasterRank,
    /// The budget is met without it.
    Unneeded,
    /// The plan does not name it.
    NotPlanned,
    /// It was split and did not get faster.
    PutBack {
        /// tract's time of the layer as it is, in milliseconds.
        before_ms: f64,
        /// tract's time of the split layer.
        after_ms: f64,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AboveFull { rank, full } => write!(f, "rank {rank} is above its full rank {full}"),
            Self::Unprofitable { rank, split, dense, most } => {
                write!(f, "rank {rank} does not pay: {split} parameters instead of {dense} (it pays up to rank {most})")
            }
            Self::NoRank(most) => write!(f, "no rank pays (the largest that saves parameters is {most})"),
            Self::NoFasterRank => f.write_str("no rank makes it faster"),
            Self::Unneeded => f.write_str("the budget is met without it"),
            Self::NotPlanned => f.write_str("not in the plan"),
            Self::PutBack { before_ms, after_ms } => {
                write!(f, "it did not get faster: {before_ms:.3} ms, then {after_ms:.3} ms")
            }
        }
    }
}

/// What becomes of all layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Decisions {
    /// Layer by layer.
    pub layers: Vec<Decision>,
    /// Where a budget was shared out: how far the sum of errors may be above the least possible, as a share of it.
    pub gap: Option<f64>,
}

/// Chooses for every layer. `whole` is the cost of the model as it is, beside which its file holds `rest` bytes; `align` is
/// what ranks are a multiple of where they are not typed by the user.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) for a rank of 0 or above that of every layer, and for an energy outside (0, 1];
/// [`Input`](crate::ErrorKind::Input) for a plan that does not fit the model; [`Nothing`](crate::ErrorKind::Nothing)
/// when the budget is out of reach.
pub fn choose(offers: &[Offer<'_>], target: &Target, (whole, rest): (Cost, u64), align: Align) -> Result<Decisions> {
    let layers = match target {
        Target::Rank(rank) => by_rank(offers, *rank)?,
        Target::Energy(share) => offers.iter().map(|offer| by_energy(offer, *share, align)).collect::<Result<_>>()?,
        Target::Params(remaining) => {
            return by_budget(offers, Budget::Params(remaining.of(whole.params)), whole, align);
        }
        Target::Macs(remaining) => return by_budget(offers, Budget::Macs(remaining.of(whole.macs)), whole, align),
        Target::Latency(remaining) => {
            return by_budget(offers, Budget::Latency(remaining.of(whole.nanos)), whole, align);
        }
        Target::Size(remaining) => {
            let limit = remaining.of(whole.bytes.saturating_add(rest));
            return by_budget(offers, Budget::Bytes { limit, rest }, whole, align);
        }
        Target::Plan(plan) => by_plan(offers, plan)?,
    };
    Ok(Decisions { layers, gap: None })
}

fn by_rank(offers: &[Offer<'_>], rank: usize) -> Result<Vec<Decision>> {
    let largest = offers.iter().map(|offer| offer.curve.full_rank()).max().unwrap_or(0);
    if rank == 0 || rank > largest {
        return Err(Error::usage(format!(
            "`rank` {rank}: choose a rank from 1 to {largest}, the largest of this model"
        )));
    }
    let decide = |offer: &Offer<'_>| match offer.curve.full_rank() {
        full if rank > full => Decision::Keep(Why::AboveFull { rank, full }),
        _ => if_paying(offer, rank),
    };
    Ok(offers.iter().map(decide).collect())
}

fn by_energy(offer: &Offer<'_>, share: f64, align: Align) -> Result<Decision> {
    let rank = offer.curve.rank_for_energy(share)?;
    let step = step(offer.prices, offer.curve.full_rank(), align);
    Ok(if_paying(offer, rank.div_ceil(step).saturating_mul(step).min(offer.curve.full_rank())))
}

fn if_paying(offer: &Offer<'_>, rank: usize) -> Decision {
    let (dense, split) = (offer.prices.dense().params, offer.prices.split(rank).params);
    if split < dense {
        return Decision::Split(rank);
    }
    let most = offer.prices.paying(offer.curve.full_rank());
    Decision::Keep(Why::Unprofitable { rank, split, dense, most })
}

/// The ranks at which a layer's effect on the output is measured, large to small: three, two and one quarter of what pays.
pub(crate) fn reference_ranks(offer: &Offer<'_>, align: Align) -> Vec<usize> {
    let full = offer.curve.full_rank();
    let (step, most) = (step(offer.prices, full, align), offer.prices.paying(full));
    let mut ranks: Vec<usize> = [3, 2, 1].iter().map(|part| (most * part / 4 / step * step).max(step)).collect();
    ranks.retain(|&rank| rank <= most);
    ranks.dedup();
    ranks
}

/// The ranks at which a layer is timed, large to small: the largest that pays, a half, a quarter and an eighth of it.
pub(crate) fn timed_ranks(offer: &Offer<'_>, align: Align) -> Vec<usize> {
    let full = offer.curve.full_rank();
    let (step, most) = (step(offer.prices, full, align), offer.prices.paying(full));
    let mut ranks: Vec<usize> = [1, 2, 4, 8].iter().map(|part| (most / part / step * step).max(step)).collect();
    ranks.retain(|&rank| rank <= most);
    ranks.dedup();
    ranks
}

/// Ranks are multiples of this: of what `align` asks of the layer, or of less where it pays only up to a few multiples of it.
fn step(prices: &PriceList, full: usize, align: Align) -> usize {
    let paying = prices.paying(full);
    let mut step = align.of_ranks(prices.is_conv());
    while step > 1 && step * 4 > paying {
        step = step.div_ceil(2);
    }
    step
}

fn by_budget(offers: &[Offer<'_>], budget: Budget, whole: Cost, align: Align) -> Result<Decisions> {
    let limit = budget.limit();
    // What the budget limits of a layer alone.
    let of = |cost: Cost| budget.of(cost) - budget.of(Cost::default());
    let dense: u64 = offers.iter().map(|offer| of(offer.prices.dense())).sum();
    let rest = budget.of(whole).saturating_sub(dense);
    let choices = |offer: &Offer<'_>| choices(offer, of, align);
    let layers: Vec<knapsack::Layer> =
        offers.iter().map(|offer| knapsack::Layer { name: offer.name.to_owned(), choices: choices(offer) }).collect();
    let least: u64 = layers.iter().filter_map(|layer| layer.choices.iter().map(|choice| choice.cost).min()).sum();
    if rest.saturating_add(least) > limit {
        return Err(Error::nothing(format!(
            "the budget of {} is out of reach: with the smallest ranks {} remain (the model has {}); raise it, lower `align`, or prune first",
            budget.text(limit),
            budget.text(rest.saturating_add(least)),
            budget.text(budget.of(whole))
        )));
    }
    let allocation = knapsack::solve(&layers, limit - rest)?;
    let decide = |((layer, &chosen), offer): ((&knapsack::Layer, &usize), &Offer<'_>)| match layer.choices[chosen].rank
    {
        Some(rank) => Decision::Split(rank),
        None if layer.choices.len() == 1 && matches!(budget, Budget::Latency(_)) => Decision::Keep(Why::NoFasterRank),
        None if layer.choices.len() == 1 => Decision::Keep(Why::NoRank(offer.prices.paying(offer.curve.full_rank()))),
        None => Decision::Keep(Why::Unneeded),
    };
    let gap = Some(allocation.gap());
    Ok(Decisions { layers: layers.iter().zip(&allocation.chosen).zip(offers).map(decide).collect(), gap })
}

fn choices(offer: &Offer<'_>, of: impl Fn(Cost) -> u64, align: Align) -> Vec<Choice> {
    let dense = of(offer.prices.dense());
    let whole = Choice { rank: None, cost: dense, error: 0.0 };
    let split = |rank: usize| Choice {
        rank: Some(rank),
        cost: of(offer.prices.split(rank)),
        error: offer.loss.map_or(0.0, |loss| loss.at(offer.curve.full_rank().saturating_sub(rank))),
    };
    let ranks = ranks_of(offer.prices, offer.curve.full_rank(), align);
    ranks.map(split).filter(|choice| choice.cost < dense).chain([whole]).collect()
}

/// The ranks that may be chosen for a layer, ascending.
pub(crate) fn ranks_of(prices: &PriceList, full: usize, align: Align) -> impl Iterator<Item = usize> {
    let (step, most) = (step(prices, full, align), prices.paying(full));
    (1..=most / step).map(move |i| i * step)
}

fn by_plan(offers: &[Offer<'_>], plan: &Plan) -> Result<Vec<Decision>> {
    if plan.ranks.is_empty() {
        return Err(Error::nothing("the plan names no ranks; one that `factorize` writes does"));
    }
    for (name, &rank) in &plan.ranks {
        let fail = |why: String| Err(Error::input(format!("layer '{name}' of the plan: {why}")));
        let Some(offer) = offers.iter().find(|offer| offer.name == name) else {
            return fail(
                "the model has no such layer that can be split; the report of `factorize` lists them".to_owned(),
            );
        };
        let full = offer.curve.full_rank();
        if !(1..=full).contains(&rank) {
            return fail(format!("rank {rank} is not from 1 to {full}"));
        }
    }
    let decide = |offer: &Offer<'_>| match plan.ranks.get(offer.name) {
        Some(&rank) => Decision::Split(rank),
        None => Decision::Keep(Why::NotPlanned),
    };
    Ok(offers.iter().map(decide).collect())
}
