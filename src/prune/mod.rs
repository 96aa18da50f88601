//! Structured pruning, from an analysed model to a proved one.

mod prove;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::analysis::Analysis;
use crate::axes::{Role, Selection};
use crate::calibrate::data::Dataset;
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::plan::{Budget, CostModel, Filter, Group, Plan, Quota, Request, Scope, Units, groups, select};
use crate::report::Report;
use crate::rewrite;
use crate::runtime::inputs::DimSizes;
use crate::score::{Context, Criterion};

pub use prove::{Comparison, Loaded, Proof, prove, verify};

/// How much is to go, as the user says it.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// This share of every group's units.
    Ratio(f64),
    /// What remains of the whole model: parameters.
    Params(Remaining),
    /// What remains: multiply–accumulates.
    Macs(Remaining),
    /// What remains: bytes of the file, external data included.
    Size(Remaining),
    /// What a plan file says.
    Plan(Plan),
}

/// What remains of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Remaining {
    /// A share of the original.
    Share(f64),
    /// An absolute figure.
    Absolute(u64),
}

impl Remaining {
    /// What remains of `whole`.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(crate) fn of(self, whole: u64) -> u64 {
        match self {
            Remaining::Share(share) => (whole as f64 * share) as u64,
            Remaining::Absolute(figure) => figure,
        }
    }
}

/// Options of [`prune`].
#[derive(Debug, Clone)]
pub struct Options {
    /// How much is to go.
    pub target: Target,
    /// Name of the importance criterion.
    pub criterion: String,
    /// Whether groups are compared; the default depends on the target.
    pub scope: Option<Scope>,
    /// Which factor of merged axes goes.
    pub units: Units,
    /// Fewest units that stay in a group.
    pub min_keep: usize,
    /// Kept units are a multiple of this.
    pub align: usize,
    /// Whether removals that shift a statistic are allowed.
    pub allow_shifts: bool,
    /// Patterns of groups or tensors to prune; all if empty.
    pub include: Vec<String>,
    /// Patterns of groups or tensors to leave alone.
    pub exclude: Vec<String>,
    /// Graph inputs and outputs that may be pruned.
    pub thaw: Vec<String>,
    /// Sizes of dynamic dimensions.
    pub dims: DimSizes,
    /// Seed of every random choice.
    pub seed: u64,
}

impl Options {
    /// The defaults, for this target.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            criterion: "l2".to_owned(),
            scope: None,
            units: Units::default(),
            min_keep: 1,
            align: 1,
            allow_shifts: false,
            include: Vec::new(),
            exclude: Vec::new(),
            thaw: Vec::new(),
            dims: DimSizes::default(),
            seed: 0,
        }
    }

    fn request(&self, model: &Model, cost: &CostModel<'_>) -> Request {
        let whole = cost.cost(&Selection::all());
        let quota = match self.target {
            Target::Ratio(ratio) => Quota::Ratio(ratio),
            Target::Params(remaining) => Quota::Budget(Budget::Params(remaining.of(whole.params))),
            Target::Macs(remaining) => Quota::Budget(Budget::Macs(remaining.of(whole.macs))),
            Target::Size(remaining) => {
                // The file holds more than tensors: that part stays.
                let rest = model.file_bytes().saturating_sub(whole.bytes);
                let limit = remaining.of(model.file_bytes()).saturating_sub(rest);
                Quota::Budget(Budget::Bytes(limit))
            }
            Target::Plan(_) => Quota::Ratio(0.0),
        };
        let default = if matches!(quota, Quota::Ratio(_)) { Scope::Layer } else { Scope::Global };
        Request {
            quota,
            scope: self.scope.unwrap_or(default),
            min_keep: self.min_keep.max(1),
            align: self.align.max(1),
        }
    }
}

/// A pruned model that has not been proved or written yet.
#[derive(Debug)]
pub struct Pruned<'m> {
    /// What is known about the original.
    pub analysis: Analysis<'m>,
    /// The groups of the original.
    pub groups: Vec<Group>,
    /// What stays.
    pub selection: Selection,
    /// The same as a plan.
    pub plan: Plan,
    /// The rewritten model.
    pub model: Model,
    /// What was done; proofs are added by [`prove`].
    pub report: Report,
}

/// Analyses a model: all its groups, nothing removed.
///
/// # Errors
/// [`Input`](crate::ErrorKind::Input) if the model is malformed; [`Usage`](crate::ErrorKind::Usage) if a pattern or dimension name is.
pub fn inspect(model: &Model, dims: &DimSizes, allow_shifts: bool, thaw: &[String]) -> Result<Report> {
    let analysis = Analysis::new(model, dims, &thaw.iter().cloned().collect())?;
    let cost = CostModel::new(analysis.subject());
    let filter = Filter::new(&[], &[], Units::default(), allow_shifts)?;
    let groups = groups(analysis.subject(), &cost, &filter);
    let whole = cost.cost(&Selection::all());
    Ok(Report::new(&analysis, &groups, &Selection::all(), whole, whole))
}

