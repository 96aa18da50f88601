//! The coupled groups of a model: what each factor is, which tensors it slices, whether it may be pruned.

use std::collections::{BTreeMap, BTreeSet};

use super::align::{Align, Misaligned, Seen};
use super::cost::{Cost, CostModel};
use super::patterns::Patterns;
use crate::analysis::Subject;
use crate::axes::{Expr, FactorId, Role, Selection};
use crate::error::Result;
use crate::graph::{NodeId, ValueId};
use crate::onnx::traits::RECURRENT;
use crate::ops::{Edit, is_prunable};

/// What the indices of a factor are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Attention heads: batch axis of a product of two activations, merged with a head width.
    Heads,
    /// Indices inside every head.
    HeadDims,
    /// Groups of a grouped or depthwise convolution.
    ConvGroups,
    /// Channels of a convolution.
    Channels,
    /// Neurons of a dense layer.
    Neurons,
    /// Units of a recurrent layer.
    HiddenUnits,
    /// Anything else.
    Indices,
}

impl Kind {
    /// The field's word for it, plural.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Heads => "heads",
            Kind::HeadDims => "head dims",
            Kind::ConvGroups => "conv groups",
            Kind::Channels => "channels",
            Kind::Neurons => "neurons",
            Kind::HiddenUnits => "hidden units",
            Kind::Indices => "indices",
        }
    }
}

/// An axis of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Name of the initializer, or of a `Constant` node's result.
    pub tensor: String,
    /// Number of the axis.
    pub axis: usize,
}

/// A factor and everything coupled by it.
#[derive(Debug, Clone)]
pub struct Group {
    /// The factor.
    pub factor: FactorId,
    /// Stable name: the node that makes it, and what its indices are.
    pub name: String,
    /// What its indices are.
    pub kind: Kind,
    /// Strongest role of the factor.
    pub role: Role,
    /// Number of indices.
    pub size: usize,
    /// Axes of stored tensors that mention it.
    pub members: Vec<Member>,
    /// Units that stay are a multiple of this, unless all stay.
    pub step: usize,
    /// Why such sizes are not what the hardware computes in.
    pub misaligned: Option<Misaligned>,
    /// Parameters and multiply–accumulates of everything that mentions it.
    pub controls: Cost,
    /// Why it is left alone although its role would allow removal.
    pub excluded: Option<String>,
}

impl Group {
    /// Whether units of it may be removed.
    pub fn is_open(&self, allow_shifts: bool) -> bool {
        self.excluded.is_none() && is_prunable(&self.role, self.size, allow_shifts)
    }

    /// Whether `selection` leaves a number of its units that the hardware does not compute in whole blocks.
    pub fn kept_partly(&self, selection: &Selection) -> bool {
        let kept = selection.count(self.factor, self.size);
        kept < self.size
            && match &self.misaligned {
                Some(Misaligned::Small { block, .. }) => !kept.is_multiple_of(*block),
                Some(Misaligned::Joined { .. }) => true,
                None => false,
            }
    }

    /// Sizes that may be left of it, ascending: multiples of [`step`](Self::step) from `min_keep` on, or of a whole block, and
    /// last its size as it is.
    pub fn sizes(&self, min_keep: usize, whole_blocks: bool) -> Vec<usize> {
        let step = match self.misaligned {
            Some(Misaligned::Small { block, .. }) if whole_blocks => block,
            _ => self.step.max(1),
        };
        let least = min_keep.max(1).checked_next_multiple_of(step).unwrap_or(self.size);
        (least..self.size).step_by(step).chain([self.size]).collect()
    }
}

/// Which factor of a merged axis, such as `(heads dims)`, is pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Units {
    /// Dimensions of heads, if data gives a basis that orders them; whole heads otherwise.
    #[default]
    Auto,
    /// Whole heads.
    Heads,
    /// Indices inside each head.
    Dims,
    /// Whole heads, and indices inside each head.
    Both,
}

/// Which groups the user wants pruned, by name or by the names of their members.
#[derive(Debug, Clone)]
pub struct Filter {
    patterns: Patterns,
    /// Which factor of merged axes is pruned.
    pub units: Units,
    /// Whether factors whose removal shifts a statistic may be pruned.
    pub allow_shifts: bool,
    align: Align,
    /// Widths of heads whose dimensions are in order of what they do.
    ordered: BTreeSet<FactorId>,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            patterns: Patterns::default(),
            units: Units::default(),
            allow_shifts: false,
            align: Align::Multiple(1),
            ordered: BTreeSet::new(),
        }
    }
}

