//! Every operator that gradients flow through, sorted by domain and name.

use candle_core::Tensor;

use super::elementwise::{Scalar, elementwise};
use super::site::Site;
use super::{activations, contract, einsum, layout, recurrent, resize, scalars as s, statistics};
use crate::error::Result;

/// How an operator is computed on the tape.
#[derive(Clone, Copy)]
pub(super) enum Forward {
    /// A scalar function of the operands, with these attributes as parameters and their defaults.
    Scalar(Elementwise, &'static [(&'static str, f32)]),
    /// A scalar function of two operands, folded over any number of them.
    Fold(Elementwise),
    /// A function of the node.
    By(fn(&Site<'_>) -> Result<Vec<Tensor>>),
}

/// A scalar function of tensors.
type Elementwise = fn(&[&Tensor], &[f64]) -> candle_core::Result<Tensor>;

/// A row of the table.
pub(in crate::train) struct Gradient {
    pub(super) domain: &'static str,
    pub(super) op: &'static str,
    forward: Forward,
}

impl Gradient {
    /// The results of a node.
    pub(in crate::train) fn forward(&self, site: &Site<'_>) -> Result<Vec<Tensor>> {
        match self.forward {
            Forward::By(forward) => forward(site),
            Forward::Scalar(function, parameters) => {
                let values = parameters.iter().map(|&(name, default)| site.float(name, default));
                let values = values.collect::<Result<Vec<_>>>()?;
                let operands = (0..site.inputs.len()).map(|slot| site.real(slot)).collect::<Result<Vec<_>>>()?;
                Ok(vec![function(&operands.iter().collect::<Vec<_>>(), &values)?])
            }
            Forward::Fold(function) => {
                let mut result = site.real(0)?;
                for slot in 1..site.inputs.len() {
                    result = function(&[&result, &site.real(slot)?], &[])?;
                }
                Ok(vec![result])
            }
        }
    }
}

use Forward::{By, Fold};

const fn of<S: Scalar>() -> Forward {
    Forward::Scalar(elementwise::<S>, &[])
}

const fn with<S: Scalar>(parameters: &'static [(&'static str, f32)]) -> Forward {
    Forward::Scalar(elementwise::<S>, parameters)
}

const fn standard(op: &'static str, forward: Forward) -> Gradient {
    Gradient { domain: "", op, forward }
}

const fn microsoft(op: &'static str, forward: Forward) -> Gradient {
    Gradient { domain: "com.microsoft", op, forward }
}

