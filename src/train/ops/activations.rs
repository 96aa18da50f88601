//! Activations whose operands or attributes need a look.

use candle_core::Tensor;

use super::contract::add;
use super::elementwise::elementwise;
use super::scalars::{Clip, Equal, Gelu, GeluTanh, Mul, Not, Trunc};
use super::site::Site;
use crate::error::Result;
use crate::onnx::tensor::ElementType;

/// `Clip`: the bounds are attributes before opset 11, operands later.
pub(super) fn clip(site: &Site<'_>) -> Result<Vec<Tensor>> {
    let bound = |slot: usize, name: &str, default: f32| -> Result<f64> {
        Ok(match site.floats(slot)? {
            Some(bound) => bound.first().copied().unwrap_or(f64::from(default)),
            None => site.float(name, default)?,
        })
    };
    let bounds = [bound(1, "min", f32::MIN)?, bound(2, "max", f32::MAX)?];
    Ok(vec![elementwise::<Clip>(&[&site.real(0)?], &bounds)?])
}

/// `Gelu` of both domains; `BiasGelu` and `FastGelu` add a bias first.
pub(super) fn gelu(site: &Site<'_>) -> Result<Vec<Tensor>> {
    let x = add(&site.real(0)?, site.optional(1)?.as_ref())?;
    let is_tanh = site.node.op_type() == "FastGelu" || site.text("approximate", "none")? == "tanh";
    Ok(vec![if is_tanh { elementwise::<GeluTanh>(&[&x], &[])? } else { elementwise::<Gelu>(&[&x], &[])? }])
}

/// `Cast`: to integers gradients stop.
pub(super) fn cast(site: &Site<'_>) -> Result<Vec<Tensor>> {
    let x = site.real(0)?;
    let code = i32::try_from(site.attributes.require("to", |a, name| a.int(name))?).unwrap_or(0);
    let element = ElementType::from_code(code)?;
    Ok(vec![match element {
        _ if element.is_float() => x,
        ElementType::Bool => {
            let is_zero = elementwise::<Equal>(&[&x, &x.zeros_like()?], &[])?;
            elementwise::<Not>(&[&is_zero], &[])?
        }
        _ => elementwise::<Trunc>(&[&x], &[])?,
    }])
}

/// `Mean` of any number of operands.
pub(super) fn mean(site: &Site<'_>) -> Result<Vec<Tensor>> {
    let mut sum = site.real(0)?;
    for slot in 1..site.inputs.len() {
        sum = add(&sum, Some(&site.real(slot)?))?;
    }
    let share = Tensor::new(1.0 / site.inputs.len().max(1) as f64, sum.device())?.to_dtype(sum.dtype())?;
    Ok(vec![elementwise::<Mul>(&[&sum, &share], &[])?])
}
