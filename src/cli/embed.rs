//! The commands as functions, for a program in another language that holds models in memory.
//!
//! Options are given as they are typed, so that they have one definition. Messages name them as keyword arguments:
//! `` `max_drop` `` instead of `--max-drop`.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::bench::Bench;
use super::flags::as_keywords;
use super::job::{Common, Plans};
use super::reports::write_report;
use super::{Args, Command};
use crate::calibrate::Team;
pub use crate::calibrate::team::Board;
use crate::defect::print_no_panics;
use crate::error::{Error, Result};
use crate::jobs;
use crate::jobs::setting::Configured;
pub use crate::jobs::{Passes, Service};
use crate::onnx::TemporaryFile;
use crate::plan::Hardware;
use crate::progress::Progress;
use crate::repair::dismiss;
use crate::{Cancel, Metric, Model, Outcome, Report, SweepOptions, SweepReport};

/// Stands for every file of a command that the caller holds in memory.
const IN_MEMORY: &str = "model";

/// The caller of a command: what it holds in memory besides the model, and how it follows the job.
pub struct Caller {
    /// The teacher of `tune`.
    pub teacher: Option<Model>,
    /// The metric, unless it is a command among the options.
    pub metric: Option<Metric>,
    /// Called with a short description of each phase.
    pub listener: Arc<dyn Fn(&str) + Send + Sync>,
    /// Cancels the job.
    pub cancel: Cancel,
    /// Where the workers meet that share the repairs of the job, and their number.
    pub team: Option<(Arc<dyn Board>, usize)>,
}

/// Runs `prune`, `factorize`, `compress` or `tune` on `model`, proves the result unless `--no-verify` is among the options, and
/// measures its latency where the command does.
///
/// # Errors
/// As the job, [`Outcome::prove`] and [`Outcome::time`]; [`Usage`](crate::ErrorKind::Usage) for options that the command
/// does not have.
pub fn rewrite(command: &str, options: &[OsString], model: &Model, caller: Caller) -> Result<Outcome> {
    keyworded(|| match parsed(command, 1, &[&["--dry-run".into(), "--quiet".into()], options].concat())? {
        Command::Prune(args) => {
            let rewriting = Rewriting::new(model, &args.common, &args.bench, &args.plans);
            rewriting.outcome(args.options()?, &caller, crate::prune)
        }
        Command::Factorize(args) => {
            let rewriting = Rewriting::new(model, &args.common, &args.bench, &args.plans);
            rewriting.outcome(args.options()?, &caller, crate::factorize)
        }
        Command::Compress(args) => {
            let rewriting = Rewriting::new(model, &args.common, &args.bench, &args.plans);
            rewriting.outcome(args.options()?, &caller, crate::compress)
        }
        Command::Tune(args) => {
            let mut options = args.options()?;
            options.teacher = caller.teacher.clone().map_or_else(|| args.teacher(), |teacher| Ok(Some(teacher)))?;
            Rewriting { common: &args.common, bench: None, stats: None, model }.outcome(options, &caller, crate::tune)
        }
        Command::Inspect(_)
        | Command::Sweep(_)
        | Command::Gather(_)
        | Command::MergeStats(_)
        | Command::Verify(_)
        | Command::BenchTable(_) => Err(Error::usage(format!("{command} does not rewrite a model"))),
    })
}

/// Runs `inspect` on `model`.
///
/// # Errors
/// As [`inspect`](crate::inspect); [`Usage`](crate::ErrorKind::Usage) for options that the command does not have.
pub fn inspect(options: &[OsString], model: &Model) -> Result<Report> {
    keyworded(|| match parsed("inspect", 1, options)? {
        Command::Inspect(args) => crate::inspect(model, &args.options()?),
        _ => Err(Error::defect("another command was parsed")),
    })
}

