//! Options of a factorization.

use crate::error::{Error, Result};
use crate::factorize::decompose::Method;
use crate::factorize::select::Target;
use crate::jobs::latency::check as check_latency;
use crate::jobs::setting::{Setting, configured, recalling, selecting, timing};
use crate::latency::RuntimeOptions;
use crate::lowrank::conv::ConvMode;
use crate::plan::{Align, Plan, Remaining};
use crate::train;

/// Options of [`factorize`](crate::factorize).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FactorizeOptions {
    /// How small the layers are to become.
    pub(crate) target: Target,
    /// How matrices are split.
    pub(crate) method: Method,
    /// How kernels are split.
    pub(crate) conv: ConvMode,
    /// What chosen ranks are multiples of, unless a layer is small.
    pub(crate) align: Align,
    /// Whether products and convolutions are split.
    pub(crate) layers: bool,
    /// Whether tables of embeddings are split.
    pub(crate) tables: bool,
    /// Patterns of layers or tensors to split; all if empty.
    pub(crate) include: Vec<String>,
    /// Patterns of layers or tensors to leave alone.
    pub(crate) exclude: Vec<String>,
    /// Whether layers after split ones are fitted to what those have become, where data is given.
    pub(crate) sequential: bool,
    /// Whether tract's time of each split layer is measured.
    pub(crate) time_layers: bool,
    /// Whether layers that did not get faster are put back; takes [`FactorizeOptions::time_layers`].
    pub(crate) keep_faster: bool,
    /// Where operators are timed for a latency budget.
    pub(crate) runtimes: RuntimeOptions,
    /// Whether and how the weights are trained once the layers are split.
    pub(crate) retrain: Option<train::Options>,
    /// Samples, sizes, seed, and the progress listener.
    pub(crate) setting: Setting,
}

configured!(FactorizeOptions);
recalling!(FactorizeOptions);
selecting!(FactorizeOptions, "layers", "ranks");
timing!(FactorizeOptions);

impl FactorizeOptions {
    /// Splits every layer at this rank where that saves parameters.
    pub fn rank(rank: usize) -> Self {
        Self::new(Target::Rank(rank))
    }

    /// Splits every layer at the smallest rank that keeps this share of its energy Σσ².
    pub fn energy(share: f64) -> Self {
        Self::new(Target::Energy(share))
    }

    /// Splits layers to this budget of parameters for the whole model: a share of the original's (`0.5`) or a number.
    pub fn params(remaining: impl Into<Remaining>) -> Self {
        Self::new(Target::Params(remaining.into()))
    }

    /// Splits layers to this budget of multiply–accumulates for the whole model: a share of the original's (`0.5`) or a
    /// number.
    pub fn macs(remaining: impl Into<Remaining>) -> Self {
        Self::new(Target::Macs(remaining.into()))
    }

    /// Splits layers to this file size, including external data: a share of the original's (`0.5`) or a number of bytes.
    pub fn size(remaining: impl Into<Remaining>) -> Self {
        Self::new(Target::Size(remaining.into()))
    }

    /// Splits layers to this latency: a share of the original's (`0.5`) or a [`Duration`](std::time::Duration). Layers are timed at
    /// several ranks in the runtime that [`runtimes`](Self::runtimes) names; the result is measured and the ranks corrected.
    pub fn latency(remaining: impl Into<Remaining>) -> Self {
        Self::new(Target::Latency(remaining.into()))
    }

    /// Splits layers at the ranks of a plan.
    pub fn plan(plan: Plan) -> Self {
        Self::new(Target::Plan(plan))
    }

    /// The defaults, for this target.
    #[doc(hidden)]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            method: Method::default(),
            conv: ConvMode::default(),
            align: Align::default(),
            layers: true,
            tables: true,
            include: Vec::new(),
            exclude: Vec::new(),
            sequential: true,
            time_layers: false,
            keep_faster: false,
            runtimes: RuntimeOptions::default(),
            retrain: None,
            setting: Setting::default(),
        }
    }

    /// The same for another target.
    #[doc(hidden)]
    pub fn target(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    /// Sets the decomposition of weight matrices. The default is the best low-rank approximation of the weight or, with
    /// data, of the layer's outputs.
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Sets the decomposition of convolutions; by channel by default.
    pub fn conv(mut self, mode: ConvMode) -> Self {
        self.conv = mode;
        self
    }

    /// Measures tract's time for each split layer, before and after.
    pub fn time_layers(mut self, measure: bool) -> Self {
        self.time_layers = measure;
        self
    }

    /// Restores every layer that does not get faster in tract. This also measures the time of each split layer.
    pub fn keep_faster(mut self, keep: bool) -> Self {
        self.keep_faster = keep;
        self.time_layers |= keep;
        self
    }

    /// Trains the weights after the layers are split, on the original's outputs and on the data's labels if there are
    /// any.
    pub fn retrain(mut self, training: train::Options) -> Self {
        self.retrain = Some(training);
        self
    }

    /// Refuses numbers out of range.
    pub(super) fn check(&self) -> Result<()> {
        if self.align == Align::Multiple(0) {
            return Err(Error::usage("`align` is at least one"));
        }
        match self.target {
            Target::Latency(remaining) => check_latency(remaining),
            _ => Ok(()),
        }
    }
}
