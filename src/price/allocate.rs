//! All widths under a budget, from the price of each.
//!
//! Groups share cost: a weight between two groups costs the product of their widths. For a multiplier μ, widths go down to a
//! minimum of `Σ price(width) + μ · cost(all widths)`, one group at a time with the others as they are, until nothing moves
//! (Everett 1963, "Generalized Lagrange Multiplier Method", by coordinates). μ is halved toward the budget; what the last step
//! leaves unused is spent where it buys most.

use super::curve::Curve;
use crate::axes::{FactorId, Selection};
use crate::error::Result;
use crate::plan::{Budget, CostModel, Request, Scored, reachable};

/// Halvings of the multiplier's logarithm.
const HALVINGS: usize = 40;

/// Rounds over all groups for one multiplier.
const ROUNDS: usize = 12;

/// Widths chosen for some groups.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Allocation {
    /// What stays.
    pub(crate) selection: Selection,
    /// Units that stay in each group.
    pub(crate) kept: Vec<usize>,
    /// The sum of the prices.
    pub(crate) loss: f64,
    /// For each group, the width that it would go to next, if it could.
    pub(crate) next: Vec<Option<usize>>,
}

/// A group that can be narrowed.
struct Item<'s, 'g> {
    scored: &'s Scored<'g>,
    ranking: Vec<usize>,
    /// Widths, narrow to wide, the last one being the whole.
    widths: Vec<usize>,
    /// The price of each.
    prices: Vec<f64>,
}

impl Item<'_, '_> {
    fn factor(&self) -> FactorId {
        self.scored.group.factor
    }

    /// Keeps `width` units in `selection`.
    fn keep(&self, width: usize, selection: &mut Selection) {
        let mut flags = vec![true; self.ranking.len()];
        self.ranking.iter().take(self.ranking.len().saturating_sub(width)).for_each(|&unit| flags[unit] = false);
        selection.keep(self.factor(), flags);
    }
}

/// Chooses the width of every group that has a curve; the others keep all their units.
///
/// # Errors
/// [`Nothing`](crate::ErrorKind::Nothing) if the budget is out of reach.
pub(crate) fn allocate(
    scored: &[Scored<'_>],
    curves: &[Option<&Curve>],
    cost: &CostModel<'_>,
    (request, budget): (&Request, Budget),
) -> Result<Allocation> {
    let items: Vec<Option<Item<'_, '_>>> = scored.iter().zip(curves).map(|(s, c)| item(s, *c, request)).collect();
    let open: Vec<&Item<'_, '_>> = items.iter().flatten().collect();
    let market = Widths { items: &open, cost, budget };
    reachable(budget, cost, &market.selection(&vec![0; open.len()]))?;
    let chosen = market.solve();
    let mut chosen_of = chosen.iter().zip(market.next(&chosen));
    let (mut kept, mut next) = (Vec::new(), Vec::new());
    for (item, scored) in items.iter().zip(scored) {
        let (width, further) = match item.as_ref().and_then(|item| Some((item, chosen_of.next()?))) {
            Some((item, (&chosen, further))) => (item.widths[chosen], further.map(|index| item.widths[index])),
            None => (scored.group.size, None),
        };
        kept.push(width);
        next.push(further);
    }
    Ok(Allocation { selection: market.selection(&chosen), kept, loss: market.loss(&chosen), next })
}

fn item<'s, 'g>(scored: &'s Scored<'g>, curve: Option<&Curve>, request: &Request) -> Option<Item<'s, 'g>> {
    let size = scored.group.size;
    let widths = scored.group.sizes(request.min_keep);
    let prices = widths.iter().map(|&width| curve.map_or(0.0, |curve| curve.at(size - width))).collect();
    curve.map(|_| Item { scored, ranking: scored.ranking(), widths, prices })
}

/// A choice of widths: for each item, a position in its list.
type Chosen = Vec<usize>;

struct Widths<'a, 's, 'g> {
    items: &'a [&'a Item<'s, 'g>],
    cost: &'a CostModel<'a>,
    budget: Budget,
}

