//! A layer as a choice beside the widths of groups: what each rank costs and loses once units of the layer are gone.
//!
//! Removing outputs leaves a principal submatrix of their covariance, so the error at a rank is a tail of that matrix's
//! eigenvalues. It is known for a few shares of the outputs, in the order in which they go, and interpolated between. Removing
//! inputs bounds the rank; the refit of the others keeps the outputs close to what they were, so the error counts as the same.
//! What an error does to the network's output is the curve of the whole layer.

use super::decompose::Decomposition;
use super::price::PriceList;
use super::select::ranks_of;
use crate::analysis::Subject;
use crate::axes::{Expr, FactorId, Selection};
use crate::error::Result;
use crate::linalg::default_backend;
use crate::lowrank::ErrorCurve;
use crate::plan::{Align, Budget, Cost};
use crate::price::Curve;
use crate::price::splits::{Sizes, Split, Splittable};

use super::candidates::{Candidate, Form};

/// A layer that can be split at any size.
pub(crate) struct Resized<'a> {
    subject: Subject<'a>,
    /// Axes of the inputs and of the outputs in the stored weight.
    axes: [&'a Expr; 2],
    /// Rows of the matrix for each index of the axis of inputs.
    taps: usize,
    /// Convolution groups.
    groups: usize,
    /// As it is.
    whole: Sizes,
    prices: &'a PriceList,
    loss: &'a Curve,
    align: Align,
    /// Errors with this many outputs, ascending; last those of all.
    curves: Vec<(usize, ErrorCurve)>,
}

impl<'a> Resized<'a> {
    /// The layer `candidate`, where `narrowed` are selections, wide to narrow, in the order in which units go. `None` if the
    /// axes of its weight are not known.
    ///
    /// # Errors
    /// No convergence.
    pub(crate) fn new(
        subject: Subject<'a>,
        candidate: &'a Candidate,
        (decomposition, prices, loss): (&Decomposition, &'a PriceList, &'a Curve),
        narrowed: &[Selection],
        align: Align,
    ) -> Result<Option<Self>> {
        // Its outputs are the gates of all directions, which are no axis of the weight.
        if matches!(candidate.form, Form::Gates { .. }) {
            return Ok(None);
        }
        let Some(axes) = subject.network.value(candidate.weight) else { return Ok(None) };
        let [inputs, outputs] = candidate.stored_axes();
        let (Some(inputs), Some(outputs)) = (axes.get(inputs), axes.get(outputs)) else { return Ok(None) };
        let (k, n) = candidate.matrix_shape();
        let (taps, groups) = match candidate.form {
            Form::Kernel { groups } => (candidate.dims.iter().skip(2).product(), groups),
            _ => (1, 1),
        };
        let mut curves = vec![(n, decomposition.curve().clone())];
        for selection in narrowed {
            let kept = subject.network.solution.kept(outputs, selection).unwrap_or_default();
            let is_narrower = !kept.is_empty() && curves.iter().all(|(outputs, _)| kept.len() < *outputs);
            if is_narrower && let Some(curve) = decomposition.curve_of(default_backend(), &kept)? {
                curves.push((kept.len(), curve));
            }
        }
        curves.reverse();
        let whole = Sizes { inputs: k, outputs: n };
        Ok(Some(Self { subject, axes: [inputs, outputs], taps, groups, whole, prices, loss, align, curves }))
    }

    /// The squared error at a rank with this many outputs: between the two nearest numbers of outputs in proportion; none with
    /// no outputs.
    fn error(&self, outputs: usize, rank: usize) -> f64 {
        let above = self.curves.partition_point(|(known, _)| *known < outputs).min(self.curves.len() - 1);
        let (high, curve) = &self.curves[above];
        let low = above.checked_sub(1).map(|below| &self.curves[below]);
        let (low, from) = low.map_or((0, 0.0), |(known, curve)| (*known, curve.error(rank)));
        let share = (outputs - low.min(outputs)) as f64 / (high - low).max(1) as f64;
        from + (curve.error(rank) - from) * share.min(1.0)
    }
}

impl Splittable for Resized<'_> {
    fn mentions(&self, factor: FactorId) -> bool {
        self.axes.iter().any(|axis| axis.mentions(factor))
    }

    fn sizes(&self, selection: &Selection) -> Sizes {
        let of =
            |axis: &Expr| self.subject.network.solution.extent(axis, selection).and_then(|extent| extent.as_fixed());
        let [inputs, outputs] = self.axes.map(of);
        Sizes {
            inputs: inputs.map_or(self.whole.inputs, |size| size * self.taps),
            outputs: outputs.map_or(self.whole.outputs, |size| size / self.groups),
        }
    }

    fn splits(&self, sizes: Sizes, budget: Budget) -> Vec<Split> {
        let prices = self.prices.resized(sizes.inputs, sizes.outputs);
        let of = |cost: Cost| budget.of(cost);
        let dense = of(prices.dense());
        let split = |rank: usize| Split {
            rank: Some(rank),
            saving: dense.saturating_sub(of(prices.split(rank))),
            loss: self.loss.at_error(self.error(sizes.outputs, rank)),
        };
        let ranks = ranks_of(&prices, sizes.inputs.min(sizes.outputs), self.align);
        ranks.map(split).filter(|split| split.saving > 0).collect()
    }
}
