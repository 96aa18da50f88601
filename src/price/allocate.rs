//! All widths and ranks under a budget, from the price of each.
//!
//! Groups share cost: a weight between two groups costs the product of their widths, and a split of it saves what depends on
//! both. For a multiplier μ, widths go down to a minimum of `Σ price(width) + Σ price(rank) + μ · cost(all widths and ranks)`,
//! one group at a time with the others as they are, each layer at the best rank for its sizes, until nothing moves (Everett
//! 1963, "Generalized Lagrange Multiplier Method", by coordinates). μ is halved toward the budget; what the last step leaves
//! unused is spent where it buys most.

use super::curve::Curve;
use super::groups::Prices;
use super::splits::{Layer, Sizes, Splittable};
use crate::axes::{FactorId, Selection};
use crate::error::Result;
use crate::plan::{Budget, CostModel, Request, Scored, reachable};

/// Halvings of the multiplier's logarithm.
const HALVINGS: usize = 40;

/// Rounds over all groups for one multiplier.
const ROUNDS: usize = 12;

/// Widths chosen for some groups, and ranks for some layers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Allocation {
    /// What stays.
    pub(crate) selection: Selection,
    /// Units that stay in each group.
    pub(crate) kept: Vec<usize>,
    /// The rank of each layer; `None` if it stays whole.
    pub(crate) ranks: Vec<Option<usize>>,
    /// The sum of the prices.
    pub(crate) loss: f64,
    /// For each group, the width that it would go to next, if it could.
    pub(crate) next: Vec<Option<usize>>,
}

