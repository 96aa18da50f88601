//! Convolution kernels as low-rank problems. Kernels are [O, I/g, k₁, k₂, …], as ONNX stores them.
//!
//! | split | matrix that is factorized, per group | becomes |
//! |---|---|---|
//! | channel | (i k₁ k₂ …) × o | k₁×k₂×… to r channels, then 1×1 to O (Zhang et al. 2015, arXiv:1505.06798) |
//! | spatial | (i k₁) × (o k₂) | k₁×1 to r channels, then 1×k₂ to O (Tai et al. 2015, arXiv:1511.06067) |
//! | Tucker-2 | modes o and i of the kernel | 1×1 to r_i, k₁×k₂×… to r_o, 1×1 to O (Kim et al. 2015, arXiv:1511.06530) |
//!
//! The rows of the channel matrix are in im2col order, so its columns are the outputs of one position and
//! [`outputs`](super::outputs) applies to it as to any layer; a 1×1 kernel is a plain matrix. With g groups, every
//! group is split separately to the same rank, and both convolutions keep g groups. A depthwise kernel has nothing to
//! split.

use ndarray::{Array1, Array2, ArrayD, ArrayViewD, Axis, IxDyn, concatenate};

use super::low_rank::LowRank;
use crate::{Error, Result};

pub use super::tucker2::{Tucker2, tucker2};
pub(crate) use super::tucker2::{inputs_in_proportion, tucker_ranks};

/// The decomposition of convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConvMode {
    /// By channel: the full kernel with fewer output channels, then 1×1.
    #[default]
    Channel,
    /// By spatial axis: k₁×1, then 1×k₂. Kernels without two spatial axes are split by channel.
    Spatial,
    /// Tucker-2: 1×1, the full kernel with fewer input and output channels, 1×1. Kernels of 1×1 are split by channel.
    Tucker2,
    /// Convolutions are not split.
    None,
}

impl ConvMode {
    /// What is done with a kernel of this window.
    pub fn on(self, window: &[usize]) -> Self {
        let single = window.iter().all(|&k| k == 1);
        match self {
            Self::Spatial if window.len() != 2 || single => Self::Channel,
            Self::Tucker2 if single => Self::Channel,
            mode => mode,
        }
    }
}

/// A kernel with its groups, checked.
#[derive(Debug, Clone)]
pub struct Kernel<'a> {
    pub(crate) weight: ArrayViewD<'a, f64>,
    pub(crate) groups: usize,
    pub(crate) name: String,
}

/// A convolution as a chain of smaller ones, first to last; all have as many groups as the original.
#[derive(Debug, Clone)]
pub struct ConvSplit {
    /// Kernels [O, I/g, k…] of the chain.
    pub kernels: Vec<ArrayD<f64>>,
    /// O values to add to the bias of the last convolution.
    pub bias_shift: Option<Array1<f64>>,
    /// Predicted squared error, summed over groups; see [`LowRank::error`].
    pub error: f64,
}

impl<'a> Kernel<'a> {
    /// Checks that a kernel [O, I/g, k…] with `groups` groups can be split.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) when the shape is not that of a convolution, when O
    /// is not a multiple of the groups, or when the kernel is depthwise (one input channel per group).
    pub fn new(weight: ArrayViewD<'a, f64>, groups: usize, name: &str) -> Result<Self> {
        let shape = weight.shape();
        let refuse = |why: &str| Err(Error::input(format!("kernel '{name}' {shape:?} {why}")));
        if shape.len() < 3 || shape.contains(&0) {
            return refuse("is not that of a convolution");
        }
        if groups == 0 || !shape[0].is_multiple_of(groups) {
            return refuse(&format!("cannot have {groups} groups"));
        }
        if groups > 1 && shape[1] == 1 {
            return refuse("is depthwise: it has no rank to reduce; exclude it");
        }
        Ok(Self { weight, groups, name: name.to_owned() })
    }

    /// Number of groups g.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Output channels of one group, O/g.
    pub fn outputs(&self) -> usize {
        self.weight.shape()[0] / self.groups
    }

    /// Input channels of one group.
    pub fn inputs(&self) -> usize {
        self.weight.shape()[1]
    }

    /// Spatial sizes k₁, k₂, ….
    pub fn window(&self) -> &[usize] {
        &self.weight.shape()[2..]
    }

    /// The kernel of each group as (i k…)×o: rows in im2col order.
    pub fn channel_matrices(&self) -> Vec<Array2<f64>> {
        let rows = self.inputs() * self.window().iter().product::<usize>();
        self.by_group(|group| matrix(group.reversed_first(), rows, self.outputs()))
    }

    /// The convolutions of a channel split, from one factorization of each group's matrix: k… to r
    /// channels per group, then 1×1….
    ///
    /// # Errors
    /// Factors that are not those of this kernel's groups, or of unequal ranks.
    pub fn channel_split(&self, groups: &[LowRank]) -> Result<ConvSplit> {
        let rows = self.inputs() * self.window().iter().product::<usize>();
        let rank = self.require_factors(groups, rows, self.outputs())?;
        let mut first = vec![rank, self.inputs()];
        first.extend(self.window());
        let mut second = vec![self.outputs(), rank];
        second.extend(self.window().iter().map(|_| 1));
        let kernels = [
            self.stacked(groups.iter().map(|f| reshaped(f.a.t().iter(), &first))),
            self.stacked(groups.iter().map(|f| reshaped(f.b.t().iter(), &second))),
        ];
        chain(kernels, groups)
    }

