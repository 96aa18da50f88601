//! Which units stay: a share of each group, or as many as a budget allows.

use std::collections::BTreeSet;

use super::cost::{Cost, CostModel};
use super::groups::{Group, Kind};
use crate::axes::Selection;
use crate::error::{Error, Result};

/// A limit on the whole model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// Parameters that remain.
    Params(u64),
    /// Multiply–accumulates that remain.
    Macs(u64),
    /// Bytes of the file that remain.
    Bytes {
        /// The budget.
        limit: u64,
        /// What the file holds beside stored tensors, which stays.
        rest: u64,
    },
    /// Predicted nanoseconds of one run that remain.
    Latency(u64),
}

impl Budget {
    /// The figure of `cost` that this budget limits.
    pub fn of(self, cost: Cost) -> u64 {
        match self {
            Budget::Params(_) => cost.params,
            Budget::Macs(_) => cost.macs,
            Budget::Bytes { rest, .. } => cost.bytes.saturating_add(rest),
            Budget::Latency(_) => cost.nanos,
        }
    }

    /// The limit.
    pub fn limit(self) -> u64 {
        match self {
            Budget::Params(limit) | Budget::Macs(limit) | Budget::Bytes { limit, .. } | Budget::Latency(limit) => limit,
        }
    }

    /// The same with another limit.
    #[must_use]
    pub(crate) fn with_limit(self, limit: u64) -> Self {
        match self {
            Budget::Params(_) => Budget::Params(limit),
            Budget::Macs(_) => Budget::Macs(limit),
            Budget::Bytes { rest, .. } => Budget::Bytes { limit, rest },
            Budget::Latency(_) => Budget::Latency(limit),
        }
    }

    /// A figure with its unit.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn text(self, figure: u64) -> String {
        match self {
            Budget::Params(_) => format!("{figure} parameters"),
            Budget::Macs(_) => format!("{figure} MACs"),
            Budget::Bytes { .. } => format!("{figure} bytes"),
            Budget::Latency(_) => format!("{:.3} ms", figure as f64 / 1e6),
        }
    }
}

/// Whether units are ranked within each layer or across the whole network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Within each group: every group loses the same share.
    Layer,
    /// Across the whole network: the least important units are removed. A ratio applies to each kind of unit.
    Global,
}

/// How much to remove.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Quota {
    /// This share of the units.
    Ratio(f64),
    /// As many as the budget demands.
    Budget(Budget),
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// How much to remove.
    pub quota: Quota,
    /// Whether groups are compared.
    pub scope: Scope,
    /// Fewest units that stay in a group.
    pub min_keep: usize,
    /// Whether small groups keep whole blocks only: a part of a block is computed in the time of a whole one.
    pub whole_blocks: bool,
}

impl Request {
    /// Sizes that may be left of a group, ascending; the last one is its size as it is.
    pub(crate) fn sizes(&self, group: &Group) -> Vec<usize> {
        group.sizes(self.min_keep, self.whole_blocks)
    }

    /// What `choose` finds for this budget. Multiply–accumulates are a means to be faster, so that removals that fill a block
    /// only partly are not made for them, unless the budget is out of reach otherwise.
    ///
    /// # Errors
    /// As `choose`.
    pub(crate) fn within<T>(&self, budget: Budget, choose: impl Fn(&Self) -> Result<T>) -> Result<T> {
        if matches!(budget, Budget::Macs(_))
            && let Ok(found) = choose(&Self { whole_blocks: true, ..*self })
        {
            return Ok(found);
        }
        choose(self)
    }
}

/// A group whose units have scores.
#[derive(Debug, Clone)]
pub struct Scored<'g> {
    /// The group.
    pub group: &'g Group,
    /// Importance of each unit, least first to go.
    pub scores: Vec<f64>,
    /// Whether scores of different groups have one unit, so that they compare as they are; otherwise a unit counts by
    /// its share of its group's total.
    pub comparable: bool,
}

impl Scored<'_> {
    /// Units, least important first; of equal ones, the last index first.
    pub(crate) fn ranking(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.group.size).collect();
        order.sort_by(|&a, &b| self.scores[a].total_cmp(&self.scores[b]).then(b.cmp(&a)));
        order
    }

    fn keep(&self, ranking: &[usize], removed: usize, selection: &mut Selection) {
        let mut flags = vec![true; self.group.size];
        ranking.iter().take(removed).for_each(|&unit| flags[unit] = false);
        selection.keep(self.group.factor, flags);
    }
}

