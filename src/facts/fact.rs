//! What is known about values, and what others can tell of shapes.

use std::sync::Arc;

use tract_onnx::prelude::{DatumType, Tensor};

use super::bindings::Binding;
use crate::axes::{BINDINGS, Extent};
use crate::graph::{NodeId, ValueId};

/// What is known about one value.
#[derive(Debug, Clone, Default)]
pub struct Fact {
    /// ONNX element type number.
    pub element: Option<i32>,
    /// Size of every axis, `None` if even the rank is unknown.
    pub extents: Option<Vec<Extent>>,
    pub(super) constants: [Option<Arc<Tensor>>; BINDINGS],
}

/// The facts of all values of a graph.
#[derive(Debug, Clone)]
pub struct Facts {
    pub(super) facts: Vec<Fact>,
    /// Nodes of which some result is unknown, with the reason.
    pub gaps: Vec<(NodeId, String)>,
    /// The sizes that dynamic dimensions were given under each binding.
    pub sizes: [Binding; BINDINGS],
}

/// What is known of shapes where tract has no operator.
pub trait Shapes: Sync {
    /// Sizes of the results of a node, `None` where they are not known. `ints` tells operands that are constant integers.
    fn results(
        &self,
        node: NodeId,
        operands: &[Option<Vec<Extent>>],
        ints: &dyn Fn(usize) -> Option<Vec<i64>>,
    ) -> Option<Vec<Option<Vec<Extent>>>>;

    /// What the readers of a value ask of its shape, the sizes that are not certain left open; `None` if its rank is. `known`
    /// tells the sizes of values that are known.
    fn demanded(&self, value: ValueId, known: &dyn Fn(ValueId) -> Option<Vec<u64>>) -> Option<Vec<Option<u64>>>;
}

impl Facts {
    /// What is known about `value`.
    pub fn at(&self, value: ValueId) -> &Fact {
        &self.facts[value.0]
    }

    /// Number of axes whose size differs between the bindings. Sizes that shrink to one hide how axes relate.
    pub fn dynamic_axes(&self) -> usize {
        let axes = self.facts.iter().filter_map(|fact| fact.extents.as_ref()).flatten();
        axes.filter(|extent| extent.as_fixed().is_none()).count()
    }

    /// Dimensions that are declared dynamic and have one size under all bindings.
    pub fn fixed(&self) -> impl Iterator<Item = (&str, usize)> {
        let [first, others @ ..] = &self.sizes;
        let is_fixed = move |name: &String, size: &usize| others.iter().all(|sizes| sizes.get(name) == Some(size));
        first.iter().filter(move |(name, size)| is_fixed(name, size)).map(|(name, &size)| (name.as_str(), size))
    }

    /// Rank of `value`.
    pub fn rank(&self, value: ValueId) -> Option<usize> {
        self.at(value).extents.as_ref().map(Vec::len)
    }
}

impl Fact {
    /// The value under sample binding `binding`, if it is a small constant there.
    pub fn constant(&self, binding: usize) -> Option<&Tensor> {
        self.constants.get(binding)?.as_deref()
    }

    /// The value as integers, if it is known and the same under every binding.
    pub fn ints(&self) -> Option<Vec<i64>> {
        let first = ints_of(self.constant(0)?)?;
        (1..BINDINGS).all(|b| self.constant(b).and_then(ints_of).as_ref() == Some(&first)).then_some(first)
    }

    /// The value as integers under one binding.
    pub fn ints_under(&self, binding: usize) -> Option<Vec<i64>> {
        self.constant(binding).and_then(ints_of)
    }

    /// The value as real numbers, if it is known and the same under every binding.
    pub fn floats(&self) -> Option<Vec<f64>> {
        let first = floats_of(self.constant(0)?)?;
        (1..BINDINGS).all(|b| self.constant(b).and_then(floats_of).as_ref() == Some(&first)).then_some(first)
    }
}

pub(super) fn ints_of(tensor: &Tensor) -> Option<Vec<i64>> {
    let integral = tensor.datum_type().is_integer() || tensor.datum_type() == DatumType::Bool;
    if !integral {
        return None;
    }
    let cast = tensor.cast_to::<i64>().ok()?;
    Some(cast.to_plain_array_view::<i64>().ok()?.iter().copied().collect())
}

fn floats_of(tensor: &Tensor) -> Option<Vec<f64>> {
    if !tensor.datum_type().is_float() {
        return None;
    }
    let cast = tensor.cast_to::<f64>().ok()?;
    Some(cast.to_plain_array_view::<f64>().ok()?.iter().copied().collect())
}