impl Filter {
    /// Groups that match one of `include` (all, if empty) and none of `exclude`.
    ///
    /// # Errors
    /// If a pattern is malformed.
    pub fn new(include: &[String], exclude: &[String], units: Units, allow_shifts: bool) -> Result<Self> {
        Ok(Self { patterns: Patterns::new(include, exclude)?, units, allow_shifts, ..Self::default() })
    }

    /// The same filter for groups of which multiples of this stay; otherwise every size is open.
    pub fn aligned(self, align: Align) -> Self {
        Self { align, ..self }
    }

    /// The same filter for heads whose dimensions are in order of what they do, if their width is one of these.
    pub fn ordered(self, widths: BTreeSet<FactorId>) -> Self {
        Self { ordered: widths, ..self }
    }

    fn verdict(&self, group: &Group) -> Option<String> {
        let members = group.members.iter().map(|member| member.tensor.as_str());
        self.patterns.refusal([group.name.as_str()].into_iter().chain(members)).map(str::to_owned)
    }
}

/// All groups of a model that slice a stored tensor, in graph order.
pub fn groups(subject: Subject<'_>, cost: &CostModel<'_>, filter: &Filter) -> Vec<Group> {
    let survey = Survey::new(subject);
    let seen = Seen::new(subject, filter.align);
    let mut groups: Vec<Group> = Vec::new();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for factor in &survey.order {
        let Some(members) = survey.members.get(factor) else { continue };
        let solved = subject.network.solution.factor(*factor);
        let Some(size) = solved.extent.as_fixed() else { continue };
        let kind = survey.kind(*factor);
        let maker = survey.makers.get(factor).map_or("network", String::as_str);
        let stem = format!("{} {}", maker.trim_start_matches('/'), kind.name());
        let count = names.entry(stem.clone()).or_insert(0);
        *count += 1;
        let step = seen.step(*factor, kind == Kind::Heads);
        groups.push(Group {
            factor: *factor,
            name: if *count == 1 { stem } else { format!("{stem} {count}") },
            kind,
            role: solved.role.clone(),
            size,
            members: members.iter().cloned().collect(),
            step: step.units,
            misaligned: step.misaligned,
            controls: cost.controlled_by(*factor),
            excluded: None,
        });
    }
    let alternates = survey.alternates(&groups, filter);
    for group in &mut groups {
        let alternate = alternates.get(&group.factor);
        group.excluded = filter.verdict(group).or_else(|| alternate.cloned());
    }
    groups
}

/// One walk over the graph: which factors there are, where they come from, how they are used.
struct Survey<'a> {
    subject: Subject<'a>,
    order: Vec<FactorId>,
    members: BTreeMap<FactorId, BTreeSet<Member>>,
    makers: BTreeMap<FactorId, String>,
    kinds: BTreeMap<FactorId, Kind>,
    /// Axes of stored tensors.
    axes: Vec<(String, Expr)>,
}

impl<'a> Survey<'a> {
    fn new(subject: Subject<'a>) -> Self {
        let mut survey = Self {
            subject,
            order: Vec::new(),
            members: BTreeMap::new(),
            makers: BTreeMap::new(),
            kinds: BTreeMap::new(),
            axes: Vec::new(),
        };
        for &node in &subject.graph.order {
            survey.visit(node);
        }
        survey
    }

