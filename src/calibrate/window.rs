//! Which input positions a convolution reads for one output position.

use crate::error::Result;
use crate::onnx::attributes::Attributes;
use crate::onnx::proto::NodeProto;

/// How output sizes and padding follow from input sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Padding {
    /// Padding before each axis, then after each axis.
    Explicit(Vec<i64>, Vec<i64>),
    /// As many outputs as inputs over stride; surplus padding goes after (`false`) or before (`true`).
    Same(bool),
}

/// The sliding window of a Conv, `ConvTranspose` or pooling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    kernel: Vec<usize>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    padding: Padding,
    /// Further outputs at the end of each axis; `None` for Conv.
    transposed: Option<Vec<i64>>,
    /// Whether a last window may reach beyond the padding (`ceil_mode` of pooling).
    ceil: bool,
}

/// A window laid over inputs of one size.
#[derive(Debug)]
pub(crate) struct Placed<'w> {
    window: &'w Window,
    inputs: Vec<usize>,
    /// Sizes of the output's spatial axes.
    pub(crate) outputs: Vec<usize>,
    before: Vec<i64>,
}

impl Window {
    /// The window of a node whose kernel has these spatial sizes; `None` if its padding is of a kind that is not
    /// understood.
    pub(crate) fn read(node: &NodeProto, kernel: &[usize]) -> Result<Option<Self>> {
        let attributes = Attributes::of(node);
        let rank = kernel.len();
        let list = |name: &str, default: i64, count: usize| -> Result<Vec<i64>> {
            Ok(attributes
                .ints(name)?
                .filter(|l| l.len() == count)
                .map_or_else(|| vec![default; count], <[i64]>::to_vec))
        };
        let is_transposed = node.op_type() == "ConvTranspose";
        let padding = match attributes.string("auto_pad")?.unwrap_or("NOTSET") {
            "SAME_UPPER" if !is_transposed => Padding::Same(false),
            "SAME_LOWER" if !is_transposed => Padding::Same(true),
            "VALID" => Padding::Explicit(vec![0; rank], vec![0; rank]),
            "NOTSET" | "" if attributes.ints("output_shape")?.is_none() => {
                let mut pads = list("pads", 0, 2 * rank)?;
                let after = pads.split_off(rank);
                Padding::Explicit(pads, after)
            }
            _ => return Ok(None),
        };
        Ok(Some(Self {
            kernel: kernel.to_vec(),
            strides: list("strides", 1, rank)?,
            dilations: list("dilations", 1, rank)?,
            padding,
            transposed: is_transposed.then(|| list("output_padding", 0, rank)).transpose()?,
            ceil: attributes.int_or("ceil_mode", 0)? != 0,
        }))
    }

    /// Number of spatial axes.
    pub(crate) fn rank(&self) -> usize {
        self.kernel.len()
    }

    /// Positions of the kernel.
    pub(crate) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// The window over inputs of these spatial sizes, [`rank`](Self::rank) of them.
    pub(crate) fn place(&self, inputs: &[usize]) -> Placed<'_> {
        let int = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let (mut outputs, mut before) = (Vec::new(), Vec::new());
        for (axis, &input) in inputs.iter().enumerate() {
            let span = self.dilations[axis].saturating_mul(int(self.kernel[axis]) - 1).saturating_add(1);
            let (stride, input) = (self.strides[axis].max(1), int(input));
            let (size, first) = match (&self.padding, &self.transposed) {
                (Padding::Explicit(b, a), None) => {
                    let room = input + b[axis] + a[axis] - span;
                    let up = self.ceil && room.rem_euclid(stride) != 0;
                    let more = i64::from(up && (room.div_euclid(stride) + 1) * stride < input + b[axis]);
                    (room.div_euclid(stride) + 1 + more, b[axis])
                }
                (Padding::Explicit(b, a), Some(more)) => {
                    (stride * (input - 1) + more[axis] + span - b[axis] - a[axis], b[axis])
                }
                (Padding::Same(lower), _) => {
                    let size = (input + stride - 1) / stride;
                    let total = ((size - 1) * stride + span - input).max(0);
                    (size, if *lower { total - total / 2 } else { total / 2 })
                }
            };
            outputs.push(usize::try_from(size).unwrap_or(0));
            before.push(first);
        }
        Placed { window: self, inputs: inputs.to_vec(), outputs, before }
    }
}

impl Placed<'_> {
    /// For each position of the kernel, the input position that output position `output` reads, `None` in the padding.
    pub(crate) fn reads(&self, output: usize, into: &mut Vec<Option<usize>>) {
        into.clear();
        let rank = self.inputs.len();
        let mut at = vec![0_i64; rank];
        let mut rest = output;
        for axis in (0..rank).rev() {
            at[axis] = i64::try_from(rest % self.outputs[axis]).unwrap_or(0);
            rest /= self.outputs[axis];
        }
        for tap in 0..self.window.taps() {
            let mut rest = tap;
            let mut position = Some(0);
            let mut stride = 1;
            for axis in (0..rank).rev() {
                let k = i64::try_from(rest % self.window.kernel[axis]).unwrap_or(0);
                rest /= self.window.kernel[axis];
                let index = self.input(axis, at[axis], k);
                position = position.zip(index).map(|(p, i)| p + i * stride);
                stride *= self.inputs[axis];
            }
            into.push(position);
        }
    }

    fn input(&self, axis: usize, output: i64, k: i64) -> Option<usize> {
        let (stride, dilation) = (self.window.strides[axis].max(1), self.window.dilations[axis]);
        let index = if self.window.transposed.is_none() {
            output * stride - self.before[axis] + k * dilation
        } else {
            let shifted = output + self.before[axis] - k * dilation;
            if shifted.rem_euclid(stride) != 0 {
                return None;
            }
            shifted.div_euclid(stride)
        };
        usize::try_from(index).ok().filter(|&i| i < self.inputs[axis])
    }
}
