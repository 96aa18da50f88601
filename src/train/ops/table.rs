//! Every operator that gradients flow through, sorted by domain and name.

use super::elementwise::elementwise;
use super::scalars::{self as s, Scalar};
use super::site::Site;
use super::{activations, contract, einsum, layout, recurrent, resize, statistics};
use crate::error::Result;
use crate::train::kernel::Real;
use crate::train::tape::Tensor;

/// How an operator is computed on the tape.
#[derive(Clone, Copy)]
pub(super) enum Forward<T: Real> {
    /// A scalar function of the operands, with these attributes as parameters and their defaults.
    Scalar(Elementwise<T>, &'static [(&'static str, f32)]),
    /// A scalar function of two operands, folded over any number of them.
    Fold(Elementwise<T>),
    /// A function of the node.
    By(fn(&Site<'_, T>) -> Result<Vec<Tensor<T>>>),
}

/// A scalar function of tensors.
type Elementwise<T> = fn(&[&Tensor<T>], &[f64]) -> Result<Tensor<T>>;

/// A row of the table.
pub(in crate::train) struct Gradient<T: Real> {
    pub(super) domain: &'static str,
    pub(super) op: &'static str,
    forward: Forward<T>,
}

impl<T: Real> Gradient<T> {
    /// The results of a node.
    pub(in crate::train) fn forward(&self, site: &Site<'_, T>) -> Result<Vec<Tensor<T>>> {
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

const fn of<S: Scalar, T: Real>() -> Forward<T> {
    Forward::Scalar(elementwise::<S, T>, &[])
}

const fn with<S: Scalar, T: Real>(parameters: &'static [(&'static str, f32)]) -> Forward<T> {
    Forward::Scalar(elementwise::<S, T>, parameters)
}

const fn standard<T: Real>(op: &'static str, forward: Forward<T>) -> Gradient<T> {
    Gradient { domain: "", op, forward }
}

const fn microsoft<T: Real>(op: &'static str, forward: Forward<T>) -> Gradient<T> {
    Gradient { domain: "com.microsoft", op, forward }
}

impl<T: Real> Gradient<T> {
    pub(super) const ROWS: &'static [Self] = &[
        standard("Abs", of::<s::Abs, _>()),
        standard("Acos", of::<s::Acos, _>()),
        standard("Acosh", of::<s::Acosh, _>()),
        standard("Add", of::<s::Add, _>()),
        standard("And", of::<s::And, _>()),
        standard("Asin", of::<s::Asin, _>()),
        standard("Asinh", of::<s::Asinh, _>()),
        standard("Atan", of::<s::Atan, _>()),
        standard("Atanh", of::<s::Atanh, _>()),
        standard("AveragePool", By(statistics::pool)),
        standard("BatchNormalization", By(statistics::batch_norm)),
        standard("Cast", By(activations::cast)),
        standard("Ceil", of::<s::Ceil, _>()),
        standard("Celu", with::<s::Celu, _>(&[("alpha", 1.0)])),
        standard("Clip", By(activations::clip)),
        standard("Concat", By(layout::concat)),
        standard("Conv", By(contract::convolution)),
        standard("ConvTranspose", By(contract::convolution)),
        standard("Cos", of::<s::Cos, _>()),
        standard("Cosh", of::<s::Cosh, _>()),
        standard("DepthToSpace", By(layout::blocks)),
        standard("Div", of::<s::Div, _>()),
        standard("Dropout", By(layout::identity)),
        standard("Einsum", By(einsum::einsum)),
        standard("Elu", with::<s::Elu, _>(&[("alpha", 1.0)])),
        standard("Equal", of::<s::Equal, _>()),
        standard("Erf", of::<s::Erf, _>()),
        standard("Exp", of::<s::Exp, _>()),
        standard("Expand", By(layout::expand)),
        standard("Flatten", By(layout::flatten)),
        standard("Floor", of::<s::Floor, _>()),
        standard("GRU", By(recurrent::gru)),
        standard("Gather", By(layout::gather)),
        standard("Gelu", By(activations::gelu)),
        standard("Gemm", By(contract::gemm)),
        standard("GlobalAveragePool", By(statistics::global_pool)),
        standard("GlobalMaxPool", By(statistics::global_pool)),
        standard("Greater", of::<s::Greater, _>()),
        standard("GreaterOrEqual", of::<s::GreaterOrEqual, _>()),
        standard("GroupNormalization", By(statistics::group_norm)),
        standard("HardSigmoid", with::<s::HardSigmoid, _>(&[("alpha", 0.2), ("beta", 0.5)])),
        standard("HardSwish", of::<s::HardSwish, _>()),
        standard("Identity", By(layout::identity)),
        standard("InstanceNormalization", By(statistics::instance_norm)),
        standard("IsInf", of::<s::IsInf, _>()),
        standard("IsNaN", of::<s::IsNaN, _>()),
        standard("LSTM", By(recurrent::lstm)),
        standard("LayerNormalization", By(statistics::layer_norm)),
        standard("LeakyRelu", with::<s::LeakyRelu, _>(&[("alpha", 0.01)])),
        standard("Less", of::<s::Less, _>()),
        standard("LessOrEqual", of::<s::LessOrEqual, _>()),
        standard("Log", of::<s::Log, _>()),
        standard("LogSoftmax", By(statistics::softmax)),
        standard("LpNormalization", By(statistics::lp_norm)),
        standard("MatMul", By(contract::matmul)),
        standard("Max", Fold(elementwise::<s::Max, T>)),
        standard("MaxPool", By(statistics::pool)),
        standard("Mean", By(activations::mean)),
        standard("Min", Fold(elementwise::<s::Min, T>)),
        standard("Mish", of::<s::Mish, _>()),
        standard("Mul", of::<s::Mul, _>()),
        standard("Neg", of::<s::Neg, _>()),
        standard("Not", of::<s::Not, _>()),
        standard("Or", of::<s::Or, _>()),
        standard("PRelu", of::<s::PRelu, _>()),
        standard("Pad", By(layout::pad)),
        standard("Pow", of::<s::Pow, _>()),
        standard("RMSNormalization", By(statistics::layer_norm)),
        standard("RNN", By(recurrent::rnn)),
        standard("Reciprocal", of::<s::Reciprocal, _>()),
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
        standard("Relu", of::<s::Relu, _>()),
        standard("Reshape", By(layout::reshape)),
        standard("Resize", By(resize::resize)),
        standard("Round", of::<s::Round, _>()),
        standard("Selu", with::<s::Selu, _>(&[("alpha", 1.673_263_2), ("gamma", 1.050_701)])),
        standard("Shrink", with::<s::Shrink, _>(&[("lambd", 0.5), ("bias", 0.0)])),
        standard("Sigmoid", of::<s::Sigmoid, _>()),
        standard("Sign", of::<s::Sign, _>()),
        standard("SimplifiedLayerNormalization", By(statistics::layer_norm)),
        standard("Sin", of::<s::Sin, _>()),
        standard("Sinh", of::<s::Sinh, _>()),
        standard("Slice", By(layout::slice)),
        standard("Softmax", By(statistics::softmax)),
        standard("Softplus", of::<s::Softplus, _>()),
        standard("Softsign", of::<s::Softsign, _>()),
        standard("SpaceToDepth", By(layout::blocks)),
        standard("Split", By(layout::split)),
        standard("Sqrt", of::<s::Sqrt, _>()),
        standard("Squeeze", By(layout::squeeze)),
        standard("Sub", of::<s::Sub, _>()),
        standard("Sum", Fold(elementwise::<s::Add, T>)),
        standard("Swish", with::<s::QuickGelu, _>(&[("alpha", 1.0)])),
        standard("Tan", of::<s::Tan, _>()),
        standard("Tanh", of::<s::Tanh, _>()),
        standard("ThresholdedRelu", with::<s::ThresholdedRelu, _>(&[("alpha", 1.0)])),
        standard("Tile", By(layout::tile)),
        standard("Transpose", By(layout::transpose)),
        standard("Unsqueeze", By(layout::unsqueeze)),
        standard("Upsample", By(resize::resize)),
        standard("Where", of::<s::Where, _>()),
        standard("Xor", of::<s::Xor, _>()),
        microsoft("BiasGelu", By(activations::gelu)),
        microsoft("FastGelu", By(activations::gelu)),
        microsoft("FusedMatMul", By(contract::matmul)),
        microsoft("Gelu", By(activations::gelu)),
        microsoft("QuickGelu", with::<s::QuickGelu, _>(&[("alpha", 1.702)])),
        microsoft("SimplifiedLayerNormalization", By(statistics::layer_norm)),
        microsoft("SkipLayerNormalization", By(statistics::skip_layer_norm)),
        microsoft("SkipSimplifiedLayerNormalization", By(statistics::skip_layer_norm)),
    ];
}

/// The gradient of an operator.
pub(in crate::train) fn gradient<T: Real>(domain: &str, op: &str) -> Option<&'static Gradient<T>> {
    let rows = Gradient::<T>::ROWS;
    let at = rows.binary_search_by(|row| (row.domain, row.op).cmp(&(domain, op))).ok()?;
    rows.get(at)
}

/// Operators that gradients flow through, as `domain.name`, sorted.
pub fn differentiable() -> Vec<String> {
    Gradient::<f32>::ROWS.iter().map(|row| crate::ops::operator_name(row.domain, row.op)).collect()
}

/// Domain and name of every row, in order.
#[cfg(test)]
pub(in crate::train) fn rows() -> Vec<(&'static str, &'static str)> {
    Gradient::<f32>::ROWS.iter().map(|row| (row.domain, row.op)).collect()
}
