//! `Einsum`: pair by pair, each pair one batch of matrix products.

use std::collections::BTreeMap;

use super::product::matrices;
use super::rows::{Reduction, reduce_rows};
use super::site::{Site, check_size};
use super::statistics::rows_of;
use crate::error::{Error, Result};
use crate::ops::Equation;
use crate::train::kernel::Real;
use crate::train::tape::Tensor;

/// A tensor and the names of its axes.
struct Named<T: Real> {
    tensor: Tensor<T>,
    axes: Vec<String>,
}

pub(super) fn einsum<T: Real>(site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
    let tensors = (0..site.inputs.len()).map(|slot| site.real(slot)).collect::<Result<Vec<_>>>()?;
    let ranks: Vec<usize> = tensors.iter().map(Tensor::rank).collect();
    let equation = Equation::parse(site.text("equation", "")?, &ranks, None).map_err(Error::input)?;
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for (tensor, names) in tensors.iter().zip(&equation.operands) {
        for (index, (name, &size)) in names.iter().zip(tensor.dims()).enumerate() {
            if names[..index].contains(name) {
                return Err(Error::input(format!("the diagonal over '{name}' has no gradient here")));
            }
            let known = sizes.entry(name).or_insert(size);
            *known = size.max(*known);
        }
    }
    check_size(equation.result.iter().map(|name| sizes.get(name.as_str()).copied().unwrap_or(0)))?;
    let mut rest = tensors.into_iter().zip(&equation.operands).map(|(tensor, axes)| -> Result<Named<T>> {
        // Axes of length one broadcast.
        let whole: Vec<usize> = axes.iter().map(|name| sizes[name.as_str()]).collect();
        Ok(Named { tensor: tensor.expand(&whole)?, axes: axes.clone() })
    });
    let mut sum = rest.next().ok_or_else(|| Error::input("there is no operand"))??;
    for (index, next) in rest.enumerate() {
        let later = equation.operands.get(index + 2..).unwrap_or_default().iter().flatten();
        let kept: Vec<&String> = equation.result.iter().chain(later).collect();
        sum = pair(sum, next?, |name| kept.contains(&name))?;
    }
    let sum = sum.without(|name| !equation.result.contains(name))?;
    Ok(vec![sum.arranged(&equation.result)?])
}

/// The product of two, summed over what is not `kept`.
fn pair<T: Real>(a: Named<T>, b: Named<T>, kept: impl Fn(&String) -> bool) -> Result<Named<T>> {
    let a = a.without(|name| !kept(name) && !b.axes.contains(name))?;
    let b = b.without(|name| !kept(name) && !a.axes.contains(name))?;
    let of = |from: &Named<T>, other: &Named<T>, shared: bool, stays: bool| -> Vec<String> {
        let wanted = |name: &&String| other.axes.contains(name) == shared && (!shared || kept(name) == stays);
        from.axes.iter().filter(wanted).cloned().collect()
    };
    let (batch, inner) = (of(&a, &b, true, true), of(&a, &b, true, false));
    let (rows, columns) = (of(&a, &b, false, true), of(&b, &a, false, true));
    let length = |from: &Named<T>, names: &[String]| names.iter().map(|name| from.length(name)).product::<usize>();
    let sizes = (length(&a, &batch), length(&a, &rows), length(&a, &inner), length(&b, &columns));
    let left = a.arranged(&[batch.as_slice(), &rows, &inner].concat())?.reshape([sizes.0, sizes.1, sizes.2])?;
    let right = b.arranged(&[batch.as_slice(), &inner, &columns].concat())?.reshape([sizes.0, sizes.2, sizes.3])?;
    let shape: Vec<usize> =
        batch.iter().chain(&rows).map(|name| a.length(name)).chain(columns.iter().map(|name| b.length(name))).collect();
    check_size(shape.iter().copied())?;
    let tensor = matrices(&left, &right, (false, false))?.reshape(shape)?;
    Ok(Named { tensor, axes: [batch, rows, columns].concat() })
}

impl<T: Real> Named<T> {
    /// Length of the axis called `name`.
    fn length(&self, name: &String) -> usize {
        self.axes.iter().position(|axis| axis == name).map_or(1, |axis| self.tensor.dims()[axis])
    }

    /// Summed over the axes that are `done`.
    fn without(self, done: impl Fn(&String) -> bool) -> Result<Self> {
        let (gone, stays): (Vec<_>, Vec<_>) = (0..self.axes.len()).partition(|&axis| done(&self.axes[axis]));
        let axes = stays.into_iter().map(|axis| self.axes[axis].clone()).collect();
        let tensor =
            if gone.is_empty() { self.tensor } else { reduce_rows(&rows_of(&self.tensor, &gone)?, Reduction::Sum)? };
        Ok(Self { tensor, axes })
    }

    /// The tensor with its axes in this order.
    fn arranged(&self, order: &[String]) -> Result<Tensor<T>> {
        let place = |name: &String| self.axes.iter().position(|axis| axis == name);
        let order =
            order.iter().map(|name| place(name).ok_or_else(|| Error::input(format!("no operand has axis '{name}'"))));
        self.tensor.permute(&order.collect::<Result<Vec<_>>>()?)
    }
}