impl Allocation {
    /// What another rule chose, with its prices.
    pub(crate) fn of(selection: &Selection, scored: &[Scored<'_>], prices: &Prices, request: &Request) -> Self {
        let kept: Vec<usize> =
            scored.iter().map(|scored| selection.count(scored.group.factor, scored.group.size)).collect();
        let groups = scored.iter().zip(&kept);
        let narrower = |(scored, &kept): (&Scored<'_>, &usize)| {
            request.sizes(scored.group).into_iter().take_while(|&width| width < kept).last()
        };
        let next = groups.clone().map(narrower).collect();
        let loss = |((scored, &kept), curve): ((&Scored<'_>, &usize), &std::result::Result<Curve, String>)| {
            curve.as_ref().map_or(0.0, |curve| curve.at(scored.group.size - kept))
        };
        let loss = groups.zip(&prices.curves).map(loss).sum();
        Self { selection: selection.clone(), kept, ranks: Vec::new(), loss, next }
    }
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

/// Chooses the width of every group that has a curve, and the rank of every layer; the other groups keep all their units.
///
/// # Errors
/// [`Nothing`](crate::ErrorKind::Nothing) if the budget is out of reach.
pub(crate) fn allocate(
    scored: &[Scored<'_>],
    curves: &[Option<&Curve>],
    layers: &[&dyn Splittable],
    cost: &CostModel<'_>,
    (request, budget): (&Request, Budget),
) -> Result<Allocation> {
    request.within(budget, |request| allocate_among(scored, curves, layers, cost, (request, budget)))
}

fn allocate_among(
    scored: &[Scored<'_>],
    curves: &[Option<&Curve>],
    layers: &[&dyn Splittable],
    cost: &CostModel<'_>,
    (request, budget): (&Request, Budget),
) -> Result<Allocation> {
    let items: Vec<Option<Item<'_, '_>>> = scored.iter().zip(curves).map(|(s, c)| item(s, *c, request)).collect();
    let open: Vec<&Item<'_, '_>> = items.iter().flatten().collect();
    let market = Widths::new(&open, layers, cost, budget);
    reachable(budget, market.figure(&market.least()))?;
    let chosen = market.solve();
    let mut chosen_of = chosen.widths.iter().zip(market.next(&chosen));
    let (mut kept, mut next) = (Vec::new(), Vec::new());
    for (item, scored) in items.iter().zip(scored) {
        let (width, further) = match item.as_ref().and_then(|item| Some((item, chosen_of.next()?))) {
            Some((item, (&chosen, further))) => (item.widths[chosen], further.map(|index| item.widths[index])),
            None => (scored.group.size, None),
        };
        kept.push(width);
        next.push(further);
    }
    let (selection, loss) = (market.selection(&chosen.widths), market.loss(&chosen));
    Ok(Allocation { selection, kept, ranks: chosen.ranks, loss, next })
}

fn item<'s, 'g>(scored: &'s Scored<'g>, curve: Option<&Curve>, request: &Request) -> Option<Item<'s, 'g>> {
    let size = scored.group.size;
    let widths = request.sizes(scored.group);
    let prices = widths.iter().map(|&width| curve.map_or(0.0, |curve| curve.at(size - width))).collect();
    curve.map(|_| Item { scored, ranking: scored.ranking(), widths, prices })
}

/// A choice: for each item, a position in its list of widths; for each layer, its rank.
#[derive(Debug, Clone)]
struct Chosen {
    widths: Vec<usize>,
    ranks: Vec<Option<usize>>,
}

struct Widths<'a, 's, 'g> {
    items: &'a [&'a Item<'s, 'g>],
    layers: Vec<Layer<'a>>,
    /// For each item, the layers whose sizes depend on it.
    touched: Vec<Vec<usize>>,
    cost: &'a CostModel<'a>,
    budget: Budget,
}

/// What a change of one item or layer costs and loses.
#[derive(Clone, Copy)]
struct Move {
    cost: f64,
    loss: f64,
}

impl<'a, 's, 'g> Widths<'a, 's, 'g> {
    fn new(
        items: &'a [&'a Item<'s, 'g>],
        layers: &[&'a dyn Splittable],
        cost: &'a CostModel<'a>,
        budget: Budget,
    ) -> Self {
        let mentions = |item: &&Item<'_, '_>| {
            layers.iter().enumerate().filter(|(_, layer)| layer.mentions(item.factor())).map(|(i, _)| i).collect()
        };
        let touched = items.iter().map(mentions).collect();
        let layers = layers.iter().map(|&layer| Layer::new(layer, budget)).collect();
        Self { items, layers, touched, cost, budget }
    }

    fn selection(&self, widths: &[usize]) -> Selection {
        let mut selection = Selection::all();
        self.items.iter().zip(widths).for_each(|(item, &index)| item.keep(item.widths[index], &mut selection));
        selection
    }

    fn loss(&self, chosen: &Chosen) -> f64 {
        let of_groups = self.items.iter().zip(&chosen.widths).map(|(item, &index)| item.prices[index]).sum::<f64>();
        let selection = self.selection(&chosen.widths);
        let layers = self.layers.iter().zip(&chosen.ranks);
        of_groups + layers.map(|(layer, &rank)| layer.at(layer.sizes(&selection), rank).loss).sum::<f64>()
    }

    /// What the budget limits, with this choice.
    fn figure(&self, chosen: &Chosen) -> u64 {
        let selection = self.selection(&chosen.widths);
        let layers = self.layers.iter().zip(&chosen.ranks);
        let saved: u64 = layers.map(|(layer, &rank)| layer.at(layer.sizes(&selection), rank).saving).sum();
        self.budget.of(self.cost.cost(&selection)).saturating_sub(saved)
    }

    fn fits(&self, chosen: &Chosen) -> bool {
        self.figure(chosen) <= self.budget.limit()
    }

    /// Every layer at the rank that is best for its sizes at this multiplier.
    fn with_ranks(&self, widths: Vec<usize>, multiplier: f64) -> Chosen {
        let selection = self.selection(&widths);
        let ranks = self.layers.iter().map(|layer| layer.best(layer.sizes(&selection), multiplier).rank).collect();
        Chosen { widths, ranks }
    }

    /// All groups whole, all layers too.
    fn whole(&self) -> Chosen {
        let widths = self.items.iter().map(|item| item.widths.len() - 1).collect();
        Chosen { widths, ranks: vec![None; self.layers.len()] }
    }

    /// All groups at their narrowest, all layers at the rank that saves most.
    fn least(&self) -> Chosen {
        self.with_ranks(vec![0; self.items.len()], f64::MAX.sqrt())
    }

    /// What everything that mentions an item costs at each of its widths, the others being as `selection` has them and all
    /// layers whole: the parabola through three of them, since a factor is found at most twice in a product of sizes.
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

    /// Sizes of the layers that an item touches, at each of its widths: in proportion between the narrowest and the whole.
    fn sizes(&self, position: usize, selection: &Selection) -> Vec<(usize, Vec<Sizes>)> {
        let (item, mut selection) = (self.items[position], selection.clone());
        let (first, last) = (item.widths[0], item.widths[item.widths.len() - 1]);
        item.keep(first, &mut selection);
        let narrow: Vec<Sizes> = self.touched[position].iter().map(|&i| self.layers[i].sizes(&selection)).collect();
        item.keep(last, &mut selection);
        let layers = self.touched[position].iter().zip(narrow);
        let sizes = |(&index, narrow): (&usize, Sizes)| {
            let whole = self.layers[index].sizes(&selection);
            (index, item.widths.iter().map(|&width| narrow.toward(whole, (width - first, last - first))).collect())
        };
        layers.map(sizes).collect()
    }

    /// Coordinate descent for one multiplier, from all units.
    fn descend(&self, multiplier: f64) -> Chosen {
        let mut widths = self.whole().widths;
        let mut selection = self.selection(&widths);
        for _ in 0..ROUNDS {
            let mut moved = false;
            for (position, item) in self.items.iter().enumerate() {
                let costs = self.costs(item, &selection);
                let mut values: Vec<f64> =
                    item.prices.iter().zip(&costs).map(|(price, cost)| price + multiplier * cost).collect();
                for (layer, sizes) in self.sizes(position, &selection) {
                    let best = sizes.into_iter().map(|sizes| self.layers[layer].best(sizes, multiplier));
                    values.iter_mut().zip(best).for_each(|(value, split)| *value += split.value(multiplier));
                }
                let now = widths[position];
                let best = (0..values.len()).rev().min_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(now);
                if values[best] < values[now] {
                    (widths[position], moved) = (best, true);
                    item.keep(item.widths[best], &mut selection);
                }
            }
            if !moved {
                break;
            }
        }
        self.with_ranks(widths, multiplier)
    }

    fn solve(&self) -> Chosen {
        let all = self.whole();
        if self.fits(&all) {
            return all;
        }
        let mut best: Option<(f64, Chosen)> = None;
        let whole = self.budget.of(self.cost.cost(&Selection::all())).max(1) as f64;
        let most = self.loss(&self.least()).max(f64::MIN_POSITIVE);
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
        self.spend(best.map_or_else(|| self.least(), |(_, chosen)| chosen))
    }

    /// What an item at each of its widths costs and loses, ranks being as they are.
    fn moves(&self, position: usize, chosen: &Chosen, selection: &Selection) -> Vec<Move> {
        let item = self.items[position];
        let costs = self.costs(item, selection);
        let mut moves: Vec<Move> = item.prices.iter().zip(&costs).map(|(&loss, &cost)| Move { cost, loss }).collect();
        for (layer, sizes) in self.sizes(position, selection) {
            for (at, sizes) in moves.iter_mut().zip(sizes) {
                let split = self.layers[layer].at(sizes, chosen.ranks[layer]);
                at.cost -= split.saving as f64;
                at.loss += split.loss;
            }
        }
        moves
    }

    /// Spends the rest of the budget where it gains most.
    fn spend(&self, mut chosen: Chosen) -> Chosen {
        loop {
            let selection = self.selection(&chosen.widths);
            let left = self.budget.limit().saturating_sub(self.figure(&chosen)) as f64;
            let mut best: Option<(f64, Chosen)> = None;
            let mut offer = |now: Move, then: Move, chosen: &dyn Fn() -> Chosen| {
                let (cost, gain) = (then.cost - now.cost, now.loss - then.loss);
                let rate = gain / cost.max(1.0);
                if cost <= left && gain > 0.0 && best.as_ref().is_none_or(|(most, _)| rate > *most) {
                    best = Some((rate, chosen()));
                }
            };
            for (position, &now) in chosen.widths.iter().enumerate() {
                let moves = self.moves(position, &chosen, &selection);
                for wider in now + 1..moves.len() {
                    offer(moves[now], moves[wider], &|| {
                        let mut next = chosen.clone();
                        next.widths[position] = wider;
                        next
                    });
                }
            }
            for (position, (layer, &rank)) in self.layers.iter().zip(&chosen.ranks).enumerate() {
                let sizes = layer.sizes(&selection);
                let of = |rank: Option<usize>| {
                    let split = layer.at(sizes, rank);
                    Move { cost: -(split.saving as f64), loss: split.loss }
                };
                for other in layer.ranks_above(sizes, rank) {
                    offer(of(rank), of(other), &|| {
                        let mut next = chosen.clone();
                        next.ranks[position] = other;
                        next
                    });
                }
            }
            let Some((_, next)) = best.filter(|(_, next)| self.fits(next)) else { return chosen };
            chosen = next;
        }
    }

    /// For each item, the narrower width that saves most for what it loses.
    fn next(&self, chosen: &Chosen) -> Vec<Option<usize>> {
        let selection = self.selection(&chosen.widths);
        let next = |(position, &now): (usize, &usize)| {
            let moves = self.moves(position, chosen, &selection);
            let rate =
                |index: usize| (moves[index].loss - moves[now].loss) / (moves[now].cost - moves[index].cost).max(1.0);
            (0..now).rev().min_by(|&a, &b| rate(a).total_cmp(&rate(b)))
        };
        chosen.widths.iter().enumerate().map(next).collect()
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
    use crate::plan::{Align, Filter, Group, Hardware, Quota, Scope, Units, groups};

    /// Calls `check` with the open groups of the residual network, each unit scored alike.
    fn with_resnet(check: impl FnOnce(&[Scored<'_>], &CostModel<'_>)) {
        with_aligned_resnet(Align::Multiple(1), check);
    }

    fn with_aligned_resnet(align: Align, check: impl FnOnce(&[Scored<'_>], &CostModel<'_>)) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/digits_resnet.onnx");
        let model = Model::load(&file).unwrap();
        let analysis = Analysis::new(&model, &Default::default(), &Default::default()).unwrap();
        let cost = CostModel::new(analysis.subject());
        let all =
            groups(analysis.subject(), &cost, &Filter::new(&[], &[], Units::default(), false).unwrap().aligned(align));
        let open: Vec<&Group> = all.iter().filter(|group| group.is_open(false)).collect();
        let scored: Vec<Scored<'_>> =
            open.iter().map(|&group| Scored { group, scores: vec![1.0; group.size], comparable: true }).collect();
        check(&scored, &cost);
    }

    fn request(share: f64, cost: &CostModel<'_>) -> (Request, Budget) {
        let budget = Budget::Macs((cost.cost(&Selection::all()).macs as f64 * share) as u64);
        (Request { quota: Quota::Budget(budget), scope: Scope::Global, min_keep: 1, whole_blocks: false }, budget)
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
                let found = allocate(scored, &curves, &[], cost, (&request, budget)).unwrap();
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
            let found = allocate(scored, &all, &[], cost, (&request, budget)).unwrap();
            assert!(found.loss < 1e-3, "{}", found.loss);
            let odd: Vec<Option<&Curve>> =
                made.iter().enumerate().map(|(index, curve)| (index % 2 == 1).then_some(curve)).collect();
            let found = allocate(scored, &odd, &[], cost, (&request, budget)).unwrap();
            for (index, scored) in scored.iter().enumerate().filter(|(index, _)| index % 2 == 0) {
                assert_eq!(found.kept[index], scored.group.size);
            }
            let out_of_reach = self::request(1e-4, cost);
            assert!(allocate(scored, &odd, &[], cost, (&out_of_reach.0, out_of_reach.1)).is_err());
        });
    }

    /// Eight channels take the time of 16 where 16 are computed at a time: they are left only by a budget that needs it.
    #[test]
    fn multiply_accumulates_go_in_whole_blocks_where_the_budget_allows() {
        with_aligned_resnet(Align::For(Hardware::Avx512), |scored, cost| {
            let curves = curves(scored, |_| 1.0);
            let curves: Vec<Option<&Curve>> = curves.iter().map(Some).collect();
            let is_partly = |allocation: &Allocation| scored.iter().any(|s| s.group.kept_partly(&allocation.selection));
            let within = |budget: Budget| {
                let (request, _) = request(1.0, cost);
                allocate(scored, &curves, &[], cost, (&request, budget)).unwrap()
            };
            let whole = cost.cost(&Selection::all());
            assert!(!is_partly(&within(Budget::Macs(whole.macs / 5 * 4))));
            assert!(is_partly(&within(Budget::Macs(whole.macs / 4))));
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
