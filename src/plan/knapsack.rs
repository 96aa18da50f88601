//! Which rank each layer gets under a budget: a multiple-choice knapsack.
//!
//! Every layer offers choices (ranks in multiples of 8, and dense at error 0), each with a cost and an
//! error; one is taken from each layer so that the costs fit the budget and the sum of errors is least.
//!
//! The relaxation over the convex hulls of the choices gives a first answer, a multiplier and a lower
//! bound (Sinha & Zoltners 1979). Choices and partial answers whose bound is not below the best known
//! answer are dropped; what is left is enumerated layer by layer, keeping only what no other partial
//! answer beats in both cost and error (Nemhauser & Ullmann 1969; Kellerer, Pferschy & Pisinger 2004,
//! chapter 11). That is exact unless the list of partial answers outgrows its limit, and then the gap to
//! the lower bound is known.

use crate::{Error, Result};

/// Partial answers that are kept per layer.
const MAX_PARTIAL: usize = 2048;

/// One way to write a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The rank, or `None` for the layer as it is.
    pub rank: Option<usize>,
    /// Parameters or MACs.
    pub cost: u64,
    /// Error of the network's output that this choice is expected to cause; additive over layers.
    pub error: f64,
}

/// A layer with its choices; at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// For messages.
    pub name: String,
    /// In any order.
    pub choices: Vec<Choice>,
}

/// One choice for each layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation {
    /// Position of the choice of each layer in its `choices`.
    pub chosen: Vec<usize>,
    /// Sum of costs; within the budget.
    pub cost: u64,
    /// Sum of errors.
    pub error: f64,
    /// No allocation within the budget has a smaller error than this.
    pub lower_bound: f64,
}

impl Allocation {
    /// How far the error may be above the least possible one, as a share of it; 0 when it is exact.
    pub fn gap(&self) -> f64 {
        let above = self.error - self.lower_bound;
        if above <= 0.0 { 0.0 } else { above / self.lower_bound }
    }
}

/// The choices with the least sum of errors whose costs sum to at most `budget`.
///
/// # Errors
/// [`ErrorKind::Nothing`](crate::ErrorKind::Nothing) when even the cheapest choices cost more than
/// the budget, with that cost in the message; [`ErrorKind::Input`](crate::ErrorKind::Input) when a layer
/// has no choices or an error that is not finite and ≥ 0.
pub fn solve(layers: &[Layer], budget: u64) -> Result<Allocation> {
    let fronts: Vec<Vec<Point>> = layers.iter().map(front).collect::<Result<_>>()?;
    let least: u64 = fronts.iter().map(|front| front[0].cost).sum();
    if least > budget {
        return Err(Error::nothing(format!(
            "the budget of {budget} is out of reach: the smallest ranks still need {least}; raise it or allow smaller ranks"
        )));
    }
    let relaxed = Relaxation::solve(&fronts, budget);
    let start = improved(&fronts, relaxed.chosen.clone(), budget);
    let found = enumerate(&fronts, &relaxed, &start, budget);
    let chosen = found.better.unwrap_or(start.chosen);
    let points = || fronts.iter().zip(&chosen).map(|(front, &i)| front[i]);
    let error = points().map(|p| p.error).sum::<f64>();
    Ok(Allocation {
        chosen: points().map(|p| p.index).collect(),
        cost: points().map(|p| p.cost).sum(),
        error,
        lower_bound: found.lower_bound.clamp(0.0, error),
    })
}

/// A choice that no cheaper one of its layer beats.
#[derive(Debug, Clone, Copy)]
struct Point {
    cost: u64,
    error: f64,
    /// Position in the layer's choices.
    index: usize,
}

/// The useful choices of a layer: cost rises, error falls.
fn front(layer: &Layer) -> Result<Vec<Point>> {
    let bad = |c: &Choice| !c.error.is_finite() || c.error < 0.0;
    if layer.choices.is_empty() || layer.choices.iter().any(bad) {
        return Err(Error::input(format!(
            "layer '{}' needs at least one choice, and errors that are finite and not negative",
            layer.name
        )));
    }
    let mut points: Vec<Point> =
        (layer.choices.iter().enumerate()).map(|(index, c)| Point { cost: c.cost, error: c.error, index }).collect();
    points.sort_by(|a, b| a.cost.cmp(&b.cost).then(a.error.total_cmp(&b.error)));
    let mut best = f64::INFINITY;
    points.retain(|p| {
        p.error < best && {
            best = p.error;
            true
        }
    });
    Ok(points)
}