/// Runs `gather` on `model`, and returns the number of results that are new in the file.
///
/// # Errors
/// As [`gather`](crate::gather); [`Usage`](crate::ErrorKind::Usage) for options that the command does not have.
pub fn gather(options: &[OsString], model: &Model, caller: &Caller) -> Result<usize> {
    keyworded(|| match parsed("gather", 1, &[&["--quiet".into()], options].concat())? {
        Command::Gather(args) => crate::gather(model, &args.options(caller.progress())?),
        _ => Err(Error::defect("another command was parsed")),
    })
}

/// Serves a job that has a team: gathers sums of a share of the samples, and runs these for the repairs of the job until it ends. The
/// options are those of `gather`. Returns the number of repairs.
///
/// # Errors
/// As [`gather`]; [`Runtime`](crate::ErrorKind::Runtime) if the board cannot be reached.
pub fn serve(
    options: &[OsString],
    service: &Service,
    model: &Model,
    (caller, board): (&Caller, Arc<dyn Board>),
) -> Result<usize> {
    keyworded(|| match parsed("gather", 1, &[&["--quiet".into()], options].concat())? {
        Command::Gather(args) => jobs::serve(model, &args.options(caller.progress())?, service, &board),
        _ => Err(Error::defect("another command was parsed")),
    })
}

/// Writes what the workers of a job gathered to the file `stats`, and tells them.
///
/// # Errors
/// If a worker failed, or the file cannot be written.
pub fn gathered(board: &Arc<dyn Board>, workers: usize, stats: &Path) -> Result<()> {
    jobs::gathered(board, workers, stats)
}

/// Runs `sweep` on `model`.
///
/// # Errors
/// As [`sweep`](crate::sweep); [`Usage`](crate::ErrorKind::Usage) for options that the command does not have.
pub fn sweep(options: &[OsString], model: &Model, caller: &Caller) -> Result<SweepReport> {
    keyworded(|| {
        let args = sweeping(options)?;
        let mut options = args.options(caller.progress())?;
        if let Some(metric) = &caller.metric {
            options.setting_mut().metric = Some(metric.clone());
        }
        on_disk(model, |original| {
            let runtimes = args.bench.open(original)?;
            // Points are timed beside the file of the model.
            if model.sources().is_empty() {
                return crate::sweep(&Model::load(original)?, &options, Some(&runtimes));
            }
            crate::sweep(model, &options, Some(&runtimes))
        })
    })
}

/// A budget of a sweep whose budgets are carried out elsewhere.
pub struct Budget {
    /// The name of its point.
    pub name: String,
    /// The budget as it is typed.
    pub typed: String,
    /// Whether it was carried out earlier.
    pub is_finished: bool,
}

/// Begins a sweep whose budgets are carried out elsewhere. The folder gets the report of those that are finished.
///
/// # Errors
/// As [`sweep`], before anything is pruned.
pub fn begin_sweep(options: &[OsString], model: &Model, caller: &Caller) -> Result<Vec<Budget>> {
    keyworded(|| {
        let args = sweeping(options)?;
        let mut options = args.options(caller.progress())?;
        let setting = options.setting_mut();
        // What measures the results also measures the original.
        (setting.metric, setting.stats) = (None, None);
        let typed = args.each();
        let typed = if typed.is_empty() { SweepOptions::percentages().to_vec() } else { typed };
        let begun = jobs::begin_sweep(model, &options)?.into_iter().zip(typed);
        Ok(begun.map(|((name, is_finished), typed)| Budget { name, typed, is_finished }).collect())
    })
}

/// Moves the points of `part`, which were carried out elsewhere, to the folder of their sweep. `order` names all points.
///
/// # Errors
/// [`Input`](crate::ErrorKind::Input) if they are of another sweep, [`Output`](crate::ErrorKind::Output) if a file cannot
/// be written.
pub fn take_over(part: &Path, folder: &Path, order: &[String]) -> Result<()> {
    jobs::take_over(part, folder, order)
}

/// The report of a sweep whose points were all taken over.
///
/// # Errors
/// [`Nothing`](crate::ErrorKind::Nothing) if no budget can be met, [`Input`](crate::ErrorKind::Input) if there is no report.
pub fn end_sweep(folder: &Path) -> Result<SweepReport> {
    keyworded(|| jobs::end_sweep(folder))
}

