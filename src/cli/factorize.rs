//! `paredown factorize`: split layers into low-rank ones, prove the rewrite, write the file.

use clap::{Command, ValueEnum};

use super::bench::{Bench, Latency};
use super::job::{Common, Plans};
use super::options::{Sizes, remaining};
use super::training::Retraining;
use crate::error::{Error, Result};
use crate::{ConvMode, Factorization, FactorizeOptions, Remaining};

/// Splits layers into smaller ones of low rank, proves the result and writes it
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["rank", "energy", "params", "macs", "size", "latency", "plan"]))]
pub(super) struct Args {
    /// Rank for every layer where this rank saves parameters
    #[arg(long, value_name = "K")]
    rank: Option<usize>,
    /// Share of the energy (Σσ²) to keep in every layer: 0.95 or 95%
    #[arg(long, value_name = "E", value_parser = super::options::share)]
    energy: Option<f64>,
    /// Parameters to keep in the whole model: 50% or 12.5M
    #[arg(long, value_name = "B", value_parser = remaining)]
    params: Option<Remaining>,
    /// Multiply–accumulates (MACs) to keep in the whole model: 50% or 1.5G
    #[arg(long, value_name = "B", value_parser = remaining)]
    macs: Option<Remaining>,
    /// File size to keep, including external data: 50% or 40MB
    #[arg(long, value_name = "B", value_parser = remaining)]
    size: Option<Remaining>,
    #[command(flatten)]
    latency: Latency,
    /// Decomposition for weight matrices
    #[arg(long, value_enum, default_value = "svd")]
    method: TypedMethod,
    /// Decomposition for convolutions
    #[arg(long, value_enum, default_value = "channel")]
    conv: TypedConv,
    #[command(flatten)]
    sizes: Sizes,
    /// Split only layers whose name or tensors match this pattern (* and ? are wildcards); may be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Skip layers whose name or tensors match this pattern; may be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Restore every layer that does not get faster in tract
    #[arg(long, conflicts_with = "no_verify")]
    keep_faster: bool,
    #[command(flatten)]
    retrain: Retraining,
    #[command(flatten)]
    pub(super) bench: Bench,
    #[command(flatten)]
    pub(super) plans: Plans,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TypedMethod {
    /// The best low-rank approximation of the weight or, with data, of the layer's outputs
    Svd,
    /// Both factors are nonnegative; the weights must be nonnegative
    Nmf,
    /// One factor is nonnegative; the weights may have any sign
    SemiNmf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TypedConv {
    /// The full kernel with fewer output channels, then a 1×1 convolution
    Channel,
    /// A column kernel (k×1), then a row kernel (1×k)
    Spatial,
    /// 1×1, the full kernel with fewer input and output channels, 1×1
    Tucker2,
    /// Convolutions are not split
    None,
}

impl Args {
    fn target(&self) -> Result<FactorizeOptions> {
        if let Some(size) = self.size {
            return Ok(FactorizeOptions::size(size));
        }
        if let Some(latency) = self.latency.latency {
            return Ok(FactorizeOptions::latency(latency));
        }
        match (self.plans.load()?, self.rank, self.energy, self.params, self.macs) {
            (Some(plan), ..) => Ok(FactorizeOptions::plan(plan)),
            (_, Some(rank), ..) => Ok(FactorizeOptions::rank(rank)),
            (_, _, Some(energy), ..) => Ok(FactorizeOptions::energy(energy)),
            (_, _, _, Some(params), _) => Ok(FactorizeOptions::params(params)),
            (_, _, _, _, Some(macs)) => Ok(FactorizeOptions::macs(macs)),
            _ => Err(Error::usage("say how small: --rank, --energy, --params, --macs, --size, --latency or --plan")),
        }
    }

    /// The options of the job, without its samples and sizes.
    pub(super) fn options(&self) -> Result<FactorizeOptions> {
        let method = match self.method {
            TypedMethod::Svd => Factorization::Svd,
            TypedMethod::Nmf => Factorization::Nmf,
            TypedMethod::SemiNmf => Factorization::SemiNmf,
        };
        let conv = match self.conv {
            TypedConv::Channel => ConvMode::Channel,
            TypedConv::Spatial => ConvMode::Spatial,
            TypedConv::Tucker2 => ConvMode::Tucker2,
            TypedConv::None => ConvMode::None,
        };
        let measured = !self.common.no_verify;
        let mut options = self.target()?.method(method).conv(conv).time_layers(measured);
        options = options.keep_faster(self.keep_faster);
        options.align = self.sizes.align();
        options.include.clone_from(&self.include);
        options.exclude.clone_from(&self.exclude);
        options.runtimes = self.latency.options(&self.bench);
        options.retrain = self.retrain.options()?;
        Ok(options)
    }
}

pub(super) fn run(args: &Args, command: &Command) -> Result<()> {
    let options = args.options()?;
    let job = args.common.open(Some(&args.plans), args.latency.table(), "analysing and splitting")?;
    let options = job.configure(options)?;
    job.finish_timed(command, Some(&args.bench), |model| crate::factorize(model, &options))
}