/// How many of `size` units are left when `ratio` of them are to go.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn rest(size: usize, ratio: f64) -> usize {
    (size as f64 * (1.0 - ratio)).round() as usize
}

/// How many units of `group` stay when `ratio` of them are to go: the nearest of its sizes, of two the larger.
fn kept_of(group: &Group, ratio: f64, request: &Request) -> usize {
    let wanted = rest(group.size, ratio);
    let sizes = request.sizes(group).into_iter().rev();
    sizes.min_by_key(|size| size.abs_diff(wanted)).unwrap_or(group.size)
}

/// A block of units of one group that go together.
struct Step {
    group: usize,
    /// Units removed from the group once this block is gone.
    removed: usize,
    priority: f64,
}

/// Chooses the units that stay.
///
/// # Errors
/// [`Nothing`](crate::ErrorKind::Nothing) if a budget is out of reach, with the smallest reachable figure.
pub fn select(scored: &[Scored<'_>], cost: &CostModel<'_>, request: &Request) -> Result<Selection> {
    match request.quota {
        Quota::Budget(budget) => request.within(budget, |request| select_among(scored, cost, request)),
        Quota::Ratio(_) => select_among(scored, cost, request),
    }
}

fn select_among(scored: &[Scored<'_>], cost: &CostModel<'_>, request: &Request) -> Result<Selection> {
    let rankings: Vec<Vec<usize>> = scored.iter().map(Scored::ranking).collect();
    let by_ratio = |ratio: f64| {
        let mut selection = Selection::all();
        for (scored, ranking) in scored.iter().zip(&rankings) {
            let removed = scored.group.size - kept_of(scored.group, ratio, request);
            scored.keep(ranking, removed, &mut selection);
        }
        selection
    };
    match (request.quota, request.scope) {
        (Quota::Ratio(ratio), Scope::Layer) => Ok(by_ratio(ratio)),
        (Quota::Ratio(ratio), Scope::Global) => {
            let steps = global_steps(scored, &rankings, cost, None, request);
            Ok(keep_rest(scored, &rankings, &removed_by_kind(scored, &steps, ratio)))
        }
        (Quota::Budget(budget), Scope::Layer) => {
            let fits = |selection: &Selection| budget.of(cost.cost(selection)) <= budget.limit();
            reachable(budget, budget.of(cost.cost(&by_ratio(1.0))))?;
            let (mut low, mut high) = (0.0, 1.0);
            for _ in 0..40 {
                let middle = f64::midpoint(low, high);
                if fits(&by_ratio(middle)) { high = middle } else { low = middle }
            }
            Ok(by_ratio(high))
        }
        (Quota::Budget(budget), Scope::Global) => {
            let steps = global_steps(scored, &rankings, cost, Some(budget), request);
            let at = |count: usize| keep_rest(scored, &rankings, &removed_by(scored, &steps[..count]));
            reachable(budget, budget.of(cost.cost(&at(steps.len()))))?;
            let (mut low, mut high) = (0, steps.len());
            while low < high {
                let middle = usize::midpoint(low, high);
                if budget.of(cost.cost(&at(middle))) <= budget.limit() { high = middle } else { low = middle + 1 }
            }
            Ok(give_back(scored, &rankings, &steps[..low], cost, budget))
        }
    }
}

/// Refuses a budget below `least`, the smallest figure that it limits.
///
/// # Errors
/// [`Nothing`](crate::ErrorKind::Nothing), with the smallest reachable figure.
pub(crate) fn reachable(budget: Budget, least: u64) -> Result<()> {
    if least <= budget.limit() {
        return Ok(());
    }
    Err(Error::nothing(format!(
        "the budget of {} is out of reach: the smallest reachable figure is {}",
        budget.text(budget.limit()),
        budget.text(least)
    )))
}

/// All blocks of all groups, least important first: a block's share of its group's total score, divided by what it
/// saves of the budget. Blocks of one group keep their order.
fn global_steps(
    scored: &[Scored<'_>],
    rankings: &[Vec<usize>],
    cost: &CostModel<'_>,
    budget: Option<Budget>,
    request: &Request,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for (group, (scored, ranking)) in scored.iter().zip(rankings).enumerate() {
        let size = scored.group.size;
        let total: f64 = if scored.comparable { 1.0 } else { scored.scores.iter().sum() };
        #[allow(clippy::cast_precision_loss)]
        let saved = budget.map_or(1.0, |b| (b.of(cost.of_unit(scored.group.factor)) as f64).max(1e-9));
        let mut removed = 0;
        let mut floor = 0.0_f64;
        for next in request.sizes(scored.group).into_iter().rev().skip(1) {
            let block = &ranking[removed..size - next];
            let share: f64 = block.iter().map(|&unit| scored.scores[unit]).sum::<f64>() / total.max(f64::MIN_POSITIVE);
            #[allow(clippy::cast_precision_loss)]
            let priority = (share / block.len() as f64 / saved).max(floor);
            floor = priority;
            removed = size - next;
            steps.push(Step { group, removed, priority });
        }
    }
    steps.sort_by(|a, b| a.priority.total_cmp(&b.priority).then(a.group.cmp(&b.group)).then(a.removed.cmp(&b.removed)));
    steps
}

/// Units removed from each group once `ratio` of each kind is gone: heads compete with heads, neurons with neurons. Of all
/// kinds together, one share would not be half of anything.
fn removed_by_kind(scored: &[Scored<'_>], steps: &[Step], ratio: f64) -> Vec<usize> {
    let kinds: BTreeSet<Kind> = scored.iter().map(|s| s.group.kind).collect();
    let mut removed = vec![0; scored.len()];
    for kind in kinds {
        let is_of_kind = |group: usize| scored[group].group.kind == kind;
        let total: usize = scored.iter().map(|s| s.group).filter(|g| g.kind == kind).map(|g| g.size).sum();
        let target = total - rest(total, ratio).max(1);
        let mut gone = 0;
        for step in steps.iter().filter(|step| is_of_kind(step.group)) {
            if gone >= target {
                break;
            }
            gone += step.removed - removed[step.group];
            removed[step.group] = step.removed;
        }
    }
    removed
}

/// Units removed from each group by the first blocks.
fn removed_by(scored: &[Scored<'_>], steps: &[Step]) -> Vec<usize> {
    let mut removed = vec![0; scored.len()];
    steps.iter().for_each(|step| removed[step.group] = step.removed);
    removed
}

/// The selection that removes this many of the least important units from each group.
fn keep_rest(scored: &[Scored<'_>], rankings: &[Vec<usize>], removed: &[usize]) -> Selection {
    let mut selection = Selection::all();
    for ((scored, ranking), &removed) in scored.iter().zip(rankings).zip(removed) {
        scored.keep(ranking, removed, &mut selection);
    }
    selection
}

/// Blocks put back, the most important first, while the budget still allows: the last block overshoots it. A group of
/// which a block is too heavy to go back is done.
fn give_back(
    scored: &[Scored<'_>],
    rankings: &[Vec<usize>],
    steps: &[Step],
    cost: &CostModel<'_>,
    budget: Budget,
) -> Selection {
    let mut removed = vec![0; scored.len()];
    let mut before: Vec<usize> = Vec::with_capacity(steps.len());
    for step in steps {
        before.push(std::mem::replace(&mut removed[step.group], step.removed));
    }
    let mut done = vec![false; scored.len()];
    for (step, before) in steps.iter().zip(before).rev() {
        if done[step.group] {
            continue;
        }
        removed[step.group] = before;
        if budget.of(cost.cost(&keep_rest(scored, rankings, &removed))) > budget.limit() {
            removed[step.group] = step.removed;
            done[step.group] = true;
        }
    }
    keep_rest(scored, rankings, &removed)
}

/// Kept flags of one group when `ratio` of it goes.
pub(super) fn flags_by_ratio(scored: &Scored<'_>, ratio: f64, request: &Request) -> Vec<bool> {
    let size = scored.group.size;
    let mut flags = vec![true; size];
    let removed = size - kept_of(scored.group, ratio, request);
    scored.ranking().into_iter().take(removed).for_each(|unit| flags[unit] = false);
    flags
}
