//! An analysed model with its groups, ready to choose from.

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::heads;
use super::options::{PruneOptions, Target};
use super::pricing::Pricing;
use crate::analysis::{Analysis, Subject};
use crate::axes::{Role, Selection};
use crate::calibrate::data::Dataset;
use crate::calibrate::{Calibration, Feeding, Key, Recorded, Recording, stats};
use crate::error::{Error, Result};
use crate::jobs::inspect::check_thawed;
use crate::jobs::setting::Setting;
use crate::onnx::Model;
use crate::onnx::proto::ModelProto;
use crate::plan::{Budget, CostModel, Filter, Group, Quota, Request, Scope, Scored, groups, select};
use crate::price::Curve;
use crate::price::allocate::allocate;
use crate::price::groups::Prices;
use crate::repair::{Bases, recording};
use crate::report::PricingReport;
use crate::runtime::probes::probe_batches;
use crate::runtime::refuse_unsupported;
use crate::score::{Context, Criterion};
use crate::times::table::Meter;
use crate::times::{Times, times};
use crate::verify::own_fault;

/// What stays, and how that was decided; everything by default.
#[derive(Default)]
pub(in crate::jobs) struct Choice {
    pub(in crate::jobs) selection: Selection,
    /// How a budget was shared, for each time that prices were measured.
    pub(in crate::jobs) pricing: Vec<PricingReport>,
    pub(in crate::jobs) notes: Vec<String>,
}

impl Choice {
    fn of(selection: Selection) -> Self {
        Self { selection, pricing: Vec::new(), notes: Vec::new() }
    }
}

/// What units and groups are worth, before anything is asked for.
#[derive(Debug)]
struct Worth {
    /// Scores of the units of each open group.
    scores: Vec<Vec<f64>>,
    comparable: bool,
    /// What each open group costs the output, or why that is not known; once a budget is shared.
    prices: OnceLock<std::result::Result<Prices, String>>,
}

/// A model, its groups, and what they are worth, which is measured once, however many targets are tried.
pub(in crate::jobs) struct Survey<'m> {
    pub(in crate::jobs) analysis: Analysis<'m>,
    pub(in crate::jobs) groups: Vec<Group>,
    /// The times of its operators, for a latency budget.
    pub(in crate::jobs) times: Times,
    /// Bases of heads in which their dimensions are in order.
    pub(in crate::jobs) bases: Bases,
    /// The model in these bases, if it is another one of the same graph.
    rebased: Option<ModelProto>,
    worth: OnceLock<Worth>,
    /// How the model takes samples.
    feeding: Feeding,
    /// What a pass over the samples recorded for the repair.
    recorded: OnceLock<Recorded>,
    /// What another pass recorded of the samples that prices are fitted on.
    fitted: OnceLock<Recorded>,
    /// What corrects the price of each open group by its depth, once that was measured for a target; see [`depth`](super::depth).
    factors: Mutex<Option<Vec<f64>>>,
}

/// What units and groups are scored and priced by.
#[derive(Clone, Copy)]
pub(in crate::jobs) struct Judges<'j> {
    pub(in crate::jobs) criterion: &'static Criterion,
    pub(in crate::jobs) data: Option<Calibration<'j>>,
    /// Whether the layers are repaired later. Then the pass over the samples also records the rows that the repair needs.
    pub(in crate::jobs) is_repaired: bool,
    /// The measured prices of groups, or why they cannot be measured.
    pub(in crate::jobs) pricing: std::result::Result<&'j Pricing, &'j str>,
}

impl<'m> Survey<'m> {
    pub(in crate::jobs) fn new(
        model: &'m Model,
        options: &PruneOptions,
        data: Option<&Dataset>,
        meter: Option<&Meter>,
    ) -> Result<Self> {
        let thaw: BTreeSet<String> = options.thaw.iter().cloned().collect();
        let analysis = Analysis::new(model, &options.setting.dims, &thaw)?;
        check_thawed(&analysis, &options.thaw)?;
        if data.is_some() && options.verify {
            // What cannot be proved in the end is refused before the samples are run.
            refuse_unsupported(&analysis.model.proto)?;
        }
        let filter = Filter::new(&options.include, &options.exclude, options.units, options.allow_shifts)?
            .aligned(options.align);
        let feeding = data.map(|data| Feeding::of(&analysis.model.proto, data)).unwrap_or_default();
        let (proto, seed, limits) = (&analysis.model.proto, options.setting.seed, options.setting.limits);
        let calibration = data.map(|data| Calibration::fed((proto, &feeding), data, seed, limits)).transpose()?;
        let mut bases = heads::bases(analysis.subject(), options, calibration)?;
        let filter = filter.ordered(bases.shares().into_keys().collect());
        let mut groups = groups(analysis.subject(), &CostModel::new(analysis.subject()), &filter);
        heads::align(&bases, options, &mut groups);
        if options.only_dims {
            heads::only(&bases, &mut groups);
        }
        if let Target::Plan(plan) = &options.target {
            heads::follow(plan, &groups, &mut bases)?;
        }
        let rebased = heads::rebased(analysis.subject(), &bases)?;
        let open: Vec<&Group> = groups.iter().filter(|group| group.is_open(options.allow_shifts)).collect();
        let timed = |meter| times(analysis.subject(), &open, options.min_keep, meter, &options.setting.progress);
        let times = meter.map(timed).transpose()?.unwrap_or_default();
        if meter.is_some() && !open.is_empty() && times.timed.iter().all(|timed| timed.axes.is_empty()) {
            return Err(Error::nothing(
                "no operator that can be timed by itself gets smaller (those in bodies of If, Loop and Scan cannot be timed): give a budget of `macs` in place of `latency`",
            ));
        }
        Ok(Self {
            analysis,
            groups,
            times,
            bases,
            rebased,
            worth: OnceLock::new(),
            feeding,
            recorded: OnceLock::new(),
            fitted: OnceLock::new(),
            factors: Mutex::default(),
        })
    }

