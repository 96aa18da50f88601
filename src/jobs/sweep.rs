//! Prunes one model to several sizes; each result is proved, measured and kept in a folder, from which an interrupted sweep resumes.

use std::path::{Path, PathBuf};

use super::clock::Clock;
use super::outcome::{Evidence, Outcome};
use super::prune::job_name;
use super::prune::steps::Finish;
use super::prune::survey::Survey;
use super::prune::{PruneOptions, Series, Target};
use super::setting::{Opened, Setting};
use crate::error::{Error, ErrorKind, Result};
use crate::latency::Runtimes;
use crate::onnx::{Model, SaveOptions};
use crate::plan::Remaining;
use crate::report::{SweepPoint, SweepReport};
use crate::texts::{file_hash, write_text};

/// Shares that remain by default.
const SHARES: [f64; 8] = [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1];

/// File name of the report, and of its page.
const REPORT: (&str, &str) = ("sweep.json", "sweep.html");

/// Endings of the files of a point.
#[cfg(feature = "cli")]
const FILES: [&str; 3] = ["onnx", "plan.json", "json"];

/// What the budgets of a sweep count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Counted {
    /// Parameters.
    Params,
    /// Multiply–accumulates.
    Macs,
    /// Bytes of the file.
    Size,
}

impl Counted {
    fn name(self) -> &'static str {
        match self {
            Self::Params => "params",
            Self::Macs => "macs",
            Self::Size => "size",
        }
    }

    fn target(self, remaining: Remaining) -> Target {
        match self {
            Self::Params => Target::Params(remaining),
            Self::Macs => Target::Macs(remaining),
            Self::Size => Target::Size(remaining),
        }
    }
}

/// Options of [`sweep`](crate::sweep).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SweepOptions {
    counted: Counted,
    budgets: Vec<Remaining>,
    folder: PathBuf,
    pub(crate) commands: Vec<String>,
    prune: PruneOptions,
}

impl SweepOptions {
    /// Creates options for a sweep over these budgets of multiply–accumulates; over eight shares from 80 % to 10 % if
    /// there are none. Results are written to `folder`.
    pub fn new(budgets: impl IntoIterator<Item = Remaining>, folder: impl Into<PathBuf>) -> Self {
        Self::of(Counted::Macs, budgets, folder)
    }

    /// Creates options for a sweep over budgets that count something else.
    pub fn of(counted: Counted, budgets: impl IntoIterator<Item = Remaining>, folder: impl Into<PathBuf>) -> Self {
        let mut budgets: Vec<Remaining> = budgets.into_iter().collect();
        if budgets.is_empty() {
            budgets.extend(SHARES.map(Remaining::Share));
        }
        let prune = PruneOptions::macs(0.5);
        Self { counted, budgets, folder: folder.into(), commands: Vec::new(), prune }
    }

    /// Sets how the model is pruned. The target of these options is not used.
    pub fn pruning(mut self, options: PruneOptions) -> Self {
        self.prune = options;
        self
    }

    /// Number of budgets.
    #[cfg(feature = "cli")]
    pub(crate) fn len(&self) -> usize {
        self.budgets.len()
    }

    #[cfg(feature = "cli")]
    pub(crate) fn setting_mut(&mut self) -> &mut Setting {
        &mut self.prune.setting
    }

    /// The share that each of the default budgets keeps, as a percentage.
    #[cfg(feature = "cli")]
    pub(crate) fn percentages() -> [String; 8] {
        SHARES.map(|share| format!("{}%", percentage(share)))
    }

    pub(crate) fn setting(&self) -> &Setting {
        &self.prune.setting
    }
}

