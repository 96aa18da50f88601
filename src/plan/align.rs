//! Block sizes of hardware.
//!
//! Runtimes compute channels in blocks, so that time is a staircase of the size. ONNX Runtime's blocked convolutions work on 16
//! channels under AVX-512 and on 8 otherwise, and leave that path altogether for a number of channels that is no multiple
//! of 4: 66 channels take twice the time of 64. Matrix products work on 8 columns, tensor cores on 8 numbers of 16 bits or
//! 32 of 8 bits. What a runtime sees is a whole axis: of `(heads dims)` the product counts, so that any number of heads of
//! 64 numbers is aligned.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::analysis::Subject;
use crate::axes::{Expr, FactorId, Role, Selection};
use crate::graph::{NodeId, ValueId};
use crate::ops::Linear;

/// Blocked convolutions of CPUs take no other number of channels than a multiple of this.
const LEAST_OF_CONV: usize = 4;

/// Hardware that the result will run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hardware {
    /// A CPU with AVX-512: convolutions in blocks of 16 channels, products of 8.
    Avx512,
    /// An x86-64 CPU without AVX-512: blocks of 8.
    Avx2,
    /// An ARM CPU: blocks of 8.
    Neon,
    /// Tensor cores at 16 bits: blocks of 8.
    Cuda,
    /// Tensor cores at 8 bits: blocks of 32.
    CudaInt8,
    /// TensorRT at 16 bits: blocks of 8.
    #[serde(rename = "tensorrt")]
    TensorRt,
}

impl Hardware {
    /// All kinds of hardware.
    pub const ALL: [Self; 6] = [Self::Avx512, Self::Avx2, Self::Neon, Self::Cuda, Self::CudaInt8, Self::TensorRt];

    /// Detects the processor of this machine, unless the environment variable `PAREDOWN_TARGET` names other hardware.
    pub fn detect() -> Self {
        let named = std::env::var("PAREDOWN_TARGET").unwrap_or_default();
        if let Some(hardware) = Self::ALL.into_iter().find(|hardware| hardware.name() == named) {
            return hardware;
        }
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx512f") {
            return Self::Avx512;
        }
        if cfg!(target_arch = "aarch64") { Self::Neon } else { Self::Avx2 }
    }

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Cuda => "cuda",
            Self::CudaInt8 => "cuda-int8",
            Self::TensorRt => "tensorrt",
        }
    }

    /// Channels that a convolution computes at a time.
    pub fn channels(self) -> usize {
        match self {
            Self::Avx512 => 16,
            Self::CudaInt8 => 32,
            Self::Avx2 | Self::Neon | Self::Cuda | Self::TensorRt => 8,
        }
    }

    /// Rows or columns that a matrix product computes at a time.
    pub fn columns(self) -> usize {
        match self {
            Self::CudaInt8 => 32,
            Self::Avx512 | Self::Avx2 | Self::Neon | Self::Cuda | Self::TensorRt => 8,
        }
    }
}

/// What the sizes that stay are multiples of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Of what this hardware computes in, as each group's operators see it.
    For(Hardware),
    /// Of this, in every group; 1 leaves every size open.
    Multiple(usize),
}

impl Default for Align {
    fn default() -> Self {
        Self::For(Hardware::detect())
    }
}

impl Align {
    /// What the ranks of a layer are multiples of.
    pub fn of_ranks(self, is_conv: bool) -> usize {
        match self {
            Self::For(hardware) if is_conv => hardware.channels(),
            Self::For(hardware) => hardware.columns(),
            Self::Multiple(align) => align.max(1),
        }
    }
}

/// Why sizes of a group are not what the hardware computes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misaligned {
    /// The group is smaller than two blocks, so that a part of a block is its step.
    Small {
        /// Units that are a whole block.
        block: usize,
        /// Units that are a multiple for it.
        step: usize,
    },
    /// Positions that stay are joined with it in one axis, and are no multiple.
    Joined {
        /// These positions.
        rest: usize,
        /// What the hardware computes in.
        block: usize,
    },
}

impl fmt::Display for Misaligned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Small { block, step } => {
                write!(f, "it is smaller than two blocks of {block}, so a multiple of {step} is kept")
            }
            Self::Joined { rest, block } => {
                write!(
                    f,
                    "its axis also has {rest} positions that cannot be removed, which is not a multiple of {block}"
                )
            }
        }
    }
}

/// What the units that stay of a group are multiples of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) units: usize,
    pub(super) misaligned: Option<Misaligned>,
}

/// The axes that convolutions and products of a model see, by the factors in them.
pub(super) struct Seen<'a> {
    subject: Subject<'a>,
    align: Align,
    axes: BTreeMap<FactorId, Vec<SeenAxis<'a>>>,
}