    /// Calibration on samples like those of the survey.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when one sample alone takes more memory than the job may.
    pub(in crate::jobs) fn calibrated<'d>(&self, data: &'d Dataset, setting: &Setting) -> Result<Calibration<'d>> {
        Calibration::fed((&self.analysis.model.proto, &self.feeding), data, setting.seed, setting.limits)
    }

    /// What corrects the price of each open group, if that was measured since the target was set.
    pub(super) fn factors(&self) -> Option<Vec<f64>> {
        self.factors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps such factors; `None` where another target is set.
    pub(super) fn keep_factors(&self, factors: Option<Vec<f64>>) {
        *self.factors.lock().unwrap_or_else(PoisonError::into_inner) = factors;
    }

    /// Samples to repair on, with what the repair needs of this model. If the pass for the scores did not record it, another pass
    /// does.
    ///
    /// # Errors
    /// If reading the data or running the model fails.
    pub(in crate::jobs) fn recorded_on<'d>(&'d self, data: Calibration<'d>) -> Result<Calibration<'d>> {
        self.recorded_in(&self.recorded, data)
    }

    /// As [`recorded_on`](Self::recorded_on), for the samples that prices are fitted on.
    ///
    /// # Errors
    /// As [`recorded_on`](Self::recorded_on).
    pub(in crate::jobs) fn recorded_on_fitted<'d>(&'d self, fitted: Calibration<'d>) -> Result<Calibration<'d>> {
        self.recorded_in(&self.fitted, fitted)
    }

    fn recorded_in<'d>(&'d self, place: &'d OnceLock<Recorded>, data: Calibration<'d>) -> Result<Calibration<'d>> {
        if place.get().is_none() {
            let subject = self.analysis.subject();
            let recording = recording(subject, data)?;
            // Workers have the rows.
            let is_led = data.team.is_some();
            let recorded = if is_led { recording.recalled(subject, data)? } else { recording.run(subject, data)? };
            place.get_or_init(|| recorded);
        }
        Ok(Calibration { recorded: place.get(), ..data })
    }

    /// What selections cost, in time too if its operators were timed.
    pub(in crate::jobs) fn cost(&self) -> CostModel<'_> {
        CostModel::timed(self.analysis.subject(), &self.times.timed)
    }

    /// Chooses the units that stay. A budget that is shared among groups goes by prices, if they can be measured.
    pub(in crate::jobs) fn choose(
        &self,
        options: &PruneOptions,
        request: &Request,
        judges: Judges<'_>,
    ) -> Result<Choice> {
        let open = self.open(options)?;
        if let Target::Plan(plan) = &options.target {
            let scored =
                if plan.needs_scores() { self.worth(options, &open, judges)?.scored(&open) } else { Vec::new() };
            return Ok(Choice::of(plan.selection(&self.groups, &scored, request, options.allow_shifts)?));
        }
        match (request.quota, request.scope) {
            (Quota::Budget(budget), Scope::Global) => {
                let (scored, prices) = self.priced(options, request, judges)?;
                shared(&self.cost(), &scored, (request, budget), (prices.as_ref(), judges.pricing))
            }
            _ => {
                let scored = self.worth(options, &open, judges)?.scored(&open);
                Ok(Choice::of(select(&scored, &self.cost(), request)?))
            }
        }
    }

    /// As [`choose`](Self::choose) for a budget that prices share, each times its factor.
    ///
    /// # Errors
    /// As [`choose`](Self::choose).
    pub(in crate::jobs) fn choose_by(
        &self,
        options: &PruneOptions,
        (request, budget): (&Request, Budget),
        judges: Judges<'_>,
        factors: &[f64],
    ) -> Result<Choice> {
        let (scored, prices) = self.priced(options, request, judges)?;
        let prices = prices.as_ref().map(|prices| prices.times(factors));
        shared(&self.cost(), &scored, (request, budget), (prices.as_ref().map_err(|e| *e), judges.pricing))
    }

    /// Scores of all open groups, and what each costs the output or why that is not known.
    ///
    /// # Errors
    /// [`Nothing`](crate::ErrorKind::Nothing) if no group is open; if units cannot be scored.
    pub(in crate::jobs) fn priced(
        &self,
        options: &PruneOptions,
        request: &Request,
        judges: Judges<'_>,
    ) -> Result<(Vec<Scored<'_>>, &std::result::Result<Prices, String>)> {
        let open = self.open(options)?;
        let worth = self.worth(options, &open, judges)?;
        let scored = worth.scored(&open);
        let prices = worth.prices.get_or_init(|| prices(self.rebased(), &scored, request, judges.pricing));
        Ok((scored, prices))
    }

    /// The model with its heads in their new bases, as far as these can be written in place. Dimensions of heads are removed from
    /// this model.
    fn rebased(&self) -> Subject<'_> {
        let subject = self.analysis.subject();
        Subject { model: self.rebased.as_ref().unwrap_or(subject.model), ..subject }
    }

    /// The groups that may lose units.
    fn open(&self, options: &PruneOptions) -> Result<Vec<&Group>> {
        let open: Vec<&Group> = self.groups.iter().filter(|group| group.is_open(options.allow_shifts)).collect();
        if !open.is_empty() {
            return Ok(open);
        }
        let nothing = nothing_open(&self.groups, options);
        Err(match self.contradiction(options).filter(|_| options.verify) {
            Some(fault) => Error::input(format!("{fault}\n{nothing}")),
            None => nothing,
        })
    }

    /// Scores of all units: of dimensions of heads in a new basis by what each does there, of all others by the criterion.
    fn score<'g>(&self, context: &Context<'_, 'g>, criterion: &Criterion) -> Result<Vec<Scored<'g>>> {
        let shares = self.bases.shares();
        let (ordered, others): (Vec<&Group>, Vec<&Group>) =
            context.groups.iter().partition(|group| shares.contains_key(&group.factor));
        let mut scored = criterion.score(&Context { groups: &others, ..*context })?;
        scored.extend(ordered.into_iter().filter_map(|group| {
            // Half of the squared error, as `obs` counts it.
            let scores = shares.get(&group.factor)?.iter().map(|share| 0.5 * share).collect();
            Some(Scored { group, scores, comparable: criterion.is_error })
        }));
        scored.sort_by_key(|scored| context.groups.iter().position(|group| group.factor == scored.group.factor));
        Ok(scored)
    }

    /// [`score`](Self::score), unless the scores are known from an earlier job.
    fn scores(&self, context: &Context<'_, '_>, criterion: &Criterion) -> Result<Vec<Vec<f64>>> {
        let kept = context.data.and_then(|data| Some((data.data.stats()?, data.data.identity())));
        let key = kept.map(|(_, samples)| {
            let groups: Vec<_> = context.groups.iter().map(|g| (&g.name, g.kind, &g.members, g.size)).collect();
            let key = Key::of("scores").model(context.subject.model).on("samples", samples).on("seed", &context.seed);
            key.on("criterion", criterion.name).on("groups", &groups).done()
        });
        let read = |record: stats::Record| {
            let sizes = context.groups.iter().map(|group| (1, group.size));
            let is_fit = sizes.eq(record.iter().map(ndarray::Array2::dim));
            is_fit.then(|| record.into_iter().map(|scores| scores.into_iter().collect()).collect())
        };
        if let (Some((stats, _)), Some(key)) = (kept, &key)
            && let Some(scores) = stats.get(key, read)?
        {
            return Ok(scores);
        }
        let scores: Vec<Vec<f64>> = self.score(context, criterion)?.into_iter().map(|scored| scored.scores).collect();
        if let (Some((stats, _)), Some(key)) = (kept, &key) {
            stats.put(key, &scores.iter().map(|scores| stats::row(scores)).collect::<Vec<_>>())?;
        }
        Ok(scores)
    }

    /// Scores of the open groups.
    fn worth(&self, options: &PruneOptions, open: &[&Group], judges: Judges<'_>) -> Result<&Worth> {
        if let Some(worth) = self.worth.get() {
            return Ok(worth);
        }
        let Judges { criterion, data, is_repaired, pricing } = judges;
        // With fewer rows than inputs, some units look free on the rows that order them. So the samples that tell prices must
        // not take part.
        let (data, place) = match pricing {
            Ok(pricing) => (Some(pricing.fitted()), &self.fitted),
            Err(_) => (data, &self.recorded),
        };
        let subject = self.analysis.subject();
        let recording = data.map(|data| recording(subject, data)).transpose()?;
        // The sums that are kept for other jobs are the same, whether layers are repaired or not.
        let recording = if is_repaired { recording } else { recording.map(Recording::without_rows) }.map(Mutex::new);
        let recorded = recording.as_ref();
        let context = Context { subject, groups: open, seed: options.setting.seed, data, recording: recorded };
        let scores = self.scores(&context, criterion)?;
        let recording = recording.map(|recording| recording.into_inner().unwrap_or_else(PoisonError::into_inner));
        if let Some(recorded) = recording.and_then(Recording::finish).filter(|_| is_repaired) {
            place.get_or_init(|| recorded);
        }
        let comparable = criterion.is_error && !scores.is_empty();
        Ok(self.worth.get_or_init(|| Worth { scores, comparable, prices: OnceLock::new() }))
    }
}