    /// The kernel of each group as (i k₁)×(o k₂).
    ///
    /// # Errors
    /// The kernel does not have two spatial axes.
    pub fn spatial_matrices(&self) -> Result<Vec<Array2<f64>>> {
        let [height, width] = self.require_plane()?;
        let (rows, columns) = (self.inputs() * height, self.outputs() * width);
        Ok(self.by_group(|group| matrix(group.permuted(&[1, 2, 0, 3]), rows, columns)))
    }

    /// The convolutions of a spatial split, from one factorization of each group's matrix: k₁×1 to r
    /// channels per group, then 1×k₂. The first takes the strides, pads and dilations of the height, the
    /// second those of the width.
    ///
    /// # Errors
    /// As [`spatial_matrices`](Self::spatial_matrices); factors of other shapes or unequal ranks.
    pub fn spatial_split(&self, groups: &[LowRank]) -> Result<ConvSplit> {
        let [height, width] = self.require_plane()?;
        let (rows, columns) = (self.inputs() * height, self.outputs() * width);
        let rank = self.require_factors(groups, rows, columns)?;
        let first = [rank, self.inputs(), height, 1];
        let kernels = [
            self.stacked(groups.iter().map(|f| reshaped(f.a.t().iter(), &first))),
            self.stacked(groups.iter().map(|f| {
                let b = reshaped(f.b.iter(), &[rank, self.outputs(), 1, width]);
                b.permuted_axes(IxDyn(&[1, 0, 2, 3]))
            })),
        ];
        chain(kernels, groups)
    }

    /// The kernel of each group unfolded by output, O/g×(i k…), and by input, i×(o k…).
    pub fn unfoldings(&self) -> Vec<[Array2<f64>; 2]> {
        let area: usize = self.window().iter().product();
        let (o, i) = (self.outputs(), self.inputs());
        self.by_group(|group| {
            let mut axes: Vec<usize> = (0..group.ndim()).collect();
            axes.swap(0, 1);
            [matrix(group.view(), o, i * area), matrix(group.view().permuted(&axes), i, o * area)]
        })
    }

    fn require_plane(&self) -> Result<[usize; 2]> {
        self.window().try_into().map_err(|_| {
            Error::input(format!(
                "kernel '{}' has {} spatial axes, a spatial split needs two; use the channel split",
                self.name,
                self.window().len()
            ))
        })
    }

    fn require_factors(&self, groups: &[LowRank], rows: usize, columns: usize) -> Result<usize> {
        let rank = groups.first().map_or(0, LowRank::rank);
        let fits = |f: &LowRank| f.a.dim() == (rows, rank) && f.b.dim() == (rank, columns);
        if rank > 0 && groups.len() == self.groups && groups.iter().all(fits) {
            return Ok(rank);
        }
        Err(Error::input(format!(
            "the factors of kernel '{}' are not {} pairs of {rows}×r and r×{columns}",
            self.name, self.groups
        )))
    }

    /// Applies `f` to the kernel [O/g, I/g, k…] of each group.
    pub(crate) fn by_group<T>(&self, f: impl Fn(ArrayViewD<'_, f64>) -> T) -> Vec<T> {
        self.weight.axis_chunks_iter(Axis(0), self.outputs()).map(f).collect()
    }

    /// The kernels of the groups, one after another along the output channels.
    pub(crate) fn stacked(&self, parts: impl Iterator<Item = ArrayD<f64>>) -> Result<ArrayD<f64>> {
        let parts: Vec<_> = parts.collect();
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        let whole = concatenate(Axis(0), &views).map_err(|e| Error::input(format!("kernel '{}': {e}", self.name)))?;
        Ok(whole.as_standard_layout().into_owned())
    }
}

/// Two convolutions, with the changes of bias of all groups in a row.
fn chain(kernels: [Result<ArrayD<f64>>; 2], groups: &[LowRank]) -> Result<ConvSplit> {
    Ok(ConvSplit {
        kernels: kernels.into_iter().collect::<Result<_>>()?,
        bias_shift: concatenated(&groups.iter().collect::<Vec<_>>()),
        error: groups.iter().map(|f| f.error).sum(),
    })
}

/// The changes of bias of all groups in a row, if all have one.
pub(crate) fn concatenated(groups: &[&LowRank]) -> Option<Array1<f64>> {
    let shifts: Option<Vec<_>> = groups.iter().map(|f| f.bias_shift.as_ref().map(|x| x.view())).collect();
    shifts.and_then(|parts| concatenate(Axis(0), &parts).ok())
}

/// Axis orders of a group's kernel.
trait Reordered {
    /// Output channels last: [i, k…, o].
    fn reversed_first(self) -> Self;
    fn permuted(self, axes: &[usize]) -> Self;
}

impl Reordered for ArrayViewD<'_, f64> {
    fn reversed_first(self) -> Self {
        let axes: Vec<usize> = (1..self.ndim()).chain([0]).collect();
        self.permuted(&axes)
    }

    fn permuted(self, axes: &[usize]) -> Self {
        self.permuted_axes(IxDyn(axes))
    }
}

/// The values in logical order as a rows×columns matrix.
pub(crate) fn matrix(values: ArrayViewD<'_, f64>, rows: usize, columns: usize) -> Array2<f64> {
    let mut out = Array2::zeros((rows, columns));
    out.iter_mut().zip(values.iter()).for_each(|(to, x)| *to = *x);
    out
}

/// The values in order as an array of another shape.
pub(crate) fn reshaped<'v>(values: impl Iterator<Item = &'v f64>, shape: &[usize]) -> ArrayD<f64> {
    let mut out = ArrayD::zeros(IxDyn(shape));
    out.iter_mut().zip(values).for_each(|(to, x)| *to = *x);
    out
}

#[cfg(test)]
#[path = "conv_tests.rs"]
mod tests;
