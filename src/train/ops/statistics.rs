//! Reductions, softmax, normalizations and pooling.

use super::contract::{add, affine, per_channel};
use super::pool::{Pool, PoolKind};
use super::rows::{Reduction, RowMap, map_rows, reduce_rows};
use super::site::{Site, axis_of};
use crate::calibrate::Window;
use crate::error::{Error, Result};
use crate::train::kernel::Real;
use crate::train::tape::{Tensor, apply};

/// `x` with `axes` moved after the others and merged into one.
pub(super) fn rows_of<T: Real>(x: &Tensor<T>, axes: &[usize]) -> Result<Tensor<T>> {
    let kept: Vec<usize> = (0..x.rank()).filter(|axis| !axes.contains(axis)).collect();
    let mut dims: Vec<usize> = kept.iter().map(|&axis| x.dims()[axis]).collect();
    dims.push(axes.iter().map(|&axis| x.dims()[axis]).product());
    let order: Vec<usize> = kept.into_iter().chain(axes.iter().copied()).collect();
    x.permute(&order)?.reshape(dims)
}

/// `ReduceMean`, `ReduceSum` and the other reductions.
pub(super) fn reduce<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let reduction = match site.node.op_type() {
        "ReduceL1" => Reduction::L1,
        "ReduceL2" => Reduction::L2,
        "ReduceLogSum" => Reduction::LogSum,
        "ReduceLogSumExp" => Reduction::LogSumExp,
        "ReduceMax" => Reduction::Max,
        "ReduceMin" => Reduction::Min,
        "ReduceProd" => Reduction::Prod,
        "ReduceSum" => Reduction::Sum,
        "ReduceSumSquare" => Reduction::SumSquare,
        _ => Reduction::Mean,
    };
    let listed = site.list("axes", 1)?.unwrap_or_default();
    if listed.is_empty() && site.int("noop_with_empty_axes", 0)? != 0 {
        return Ok(vec![x]);
    }
    let mut axes = listed.into_iter().map(|axis| axis_of(axis, x.rank())).collect::<Result<Vec<_>>>()?;
    if axes.is_empty() {
        axes = (0..x.rank()).collect();
    }
    axes.sort_unstable();
    axes.dedup();
    let y = reduce_rows(&rows_of(&x, &axes)?, reduction)?;
    let keeps = site.int("keepdims", 1)? != 0;
    let dims = (0..x.rank()).filter(|axis| keeps || !axes.contains(axis));
    let dims = dims.map(|axis| if axes.contains(&axis) { 1 } else { x.dims()[axis] });
    Ok(vec![y.reshape(dims.collect::<Vec<_>>())?])
}

/// `GlobalAveragePool`, `GlobalMaxPool`.
pub(super) fn global_pool<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let reduction = if site.node.op_type() == "GlobalMaxPool" { Reduction::Max } else { Reduction::Mean };
    let axes: Vec<usize> = (2..x.rank()).collect();
    let y = reduce_rows(&rows_of(&x, &axes)?, reduction)?;
    let dims = x.dims().iter().enumerate().map(|(axis, &size)| if axis < 2 { size } else { 1 });
    Ok(vec![y.reshape(dims.collect::<Vec<_>>())?])
}

/// `MaxPool`, `AveragePool`.
pub(super) fn pool<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let kernel = site.attributes.require("kernel_shape", |a, name| a.ints(name))?;
    let kernel = kernel.iter().map(|&k| usize::try_from(k).unwrap_or(0)).collect::<Vec<_>>();
    if kernel.len() + 2 != x.rank() || kernel.contains(&0) {
        return Err(Error::input(format!("kernel_shape {kernel:?} does not fit data of shape {:?}", x.dims())));
    }
    let window = Window::read(site.node, &kernel)?.ok_or_else(|| Error::input("its padding is not understood"))?;
    let include_padding = site.int("count_include_pad", 0)? != 0;
    let kind = match site.node.op_type() {
        "MaxPool" => PoolKind::Max,
        _ => PoolKind::Average { include_padding },
    };
    Ok(vec![apply(Pool { window, kind }, &[&x])?])
}

/// `Softmax`, `LogSoftmax`. Before opset 13 all axes from `axis` on are one.
pub(super) fn softmax<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let map = if site.node.op_type() == "Softmax" { RowMap::Softmax } else { RowMap::LogSoftmax };
    if site.opset < 13 {
        let axis = axis_of(site.int("axis", 1)?, x.rank())?;
        let outer: usize = x.dims()[..axis].iter().product();
        let rows = x.reshape([outer, x.len() / outer.max(1)])?;
        return Ok(vec![map_rows(&rows, map)?.reshape(x.dims())?]);
    }
    let axis = axis_of(site.int("axis", -1)?, x.rank())?;
    let last = x.rank() - 1;
    Ok(vec![map_rows(&x.transpose(axis, last)?, map)?.transpose(axis, last)?])
}