impl Worth {
    fn scored<'g>(&self, open: &[&'g Group]) -> Vec<Scored<'g>> {
        let scored = |(&group, scores): (&&'g Group, &Vec<f64>)| Scored {
            group,
            scores: scores.clone(),
            comparable: self.comparable,
        };
        open.iter().zip(&self.scores).map(scored).collect()
    }
}

impl Survey<'_> {
    /// Sizes that contradict each other freeze everything around them: then the file is to blame, if it does not run.
    fn contradiction(&self, options: &PruneOptions) -> Option<Error> {
        let Analysis { facts, network, model, .. } = &self.analysis;
        if facts.gaps.is_empty() && network.misfits == 0 {
            return None;
        }
        let sizes = self.analysis.probe_sizes(&options.setting.dims);
        let batches = probe_batches(self.analysis.subject().proto().ok()?, &sizes, 1, options.setting.seed);
        match batches.map(|batches| batches.into_iter().next()) {
            Ok(inputs) => own_fault(&model.proto, &inputs?),
            Err(error) => Some(error),
        }
    }
}

/// What each group costs the output, or why that cannot be measured.
fn prices(
    subject: Subject<'_>,
    scored: &[Scored<'_>],
    request: &Request,
    pricing: std::result::Result<&Pricing, &str>,
) -> std::result::Result<Prices, String> {
    let prices = pricing?.prices(subject, scored, request).map_err(|e| e.to_string())?;
    let is_of_use = prices.curves.iter().any(std::result::Result::is_ok);
    if is_of_use { Ok(prices) } else { Err("no group can be narrowed alone and run".to_owned()) }
}

/// Shares a budget among groups: by their prices, or without these by the scores of their units.
fn shared(
    cost: &CostModel<'_>,
    scored: &[Scored<'_>],
    (request, budget): (&Request, Budget),
    (prices, pricing): (std::result::Result<&Prices, &String>, std::result::Result<&Pricing, &str>),
) -> Result<Choice> {
    match (prices, pricing) {
        (Ok(prices), Ok(pricing)) => {
            let curves: Vec<Option<&Curve>> = prices.curves.iter().map(|curve| curve.as_ref().ok()).collect();
            let allocation = allocate(scored, &curves, &[], cost, (request, budget))?;
            let report = pricing.report(scored, prices, &allocation);
            Ok(Choice { pricing: vec![report], ..Choice::of(allocation.selection) })
        }
        (prices, _) => {
            let why = prices.err().map(String::as_str).unwrap_or_default();
            let note =
                format!("groups share the budget by the scores of their units, which is only an estimate: {why}");
            Ok(Choice { notes: vec![note], ..Choice::of(select(scored, cost, request)?) })
        }
    }
}

/// Why no group can be pruned: the strongest reasons, biggest groups first.
fn nothing_open(groups: &[Group], options: &PruneOptions) -> Error {
    let mut held: Vec<&Group> = groups.iter().filter(|group| group.size > 1).collect();
    held.sort_by_key(|group| std::cmp::Reverse(group.controls.params));
    let mut message = "nothing can be removed from this model".to_owned();
    for group in held.iter().take(5) {
        let reason = group.role.reason().map(ToString::to_string).or_else(|| group.excluded.clone());
        let reason = reason.unwrap_or_default();
        message += &format!("\n  {} ({} {}): {reason}", group.name, group.size, group.kind.name());
    }
    let shifts = groups.iter().any(|group| matches!(group.role, Role::Shifts(_)));
    if shifts && !options.allow_shifts {
        message += "\nsome groups only shift a statistic: `allow_shifts` allows pruning them too";
    }
    message += "\n`factorize` changes no interface between layers, so it may split layers that cannot be narrowed";
    Error::nothing(message)
}
