//! The job: choose, rewrite, repair, train; in one step or in several.

use std::collections::BTreeSet;

use super::checkpoint::{Checkpoints, Finished};
use super::heads;
use super::options::{PruneOptions, Target};
use super::pricing::Pricing;
use super::pruned::Pruned;
use super::remarks;
use super::survey::{Choice, Judges, Survey};
use crate::axes::Selection;
use crate::calibrate::Calibration;
use crate::calibrate::data::Dataset;
use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::jobs::clock::Clock;
use crate::jobs::setting::calibration_report;
use crate::onnx::Model;
use crate::onnx::proto::ModelProto;
use crate::plan::{CostModel, Group, Plan, Quota, Request};
use crate::progress::Progress;
use crate::repair::{Bases, Method, refit_split, repair};
use crate::report::{CalibrationReport, PricingReport, RepairReport, Report, TuningReport};
use crate::rewrite;
use crate::score::Criterion;
use crate::times::table::Meter;
use crate::train::{self, Guidance};

/// How the kept weights are repaired.
pub(super) fn method(options: &PruneOptions, samples: Samples<'_>) -> Method {
    options.repair.unwrap_or(if samples.all.is_some() { Method::Lstsq } else { Method::None })
}

/// A finished job, without the survey that it borrowed.
pub(in crate::jobs) struct Finish {
    pub(in crate::jobs) selection: Selection,
    pub(in crate::jobs) plan: Plan,
    pub(in crate::jobs) model: Model,
    pub(in crate::jobs) report: Report,
}

impl Finish {
    pub(super) fn of(self, survey: Survey<'_>) -> Pruned<'_> {
        let Self { selection, plan, model, report } = self;
        Pruned { survey, selection, plan, model, report }
    }
}

/// The samples of a job.
#[derive(Clone, Copy)]
pub(in crate::jobs) struct Samples<'j> {
    /// What training learns from and is judged on.
    pub(in crate::jobs) all: Option<&'j Dataset>,
    /// What is scored and repaired on.
    pub(in crate::jobs) fitted: Option<&'j Dataset>,
}

/// What is to be done, to which model.
pub(in crate::jobs) struct Job<'j, 'm> {
    pub(in crate::jobs) model: &'m Model,
    pub(in crate::jobs) options: &'j PruneOptions,
    /// What training learns from and is judged on.
    samples: Option<&'j Dataset>,
    /// What is scored and repaired on.
    pub(in crate::jobs) data: Option<Calibration<'j>>,
    pub(in crate::jobs) survey: &'j Survey<'m>,
    /// The measured prices of groups, or why they cannot be measured.
    pub(in crate::jobs) pricing: &'j std::result::Result<Pricing, String>,
    /// What times operators, for a latency budget.
    pub(in crate::jobs) meter: Option<&'j Meter>,
    pub(in crate::jobs) cost: CostModel<'j>,
    criterion: &'static Criterion,
    pub(in crate::jobs) method: Method,
    steps: usize,
    checkpoints: Option<Checkpoints>,
}

/// What has been done so far.
pub(in crate::jobs) struct Done {
    pub(in crate::jobs) model: Model,
    selection: Selection,
    repaired: Vec<RepairReport>,
    /// The bases that its heads are in.
    pub(in crate::jobs) bases: Bases,
    training: Vec<TuningReport>,
    /// What each step was chosen by, and what is to be known about that.
    pricing: Vec<PricingReport>,
    notes: Vec<String>,
}

impl Done {
    /// What stays.
    pub(super) fn selection(&self) -> &Selection {
        &self.selection
    }
}