pub(super) const GRADIENTS: &[Gradient] = &[
    standard("Abs", of::<s::Abs>()),
    standard("Acos", of::<s::Acos>()),
    standard("Acosh", of::<s::Acosh>()),
    standard("Add", of::<s::Add>()),
    standard("And", of::<s::And>()),
    standard("Asin", of::<s::Asin>()),
    standard("Asinh", of::<s::Asinh>()),
    standard("Atan", of::<s::Atan>()),
    standard("Atanh", of::<s::Atanh>()),
    standard("AveragePool", By(statistics::pool)),
    standard("BatchNormalization", By(statistics::batch_norm)),
    standard("Cast", By(activations::cast)),
    standard("Ceil", of::<s::Ceil>()),
    standard("Celu", with::<s::Celu>(&[("alpha", 1.0)])),
    standard("Clip", By(activations::clip)),
    standard("Concat", By(layout::concat)),
    standard("Conv", By(contract::convolution)),
    standard("ConvTranspose", By(contract::convolution)),
    standard("Cos", of::<s::Cos>()),
    standard("Cosh", of::<s::Cosh>()),
    standard("DepthToSpace", By(layout::blocks)),
    standard("Div", of::<s::Div>()),
    standard("Dropout", By(layout::identity)),
    standard("Einsum", By(einsum::einsum)),
    standard("Elu", with::<s::Elu>(&[("alpha", 1.0)])),
    standard("Equal", of::<s::Equal>()),
    standard("Erf", of::<s::Erf>()),
    standard("Exp", of::<s::Exp>()),
    standard("Expand", By(layout::expand)),
    standard("Flatten", By(layout::flatten)),
    standard("Floor", of::<s::Floor>()),
    standard("GRU", By(recurrent::gru)),
    standard("Gather", By(layout::gather)),
    standard("Gelu", By(activations::gelu)),
    standard("Gemm", By(contract::gemm)),
    standard("GlobalAveragePool", By(statistics::global_pool)),
    standard("GlobalMaxPool", By(statistics::global_pool)),
    standard("Greater", of::<s::Greater>()),
    standard("GreaterOrEqual", of::<s::GreaterOrEqual>()),
    standard("GroupNormalization", By(statistics::group_norm)),
    standard("HardSigmoid", with::<s::HardSigmoid>(&[("alpha", 0.2), ("beta", 0.5)])),
    standard("HardSwish", of::<s::HardSwish>()),
    standard("Identity", By(layout::identity)),
    standard("InstanceNormalization", By(statistics::instance_norm)),
    standard("IsInf", of::<s::IsInf>()),
    standard("IsNaN", of::<s::IsNaN>()),
    standard("LSTM", By(recurrent::lstm)),
    standard("LayerNormalization", By(statistics::layer_norm)),
    standard("LeakyRelu", with::<s::LeakyRelu>(&[("alpha", 0.01)])),
    standard("Less", of::<s::Less>()),
    standard("LessOrEqual", of::<s::LessOrEqual>()),
    standard("Log", of::<s::Log>()),
    standard("LogSoftmax", By(statistics::softmax)),
    standard("LpNormalization", By(statistics::lp_norm)),
    standard("MatMul", By(contract::matmul)),
    standard("Max", Fold(elementwise::<s::Max>)),
    standard("MaxPool", By(statistics::pool)),
    standard("Mean", By(activations::mean)),
    standard("Min", Fold(elementwise::<s::Min>)),
    standard("Mish", of::<s::Mish>()),
    standard("Mul", of::<s::Mul>()),
    standard("Neg", of::<s::Neg>()),
    standard("Not", of::<s::Not>()),
    standard("Or", of::<s::Or>()),
    standard("PRelu", of::<s::PRelu>()),
    standard("Pad", By(layout::pad)),
    standard("Pow", of::<s::Pow>()),
    standard("RMSNormalization", By(statistics::layer_norm)),
    standard("RNN", By(recurrent::rnn)),
    standard("Reciprocal", of::<s::Reciprocal>()),
    standard("ReduceL1", By(statistics::reduce)),
    standard("ReduceL2", By(statistics::reduce)),
    standard("ReduceLogSum", By(statistics::reduce)),
    standard("ReduceLogSumExp", By(statistics::reduce)),
    standard("ReduceMax", By(statistics::reduce)),
    standard("ReduceMean", By(statistics::reduce)),
    standard("ReduceMin", By(statistics::reduce)),
    standard("ReduceProd", By(statistics::reduce)),
    standard("ReduceSum", By(statistics::reduce)),
    standard("ReduceSumSquare", By(statistics::reduce)),
    standard("Relu", of::<s::Relu>()),
    standard("Reshape", By(layout::reshape)),
    standard("Resize", By(resize::resize)),
    standard("Round", of::<s::Round>()),
    standard("Selu", with::<s::Selu>(&[("alpha", 1.673_263_2), ("gamma", 1.050_701)])),
    standard("Shrink", with::<s::Shrink>(&[("lambd", 0.5), ("bias", 0.0)])),
    standard("Sigmoid", of::<s::Sigmoid>()),
    standard("Sign", of::<s::Sign>()),
    standard("SimplifiedLayerNormalization", By(statistics::layer_norm)),
    standard("Sin", of::<s::Sin>()),
    standard("Sinh", of::<s::Sinh>()),
    standard("Slice", By(layout::slice)),
    standard("Softmax", By(statistics::softmax)),
    standard("Softplus", of::<s::Softplus>()),
    standard("Softsign", of::<s::Softsign>()),
    standard("SpaceToDepth", By(layout::blocks)),
    standard("Split", By(layout::split)),
    standard("Sqrt", of::<s::Sqrt>()),
    standard("Squeeze", By(layout::squeeze)),
    standard("Sub", of::<s::Sub>()),
    standard("Sum", Fold(elementwise::<s::Add>)),
    standard("Swish", with::<s::QuickGelu>(&[("alpha", 1.0)])),
    standard("Tan", of::<s::Tan>()),
    standard("Tanh", of::<s::Tanh>()),
    standard("ThresholdedRelu", with::<s::ThresholdedRelu>(&[("alpha", 1.0)])),
    standard("Tile", By(layout::tile)),
    standard("Transpose", By(layout::transpose)),
    standard("Unsqueeze", By(layout::unsqueeze)),
    standard("Upsample", By(resize::resize)),
    standard("Where", of::<s::Where>()),
    standard("Xor", of::<s::Xor>()),
    microsoft("BiasGelu", By(activations::gelu)),
    microsoft("FastGelu", By(activations::gelu)),
    microsoft("FusedMatMul", By(contract::matmul)),
    microsoft("Gelu", By(activations::gelu)),
    microsoft("QuickGelu", with::<s::QuickGelu>(&[("alpha", 1.702)])),
    microsoft("SimplifiedLayerNormalization", By(statistics::layer_norm)),
    microsoft("SkipLayerNormalization", By(statistics::skip_layer_norm)),
    microsoft("SkipSimplifiedLayerNormalization", By(statistics::skip_layer_norm)),
];

/// The gradient of an operator.
pub(in crate::train) fn gradient(domain: &str, op: &str) -> Option<&'static Gradient> {
    let at = GRADIENTS.binary_search_by(|row| (row.domain, row.op).cmp(&(domain, op))).ok()?;
    GRADIENTS.get(at)
}

/// Operators that gradients flow through, as `domain.name`, sorted.
pub fn differentiable() -> Vec<String> {
    GRADIENTS.iter().map(|row| crate::ops::operator_name(row.domain, row.op)).collect()
}

/// Domain and name of every row, in order.
#[cfg(test)]
pub(in crate::train) fn rows() -> Vec<(&'static str, &'static str)> {
    GRADIENTS.iter().map(|row| (row.domain, row.op)).collect()
}