/// The options of `sweep`.
fn sweeping(options: &[OsString]) -> Result<super::sweep::Args> {
    match parsed("sweep", 1, &[&["--quiet".into()], options].concat())? {
        Command::Sweep(args) => Ok(args),
        _ => Err(Error::defect("another command was parsed")),
    }
}

/// Runs `verify` on an original and its rewrite.
///
/// # Errors
/// As [`verify`](crate::verify); [`Usage`](crate::ErrorKind::Usage) for options that the command does not have.
pub fn verify(options: &[OsString], original: &Model, rewritten: &Model, caller: &Caller) -> Result<Report> {
    keyworded(|| match parsed("verify", 2, &[&["--quiet".into()], options].concat())? {
        Command::Verify(args) => {
            let mut options = args.options(caller.progress())?;
            if let Some(metric) = &caller.metric {
                options = options.metric(metric.clone());
            }
            let report = crate::verify(original, rewritten, &options)?;
            args.check(&report)?;
            Ok(report)
        }
        _ => Err(Error::defect("another command was parsed")),
    })
}

/// The long names of the options of a command, without the `--`.
pub fn options_of(command: &str) -> Vec<String> {
    let all = Args::command();
    let arguments = all.find_subcommand(command).into_iter().flat_map(clap::Command::get_arguments);
    arguments.filter_map(|argument| argument.get_long().map(str::to_owned)).collect()
}

/// The report as the terminal shows it, options named as keyword arguments.
pub fn text(report: &Report, is_inspection: bool) -> String {
    let text = if is_inspection { crate::report::inspection(report, true) } else { crate::report::result(report) };
    as_keywords(&text, &Args::command())
}

/// The report of a sweep as the terminal shows it, options named as keyword arguments.
pub fn text_of_sweep(report: &SweepReport) -> String {
    as_keywords(&crate::report::points(report), &Args::command())
}

/// The SHA-256 of a model with its weights, wherever these are stored.
pub fn hash_of(model: &Model) -> String {
    crate::onnx::hash_of(&model.proto)
}

/// Writes a report as a page if the name ends in `.html`, otherwise as JSON.
///
/// # Errors
/// [`Output`](crate::ErrorKind::Output) if it cannot be written.
pub fn save_report(path: &Path, report: &Report) -> Result<()> {
    write_report(path, report)
}

/// The hardware that sizes are chosen for where no other is asked for, as the environment variable `PAREDOWN_TARGET` names it.
pub fn target() -> &'static str {
    Hardware::detect().name()
}

impl Caller {
    fn progress(&self) -> Progress {
        let listener = Arc::clone(&self.listener);
        Progress::to(move |phase| listener(phase)).with_cancel(self.cancel.clone())
    }
}

/// A rewrite of a model in memory.
struct Rewriting<'a> {
    common: &'a Common,
    bench: Option<&'a Bench>,
    stats: Option<&'a Path>,
    model: &'a Model,
}

impl<'a> Rewriting<'a> {
    fn new(model: &'a Model, common: &'a Common, bench: &'a Bench, plans: &'a Plans) -> Self {
        Self { common, bench: Some(bench), stats: plans.stats(), model }
    }

    /// Runs `job`, then proves and times its result as the command does.
    fn outcome<O: Configured>(
        &self,
        mut options: O,
        caller: &Caller,
        job: impl FnOnce(&Model, &O) -> Result<Outcome>,
    ) -> Result<Outcome> {
        let runs = options.metric_runs();
        let mut setting = self.common.setting(runs, caller.progress())?;
        setting.metric = caller.metric.clone().or(setting.metric);
        setting.stats = self.stats.map(Path::to_owned);
        let team = caller.team.clone().map(|(board, workers)| Team::new(board, workers, None)).transpose()?;
        setting.team.clone_from(&team);
        *options.setting_mut() = setting;
        let job = |model: &Model, options: &O| {
            let done = job(model, options);
            let dismissed = team.as_ref().map_or(Ok(()), dismiss);
            let done = done?;
            dismissed.map(|()| done)
        };
        if self.common.no_verify {
            return job(self.model, &options);
        }
        let Some(bench) = self.bench else { return job(self.model, &options)?.prove() };
        on_disk(self.model, |original| {
            let runtimes = bench.open(original)?;
            job(self.model, &options)?.prove()?.time(original, &runtimes)
        })
    }
}

