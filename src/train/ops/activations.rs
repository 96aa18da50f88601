//! Activations whose operands or attributes need a look.

use super::contract::add;
use super::elementwise::elementwise;
use super::scalars::{Clip, Equal, Gelu, GeluTanh, Not, Trunc};
use super::site::Site;
use crate::error::Result;
use crate::onnx::tensor::ElementType;
use crate::train::kernel::Real;
use crate::train::tape::Tensor;

/// `Clip`: the bounds are attributes before opset 11, operands later.
pub(super) fn clip<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let bound = |slot: usize, name: &str, default: f32| -> Result<f64> {
        Ok(match site.floats(slot)? {
            Some(bound) => bound.first().copied().unwrap_or(f64::from(default)),
            None => site.float(name, default)?,
        })
    };
    let bounds = [bound(1, "min", f32::MIN)?, bound(2, "max", f32::MAX)?];
    Ok(vec![elementwise::<Clip, T>(&[&site.real(0)?], &bounds)?])
}

/// `Gelu` of both domains; `BiasGelu` and `FastGelu` add a bias first.
pub(super) fn gelu<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = add(&site.real(0)?, site.optional(1)?.as_ref())?;
    let is_tanh = site.node.op_type() == "FastGelu" || site.text("approximate", "none")? == "tanh";
    Ok(vec![if is_tanh { elementwise::<GeluTanh, T>(&[&x], &[])? } else { elementwise::<Gelu, T>(&[&x], &[])? }])
}

/// `Cast`: to integers gradients stop.
pub(super) fn cast<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let x = site.real(0)?;
    let code = i32::try_from(site.attributes.require("to", |a, name| a.int(name))?).unwrap_or(0);
    let element = ElementType::from_code(code)?;
    Ok(vec![match element {
        _ if element.is_float() => x,
        ElementType::Bool => {
            let is_zero = elementwise::<Equal, T>(&[&x, &Tensor::filled([], 0.0)], &[])?;
            elementwise::<Not, T>(&[&is_zero], &[])?
        }
        _ => elementwise::<Trunc, T>(&[&x], &[])?,
    }])
}

/// `Mean` of any number of operands.
pub(super) fn mean<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let mut sum = site.real(0)?;
    for slot in 1..site.inputs.len() {
        sum = add(&sum, Some(&site.real(slot)?))?;
    }
    Ok(vec![sum.scaled(1.0 / site.inputs.len().max(1) as f64)?])
}