/// Prunes `model` to every budget, proves and times the results, and writes them with a report to the folder. Budgets that
/// an earlier, interrupted sweep has finished are taken from there.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) for contradictory options, [`Input`](ErrorKind::Input) if the folder holds another sweep, and
/// what pruning, the proof and writing return. A budget that is out of reach is no error: the report says so.
pub(crate) fn sweep(model: &Model, options: &SweepOptions, runtimes: Option<&Runtimes>) -> Result<SweepReport> {
    let Started { targets, pruning, opened, earlier, mut report } = start(model, options)?;
    let folder = &options.folder;
    let to = |target: &Target| PruneOptions { target: target.clone(), ..pruning.clone() };
    // A sweep that is finished surveys nothing.
    let mut series = None;
    for (index, (name, target)) in targets.iter().enumerate() {
        if let Some(point) = earlier.iter().find(|point| point.name == *name) {
            report.points.push(point.clone());
            continue;
        }
        options.setting().progress.enter(&format!("budget {} of {}: {name}", index + 1, targets.len()))?;
        let pruning = to(target);
        let series = match &mut series {
            Some(series) => series,
            none => none.insert(Series::new(model, &pruning, opened.data.as_ref(), None)?),
        };
        match series.carry_out(&pruning, Clock::start(&pruning.setting.progress)) {
            Ok(finished) => {
                let outcome = outcome(&series.survey, finished, &pruning, opened.again());
                add(&mut report, (name.as_str(), folder.as_path()), outcome, (model, runtimes))?;
            }
            Err(error) if error.kind() == ErrorKind::Nothing => {
                report.points.push(SweepPoint::without_model(name.clone(), error.to_string()));
            }
            Err(error) => return Err(error),
        }
        opened.kept(Ok(()))?;
        write(&mut report, folder)?;
    }
    write(&mut report, folder)?;
    ended(report)
}

/// A sweep whose folder was looked at.
struct Started {
    /// The budgets: names, and what they ask for.
    targets: Vec<(String, Target)>,
    pruning: PruneOptions,
    opened: Opened,
    /// What an earlier sweep has finished.
    earlier: Vec<SweepPoint>,
    /// The report without its points.
    report: SweepReport,
}

/// Opens the samples, and looks at what is in the folder.
fn start(model: &Model, options: &SweepOptions) -> Result<Started> {
    let folder = &options.folder;
    std::fs::create_dir_all(folder).map_err(|e| Error::output(e.to_string()).in_file(folder).caused_by(e))?;
    let targets: Vec<(String, Target)> = options.budgets.iter().map(|&budget| named(options.counted, budget)).collect();
    let Some((_, first)) = targets.first() else { return Err(Error::usage("a sweep needs a budget")) };
    let pruning = PruneOptions { target: first.clone(), ..options.prune.clone() };
    pruning.check()?;
    let (pruning, opened) = pruning.opened(model)?;
    // The budgets are no part of the job: it may go on with others.
    let of_all = PruneOptions { target: options.prune.target.clone(), ..pruning.clone() };
    let job = job_name(model, &of_all, opened.data.as_ref());
    let empty = SweepReport::new(job, options.counted.name(), model.file_name());
    let mut report = read(folder, (&empty.job, &empty.counted))?.unwrap_or(empty);
    report.commands.clone_from(&options.commands);
    let earlier = std::mem::take(&mut report.points).into_iter().filter(|point| is_whole(point, folder)).collect();
    Ok(Started { targets, pruning, opened, earlier, report })
}

/// The names of all budgets, and whether an earlier sweep has finished them. Those that are finished become the report in the
/// folder.
///
/// # Errors
/// As [`sweep`], before anything is pruned.
#[cfg(feature = "cli")]
pub(crate) fn begin(model: &Model, options: &SweepOptions) -> Result<Vec<(String, bool)>> {
    let Started { targets, earlier, mut report, .. } = start(model, options)?;
    let found = |name: &str| earlier.iter().find(|point| point.name == name);
    report.points = targets.iter().filter_map(|(name, _)| found(name)).cloned().collect();
    write(&mut report, &options.folder)?;
    Ok(targets.iter().map(|(name, _)| (name.clone(), found(name).is_some())).collect())
}

/// Moves the points of another folder, which holds a part of the same sweep, to `folder`. `order` names all points.
///
/// # Errors
/// [`Input`](ErrorKind::Input) if one of the folders holds another sweep, [`Output`](ErrorKind::Output) if a file cannot be
/// written.
#[cfg(feature = "cli")]
pub(crate) fn take_over(part: &Path, folder: &Path, order: &[String]) -> Result<()> {
    let mut report = finished(folder)?;
    let job = (report.job.as_str(), report.counted.as_str());
    let Some(found) = read(part, job)? else { return Ok(()) };
    for point in &found.points {
        for name in FILES.map(|ending| format!("{}.{ending}", point.name)) {
            let (from, to) = (part.join(&name), folder.join(&name));
            if from.exists() {
                std::fs::rename(&from, &to).map_err(|e| Error::output(e.to_string()).in_file(&to).caused_by(e))?;
            }
        }
    }
    if found.quality.is_some() {
        report.before = found.before;
        report.quality = found.quality;
        report.quality_before = found.quality_before;
    }
    report.points.retain(|point| found.points.iter().all(|new| new.name != point.name));
    report.points.extend(found.points);
    report.points.sort_by_key(|point| order.iter().position(|name| *name == point.name));
    write(&mut report, folder)
}