impl<'j, 'm> Job<'j, 'm> {
    pub(in crate::jobs) fn new(
        model: &'m Model,
        options: &'j PruneOptions,
        samples: Samples<'j>,
        (survey, pricing, meter): (&'j Survey<'m>, &'j std::result::Result<Pricing, String>, Option<&'j Meter>),
    ) -> Result<Self> {
        let data = samples.all;
        let by_default = if data.is_some() { "obs" } else { "l2" };
        let method = method(options, samples);
        if method != Method::None && data.is_none() {
            return Err(Error::usage("`repair` needs samples: give some with `data`; synthetic ones are enough"));
        }
        let folder = options.checkpoints.as_deref();
        let checkpoints = match (data, folder) {
            (Some(data), Some(folder)) => Some(Checkpoints::open(folder, model, options, data)?),
            _ => None,
        };
        if options.retrain.is_some() && data.is_none() {
            return Err(Error::usage("`retrain` needs samples: give some with `data`"));
        }
        // Training changes the model that later steps repair, and workers have the original only.
        let team = options.setting.team.as_ref().filter(|_| options.retrain.is_none());
        let calibration = |data| -> Result<Calibration<'_>> {
            let alone = survey.calibrated(data, &options.setting)?;
            Ok(Calibration { team: team.filter(|team| team.runs(data)), ..alone })
        };
        Ok(Self {
            model,
            options,
            samples: data,
            data: samples.fitted.map(calibration).transpose()?,
            survey,
            pricing,
            meter,
            cost: survey.cost(),
            criterion: Criterion::by_name(options.criterion.as_deref().unwrap_or(by_default))?,
            method,
            steps: if matches!(options.target, Target::Plan(_)) { 1 } else { options.steps.max(1) },
            checkpoints,
        })
    }

    /// What units and groups are scored and priced by.
    pub(in crate::jobs) fn judges(&self) -> Judges<'j> {
        let pricing = self.pricing.as_ref().map_err(String::as_str);
        Judges { criterion: self.criterion, data: self.data, is_repaired: self.fits_weights(), pricing }
    }

    /// What is scored and repaired on.
    pub(super) fn fitted(&self) -> Option<&'j Dataset> {
        self.data.map(|calibration| calibration.data)
    }

    /// Whether layers are fitted to what they make in the original.
    pub(super) fn fits_weights(&self) -> bool {
        matches!(self.method, Method::Bias | Method::Lstsq)
    }

    /// The plan and the report of what was done.
    pub(in crate::jobs) fn finish(&self, done: Done, clock: Clock) -> Finish {
        let (survey, options) = (self.survey, self.options);
        let (before, after) = (self.cost.cost(&Selection::all()), self.cost.cost(&done.selection));
        let mut report = Report::new(&survey.analysis, &survey.groups, &done.selection, before, after);
        report.enter_rewritten(&self.model.proto, &done.model);
        report.notes.extend(remarks::on_shifts(&survey.groups, &done.selection));
        report.notes.extend(heads::notes(&survey.bases));
        report.notes.extend(remarks::on_sizes(&survey.groups, &done.selection, options));
        report.training = done.training;
        report.pricing = done.pricing;
        remarks::explain_whole(&mut report, &survey.groups, options);
        report.notes.extend(done.notes);
        let is_rebased = |group: &&Group| survey.bases.is_written(group.factor, &done.selection);
        let rebased: BTreeSet<&str> =
            survey.groups.iter().filter(is_rebased).map(|group| group.name.as_str()).collect();
        let is_repaired = done.repaired.iter().any(|layer| layer.reason.is_none());
        let is_adjusted = options.retrain.is_some() || is_repaired || !rebased.is_empty();
        let uses_data = self.criterion.needs_data || self.method != Method::None || options.retrain.is_some();
        report.calibration = self.data.filter(|_| uses_data).map(|calibration| {
            report.notes.extend(calibration.data.warnings().iter().cloned());
            CalibrationReport { layers: done.repaired, ..calibration_report(calibration.data, options.setting.seed) }
        });
        report.seconds = clock.laps;
        let allow_shifts = remarks::shifted(&survey.groups, &done.selection).next().is_some();
        let plan = Plan {
            adjusted: is_adjusted,
            thaw: options.thaw.clone(),
            allow_shifts,
            ..Plan::of(&survey.groups, &done.selection).rebased(|name| rebased.contains(name))
        };
        Finish { selection: done.selection, plan, model: done.model, report }
    }

    pub(in crate::jobs) fn run(&self, clock: &mut Clock) -> Result<Done> {
        let mut done = None;
        let mut first = 1;
        if let Some(finished) = self.checkpoints.as_ref().map(|c| c.last(self.steps)).transpose()?.flatten() {
            let request = self.options.request(self.model, &self.cost, 1.0);
            let selection = finished.plan.selection(&self.survey.groups, &[], &request, true)?;
            let Finished { step, model, repaired, training, .. } = finished;
            first = step + 1;
            let bases = Bases::default();
            done = Some(Done { model, selection, repaired, bases, training, pricing: Vec::new(), notes: Vec::new() });
        }
        for step in first..=self.steps {
            let next = self.step(done, step, clock)?;
            if let Some(checkpoints) = &self.checkpoints {
                checkpoints.keep(&Finished {
                    step,
                    model: next.model.with_proto(next.model.proto.clone()),
                    plan: Plan::of(&self.survey.groups, &next.selection),
                    repaired: next.repaired.clone(),
                    training: next.training.clone(),
                })?;
            }
            done = Some(next);
        }
        done.ok_or_else(|| Error::usage("`steps` is at least one"))
    }

    /// One step after `before`.
    fn step(&self, before: Option<Done>, step: usize, clock: &mut Clock) -> Result<Done> {
        let progress = self.options.setting.progress.within(format!("step {step} of {}", self.steps));
        progress.say("scoring");
        let next = before
            .as_ref()
            .map(|done| Survey::new(&done.model, self.options, self.fitted(), self.meter))
            .transpose()?;
        let (choice, selection) = match (&next, &before) {
            (Some(next), Some(done)) => {
                // Without training, it is the original that is narrowed and repaired.
                let judges = Judges { is_repaired: self.options.retrain.is_some(), ..self.judges() };
                let choice = next.choose(self.options, &self.request(step, self.steps), judges)?;
                let composed = compose(&self.survey.groups, &done.selection, &next.groups, &choice.selection)?;
                (choice, composed)
            }
            _ => {
                // Training after a step shows what prices cannot.
                let choice = if self.steps == 1 && self.options.retrain.is_none() {
                    self.choose_in_rounds()?
                } else {
                    self.survey.choose(self.options, &self.request(step, self.steps), self.judges())?
                };
                let selection = choice.selection.clone();
                (choice, selection)
            }
        };
        let chosen = choice.selection;
        clock.lap("score")?;
        if selection.touched().next().is_none() {
            return Err(Error::nothing(
                "nothing would be removed: every group keeps all its units at this target; remove more, lower `min_keep`, or allow all sizes with `align` 1",
            ));
        }
        let (survey, kept) = match (&next, &self.options.retrain) {
            (Some(next), Some(_)) => (next, &chosen),
            _ => (self.survey, &selection),
        };
        let Narrowed { model: mut rewritten, repaired, bases } = self.narrowed(survey, kept, &progress, clock)?;
        let (mut training, mut pricing, mut notes) =
            before.map(|done| (done.training, done.pricing, done.notes)).unwrap_or_default();
        let known = notes.clone();
        pricing.extend(choice.pricing);
        notes.extend(choice.notes.into_iter().filter(|note| !known.contains(note)));
        if let (Some(retrain), Some(data)) = (&self.options.retrain, self.samples) {
            let seed = self.options.setting.seed.wrapping_add(step as u64);
            let options = train::Options { seed, progress, ..retrain.clone() };
            let guidance = Guidance { labels: data.has_labels() && retrain.labels, teacher: Some(&self.model.proto) };
            let models = (rewritten, self.survey.analysis.subject().model);
            let (trained, report) = train::tune(models, data, guidance, &options)?;
            rewritten = trained;
            training.push(report);
            clock.lap("train")?;
        }
        Ok(Done { model: self.model.with_proto(rewritten), selection, repaired, bases, training, pricing, notes })
    }

    /// The model of `survey` with only `kept` left, in the bases of its heads, repaired on all samples.
    fn narrowed(
        &self,
        survey: &Survey<'_>,
        kept: &Selection,
        progress: &Progress,
        clock: &mut Clock,
    ) -> Result<Narrowed> {
        let subject = survey.analysis.subject();
        let mut rewritten = rewrite::prune(subject, kept)?;
        survey.bases.write(subject, kept, &mut rewritten)?;
        clock.lap("rewrite")?;
        progress.say("repairing");
        let narrowed = self.repaired(survey, kept, rewritten)?;
        clock.lap("repair")?;
        Ok(narrowed)
    }

    /// Carries out a choice on the original in one step, without training.
    ///
    /// # Errors
    /// If the model cannot be rewritten, repaired or run.
    pub(in crate::jobs) fn carry_out(&self, choice: Choice, clock: &mut Clock) -> Result<Done> {
        let Choice { selection, pricing, notes } = choice;
        let Narrowed { model, repaired, bases } = if selection.touched().next().is_some() {
            self.narrowed(self.survey, &selection, &self.options.setting.progress, clock)?
        } else {
            Narrowed { model: self.model.proto.clone(), repaired: Vec::new(), bases: Bases::default() }
        };
        let model = self.model.with_proto(model);
        Ok(Done { model, selection, repaired, bases, training: Vec::new(), pricing, notes })
    }

    /// A model with only `selection` left of which the layers `split` were split since, fitted to the original's outputs once
    /// more, if there is a repair at all; `bases` are those that its heads are in.
    ///
    /// # Errors
    /// If reading the data, running a model or writing a weight fails.
    pub(in crate::jobs) fn refitted<'n>(
        &self,
        (selection, bases): (&Selection, &Bases),
        model: ModelProto,
        split: impl IntoIterator<Item = &'n String>,
        data: Option<Calibration<'_>>,
    ) -> Result<(ModelProto, Vec<RepairReport>)> {
        let Some(data) = data.filter(|_| self.method == Method::Lstsq) else { return Ok((model, Vec::new())) };
        let subject = self.survey.analysis.subject();
        let split: BTreeSet<&str> = split.into_iter().map(String::as_str).collect();
        let is_split = |id: &NodeId| {
            let node = subject.graph.node(*id);
            let results = node.outputs.iter().flatten().map(|&value| subject.graph.at(value).name.as_str());
            results.chain([node.name.as_str()]).any(|name| split.contains(name))
        };
        let nodes: BTreeSet<NodeId> = subject.graph.order.iter().copied().filter(is_split).collect();
        refit_split(subject, selection, model, data, (bases, &nodes))
    }

    /// What the options say, without measuring it as a whole.
    ///
    /// # Errors
    /// As [`Survey::choose`].
    pub(in crate::jobs) fn chosen(&self) -> Result<Choice> {
        self.survey.choose(self.options, &self.request(1, 1), self.judges())
    }

    /// What step `step` of `steps` asks for.
    pub(in crate::jobs) fn request(&self, step: usize, steps: usize) -> Request {
        if step == 1 {
            return self.options.request(self.model, &self.cost, share(step, steps));
        }
        step_request(self.options, self.model, &self.cost, (step, steps))
    }

    /// `pruned`, which is the model of `survey` with only `kept` left, repaired. Training holds the statistics of batch normalizations
    /// fixed, so they are estimated again before it.
    fn repaired(&self, survey: &Survey<'_>, kept: &Selection, pruned: ModelProto) -> Result<Narrowed> {
        let (subject, mut bases) = (survey.analysis.subject(), survey.bases.clone());
        let Some(data) = self.data else { return Ok(Narrowed { model: pruned, repaired: Vec::new(), bases }) };
        let data = if self.fits_weights() { survey.recorded_on(data)? } else { data };
        let (model, mut repaired) = repair(subject, kept, pruned, data, (self.method, &mut bases))?;
        if self.options.retrain.is_none() || !self.fits_weights() {
            return Ok(Narrowed { model, repaired, bases });
        }
        let (model, norms) = repair(subject, kept, model, data, (Method::BatchNorm, &mut bases))?;
        repaired.extend(norms.into_iter().filter(|norm| norm.reason.is_none()));
        Ok(Narrowed { model, repaired, bases })
    }
}