/// Chooses what goes and rewrites the model.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) for contradictory options, [`Input`](crate::ErrorKind::Input) for a malformed model or plan,
/// [`NothingToDo`](crate::ErrorKind::NothingToDo) if nothing can go or the budget is out of reach.
pub fn prune<'m>(model: &'m Model, options: &Options, _data: Option<&Dataset>) -> Result<Pruned<'m>> {
    let mut clock = Clock::start();
    let thaw: BTreeSet<String> = options.thaw.iter().cloned().collect();
    let analysis = Analysis::new(model, &options.dims, &thaw)?;
    check_thawed(&analysis, &options.thaw)?;
    let subject = analysis.subject();
    let cost = CostModel::new(subject);
    let filter = Filter::new(&options.include, &options.exclude, options.units, options.allow_shifts)?;
    let groups = groups(subject, &cost, &filter);
    clock.lap("analyse");
    let open: Vec<&Group> = groups.iter().filter(|group| group.is_open(options.allow_shifts)).collect();
    if open.is_empty() {
        return Err(nothing_open(&groups, options));
    }
    let request = options.request(model, &cost);
    let needs_scores = match &options.target {
        Target::Plan(plan) => plan.needs_scores(),
        _ => true,
    };
    let criterion = Criterion::by_name(&options.criterion)?;
    let scored = if needs_scores { criterion.score(&Context { subject, groups: &open, seed: options.seed, data: None })? } else { Vec::new() };
    clock.lap("score");
    let selection = match &options.target {
        Target::Plan(plan) => plan.selection(&groups, &scored, &request, options.allow_shifts)?,
        _ => select(&scored, &cost, &request)?,
    };
    clock.lap("select");
    if selection.touched().next().is_none() {
        return Err(Error::nothing(
            "nothing would be removed: every group keeps all its units at this target; ask for more, or lower --min-keep and --align",
        ));
    }
    let rewritten = model.with_proto(rewrite::prune(subject, &selection)?);
    clock.lap("rewrite");
    let plan = Plan::of(&groups, &selection);
    let (before, after) = (cost.cost(&Selection::all()), cost.cost(&selection));
    let mut report = Report::new(&analysis, &groups, &selection, before, after);
    report.model.after.bytes = rewritten.file_bytes();
    report.model.after.nodes = rewritten.proto.graph.as_ref().map_or(0, |graph| graph.node.len());
    report.notes.extend(shift_note(&groups, &selection));
    report.seconds = clock.laps;
    Ok(Pruned { analysis, groups, selection, plan, model: rewritten, report })
}

fn check_thawed(analysis: &Analysis<'_>, thaw: &[String]) -> Result<()> {
    match thaw.iter().find(|name| analysis.graph.value(name).is_none()) {
        None => Ok(()),
        Some(name) => Err(Error::usage(format!("--thaw {name}: the graph has no value of that name"))),
    }
}

/// Why no group can be pruned: the strongest reasons, biggest groups first.
fn nothing_open(groups: &[Group], options: &Options) -> Error {
    let mut held: Vec<&Group> = groups.iter().filter(|group| group.size > 1).collect();
    held.sort_by_key(|group| std::cmp::Reverse(group.controls.params));
    let mut message = "nothing can be removed from this model".to_owned();
    for group in held.iter().take(5) {
        let reason =
            group.role.reason().map(ToString::to_string).or_else(|| group.excluded.clone()).unwrap_or_default();
        message += &format!("\n  {} ({} {}): {reason}", group.name, group.size, group.kind.name());
    }
    let shifts = groups.iter().any(|group| matches!(group.role, Role::Shifts(_)));
    if shifts && !options.allow_shifts {
        message += "\nsome groups only shift a statistic: --allow-shifts removes from them too";
    }
    Error::nothing(message)
}

fn shift_note(groups: &[Group], selection: &Selection) -> Option<String> {
    let shifted: Vec<&str> = groups
        .iter()
        .filter(|group| matches!(group.role, Role::Shifts(_)) && !selection.keeps_all(group.factor))
        .map(|group| group.name.as_str())
        .collect();
    let first = shifted.first()?;
    Some(format!("{} groups shift a statistic (first: {first}); for them the removal is not exact", shifted.len()))
}

/// Wall-clock time of each phase.
struct Clock {
    last: Instant,
    laps: BTreeMap<String, f64>,
}

impl Clock {
    fn start() -> Self {
        Self { last: Instant::now(), laps: BTreeMap::new() }
    }

    fn lap(&mut self, phase: &str) {
        let now = Instant::now();
        *self.laps.entry(phase.to_owned()).or_default() += (now - self.last).as_secs_f64();
        self.last = now;
    }
}
