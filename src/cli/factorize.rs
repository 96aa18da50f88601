//! `paredown factorize`: split layers into low-rank ones, prove the rewrite, write the file.

use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;

use super::options::{Data, Dims, check_texts, remaining, spinner, write_report, write_text};
use crate::error::{Error, Result};
use crate::factorize::{ConvMode, Method, Options, Target};
use crate::onnx::{Model, SaveOptions};
use crate::plan::Plan;
use crate::prune::{Comparison, Remaining};
use crate::report::result;
use crate::runtime::inputs::DimSizes;

/// Splits layers into two smaller ones of low rank, proves that the result is valid, and writes the file
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["rank", "energy", "params", "macs", "plan"]))]
pub(super) struct Args {
    /// The ONNX file
    model: PathBuf,
    /// Where to write the result
    #[arg(long, short, value_name = "FILE", required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// Rank of every layer where it saves parameters
    #[arg(long, value_name = "K")]
    rank: Option<usize>,
    /// Share of the energy (Σσ²) that every layer keeps: 0.95 or 95%
    #[arg(long, value_name = "E", value_parser = super::options::share)]
    energy: Option<f64>,
    /// Parameters that remain of the whole model: 50% or 12.5M
    #[arg(long, value_name = "B", value_parser = remaining)]
    params: Option<Remaining>,
    /// Multiply–accumulates that remain of the whole model: 50% or 1.5G
    #[arg(long, value_name = "B", value_parser = remaining)]
    macs: Option<Remaining>,
    /// Carry out the ranks of a plan file
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// How a weight is split
    #[arg(long, value_enum, default_value = "svd")]
    method: TypedMethod,
    /// How convolutions are split
    #[arg(long, value_enum, default_value = "channel")]
    conv: TypedConv,
    /// Ranks that are not typed are multiples of this, unless the layer is small
    #[arg(long, value_name = "N", default_value_t = 8)]
    align: usize,
    /// Split only layers that match, by name or tensor (* and ? match anything); may be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Leave layers alone that match; may be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Put layers back that did not get faster in tract
    #[arg(long, conflicts_with = "no_verify")]
    keep_faster: bool,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    dims: Dims,
    /// Write the ranks to a plan file
    #[arg(long, value_name = "FILE")]
    plan_out: Option<PathBuf>,
    /// Show the table of all layers, write no model
    #[arg(long)]
    dry_run: bool,
    /// Seed of every random choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Keep weights in a file beside the model (by itself above 2 GiB)
    #[arg(long)]
    external_data: bool,
    /// Write without running the model
    #[arg(long)]
    no_verify: bool,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Overwrite an existing output
    #[arg(long)]
    force: bool,
    /// Print nothing but errors
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TypedMethod {
    /// The best split of the weight; with data, of the layer's outputs
    Svd,
    /// Both factors nonnegative, for weights that are
    Nmf,
    /// One factor nonnegative, for any weight
    SemiNmf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TypedConv {
    /// The kernel to fewer channels, then 1×1
    Channel,
    /// A column, then a row
    Spatial,
    /// 1×1, the kernel between fewer channels, 1×1
    Tucker2,
    /// Convolutions stay
    None,
}

impl Args {
    fn target(&self) -> Result<Target> {
        match (&self.plan, self.rank, self.energy, self.params, self.macs) {
            (Some(path), ..) => Plan::load(path).map(Target::Plan),
            (_, Some(rank), ..) => Ok(Target::Rank(rank)),
            (_, _, Some(energy), ..) => Ok(Target::Energy(energy)),
            (_, _, _, Some(params), _) => Ok(Target::Params(params)),
            (_, _, _, _, Some(macs)) => Ok(Target::Macs(macs)),
            _ => Err(Error::usage("say how small: --rank, --energy, --params, --macs or --plan")),
        }
    }

    fn options(&self, dims: DimSizes) -> Result<Options> {
        if self.align == 0 {
            return Err(Error::usage("--align is at least one"));
        }
        Ok(Options {
            method: match self.method {
                TypedMethod::Svd => Method::Svd,
                TypedMethod::Nmf => Method::Nmf,
                TypedMethod::SemiNmf => Method::SemiNmf,
            },
            conv: match self.conv {
                TypedConv::Channel => ConvMode::Channel,
                TypedConv::Spatial => ConvMode::Spatial,
                TypedConv::Tucker2 => ConvMode::Tucker2,
                TypedConv::None => ConvMode::None,
            },
            align: self.align,
            time_layers: !self.no_verify,
            keep_faster: self.keep_faster,
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            dims,
            seed: self.seed,
            ..Options::new(self.target()?)
        })
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    let dims = args.dims.sizes()?;
    let options = args.options(dims.clone())?;
    let read = args.data.paths().chain([args.model.as_path()]).chain(args.plan.as_deref());
    let texts = [("--plan-out", &args.plan_out), ("--report", &args.report)];
    check_texts(read, args.output.as_deref(), &texts)?;
    let bar = spinner(args.quiet, "analysing and splitting");
    let model = Model::load(&args.model)?;
    if let (Some(output), false) = (&args.output, args.dry_run) {
        model.check_output(output, args.force)?;
    }
    let located = |e: Error| e.in_file(&args.model);
    let samples = args.data.open(&model, &dims, args.seed)?;
    let mut factorized =
        crate::factorize::factorize(&model, &options, samples.calibration.as_ref()).map_err(located)?;
    if !args.no_verify {
        bar.set_message("proving");
        let started = Instant::now();
        let comparison = Comparison {
            analysis: &factorized.analysis,
            rewritten: &factorized.model.proto,
            thaw: &[],
            data: samples.to_measure(),
            dims: &dims,
            seed: args.seed,
        };
        let loaded = comparison.load(&mut factorized.report).map_err(located)?;
        comparison.measure(&loaded, &mut factorized.report).map_err(located)?;
        factorized.report.seconds.insert("verify".to_owned(), started.elapsed().as_secs_f64());
    }
    if let (Some(output), false) = (&args.output, args.dry_run) {
        bar.set_message("writing");
        let external_data = args.external_data || model.used_external_data();
        factorized.report.model.after.bytes =
            factorized.model.save(output, &SaveOptions { external_data, force: args.force })?;
    }
    if let Some(path) = &args.plan_out {
        write_text(path, &factorized.plan.to_text())?;
    }
    write_report(&factorized.report, args.report.as_deref())?;
    bar.finish_and_clear();
    if args.quiet { Ok(()) } else { super::print(&result(&factorized.report)) }
}