/// A model that lost units, repaired.
struct Narrowed {
    model: ModelProto,
    repaired: Vec<RepairReport>,
    /// The bases that its heads are in.
    bases: Bases,
}

fn share(step: usize, steps: usize) -> f64 {
    step as f64 / steps as f64
}

/// What a later step asks of the result of the step before: budgets are absolute, a ratio applies to the remaining
/// units.
fn step_request(options: &PruneOptions, model: &Model, cost: &CostModel<'_>, (step, steps): (usize, usize)) -> Request {
    let request = options.request(model, cost, share(step, steps));
    match request.quota {
        Quota::Ratio(now) => {
            let Quota::Ratio(before) = options.request(model, cost, share(step - 1, steps)).quota else {
                return request;
            };
            Request { quota: Quota::Ratio(1.0 - (1.0 - now) / (1.0 - before)), ..request }
        }
        Quota::Budget(_) => request,
    }
}

/// `next`, a selection of what `done` left over, as a selection of the original. Groups are matched by name; one of
/// which a single unit is left has no group any more.
pub(in crate::jobs) fn compose(
    groups: &[Group],
    done: &Selection,
    next_groups: &[Group],
    next: &Selection,
) -> Result<Selection> {
    let mut composed = Selection::all();
    for group in groups {
        let mut flags: Vec<bool> = (0..group.size).map(|unit| done.keeps(group.factor, unit)).collect();
        let left = flags.iter().filter(|&&keep| keep).count();
        if let Some(now) = next_groups.iter().find(|now| now.name == group.name) {
            if now.size != left {
                let message = format!("group '{}' cannot be followed from step to step; set `steps` to 1", group.name);
                return Err(Error::input(message));
            }
            let kept = flags.iter_mut().filter(|keep| **keep).enumerate();
            kept.for_each(|(unit, keep)| *keep = next.keeps(now.factor, unit));
        }
        composed.keep(group.factor, flags);
    }
    Ok(composed)
}
