//! The nodes that a split layer becomes: operators and attributes, without operands.

use ndarray::ArrayD;

use crate::error::{Error, Result};
use crate::onnx::attributes::{self, Attributes};
use crate::onnx::proto::NodeProto;
use crate::ops::Linear;

/// One node of a chain. The last one is the original with changed attributes; bias and output are still its own.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) node: NodeProto,
    /// What its name and output are called after; of no use for the last one.
    pub(crate) suffix: &'static str,
}

fn first(node: NodeProto) -> Step {
    Step { node, suffix: "first" }
}

fn core(node: NodeProto) -> Step {
    Step { node, suffix: "core" }
}

fn last(node: NodeProto) -> Step {
    Step { node, suffix: "last" }
}

/// The same operator without operands, outputs, name and documentation.
fn bare(node: &NodeProto) -> NodeProto {
    NodeProto {
        op_type: node.op_type.clone(),
        domain: node.domain.clone(),
        attribute: node.attribute.clone(),
        ..NodeProto::default()
    }
}

/// MatMul and Gemm: the data is transposed by the first, scaled and biased by the last, the weights stay as they lie.
pub(crate) fn matrix(node: &NodeProto, linear: Linear) -> Result<Vec<Step>> {
    let transposes_data = if linear.data == 0 { "transA" } else { "transB" };
    let mut start = bare(node);
    attributes::remove(&mut start, "alpha");
    attributes::remove(&mut start, "beta");
    let mut end = node.clone();
    attributes::remove(&mut end, transposes_data);
    Ok(vec![first(start), last(end)])
}

/// Gather: rows are picked as before, and multiplied.
pub(crate) fn table(node: &NodeProto) -> Vec<Step> {
    let product = NodeProto {
        name: node.name.clone(),
        op_type: Some("MatMul".to_owned()),
        output: node.output.clone(),
        doc_string: node.doc_string.clone(),
        ..NodeProto::default()
    };
    vec![first(bare(node)), last(product)]
}

/// A recurrent operator: a product brings its inputs to fewer.
pub(crate) fn gates(node: &NodeProto) -> Vec<Step> {
    let product = NodeProto { op_type: Some("MatMul".to_owned()), ..NodeProto::default() };
    vec![first(product), last(node.clone())]
}

/// k… with all of the geometry, then 1×1….
pub(crate) fn channel(node: &NodeProto, kernels: &[ArrayD<f64>]) -> Result<Vec<Step>> {
    let [whole, _] = kernels else { return Err(Error::input("a channel split has two kernels")) };
    let mut start = bare(node);
    set_window(&mut start, &whole.shape()[2..])?;
    Ok(vec![first(start), last(pointwise(node.clone(), whole.ndim() - 2))])
}

/// k₁×1 with the geometry of the height, then 1×k₂ with that of the width.
pub(crate) fn spatial(node: &NodeProto, kernels: &[ArrayD<f64>]) -> Result<Vec<Step>> {
    let [tall, wide] = kernels else { return Err(Error::input("a spatial split has two kernels")) };
    let [mut start, mut end] = [bare(node), node.clone()];
    for (axis, step, kernel) in [(0, &mut start, tall), (1, &mut end, wide)] {
        set_window(step, &kernel.shape()[2..])?;
        let read = Attributes::of(node);
        let lists: Vec<(&str, Vec<i64>)> = [("strides", 1), ("dilations", 1), ("pads", 0)]
            .into_iter()
            .map(|(name, rest)| Ok((name, read.ints(name)?.map(|list| only(axis, list, rest)))))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .filter_map(|(name, list)| Some((name, list?)))
            .collect();
        for (name, list) in lists {
            attributes::set_ints(step, name, &list);
        }
    }
    Ok(vec![first(start), last(end)])
}

/// 1×1, k… with all of the geometry, 1×1.
pub(crate) fn tucker2(node: &NodeProto, kernels: &[ArrayD<f64>]) -> Result<Vec<Step>> {
    let [_, middle, _] = kernels else { return Err(Error::input("a Tucker-2 split has three kernels")) };
    let rank = middle.ndim() - 2;
    let mut inner = bare(node);
    set_window(&mut inner, &middle.shape()[2..])?;
    Ok(vec![first(pointwise(bare(node), rank)), core(inner), last(pointwise(node.clone(), rank))])
}

/// The values of a list that belong to `axis` of two; `rest` for the other axis.
fn only(axis: usize, list: &[i64], rest: i64) -> Vec<i64> {
    list.iter().enumerate().map(|(i, &x)| if i % 2 == axis { x } else { rest }).collect()
}

fn set_window(node: &mut NodeProto, window: &[usize]) -> Result<()> {
    let sizes: Vec<i64> = window
        .iter()
        .map(|&k| i64::try_from(k).map_err(|_| Error::input(format!("a kernel of size {k}"))))
        .collect::<Result<_>>()?;
    attributes::set_ints(node, "kernel_shape", &sizes);
    Ok(())
}

/// A 1×1… convolution without strides, pads and dilations.
fn pointwise(mut node: NodeProto, rank: usize) -> NodeProto {
    for name in ["strides", "pads", "dilations", "auto_pad"] {
        attributes::remove(&mut node, name);
    }
    attributes::set_ints(&mut node, "kernel_shape", &vec![1; rank]);
    node
}