    fn visit(&mut self, id: NodeId) {
        let node = self.subject.graph.node(id);
        let relation = &self.subject.network.relations[id.0];
        for edit in &relation.edits {
            if let Edit::Attribute { name: "group", axis } = edit {
                axis.factors().into_iter().for_each(|f| self.note_kind(f, Kind::ConvGroups));
            }
        }
        for (axes, kind) in [(&relation.heads, Kind::Heads), (&relation.head_dims, Kind::HeadDims)] {
            axes.iter().flat_map(Expr::factors).for_each(|factor| self.note_kind(factor, kind));
        }
        let weighed = relation.contraction.as_ref().and_then(|c| c.linear);
        if let Some(linear) = weighed {
            let kind = if node.op.starts_with("Conv") { Kind::Channels } else { Kind::Neurons };
            let axes = self.subject.network.operand(self.subject.graph, id, linear.weight);
            for factor in axes.and_then(|axes| axes.get(linear.weight_out)).map(Expr::factors).unwrap_or_default() {
                self.note_maker(factor, &node.name);
                self.note_kind(factor, kind);
            }
        } else if relation.contraction.is_some() {
            self.note_attention(id);
        }
        for (slot, input) in node.inputs.iter().enumerate() {
            // An Identity hands a stored tensor on: what slices it are the uses behind.
            let Some(value) = input.filter(|_| !node.is_identity()) else { continue };
            let root = self.subject.graph.behind_identity(value);
            if self.subject.constant(root).is_none() {
                continue;
            }
            let Some(axes) = self.subject.network.operand(self.subject.graph, id, slot) else { continue };
            self.note_stored(root, axes, &node.name);
        }
        if node.traits().has(RECURRENT) {
            for edit in &relation.edits {
                if let Edit::Attribute { axis, .. } = edit {
                    axis.factors().into_iter().for_each(|f| {
                        self.note_maker(f, &node.name);
                        self.kinds.insert(f, Kind::HiddenUnits);
                    });
                }
            }
        }
    }

    fn note_stored(&mut self, root: ValueId, axes: &[Expr], node: &str) {
        let tensor = &self.subject.graph.at(root).name;
        for (axis, expr) in axes.iter().enumerate() {
            for factor in expr.factors() {
                if !self.members.contains_key(&factor) {
                    self.order.push(factor);
                }
                let member = Member { tensor: tensor.clone(), axis };
                self.members.entry(factor).or_default().insert(member);
                self.note_maker(factor, node);
            }
            if !matches!(expr, Expr::One | Expr::Factor(_)) {
                self.axes.push((tensor.clone(), expr.clone()));
            }
        }
    }

    fn note_maker(&mut self, factor: FactorId, node: &str) {
        self.makers.entry(factor).or_insert_with(|| node.to_owned());
    }

    /// The first kind stands, but heads and groups outweigh the layer that they were first seen in.
    fn note_kind(&mut self, factor: FactorId, kind: Kind) {
        let slot = self.kinds.entry(factor).or_insert(kind);
        if kind <= Kind::ConvGroups && *slot > kind {
            *slot = kind;
        }
    }

    /// A product of two activations: its static batch axes are heads, what else is static in it are head dimensions.
    fn note_attention(&mut self, id: NodeId) {
        let graph = self.subject.graph;
        let network = self.subject.network;
        let operands: Vec<&[Expr]> =
            (0..graph.node(id).inputs.len()).filter_map(|slot| network.operand(graph, id, slot)).collect();
        let [first, second, ..] = operands[..] else { return };
        let mut factors = graph.node(id).inputs.iter().take(2).flatten();
        if factors.any(|&value| self.subject.constant(graph.behind_identity(value)).is_some()) {
            return;
        }
        let batch =
            |axes: &[Expr]| -> BTreeSet<FactorId> { axes.iter().rev().skip(2).flat_map(Expr::factors).collect() };
        let heads: BTreeSet<FactorId> = batch(first).intersection(&batch(second)).copied().collect();
        for &factor in &heads {
            self.note_kind(factor, Kind::Heads);
        }
        for factor in second.iter().rev().take(2).flat_map(Expr::factors).filter(|f| !heads.contains(f)) {
            self.note_kind(factor, Kind::HeadDims);
        }
    }

    fn kind(&self, factor: FactorId) -> Kind {
        let kind = self.kinds.get(&factor).copied().unwrap_or(Kind::Indices);
        match kind {
            // A head that is merged with nothing is an ordinary axis, and so is what is not merged with a head.
            Kind::Heads if !self.is_merged(factor, |_| true) => Kind::Indices,
            Kind::HeadDims if !self.is_merged(factor, |f| self.kinds.get(&f) == Some(&Kind::Heads)) => Kind::Indices,
            kind => kind,
        }
    }

    /// Whether an axis is a product of `factor` and one that `qualifies`.
    fn is_merged(&self, factor: FactorId, qualifies: impl Fn(FactorId) -> bool) -> bool {
        let mut products = Vec::new();
        self.axes.iter().for_each(|(_, expr)| products_in(expr, &mut products));
        products.iter().any(|parts| parts.contains(&factor) && parts.iter().any(|&f| f != factor && qualifies(f)))
    }