impl Widths<'_, '_, '_> {
    fn selection(&self, chosen: &[usize]) -> Selection {
        let mut selection = Selection::all();
        self.items.iter().zip(chosen).for_each(|(item, &index)| item.keep(item.widths[index], &mut selection));
        selection
    }

    fn loss(&self, chosen: &[usize]) -> f64 {
        self.items.iter().zip(chosen).map(|(item, &index)| item.prices[index]).sum()
    }

    fn fits(&self, chosen: &[usize]) -> bool {
        self.budget.of(self.cost.cost(&self.selection(chosen))) <= self.budget.limit()
    }

    /// What everything that mentions an item costs at each of its widths, the others being as `selection` has them: the
    /// parabola through three of them, since a factor is found at most twice in a product of sizes.
    fn costs(&self, item: &Item<'_, '_>, selection: &Selection) -> Vec<f64> {
        let mut selection = selection.clone();
        let mut at = |width: usize| {
            item.keep(width, &mut selection);
            self.budget.of(self.cost.mentioning(item.factor(), &selection)) as f64
        };
        let last = item.widths.len() - 1;
        let known: Vec<(f64, f64)> =
            [0, last / 2, last].iter().map(|&i| (item.widths[i] as f64, at(item.widths[i]))).collect();
        item.widths.iter().map(|&width| parabola(&known, width as f64)).collect()
    }

    /// Coordinate descent for one multiplier, from all units.
    fn descend(&self, multiplier: f64) -> Chosen {
        let mut chosen: Chosen = self.items.iter().map(|item| item.widths.len() - 1).collect();
        let mut selection = self.selection(&chosen);
        for _ in 0..ROUNDS {
            let mut moved = false;
            for (slot, item) in chosen.iter_mut().zip(self.items) {
                let costs = self.costs(item, &selection);
                let value = |index: usize| item.prices[index] + multiplier * costs[index];
                let best = (0..costs.len()).rev().min_by(|&a, &b| value(a).total_cmp(&value(b))).unwrap_or(*slot);
                if value(best) < value(*slot) {
                    (*slot, moved) = (best, true);
                    item.keep(item.widths[best], &mut selection);
                }
            }
            if !moved {
                break;
            }
        }
        chosen
    }

    fn solve(&self) -> Chosen {
        let all: Chosen = self.items.iter().map(|item| item.widths.len() - 1).collect();
        if self.fits(&all) {
            return all;
        }
        let mut best: Option<(f64, Chosen)> = None;
        let whole = self.budget.of(self.cost.cost(&Selection::all())).max(1) as f64;
        let most: f64 = self.items.iter().map(|item| item.prices[0]).sum::<f64>().max(f64::MIN_POSITIVE);
        let (mut low, mut high) = ((most / whole * 1e-9).ln(), (most * 1e9).ln());
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(low, high);
            let chosen = self.descend(middle.exp());
            if self.fits(&chosen) {
                high = middle;
                let loss = self.loss(&chosen);
                if best.as_ref().is_none_or(|(least, _)| loss < *least) {
                    best = Some((loss, chosen));
                }
            } else {
                low = middle;
            }
        }
        self.spend(best.map_or_else(|| vec![0; self.items.len()], |(_, chosen)| chosen))
    }

    /// Spends the rest of the budget where it gains most.
    fn spend(&self, mut chosen: Chosen) -> Chosen {
        loop {
            let selection = self.selection(&chosen);
            let left = self.budget.limit().saturating_sub(self.budget.of(self.cost.cost(&selection))) as f64;
            let mut best: Option<(f64, usize, usize)> = None;
            for (position, (item, &now)) in self.items.iter().zip(&chosen).enumerate() {
                let costs = self.costs(item, &selection);
                for wider in now + 1..item.widths.len() {
                    let (price, gain) = (costs[wider] - costs[now], item.prices[now] - item.prices[wider]);
                    let rate = gain / price.max(1.0);
                    if price <= left && gain > 0.0 && best.is_none_or(|(most, ..)| rate > most) {
                        best = Some((rate, position, wider));
                    }
                }
            }
            let Some((_, position, wider)) = best else { return chosen };
            let before = std::mem::replace(&mut chosen[position], wider);
            if !self.fits(&chosen) {
                chosen[position] = before;
                return chosen;
            }
        }
    }

    /// For each item, the narrower width that saves most for what it loses.
    fn next(&self, chosen: &[usize]) -> Vec<Option<usize>> {
        let selection = self.selection(chosen);
        let next = |(item, &now): (&&Item<'_, '_>, &usize)| {
            let costs = self.costs(item, &selection);
            let rate = |index: usize| (item.prices[index] - item.prices[now]) / (costs[now] - costs[index]).max(1.0);
            (0..now).rev().min_by(|&a, &b| rate(a).total_cmp(&rate(b)))
        };
        self.items.iter().zip(chosen).map(next).collect()
    }
}

