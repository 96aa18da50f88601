//! Matrix products and convolutions.

use candle_core::Tensor;

use super::conv::Convolution;
use super::elementwise::elementwise;
use super::scalars::{Add, Mul};
use super::site::Site;
use crate::calibrate::Window;
use crate::error::{Error, Result};
use crate::train::kernel::apply;

/// `Conv`, `ConvTranspose`.
pub(super) fn convolution(site: &Site<'_>) -> Result<Vec<Tensor>> {
    let (x, w) = (site.real(0)?, site.real(1)?);
    let kernel = w.dims().get(2..).unwrap_or_default();
    let window = Window::read(site.node, kernel)?
        .ok_or_else(|| Error::input("this kind of padding (auto_pad or output_shape) has no gradient here"))?;
    let groups = usize::try_from(site.int("group", 1)?).unwrap_or(1).max(1);
    let transposed = site.node.op_type() == "ConvTranspose";
    let y = apply(Convolution { window, groups, transposed }, &[&x, &w])?;
    Ok(vec![match site.optional(2)? {
        Some(bias) => elementwise::<Add>(&[&y, &per_channel(&bias, y.rank())?], &[])?,
        None => y,
    }])
}

/// A vector over channels, so shaped that it broadcasts against `n × channels × …` of this rank.
pub(super) fn per_channel(vector: &Tensor, rank: usize) -> Result<Tensor> {
    let mut dims = vec![1; rank.saturating_sub(1)];
    if let Some(first) = dims.first_mut() {
        *first = vector.elem_count();
    }
    Ok(vector.reshape(dims)?)
}

/// `Gemm`: `alpha · A B + beta · C`.
pub(super) fn gemm(site: &Site<'_>) -> Result<Vec<Tensor>> {
    let side = |slot: usize, transposed: &str| -> Result<Tensor> {
        let matrix = site.real(slot)?;
        Ok(if site.int(transposed, 0)? == 0 { matrix } else { matrix.t()? })
    };
    let (alpha, beta) = (site.float("alpha", 1.0)?, site.float("beta", 1.0)?);
    let y = scaled(contiguous(&side(0, "transA")?)?.matmul(&contiguous(&side(1, "transB")?)?)?, alpha)?;
    Ok(vec![match site.optional(2)? {
        Some(bias) => elementwise::<Add>(&[&y, &scaled(bias, beta)?], &[])?,
        None => y,
    }])
}

fn scaled(x: Tensor, scale: f64) -> Result<Tensor> {
    Ok(if (scale - 1.0).abs() < f64::EPSILON { x } else { (x * scale)? })
}

/// `MatMul`, `FusedMatMul`.
pub(super) fn matmul(site: &Site<'_>) -> Result<Vec<Tensor>> {
    let side = |slot: usize, transposed: &str| -> Result<Tensor> {
        let x = site.real(slot)?;
        if x.rank() < 2 || site.int(transposed, 0)? == 0 {
            return Ok(x);
        }
        Ok(x.transpose(x.rank() - 2, x.rank() - 1)?)
    };
    let unread = ["transBatchA", "transBatchB"].iter().any(|name| site.int(name, 0).is_ok_and(|flag| flag != 0));
    if unread {
        return Err(Error::input("transBatchA and transBatchB have no gradient here"));
    }
    let y = product(&side(0, "transA")?, &side(1, "transB")?)?;
    Ok(vec![scaled(y, site.float("alpha", 1.0)?)?])
}

/// The matrix product of the last two axes, as numpy's `matmul`.
pub(super) fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.rank() == 1 {
        let y = product(&a.unsqueeze(0)?, b)?;
        return Ok(y.squeeze(y.rank() - 2)?);
    }
    if b.rank() == 1 {
        let y = product(a, &b.unsqueeze(1)?)?;
        return Ok(y.squeeze(y.rank() - 1)?);
    }
    if b.rank() == 2 {
        // One product of all rows, not one for each batch.
        let (rows, inner) = (a.dims()[..a.rank() - 1].to_vec(), a.dims()[a.rank() - 1]);
        let flat = a.reshape((rows.iter().product::<usize>(), inner))?.matmul(&contiguous(b)?)?;
        let columns = b.dims()[1];
        return Ok(flat.reshape(rows.into_iter().chain([columns]).collect::<Vec<_>>())?);
    }
    let batches = |x: &Tensor| x.dims()[..x.rank() - 2].to_vec();
    let y = if batches(a) == batches(b) {
        contiguous(a)?.matmul(&contiguous(b)?)?
    } else {
        contiguous(a)?.broadcast_matmul(&contiguous(b)?)?
    };
    Ok(y)
}

/// candle multiplies matrices that lie row by row or column by column, one behind the other.
fn contiguous(x: &Tensor) -> Result<Tensor> {
    let by_columns = x.transpose(x.rank() - 2, x.rank() - 1)?;
    Ok(if x.is_contiguous() || by_columns.is_contiguous() { x.clone() } else { x.contiguous()? })
}

/// `BiasGelu` and others: an addition in front of an activation.
pub(super) fn add(a: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    Ok(match b {
        Some(b) => elementwise::<Add>(&[a, b], &[])?,
        None => a.clone(),
    })
}

/// `x · scale + shift`, broadcast.
pub(super) fn affine(x: &Tensor, scale: &Tensor, shift: Option<&Tensor>) -> Result<Tensor> {
    add(&elementwise::<Mul>(&[x, scale], &[])?, shift)
}