/// The report of a sweep whose points were taken over.
///
/// # Errors
/// [`Input`](ErrorKind::Input) if there is none, [`Nothing`](ErrorKind::Nothing) if no budget can be met.
#[cfg(feature = "cli")]
pub(crate) fn end(folder: &Path) -> Result<SweepReport> {
    ended(finished(folder)?)
}

/// The report in a folder.
fn finished(folder: &Path) -> Result<SweepReport> {
    let path = folder.join(REPORT.0);
    let text = std::fs::read_to_string(&path).map_err(|e| Error::input(e.to_string()).in_file(&path))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::input(format!("cannot be read as the report of a sweep: {e}")).in_file(&path))
}

/// The report, if it has a model.
fn ended(report: SweepReport) -> Result<SweepReport> {
    if report.points.iter().all(|point| point.hash.is_none()) {
        let why = report.points.iter().find_map(|point| point.reason.clone()).unwrap_or_default();
        return Err(Error::nothing(format!("no budget can be met; for the first one: {why}")));
    }
    Ok(report)
}

/// What one of several removals from a model comes to.
fn outcome(survey: &Survey<'_>, finished: Finish, options: &PruneOptions, samples: Opened) -> Outcome {
    let Finish { selection, plan, model, report } = finished;
    let (analysis, groups) = (survey.analysis.clone().into_owned(), Some(survey.groups.clone()));
    let evidence = Evidence { analysis, groups, selection, thaw: options.thaw.clone() };
    Outcome { model, plan, report, evidence, setting: options.setting.clone(), samples }
}

/// Proves, times and writes one result.
fn add(
    report: &mut SweepReport,
    (name, folder): (&str, &Path),
    outcome: Outcome,
    (model, runtimes): (&Model, Option<&Runtimes>),
) -> Result<()> {
    let mut outcome = outcome.prove()?;
    if let (Some(original), Some(runtimes)) = (model.sources().first(), runtimes) {
        outcome = outcome.time(original, runtimes)?;
    }
    let path = folder.join(format!("{name}.onnx"));
    // The file of an unfinished point is written again.
    outcome.save_with(&path, &SaveOptions { external_data: false, force: true })?;
    outcome.plan.save(folder.join(format!("{name}.plan.json")))?;
    write_text(&folder.join(format!("{name}.json")), &outcome.report.to_json())?;
    let (point, quality) = SweepPoint::of(name.to_owned(), file_hash(&path)?, &outcome.report);
    report.before = outcome.report.model.before;
    report.quality = Some(quality.name.to_owned());
    report.quality_before = quality.before;
    report.points.push(point);
    Ok(())
}

/// Writes the report and its page.
fn write(report: &mut SweepReport, folder: &Path) -> Result<()> {
    report.mark_front();
    write_text(&folder.join(REPORT.0), &report.to_json())?;
    write_text(&folder.join(REPORT.1), &report.to_html())
}

/// The name of a budget, and what it asks for.
fn named(counted: Counted, budget: Remaining) -> (String, Target) {
    let figure = match budget {
        Remaining::Share(share) => percentage(share).to_string(),
        Remaining::Absolute(figure) => format!("{figure}-in-all"),
    };
    (format!("{}-{figure}", counted.name()), counted.target(budget))
}

/// A share as a percentage is typed.
fn percentage(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}

/// The report of an earlier sweep of the same job, whose budgets count the same.
///
/// # Errors
/// [`Input`](ErrorKind::Input) if there is a report of another job, or it cannot be read.
fn read(folder: &Path, (job, counted): (&str, &str)) -> Result<Option<SweepReport>> {
    let path = folder.join(REPORT.0);
    if !path.exists() {
        return Ok(None);
    }
    let report = finished(folder)?;
    if (report.job.as_str(), report.counted.as_str()) != (job, counted) {
        let message = "is of another sweep (another model, data, options, processor or version); use another directory";
        return Err(Error::input(message).in_file(&path));
    }
    Ok(Some(report))
}

/// Whether this point is finished: its file is there as it was written, or none can be.
fn is_whole(point: &SweepPoint, folder: &Path) -> bool {
    let path = folder.join(format!("{}.onnx", point.name));
    let is_there = |wanted: &String| file_hash(&path).is_ok_and(|found| found == *wanted);
    point.hash.as_ref().map_or(point.reason.is_some(), is_there)
}
