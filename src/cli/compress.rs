//! `paredown compress`: remove units and split layers under one budget, prove the rewrite, write the file.

use std::collections::BTreeSet;

use clap::{Command, ValueEnum};

use super::bench::{Bench, Latency};
use super::job::{Common, Plans};
use super::options::{Sizes, TypedEffort, ratio, remaining};
use crate::error::{Error, Result};
use crate::{CompressOptions, Means, Remaining};

/// Removes units and splits layers, whatever costs the output least under one budget; proves the result and writes it
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["params", "macs", "size", "latency", "max_drop", "plan"]))]
pub(super) struct Args {
    /// Parameters to keep: 50% or 12.5M
    #[arg(long, value_name = "B", value_parser = remaining)]
    params: Option<Remaining>,
    /// Multiply–accumulates (MACs) to keep: 50% or 1.5G
    #[arg(long, value_name = "B", value_parser = remaining)]
    macs: Option<Remaining>,
    /// File size to keep, including external data: 50% or 40MB
    #[arg(long, value_name = "B", value_parser = remaining)]
    size: Option<Remaining>,
    #[command(flatten)]
    latency: Latency,
    /// Remove as much as possible while losing at most this share of accuracy, or of agreement with the original if the
    /// data has no labels: 1%
    #[arg(long, value_name = "D", value_parser = ratio)]
    max_drop: Option<f64>,
    /// What may be done, separated by commas
    #[arg(long, value_enum, value_name = "MEANS", value_delimiter = ',', default_values_t = TypedMeans::value_variants().to_vec())]
    means: Vec<TypedMeans>,
    /// How many widths to try when measuring each group's effect on the output: 1 (fast), 3 (normal) or 7 (thorough)
    #[arg(long, value_enum, default_value = "normal")]
    effort: TypedEffort,
    /// Minimum number of units to keep in each group
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_keep: usize,
    #[command(flatten)]
    sizes: Sizes,
    /// Change only groups and layers whose name or tensors match this pattern (* and ? are wildcards); may be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Skip groups and layers whose name or tensors match this pattern; may be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    #[command(flatten)]
    pub(super) bench: Bench,
    #[command(flatten)]
    pub(super) plans: Plans,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TypedMeans {
    /// Remove channels, neurons, hidden units and heads
    Prune,
    /// Remove dimensions of every head, in a basis that orders them
    Dims,
    /// Split layers into two of low rank
    Rank,
    /// Split tables of embeddings into a narrower table and a matrix
    Tables,
}

impl Args {
    fn target(&self) -> Result<CompressOptions> {
        if let Some(drop) = self.max_drop {
            return Ok(CompressOptions::max_drop(drop));
        }
        if let Some(latency) = self.latency.latency {
            return Ok(CompressOptions::latency(latency));
        }
        match (self.plans.load()?, self.params, self.macs, self.size) {
            (Some(plan), ..) => Ok(CompressOptions::plan(plan)),
            (_, Some(params), ..) => Ok(CompressOptions::params(params)),
            (_, _, Some(macs), _) => Ok(CompressOptions::macs(macs)),
            (_, _, _, Some(size)) => Ok(CompressOptions::size(size)),
            _ => Err(Error::usage("say how small: --params, --macs, --size, --latency, --max-drop or --plan")),
        }
    }

    /// The options of the job, without its samples and sizes.
    pub(super) fn options(&self) -> Result<CompressOptions> {
        let means: BTreeSet<Means> = self
            .means
            .iter()
            .map(|means| match means {
                TypedMeans::Prune => Means::Prune,
                TypedMeans::Dims => Means::Dims,
                TypedMeans::Rank => Means::Rank,
                TypedMeans::Tables => Means::Tables,
            })
            .collect();
        let mut options = self.target()?.means(means).effort(self.effort.effort()).min_keep(self.min_keep);
        options.align = self.sizes.align();
        options.include.clone_from(&self.include);
        options.exclude.clone_from(&self.exclude);
        options.runtimes = self.latency.options(&self.bench);
        Ok(options)
    }
}

pub(super) fn run(args: &Args, command: &Command) -> Result<()> {
    let options = args.options()?;
    let job = args.common.open(Some(&args.plans), args.latency.table(), "analysing and rewriting")?;
    let options = job.configure(options)?;
    job.finish_timed(command, Some(&args.bench), |model| crate::compress(model, &options))
}