/// Calls `work` with the file of a model, because runtimes read files: a model that came as bytes is written to one.
fn on_disk<T>(model: &Model, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    if let Some(path) = model.sources().first() {
        return work(path);
    }
    work(TemporaryFile::of(model)?.path())
}

/// Parses the options of a command that takes this many models.
fn parsed(command: &str, models: usize, options: &[OsString]) -> Result<Command> {
    let names = std::iter::repeat_n(OsString::from(IN_MEMORY), models);
    let typed = ["paredown".into(), command.into()].into_iter().chain(options.iter().cloned());
    let typed = typed.chain(["--".into()]).chain(names);
    match Args::try_parse_from(typed) {
        Ok(args) => Ok(args.command),
        Err(error) => {
            let text = error.to_string();
            let message: Vec<&str> = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
            let message = message.join(" ");
            let message = message.trim_start_matches("error: ");
            // A group of which one is required: `<--ratio <R>|--params <B>>`.
            let group = message.split_once(": <--").filter(|_| error.kind() == ErrorKind::MissingRequiredArgument);
            Err(Error::usage(match group {
                Some((_, group)) => {
                    format!("give one of --{}", group.strip_suffix('>').unwrap_or(group).replace('|', ", "))
                }
                None => message.to_owned(),
            }))
        }
    }
}

/// Runs `work`; its error names options as keyword arguments. Panics are not printed, because they become errors.
fn keyworded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    print_no_panics();
    work().map_err(|error| error.restated(|message| as_keywords(message, &Args::command())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn caller() -> Caller {
        Caller { teacher: None, metric: None, listener: Arc::new(|_| {}), cancel: Cancel::new(), team: None }
    }

    fn typed(options: &[&str]) -> Vec<OsString> {
        options.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_model_in_memory_is_pruned_as_the_command_prunes_it() {
        let model = Model::load("fixtures/digits_mlp.onnx").unwrap();
        let bytes = std::fs::read("fixtures/digits_mlp.onnx").unwrap();
        let in_memory = Model::from_bytes(bytes.into()).unwrap();
        let options = typed(&["--ratio=0.5", "--align=1"]);
        let of = |model: &Model| rewrite("prune", &options, model, caller()).unwrap();
        let (from_file, from_memory) = (of(&model), of(&in_memory));
        assert_eq!(from_file.model.proto, from_memory.model.proto);
        assert_eq!(from_memory.report.verify.valid, Some(true));
        assert!(text(&from_memory.report, false).contains("parameters"));
    }

    #[test]
    fn mistakes_name_keyword_arguments() {
        let model = Model::load("fixtures/digits_mlp.onnx").unwrap();
        let error = |command: &str, options: &[&str]| rewrite(command, &typed(options), &model, caller()).unwrap_err();
        let wrong = error("prune", &["--ratio=2"]);
        assert_eq!(wrong.kind(), ErrorKind::Usage);
        assert!(wrong.to_string().contains("invalid value '2' for `ratio`"), "{wrong}");
        let nothing = error("prune", &["--seed=1"]).to_string();
        assert_eq!(nothing, "give one of `ratio`, `params`, `macs`, `size`, `latency`, `max_drop`, `plan`");
        let training = error("prune", &["--ratio=0.5", "--lr=0.1"]).to_string();
        assert!(training.contains("`lr` is for training"), "{training}");
        assert!(error("tune", &[]).to_string().contains("give some with `data`"));
    }

    #[test]
    fn options_are_those_of_the_command() {
        let options = options_of("prune");
        assert!(options.contains(&"max-drop".to_owned()) && options.contains(&"data".to_owned()));
        assert!(options_of("inspect").contains(&"thaw".to_owned()));
    }
}