/// The parabola through three points, or the line through two different ones, at `x` (Lagrange).
fn parabola(points: &[(f64, f64)], x: f64) -> f64 {
    let mut known: Vec<(f64, f64)> = points.to_vec();
    known.dedup_by_key(|point| point.0);
    let term = |i: usize| {
        let others = known.iter().enumerate().filter(|&(j, _)| j != i);
        known[i].1 * others.map(|(_, other)| (x - other.0) / (known[i].0 - other.0)).product::<f64>()
    };
    (0..known.len()).map(term).sum()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::analysis::Analysis;
    use crate::onnx::Model;
    use crate::plan::{Filter, Group, Quota, Scope, Units, groups};

    /// Calls `check` with the open groups of the residual network, each unit scored alike.
    fn with_resnet(check: impl FnOnce(&[Scored<'_>], &CostModel<'_>)) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/digits_resnet.onnx");
        let model = Model::load(&file).unwrap();
        let analysis = Analysis::new(&model, &Default::default(), &Default::default()).unwrap();
        let cost = CostModel::new(analysis.subject());
        let all = groups(analysis.subject(), &cost, &Filter::new(&[], &[], Units::default(), false).unwrap());
        let open: Vec<&Group> = all.iter().filter(|group| group.is_open(false)).collect();
        let scored: Vec<Scored<'_>> =
            open.iter().map(|&group| Scored { group, scores: vec![1.0; group.size], comparable: true }).collect();
        check(&scored, &cost);
    }

    fn request(share: f64, cost: &CostModel<'_>) -> (Request, Budget) {
        let budget = Budget::Macs((cost.cost(&Selection::all()).macs as f64 * share) as u64);
        (Request { quota: Quota::Budget(budget), scope: Scope::Global, min_keep: 1 }, budget)
    }

    /// Half of a group costs this much, and more in proportion to the square.
    fn curves(scored: &[Scored<'_>], half: impl Fn(usize) -> f64) -> Vec<Curve> {
        let curve = |(index, scored): (usize, &Scored<'_>)| {
            let size = scored.group.size;
            Curve::new(&scored.scores, &[(size / 4, half(index) / 4.0), (size / 2, half(index))]).unwrap()
        };
        scored.iter().enumerate().map(curve).collect()
    }

    #[test]
    fn a_budget_is_met_and_hardly_anything_of_it_is_left() {
        with_resnet(|scored, cost| {
            let curves = curves(scored, |index| 0.1 * (1 + index) as f64);
            let curves: Vec<Option<&Curve>> = curves.iter().map(Some).collect();
            let mut loss = 0.0;
            for share in [0.9, 0.7, 0.5, 0.3] {
                let (request, budget) = request(share, cost);
                let found = allocate(scored, &curves, cost, (&request, budget)).unwrap();
                let macs = cost.cost(&found.selection).macs;
                assert!(macs <= budget.limit() && macs as f64 > 0.97 * budget.limit() as f64, "{share}: {macs}");
                assert!(found.loss > loss, "{share}");
                loss = found.loss;
            }
        });
    }

    /// The groups that cost the output nothing go, those that cost much stay whole.
    #[test]
    fn what_is_cheap_goes_first_and_what_has_no_price_stays() {
        with_resnet(|scored, cost| {
            let made = curves(scored, |index| if index % 2 == 0 { 1e-6 } else { 1.0 });
            let (request, budget) = request(0.8, cost);
            let all: Vec<Option<&Curve>> = made.iter().map(Some).collect();
            let found = allocate(scored, &all, cost, (&request, budget)).unwrap();
            assert!(found.loss < 1e-3, "{}", found.loss);
            let odd: Vec<Option<&Curve>> =
                made.iter().enumerate().map(|(index, curve)| (index % 2 == 1).then_some(curve)).collect();
            let found = allocate(scored, &odd, cost, (&request, budget)).unwrap();
            for (index, scored) in scored.iter().enumerate().filter(|(index, _)| index % 2 == 0) {
                assert_eq!(found.kept[index], scored.group.size);
            }
            let out_of_reach = self::request(1e-4, cost);
            assert!(allocate(scored, &odd, cost, (&out_of_reach.0, out_of_reach.1)).is_err());
        });
    }

    #[test]
    fn a_parabola_goes_through_its_points() {
        let points = [(1.0, 3.0), (2.0, 7.0), (5.0, 31.0)];
        for x in [0.0, 1.0, 3.0, 8.0] {
            assert!((parabola(&points, x) - (x * x + x + 1.0)).abs() < 1e-9);
        }
        assert_eq!(parabola(&[(4.0, 9.0), (4.0, 9.0), (8.0, 17.0)], 6.0), 13.0);
        assert_eq!(parabola(&[(4.0, 9.0)], 6.0), 9.0);
    }
}
