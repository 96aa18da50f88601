//! `Resize` and `Upsample`: nearest neighbours pick positions, linear interpolation is a product with a fixed matrix.

use super::contract::product;
use super::site::{Site, axis_of, check_size};
use super::take::take;
use crate::error::{Error, Result};
use crate::train::kernel::Real;
use crate::train::tape::Tensor;

/// How an output position maps to the input.
struct Sampling<'a> {
    coordinates: &'a str,
    rounding: &'a str,
    linear: bool,
}

/// `Resize`, `Upsample`.
pub(super) fn resize<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let mut x = site.real(0)?;
    let is_resize = site.node.op_type() == "Resize" && site.opset >= 11;
    let mode = site.text("mode", "nearest")?;
    let sampling = Sampling {
        coordinates: if is_resize { site.text("coordinate_transformation_mode", "half_pixel")? } else { "asymmetric" },
        rounding: if is_resize { site.text("nearest_mode", "round_prefer_floor")? } else { "floor" },
        linear: mode == "linear" || mode == "bilinear",
    };
    if !sampling.linear && mode != "nearest" {
        return Err(Error::input(format!("Resize mode '{mode}' has no gradient here")));
    }
    if site.int("antialias", 0)? != 0 || site.text("keep_aspect_ratio_policy", "stretch")? != "stretch" {
        return Err(Error::input("antialias and keep_aspect_ratio_policy have no gradient here"));
    }
    let axes = match site.attributes.ints("axes")? {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, x.rank())).collect::<Result<Vec<_>>>()?,
        None => (0..x.rank()).collect(),
    };
    let scales = match site.attributes.floats("scales")? {
        Some(scales) => scales.iter().map(|&s| f64::from(s)).collect(),
        None => site.floats(if is_resize { 2 } else { 1 })?.unwrap_or_default(),
    };
    let sizes = site.ints(3)?.unwrap_or_default();
    for (index, &axis) in axes.iter().enumerate() {
        let n = x.dims()[axis];
        let (scale, size) = match (scales.get(index), sizes.get(index)) {
            (Some(&scale), _) => (scale, floor(n as f64 * scale)),
            (None, Some(&size)) => {
                let size = usize::try_from(size).map_err(|_| Error::input(format!("{size} is not a size")))?;
                (size as f64 / n.max(1) as f64, size)
            }
            (None, None) => return Err(Error::input("neither scales nor sizes are given")),
        };
        check_size(x.dims().iter().enumerate().map(|(a, &old)| if a == axis { size } else { old }))?;
        if size != n || (scale - 1.0).abs() > f64::EPSILON {
            x = sampling.along(&x, axis, size, scale)?;
        }
    }
    Ok(vec![x])
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn floor(x: f64) -> usize {
    x.max(0.0).floor() as usize
}

impl Sampling<'_> {
    fn along<T: Real>(&self, x: &Tensor<T>, axis: usize, size: usize, scale: f64) -> Result<Tensor<T>> {
        let n = x.dims()[axis];
        let at = (0..size).map(|i| self.coordinate(i, n, size, scale)).collect::<Result<Vec<f64>>>()?;
        let last = n.saturating_sub(1);
        if !self.linear {
            let from = at.iter().map(|&at| Ok(floor(self.round(at)?).min(last))).collect::<Result<Vec<_>>>()?;
            return take(x, axis, from);
        }
        let mut weights = vec![0.0; n * size];
        for (i, at) in at.into_iter().enumerate() {
            let at = at.clamp(0.0, last as f64);
            let (low, part) = (floor(at), at.fract());
            weights[low * size + i] += 1.0 - part;
            weights[(low + 1).min(last) * size + i] += part;
        }
        let weights = Tensor::new([n, size], weights.into_iter().map(T::from_f64).collect())?;
        let end = x.rank() - 1;
        product(&x.transpose(axis, end)?, &weights)?.transpose(axis, end)
    }

    fn coordinate(&self, i: usize, n: usize, size: usize, scale: f64) -> Result<f64> {
        let (i, n, size) = (i as f64, n as f64, size as f64);
        Ok(match self.coordinates {
            "asymmetric" => i / scale,
            "half_pixel" => (i + 0.5) / scale - 0.5,
            "pytorch_half_pixel" if size > 1.0 => (i + 0.5) / scale - 0.5,
            "align_corners" if size > 1.0 => i * (n - 1.0) / (size - 1.0),
            "pytorch_half_pixel" | "align_corners" => 0.0,
            other => {
                return Err(Error::input(format!("coordinate_transformation_mode '{other}' has no gradient here")));
            }
        })
    }

    fn round(&self, at: f64) -> Result<f64> {
        Ok(match self.rounding {
            "floor" => at.floor(),
            "ceil" => at.ceil(),
            "round_prefer_floor" => (at - 0.5).ceil(),
            "round_prefer_ceil" => (at + 0.5).floor(),
            other => return Err(Error::input(format!("nearest_mode '{other}' is unknown"))),
        })
    }
}
