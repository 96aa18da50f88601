//! `paredown prune`: remove units, prove the rewrite, write the file.

use std::path::PathBuf;

use clap::ValueEnum;

use super::options::{Data, Dims, check_texts, ratio, remaining, spinner, write_report, write_text};
use crate::error::{Error, Result};
use crate::onnx::{Model, SaveOptions};
use crate::plan::{Plan, Scope, Units};
use crate::prune::{Options, Proof, Pruned, Remaining, Target, prove};
use crate::repair::Method;
use crate::report::result;
use crate::runtime::inputs::DimSizes;

/// Removes the least important neurons, channels and heads, proves that nothing else changed, and writes the file
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["ratio", "params", "macs", "size", "plan"]))]
pub(super) struct Args {
    /// The ONNX file
    model: PathBuf,
    /// Where to write the result
    #[arg(long, short, value_name = "FILE", required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// Share of each axis that is removed: 0.5 or 50%
    #[arg(long, value_name = "R", value_parser = ratio)]
    ratio: Option<f64>,
    /// Parameters that remain: 50% or 12.5M
    #[arg(long, value_name = "B", value_parser = remaining)]
    params: Option<Remaining>,
    /// Multiply–accumulates that remain: 50% or 1.5G
    #[arg(long, value_name = "B", value_parser = remaining)]
    macs: Option<Remaining>,
    /// File size that remains, external data included: 50% or 40MB
    #[arg(long, value_name = "B", value_parser = remaining)]
    size: Option<Remaining>,
    /// Carry out a plan file
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// How units are ranked: ablation, activation, apoz, fluctuation, l1, l2, obd, obs, random, wanda [default: obs with
    /// --data, l2 without]
    #[arg(long, value_name = "C")]
    criterion: Option<String>,
    /// How the rest is repaired: none, bias, bn, lstsq [default: lstsq with --data, none without]
    #[arg(long, value_name = "METHOD")]
    repair: Option<String>,
    /// Remove in so many equal steps, each scored on the repaired result of the one before
    #[arg(long, value_name = "N", default_value_t = 1)]
    steps: usize,
    /// Whether groups are compared with each other [default: layer for --ratio, global for budgets]
    #[arg(long, value_enum)]
    scope: Option<TypedScope>,
    /// What is removed from attention: whole heads, indices inside every head, or both
    #[arg(long, value_enum, default_value = "heads")]
    unit: TypedUnit,
    /// Fewest units that stay in a group
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_keep: usize,
    /// Kept units are a multiple of this, unless the group is smaller
    #[arg(long, value_name = "N", default_value_t = 1)]
    align: usize,
    /// Also remove where a statistic (LayerNorm, Softmax, …) shifts: valid, but not exact
    #[arg(long)]
    allow_shifts: bool,
    /// Prune only groups that match, by name or tensor (* and ? match anything); may be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Leave groups alone that match; may be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// A graph output (or input) whose axes may be pruned; may be repeated
    #[arg(long, value_name = "NAME")]
    thaw: Vec<String>,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    dims: Dims,
    /// Write what stays to a plan file
    #[arg(long, value_name = "FILE")]
    plan_out: Option<PathBuf>,
    /// Show the table, write no model
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
enum TypedScope {
    /// Every group loses the same share
    Layer,
    /// The least important units of the whole network go
    Global,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TypedUnit {
    Heads,
    Dims,
    Both,
}

impl Args {
    fn target(&self) -> Result<Target> {
        match (&self.plan, self.ratio, self.params, self.macs, self.size) {
            (Some(path), ..) => Plan::load(path).map(Target::Plan),
            (_, Some(ratio), ..) => Ok(Target::Ratio(ratio)),
            (_, _, Some(params), ..) => Ok(Target::Params(params)),
            (_, _, _, Some(macs), _) => Ok(Target::Macs(macs)),
            (_, _, _, _, Some(size)) => Ok(Target::Size(size)),
            _ => Err(Error::usage("say how much is to go: --ratio, --params, --macs, --size or --plan")),
        }
    }

    fn options(&self, dims: DimSizes) -> Result<Options> {
        if self.min_keep == 0 || self.align == 0 || self.steps == 0 {
            return Err(Error::usage("--min-keep, --align and --steps are at least one"));
        }
        Ok(Options {
            target: self.target()?,
            criterion: self.criterion.clone(),
            repair: self.repair.as_deref().map(Method::by_name).transpose()?,
            steps: self.steps,
            scope: self.scope.map(|scope| match scope {
                TypedScope::Layer => Scope::Layer,
                TypedScope::Global => Scope::Global,
            }),
            units: match self.unit {
                TypedUnit::Heads => Units::Heads,
                TypedUnit::Dims => Units::Dims,
                TypedUnit::Both => Units::Both,
            },
            min_keep: self.min_keep,
            align: self.align,
            allow_shifts: self.allow_shifts,
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            thaw: self.thaw.clone(),
            dims,
            seed: self.seed,
        })
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    let dims = args.dims.sizes()?;
    let options = args.options(dims.clone())?;
    let read = args.data.paths().chain([args.model.as_path()]).chain(args.plan.as_deref());
    let texts = [("--plan-out", &args.plan_out), ("--report", &args.report)];
    check_texts(read, args.output.as_deref(), &texts)?;
    let bar = spinner(args.quiet, "analysing and rewriting");
    let model = Model::load(&args.model)?;
    if let (Some(output), false) = (&args.output, args.dry_run) {
        model.check_output(output, args.force)?;
    }
    let located = |e: Error| e.in_file(&args.model);
    let samples = args.data.open(&model, &dims, args.seed)?;
    let mut pruned = crate::prune::prune(&model, &options, samples.calibration.as_ref()).map_err(located)?;
    if !args.no_verify {
        bar.set_message("proving");
        let Pruned { analysis, groups, selection, model: rewritten, report, .. } = &mut pruned;
        let proof = Proof {
            analysis,
            groups,
            selection,
            rewritten: &rewritten.proto,
            thaw: &args.thaw,
            data: samples.to_measure(),
            dims: &dims,
            seed: args.seed,
        };
        prove(&proof, report).map_err(located)?;
    }
    if let (Some(output), false) = (&args.output, args.dry_run) {
        bar.set_message("writing");
        let external_data = args.external_data || model.used_external_data();
        pruned.report.model.after.bytes =
            pruned.model.save(output, &SaveOptions { external_data, force: args.force })?;
    }
    if let Some(path) = &args.plan_out {
        write_text(path, &pruned.plan.to_text())?;
    }
    write_report(&pruned.report, args.report.as_deref())?;
    bar.finish_and_clear();
    if args.quiet { Ok(()) } else { super::print(&result(&pruned.report)) }
}