/// Positions of the points on the lower convex hull.
fn hull(front: &[Point]) -> Vec<usize> {
    let mut corners: Vec<usize> = Vec::new();
    for (i, p) in front.iter().enumerate() {
        while let [.., a, b] = corners[..] {
            if slope(front[a], front[b]) > slope(front[b], *p) {
                break;
            }
            corners.pop();
        }
        corners.push(i);
    }
    corners
}

/// Error saved per cost from one point to a later one.
fn slope(from: Point, to: Point) -> f64 {
    (from.error - to.error) / (to.cost - from.cost) as f64
}

/// The optimum when choices may be mixed: a multiplier, a bound, and whole choices below it.
struct Relaxation {
    chosen: Vec<usize>,
    /// Error that one more unit of budget would save.
    multiplier: f64,
    /// Σ over layers of min (error + multiplier · cost), less multiplier · budget.
    bound: f64,
}

impl Relaxation {
    fn solve(fronts: &[Vec<Point>], budget: u64) -> Self {
        let mut steps = Vec::new();
        for (layer, front) in fronts.iter().enumerate() {
            for pair in hull(front).windows(2) {
                steps.push((slope(front[pair[0]], front[pair[1]]), layer, pair[1]));
            }
        }
        // Steepest first; slopes fall along a hull, so the steps of a layer stay in order.
        steps.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let mut chosen = vec![0; fronts.len()];
        let mut left = budget - fronts.iter().map(|front| front[0].cost).sum::<u64>();
        let mut multiplier = None;
        let mut blocked = vec![false; fronts.len()];
        for (gain, layer, to) in steps {
            let price = fronts[layer][to].cost - fronts[layer][chosen[layer]].cost;
            if price > left || blocked[layer] {
                multiplier.get_or_insert(gain);
                blocked[layer] = true;
                continue;
            }
            left -= price;
            chosen[layer] = to;
        }
        let multiplier = multiplier.unwrap_or(0.0);
        let bound = fronts.iter().map(|front| reduced(front, multiplier)).sum::<f64>() - multiplier * budget as f64;
        Self { chosen, multiplier, bound }
    }
}

/// min over a layer's points of error + multiplier · cost.
fn reduced(front: &[Point], multiplier: f64) -> f64 {
    front.iter().map(|p| priced(*p, multiplier)).fold(f64::INFINITY, f64::min)
}

fn priced(p: Point, multiplier: f64) -> f64 {
    p.error + multiplier * p.cost as f64
}

struct Answer {
    chosen: Vec<usize>,
    error: f64,
}

/// Spends the rest of the budget on single choices, the largest gain first.
fn improved(fronts: &[Vec<Point>], mut chosen: Vec<usize>, budget: u64) -> Answer {
    let at = |chosen: &[usize], layer: usize| fronts[layer][chosen[layer]];
    loop {
        let cost: u64 = (0..fronts.len()).map(|layer| at(&chosen, layer).cost).sum();
        let mut best: Option<(f64, usize, usize)> = None;
        for (layer, front) in fronts.iter().enumerate() {
            let now = at(&chosen, layer);
            let affordable = front.partition_point(|p| p.cost - now.cost.min(p.cost) <= budget - cost);
            let gain = now.error - front[affordable - 1].error;
            if gain > best.map_or(0.0, |b| b.0) {
                best = Some((gain, layer, affordable - 1));
            }
        }
        let Some((_, layer, to)) = best else {
            let error = (0..fronts.len()).map(|layer| at(&chosen, layer).error).sum();
            return Answer { chosen, error };
        };
        chosen[layer] = to;
    }
}

/// A partial answer for the first layers.
#[derive(Debug, Clone, Copy)]
struct Partial {
    cost: u64,
    error: f64,
    /// Its position among the partial answers one layer earlier, and the choice added.
    parent: u32,
    choice: u32,
}