/// An axis, and what sees it.
#[derive(Clone, Copy)]
struct SeenAxis<'a> {
    axis: &'a Expr,
    is_conv: bool,
}

impl<'a> Seen<'a> {
    pub(super) fn new(subject: Subject<'a>, align: Align) -> Self {
        let mut seen = Self { subject, align, axes: BTreeMap::new() };
        for &id in &subject.graph.order {
            seen.visit(id);
        }
        seen
    }

    fn visit(&mut self, id: NodeId) {
        let Subject { graph, network, .. } = self.subject;
        let node = graph.node(id);
        let Some(contraction) = network.relations.get(id.0).and_then(|relation| relation.contraction.as_ref()) else {
            return;
        };
        let is_conv = contraction.linear.is_some() && node.op.contains("Conv");
        let operand = |slot: usize| network.operand(graph, id, slot).unwrap_or_default();
        let result = node.outputs.first().copied().flatten().and_then(|value: ValueId| network.value(value));
        let result = result.unwrap_or_default();
        let axes: Vec<&Expr> = match contraction.linear {
            Some(Linear { data, data_axis, weight, weight_in, weight_out, result_axis, .. }) => {
                let inner = operand(weight).get(weight_in).filter(|inner| !is_conv || self.is_blocked(inner));
                let ends =
                    [operand(data).get(data_axis), inner, operand(weight).get(weight_out), result.get(result_axis)];
                ends.into_iter().flatten().collect()
            }
            // What stands before the last two axes are batches: heads are computed one by one.
            None if matches!(node.op.as_str(), "MatMul" | "FusedMatMul" | "Gemm" | "Einsum") => {
                [operand(0), operand(1), result].iter().flat_map(|axes| axes.iter().rev().take(2)).collect()
            }
            None => contraction.macs.iter().flatten().collect(),
        };
        for axis in axes {
            for factor in axis.factors() {
                self.axes.entry(factor).or_default().push(SeenAxis { axis, is_conv });
            }
        }
    }

    /// Whether the channels inside a group of a convolution fill a block. Smaller groups are not computed in blocks.
    fn is_blocked(&self, inner: &Expr) -> bool {
        self.size(inner, &Selection::all()) >= self.block(true)
    }

    fn block(&self, is_conv: bool) -> usize {
        self.align.of_ranks(is_conv)
    }

    fn size(&self, axis: &Expr, selection: &Selection) -> usize {
        let extent = self.subject.network.solution.extent(axis, selection);
        extent.and_then(|extent| usize::try_from(extent.under(0)).ok()).unwrap_or(0)
    }

    /// What the units that stay of `factor` are multiples of, so that every axis is a multiple of its block; of less in a
    /// small group. `is_batch` says that it is computed one by one where it is an axis of its own.
    pub(super) fn step(&self, factor: FactorId, is_batch: bool) -> Step {
        let size = self.subject.network.solution.size(factor);
        if let Align::Multiple(align) = self.align {
            return Step { units: align.max(1), misaligned: None };
        }
        let (mut block, mut least, mut joined) = (1, 1, None);
        let mut fewer = Selection::all();
        fewer.keep(factor, (0..size).map(|index| index > 0).collect());
        for seen in self.axes.get(&factor).into_iter().flatten() {
            if is_batch && matches!(seen.axis, Expr::Factor(_)) {
                continue;
            }
            // Positions of the axis that one unit takes.
            let each = self.size(seen.axis, &Selection::all()).saturating_sub(self.size(seen.axis, &fewer)).max(1);
            let whole = self.block(seen.is_conv);
            block = least_common_multiple(block, whole / common_divisor(whole, each));
            if seen.is_conv {
                let part = LEAST_OF_CONV.min(whole);
                least = least_common_multiple(least, part / common_divisor(part, each));
            }
            let rest = self.frozen_beside(seen.axis, factor) % whole;
            if rest > 0 {
                joined = joined.or(Some(Misaligned::Joined { rest, block: whole }));
            }
        }
        let mut units = block;
        while units > least && units * 2 > size {
            units = (units / 2).max(least);
        }
        let small = (units < block).then_some(Misaligned::Small { block, step: units });
        Step { units, misaligned: joined.or(small) }
    }

    /// Positions of terms of `axis` that hold frozen factors only.
    fn frozen_beside(&self, axis: &Expr, factor: FactorId) -> usize {
        let Expr::Sum(terms) = axis else { return 0 };
        let is_frozen = |term: &&Expr| {
            let factors = term.factors();
            let roles = factors.iter().map(|&id| &self.subject.network.solution.factor(id).role);
            !factors.contains(&factor) && roles.into_iter().all(|role| matches!(role, Role::Frozen(_)))
        };
        terms.iter().filter(is_frozen).map(|term| self.size(term, &Selection::all())).sum()
    }
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    a / common_divisor(a, b).max(1) * b
}
