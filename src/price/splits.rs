//! Layers that may be split, as choices beside the widths of groups: at every size, some ranks, what each saves and loses.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::axes::{FactorId, Selection};
use crate::plan::Budget;

/// Inputs and outputs of a layer's matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sizes {
    /// Rows.
    pub(crate) inputs: usize,
    /// Columns.
    pub(crate) outputs: usize,
}

impl Sizes {
    /// The sizes at the share `part / whole` of the way to others that are at least as large.
    pub(super) fn toward(self, other: Self, (part, whole): (usize, usize)) -> Self {
        let between = |from: usize, to: usize| from + to.saturating_sub(from) * part / whole.max(1);
        Self { inputs: between(self.inputs, other.inputs), outputs: between(self.outputs, other.outputs) }
    }
}

/// A layer at some rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Split {
    /// The rank; `None` if the layer is whole.
    pub(crate) rank: Option<usize>,
    /// What it takes less of what the budget limits.
    pub(crate) saving: u64,
    /// What the output loses.
    pub(crate) loss: f64,
}

impl Split {
    /// A layer that is not split.
    const WHOLE: Self = Self { rank: None, saving: 0, loss: 0.0 };

    /// What is to be small, beyond what the whole layer has.
    pub(super) fn value(&self, multiplier: f64) -> f64 {
        self.loss - multiplier * self.saving as f64
    }
}

/// A layer whose weight may be split, at whatever sizes the widths of groups leave it.
pub(crate) trait Splittable {
    /// Whether its sizes depend on this factor.
    fn mentions(&self, factor: FactorId) -> bool;

    /// Its sizes with `selection` kept.
    fn sizes(&self, selection: &Selection) -> Sizes;

    /// The ranks that save something of what `budget` limits, ascending.
    fn splits(&self, sizes: Sizes, budget: Budget) -> Vec<Split>;
}

/// A layer with the splits that were asked for.
pub(super) struct Layer<'a> {
    layer: &'a dyn Splittable,
    budget: Budget,
    known: RefCell<BTreeMap<Sizes, Rc<Vec<Split>>>>,
}

impl<'a> Layer<'a> {
    pub(super) fn new(layer: &'a dyn Splittable, budget: Budget) -> Self {
        Self { layer, budget, known: RefCell::default() }
    }

    pub(super) fn sizes(&self, selection: &Selection) -> Sizes {
        self.layer.sizes(selection)
    }

    fn splits(&self, sizes: Sizes) -> Rc<Vec<Split>> {
        let mut known = self.known.borrow_mut();
        Rc::clone(known.entry(sizes).or_insert_with(|| Rc::new(self.layer.splits(sizes, self.budget))))
    }

    /// The layer at this rank; whole where that does not save anything.
    pub(super) fn at(&self, sizes: Sizes, rank: Option<usize>) -> Split {
        let splits = self.splits(sizes);
        let found = rank.and_then(|_| splits.binary_search_by(|split| split.rank.cmp(&rank)).ok());
        found.map_or(Split::WHOLE, |index| splits[index])
    }

    /// The rank that is best at this multiplier.
    pub(super) fn best(&self, sizes: Sizes, multiplier: f64) -> Split {
        let splits = self.splits(sizes);
        let least = splits.iter().min_by(|a, b| a.value(multiplier).total_cmp(&b.value(multiplier)));
        least.filter(|split| split.value(multiplier) < 0.0).copied().unwrap_or(Split::WHOLE)
    }

    /// The ranks above `rank`, and last the whole layer.
    pub(super) fn ranks_above(&self, sizes: Sizes, rank: Option<usize>) -> Vec<Option<usize>> {
        if rank.is_none() {
            return Vec::new();
        }
        let splits = self.splits(sizes);
        splits.iter().map(|split| split.rank).filter(|&other| other > rank).chain([None]).collect()
    }
}