/// `BatchNormalization` in inference form.
pub(super) fn batch_norm<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let (gamma, beta, mean, variance) = (site.real(1)?, site.real(2)?, site.real(3)?, site.real(4)?);
    let scale = gamma.over(&variance.affine(1.0, site.float("epsilon", 1e-5)?)?.sqrt()?)?;
    let shift = beta.minus(&mean.times(&scale)?)?;
    Ok(vec![affine(&x, &per_channel(&scale, x.rank())?, Some(&per_channel(&shift, x.rank())?))?])
}

/// Rows of all axes from `axis` on, normalized, in the shape of `x`.
fn normalized_from<T: Real>(x: &Tensor<T>, axis: usize, epsilon: f64, centre: bool) -> Result<Tensor<T>> {
    let outer: usize = x.dims()[..axis].iter().product();
    let rows = x.reshape([outer, x.len() / outer.max(1)])?;
    map_rows(&rows, RowMap::Normalize { epsilon, centre })?.reshape(x.dims())
}

/// `LayerNormalization`, and without the mean `RMSNormalization`, `SimplifiedLayerNormalization`.
pub(super) fn layer_norm<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let axis = axis_of(site.int("axis", -1)?, x.rank())?;
    let centre = site.node.op_type() == "LayerNormalization";
    let y = normalized_from(&x, axis, site.float("epsilon", 1e-5)?, centre)?;
    let bias = if centre { site.optional(2)? } else { None };
    Ok(vec![affine(&y, &site.real(1)?, bias.as_ref())?])
}

/// `SkipLayerNormalization`, `SkipSimplifiedLayerNormalization`.
pub(super) fn skip_layer_norm<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let centre = site.node.op_type() == "SkipLayerNormalization";
    let (beta, bias) = if centre { (site.optional(3)?, site.optional(4)?) } else { (None, site.optional(3)?) };
    let sum = add(&add(&site.real(0)?, Some(&site.real(1)?))?, bias.as_ref())?;
    let y = normalized_from(&sum, sum.rank().saturating_sub(1), site.float("epsilon", 1e-12)?, centre)?;
    let y = affine(&y, &site.real(2)?, beta.as_ref())?;
    // Results 1 and 2 are statistics that nobody trains through.
    Ok(vec![y, sum.clone(), sum.clone(), sum])
}

/// `InstanceNormalization`.
pub(super) fn instance_norm<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let y = normalized_from(&x, 2, site.float("epsilon", 1e-5)?, true)?;
    let (scale, bias) = (per_channel(&site.real(1)?, x.rank())?, per_channel(&site.real(2)?, x.rank())?);
    Ok(vec![affine(&y, &scale, Some(&bias))?])
}

/// `GroupNormalization`; before opset 21 scale and bias are those of groups.
pub(super) fn group_norm<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let groups = usize::try_from(site.attributes.require("num_groups", |a, name| a.int(name))?).unwrap_or(0);
    let channels = x.dims().get(1).copied().unwrap_or(0);
    if groups == 0 || channels % groups != 0 {
        return Err(Error::input(format!("{channels} channels do not make {groups} groups")));
    }
    let (n, rest) = (x.dims()[0], x.len() / (x.dims()[0] * groups).max(1));
    let grouped = x.reshape([n, groups, rest])?;
    let y = normalized_from(&grouped, 2, site.float("epsilon", 1e-5)?, true)?;
    let (scale, bias) = (site.real(1)?, site.real(2)?);
    let rank = if scale.len() == groups && groups != channels { 3 } else { x.rank() };
    let y = if rank == 3 { y } else { y.reshape(x.dims())? };
    let y = affine(&y, &per_channel(&scale, rank)?, Some(&per_channel(&bias, rank)?))?;
    Ok(vec![y.reshape(x.dims())?])
}

/// `LpNormalization`.
pub(super) fn lp_norm<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let axis = axis_of(site.int("axis", -1)?, x.rank())?;
    let reduction = if site.int("p", 2)? == 1 { Reduction::L1 } else { Reduction::L2 };
    let norm = reduce_rows(&rows_of(&x, &[axis])?, reduction)?.unsqueeze(axis)?;
    Ok(vec![x.over(&norm)?])
}
