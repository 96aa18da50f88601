//! The local repair that a price is measured with: the layers that read a group learn to do without the units that go.
//!
//! The inputs x of such a layer (K) are those of the original, of which the removal zeroes the rows R and leaves the rows S.
//! Least squares toward the old weight W₀ (K×N) need the covariance C of the inputs alone, once for all sizes:
//!
//! ```text
//! W_S = W₀_S + (C_SS + λI)⁻¹ C_SR W₀_R,   W_R = 0,   b = b₀ + (W₀ − W)ᵀ μ
//! ```

use ndarray::{Array1, Array2};

use crate::calibrate::{Detail, Layer, Sums};
use crate::error::{Error, Result};
use crate::graph::{Editor, View, operator};
use crate::linalg::default_backend;
use crate::onnx::proto::{ModelProto, NodeProto};
use crate::onnx::tensor::{TensorView, from_f64_as};
use crate::repair::RIDGES;

/// One matrix of a layer that reads a group.
pub(super) struct Reader {
    /// Position in the list of layers.
    pub(super) layer: usize,
    /// Convolution group.
    pub(super) matrix: usize,
    /// Rows of each unit.
    pub(super) units: Vec<Vec<usize>>,
    /// W₀, K×N.
    pub(super) weight: Array2<f64>,
    /// λ, once it has been chosen.
    pub(super) ridge: Option<f64>,
}

/// What a reader becomes: its weight with the rows of removed units zero, and what its bias gains.
pub(super) struct Refitted {
    pub(super) weight: Array2<f64>,
    pub(super) shift: Array1<f64>,
}

impl Reader {
    /// Rows of the units that go, and of all others.
    fn split(&self, removed: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let mut goes = vec![false; self.weight.nrows()];
        let rows = removed.iter().filter_map(|&unit| self.units.get(unit)).flatten();
        rows.for_each(|&row| goes[row] = true);
        (0..goes.len()).partition(|&row| goes[row])
    }

    /// Lets the held-out samples choose the ridge at this removal; where the products of inputs are missing, nothing is refitted.
    ///
    /// # Errors
    /// If a system cannot be solved.
    pub(super) fn choose_ridge(&mut self, removed: &[usize], fitted: &Sums, held_out: &Sums, name: &str) -> Result<()> {
        if held_out.detail() == Detail::Diagonal {
            return Ok(());
        }
        let (backend, covariance) = (default_backend(), held_out.covariance());
        let drift = held_out.mean_x() - fitted.mean_x();
        let mut best: Option<(f64, f64)> = None;
        for share in RIDGES {
            self.ridge = Some(share);
            let delta = &self.weight - &self.refitted(removed, fitted, name)?.weight;
            let mean = delta.t().dot(&drift);
            let error = (&backend.matmul(covariance.view(), delta.view()) * &delta).sum() + mean.dot(&mean);
            if best.is_none_or(|(least, _)| error < least) {
                best = Some((error, share));
            }
        }
        self.ridge = best.map(|(_, share)| share);
        Ok(())
    }

    /// The reader without the units `removed`.
    ///
    /// # Errors
    /// If the system cannot be solved.
    pub(super) fn refitted(&self, removed: &[usize], fitted: &Sums, name: &str) -> Result<Refitted> {
        let (gone, kept) = self.split(removed);
        let mut weight = self.weight.clone();
        gone.iter().for_each(|&row| weight.row_mut(row).fill(0.0));
        if let (Detail::Covariance, Some(share)) = (fitted.detail(), self.ridge)
            && !gone.is_empty()
            && !kept.is_empty()
        {
            let gained = fitted.compensation(&self.weight, (&kept, &gone), fitted.ridge(share), name)?;
            for (&row, gain) in kept.iter().zip(gained.rows()) {
                weight.row_mut(row).scaled_add(1.0, &gain);
            }
        }
        let shift = (&self.weight - &weight).t().dot(&fitted.mean_x());
        Ok(Refitted { weight, shift })
    }
}

/// Gives `layer` of `model` these matrices, one for each convolution group, and adds `shift` (all groups one after the other) to
/// its result.
///
/// # Errors
/// If the layer is not there, or a value does not fit the element type.
pub(super) fn put(model: &mut ModelProto, layer: &Layer, matrices: &[Array2<f64>], shift: &[f64]) -> Result<()> {
    if let Some(steps) = &layer.steps {
        let bias = steps.bias(&View::of(model)?)? + &Array1::from(shift.to_vec());
        return steps.put(model, matrices.first(), &bias);
    }
    let gone = || Error::input(format!("layer '{}' is gone", layer.name));
    let view = View::of(model)?;
    let (id, node) = view.maker(&layer.result).ok_or_else(gone)?;
    let old = view.operand(id, layer.linear.weight).and_then(|value| view.tensor(value)).ok_or_else(gone)?;
    let (element, rank) = (TensorView::new(old)?.element_type(), old.dims.len());
    let is_conv = matches!(node.op_type(), "Conv" | "ConvTranspose");
    let behind = if is_conv { rank.saturating_sub(2) } else { layer.rank_behind_result() };
    let mut dims = vec![shift.len()];
    dims.resize(1 + behind, 1);
    let mut editor = Editor::new(model.clone(), &view.graph)?;
    let weight = editor.add(&format!("{}_priced", layer.result), layer.tensor(matrices, old)?);
    let added = editor.add(&format!("{}_shift", layer.result), from_f64_as("", &dims, shift, element)?);
    for at in layer.uses() {
        let (id, _) = view.maker(&at.result).ok_or_else(gone)?;
        let bare = editor.fresh(&format!("{}_bare", at.result));
        editor.redirect(id, layer.linear.weight, weight.clone())?;
        editor.node_mut(id)?.output[0].clone_from(&bare);
        let name = editor.fresh_node(&format!("{}_shift", at.result));
        let sum = operator("Add", [bare, added.clone()]);
        editor.insert_after(id, NodeProto { name: Some(name), output: vec![at.result.clone()], ..sum });
    }
    *model = editor.finish_flat();
    Ok(())
}
