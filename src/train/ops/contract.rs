//! Matrix products and convolutions.

use super::conv::Convolution;
use super::elementwise::elementwise;
use super::product::matrices;
use super::scalars::MulAdd;
use super::site::Site;
use super::walk::broadcast_dims;
use crate::calibrate::Window;
use crate::error::{Error, Result};
use crate::train::kernel::Real;
use crate::train::tape::{Tensor, apply};

/// `Conv`, `ConvTranspose`.
pub(super) fn convolution<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let (x, w) = (site.real(0)?, site.real(1)?);
    let kernel = w.dims().get(2..).unwrap_or_default();
    let window = Window::read(site.node, kernel)?
        .ok_or_else(|| Error::input("this kind of padding (auto_pad or output_shape) has no gradient here"))?;
    let groups = usize::try_from(site.int("group", 1)?).unwrap_or(1).max(1);
    let transposed = site.node.op_type() == "ConvTranspose";
    let y = apply(Convolution { window, groups, transposed }, &[&x, &w])?;
    let bias = site.optional(2)?.map(|bias| per_channel(&bias, y.rank())).transpose()?;
    Ok(vec![add(&y, bias.as_ref())?])
}

/// A vector over channels, so shaped that it broadcasts against `n × channels × …` of this rank.
pub(super) fn per_channel<T: Real>(vector: &Tensor<T>, rank: usize) -> Result<Tensor<T>> {
    let mut dims = vec![1; rank.saturating_sub(1)];
    if let Some(first) = dims.first_mut() {
        *first = vector.len();
    }
    vector.reshape(dims)
}

/// `Gemm`: `alpha · A B + beta · C`.
pub(super) fn gemm<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let transposed = (site.int("transA", 0)? != 0, site.int("transB", 0)? != 0);
    let y = scaled(matrices(&site.real(0)?, &site.real(1)?, transposed)?, site.float("alpha", 1.0)?)?;
    let bias = site.optional(2)?.map(|bias| scaled(bias, site.float("beta", 1.0)?)).transpose()?;
    Ok(vec![add(&y, bias.as_ref())?])
}

fn scaled<T: Real>(x: Tensor<T>, scale: f64) -> Result<Tensor<T>> {
    if (scale - 1.0).abs() < f64::EPSILON { Ok(x) } else { x.scaled(scale) }
}

/// `MatMul`, `FusedMatMul`.
pub(super) fn matmul<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let side = |slot: usize, transposed: &str| -> Result<Tensor<T>> {
        let x = site.real(slot)?;
        if x.rank() < 2 || site.int(transposed, 0)? == 0 {
            return Ok(x);
        }
        x.transpose(x.rank() - 2, x.rank() - 1)
    };
    let unread = ["transBatchA", "transBatchB"].iter().any(|name| site.int(name, 0).is_ok_and(|flag| flag != 0));
    if unread {
        return Err(Error::input("transBatchA and transBatchB have no gradient here"));
    }
    let y = product(&side(0, "transA")?, &side(1, "transB")?)?;
    Ok(vec![scaled(y, site.float("alpha", 1.0)?)?])
}

/// The matrix product of the last two axes, as numpy's `matmul`.
pub(super) fn product<T: Real>(a: &Tensor<T>, b: &Tensor<T>) -> Result<Tensor<T>> {
    if a.rank() == 1 {
        let y = product(&a.unsqueeze(0)?, b)?;
        return y.squeeze(y.rank() - 2);
    }
    if b.rank() == 1 {
        let y = product(a, &b.unsqueeze(1)?)?;
        return y.squeeze(y.rank() - 1);
    }
    let split = |x: &Tensor<T>| (x.dims()[..x.rank() - 2].to_vec(), x.dims()[x.rank() - 2..].to_vec());
    let ((batch_a, rows), (batch_b, columns)) = (split(a), split(b));
    if b.rank() == 2 {
        // One product of all rows, not one for each batch.
        let all = batch_a.iter().product::<usize>() * rows[0];
        let flat = matrices(&a.reshape([all, rows[1]])?, b, (false, false))?;
        return flat.reshape([batch_a, vec![rows[0], columns[1]]].concat());
    }
    let batch = broadcast_dims([batch_a.as_slice(), &batch_b].into_iter())?;
    let side = |x: &Tensor<T>, matrix: Vec<usize>| -> Result<Tensor<T>> {
        let count = batch.iter().product::<usize>();
        x.expand(&[batch.clone(), matrix.clone()].concat())?.reshape([count, matrix[0], matrix[1]])
    };
    let y = matrices(&side(a, rows.clone())?, &side(b, columns.clone())?, (false, false))?;
    y.reshape([batch, vec![rows[0], columns[1]]].concat())
}

/// `BiasGelu` and others: an addition in front of an activation.
pub(super) fn add<T: Real>(a: &Tensor<T>, b: Option<&Tensor<T>>) -> Result<Tensor<T>> {
    match b {
        Some(b) => a.plus(b),
        None => Ok(a.clone()),
    }
}

/// `x · scale + shift`, broadcast.
pub(super) fn affine<T: Real>(x: &Tensor<T>, scale: &Tensor<T>, shift: Option<&Tensor<T>>) -> Result<Tensor<T>> {
    match shift {
        Some(shift) => elementwise::<MulAdd, T>(&[x, scale, shift], &[]),
        None => x.times(scale),
    }
}