    /// Factors that share a merged axis with one that is pruned in their place. The preferred ones come first, so that none
    /// gives way to one that gives way itself.
    fn alternates(&self, groups: &[Group], filter: &Filter) -> BTreeMap<FactorId, String> {
        let open: BTreeMap<FactorId, &Group> = groups
            .iter()
            .filter(|g| is_prunable(&g.role, g.size, filter.allow_shifts) && filter.verdict(g).is_none())
            .map(|g| (g.factor, g))
            .collect();
        let mut alternates = BTreeMap::new();
        if filter.units == Units::Both {
            return alternates;
        }
        let mut products = Vec::new();
        self.axes.iter().for_each(|(_, expr)| products_in(expr, &mut products));
        let ordered = self.ordered(&products, filter);
        products.retain(|pair| pair.iter().all(|factor| open.contains_key(factor)));
        let mut candidates: Vec<&Group> = products.iter().flatten().filter_map(|f| open.get(f).copied()).collect();
        let merged = |group: &Group| -> Vec<&Group> {
            let others = products.iter().filter(|pair| pair.contains(&group.factor)).flatten();
            others.filter(|&&other| other != group.factor).filter_map(|other| open.get(other).copied()).collect()
        };
        let units = |group: &Group| if ordered.contains(&group.factor) { Units::Dims } else { filter.units };
        candidates.sort_by_cached_key(|group| preference(group, &merged(group), units(group)));
        let mut chosen = BTreeSet::new();
        for group in candidates {
            match merged(group).into_iter().find(|other| chosen.contains(&other.factor)) {
                Some(rival) => {
                    let why = format!("merged with '{}', which is pruned instead", rival.name);
                    alternates.insert(group.factor, why);
                }
                None => drop(chosen.insert(group.factor)),
            }
        }
        alternates
    }
}

impl Survey<'_> {
    /// Head widths, and heads, that lose dimensions by default: of heads of which all widths are in order.
    fn ordered(&self, products: &[[FactorId; 2]], filter: &Filter) -> BTreeSet<FactorId> {
        let is_heads = |factor: &FactorId| self.kinds.get(factor) == Some(&Kind::Heads);
        let heads: BTreeSet<FactorId> = products.iter().flatten().copied().filter(is_heads).collect();
        let others = |heads: FactorId| {
            let pairs = products.iter().filter(move |pair| pair.contains(&heads)).flatten();
            pairs.copied().filter(move |&other| other != heads)
        };
        let mut ordered = BTreeSet::new();
        for heads in heads.into_iter().filter(|_| filter.units == Units::Auto) {
            let is_width = |factor: &FactorId| self.kinds.get(factor) == Some(&Kind::HeadDims);
            let widths: Vec<FactorId> = others(heads).filter(is_width).collect();
            if !widths.is_empty() && widths.iter().all(|width| filter.ordered.contains(width)) {
                ordered.extend(widths);
                ordered.insert(heads);
            }
        }
        ordered
    }
}

/// Which factor of a merged axis is pruned, the smallest number first: heads before their dims, channels inside convolution
/// groups before the groups, unless half of these takes far more. Among equals it is the outermost one.
fn preference(group: &Group, merged: &[&Group], units: Units) -> u8 {
    let gain = |group: &Group| group.controls.params / group.size.max(1) as u64 * (group.size / 2) as u64;
    let is_minor = merged.iter().any(|other| other.kind == Kind::ConvGroups && gain(other) > 2 * gain(group));
    match (group.kind, units) {
        (Kind::Heads, Units::Heads | Units::Auto) | (Kind::HeadDims, Units::Dims) => 0,
        (Kind::ConvGroups, _) => 3,
        (Kind::HeadDims, _) | (Kind::Heads, Units::Dims) => 2,
        _ if is_minor => 4,
        _ => 1,
    }
}

/// Pairs of factors that are multiplied with each other somewhere in an axis, the outer one first.
fn products_in(expr: &Expr, into: &mut Vec<[FactorId; 2]>) {
    match expr {
        Expr::Product(parts) => {
            for (index, outer) in parts.iter().enumerate() {
                for inner in parts.iter().skip(index + 1).flat_map(Expr::factors) {
                    into.extend(outer.factors().into_iter().map(|outer| [outer, inner]));
                }
            }
            parts.iter().for_each(|part| products_in(part, into));
        }
        Expr::Sum(terms) => terms.iter().for_each(|term| products_in(term, into)),
        Expr::One | Expr::Factor(_) | Expr::Spelled(_) => {}
    }
}