struct Found {
    /// A better answer than the start, if there is one.
    better: Option<Vec<usize>>,
    lower_bound: f64,
}

/// Goes through all partial answers that can still beat the start.
fn enumerate(fronts: &[Vec<Point>], relaxed: &Relaxation, start: &Answer, budget: u64) -> Found {
    let rest = Remaining::new(fronts, relaxed.multiplier);
    let bound =
        |p: &Partial, layer: usize| p.error + relaxed.multiplier * (p.cost as f64 - budget as f64) + rest.priced[layer];
    // Rounding of sums in another order must not drop the optimum.
    let limit = start.error + 1e-12 * (start.error + relaxed.multiplier * budget as f64);
    let mut dropped = f64::INFINITY;
    let mut stages: Vec<Vec<Partial>> = vec![vec![Partial { cost: 0, error: 0.0, parent: 0, choice: 0 }]];
    for (layer, front) in fronts.iter().enumerate() {
        // A choice whose own bound is above the limit is in no better answer.
        let margin = limit - relaxed.bound + reduced(front, relaxed.multiplier);
        let useful: Vec<(u32, Point)> = (0..)
            .zip(front.iter().copied())
            .filter(|(_, point)| priced(*point, relaxed.multiplier) <= margin)
            .collect();
        let mut next = Vec::new();
        for (parent, p) in (0_u32..).zip(&stages[layer]) {
            for &(choice, point) in &useful {
                let (cost, error) = (p.cost + point.cost, p.error + point.error);
                let partial = Partial { cost, error, parent, choice };
                if cost + rest.least[layer + 1] > budget {
                    break;
                }
                if bound(&partial, layer + 1) <= limit {
                    next.push(partial);
                }
            }
        }
        keep_undominated(&mut next);
        if next.len() > MAX_PARTIAL {
            next.sort_by(|a, b| bound(a, layer + 1).total_cmp(&bound(b, layer + 1)));
            dropped = dropped.min(bound(&next[MAX_PARTIAL], layer + 1));
            next.truncate(MAX_PARTIAL);
        }
        stages.push(next);
    }
    let last =
        stages.last().and_then(|stage| (0..stage.len()).min_by(|&a, &b| stage[a].error.total_cmp(&stage[b].error)));
    let best = last.map_or(f64::INFINITY, |i| stages[fronts.len()][i].error);
    let better = last.filter(|_| best < start.error).map(|i| traced(&stages, i));
    let lower_bound = dropped.min(best).min(start.error).max(relaxed.bound);
    Found { better, lower_bound }
}

/// For each layer, the least cost and the priced optimum of the layers from it on.
struct Remaining {
    least: Vec<u64>,
    priced: Vec<f64>,
}

impl Remaining {
    fn new(fronts: &[Vec<Point>], multiplier: f64) -> Self {
        let (mut least, mut priced) = (vec![0; fronts.len() + 1], vec![0.0; fronts.len() + 1]);
        for (layer, front) in fronts.iter().enumerate().rev() {
            least[layer] = least[layer + 1] + front[0].cost;
            priced[layer] = priced[layer + 1] + reduced(front, multiplier);
        }
        Self { least, priced }
    }
}

/// Drops every partial answer that another one beats in cost and in error.
fn keep_undominated(partials: &mut Vec<Partial>) {
    partials.sort_by(|a, b| a.cost.cmp(&b.cost).then(a.error.total_cmp(&b.error)));
    let mut best = f64::INFINITY;
    partials.retain(|p| {
        p.error < best && {
            best = p.error;
            true
        }
    });
}

/// The choices that led to a partial answer of the last stage.
fn traced(stages: &[Vec<Partial>], last: usize) -> Vec<usize> {
    let mut at = last;
    let mut chosen: Vec<usize> = stages[1..]
        .iter()
        .rev()
        .map(|stage| {
            let partial = stage[at];
            at = partial.parent as usize;
            partial.choice as usize
        })
        .collect();
    chosen.reverse();
    chosen
}

#[cfg(test)]
#[path = "knapsack_tests.rs"]
mod tests;
