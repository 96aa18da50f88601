//! What may be done under a budget: all means together, and each alone; tried on most of the samples, measured on the others.
//!
//! Prices are measured with one part changed at a time. Far from the original they say less about all parts together than a rule
//! that takes the same share of every group. So unless it should be fast, that rule is tried too: for units alone, and halfway
//! (in logarithms) to the budget before ranks.

use std::collections::{BTreeMap, BTreeSet};

use super::options::CompressOptions;
use crate::analysis::{Analysis, Subject};
use crate::axes::Selection;
use crate::error::{Error, ErrorKind, Result};
use crate::factorize::candidates::Candidates;
use crate::factorize::select;
use crate::jobs::clock::Clock;
use crate::jobs::factorize::{FactorizeOptions, Judge, Offers, Split, layers};
use crate::jobs::prune::pricing::Pricing;
use crate::jobs::prune::steps::Job;
use crate::jobs::prune::survey::Choice;
use crate::onnx::Model;
use crate::onnx::proto::ModelProto;
use crate::plan::{Budget, CostModel, Quota, Remaining, Request, Scope, select as by_ratio};
use crate::price::allocate::{Allocation, allocate};
use crate::price::splits::Splittable;
use crate::price::{Curve, Effort};
use crate::repair::Bases;
use crate::report::{CandidateReport, LayerReport};
use crate::rewrite;
use crate::times::table::Meter;
use crate::times::times;

/// Shares of every group at which the errors of ranks are known.
const NARROWED: [f64; 2] = [0.5, 0.75];

const WIDTHS: &str = "widths";
const EVEN_WIDTHS: &str = "even widths";
const RANKS: &str = "ranks";
const WIDTHS_AND_RANKS: &str = "widths and ranks";
const EVEN_WIDTHS_AND_RANKS: &str = "even widths and ranks";

/// Something that meets the budget.
#[derive(Default)]
pub(super) struct Candidate {
    /// The units that stay.
    pub(super) choice: Choice,
    /// Ranks of layers that are split afterwards.
    pub(super) ranks: BTreeMap<String, usize>,
    /// What was decided about every layer.
    pub(super) layers: Vec<LayerReport>,
    /// As [`Split::gap`].
    pub(super) gap: Option<f64>,
    /// The model as it was tried, with the shapes of the result.
    pub(super) model: ModelProto,
    /// Its predicted time in nanoseconds, under a budget of latency.
    pub(super) nanos: u64,
}

/// Where candidates are tried.
pub(super) struct Bench<'b, 'j, 'm> {
    job: &'b Job<'j, 'm>,
    options: &'b CompressOptions,
    pricing: &'b Pricing,
    request: Request,
    budget: Budget,
    /// The only means to try, if it is known which one is best.
    only: Option<&'b str>,
}

/// Candidates that were tried, the best so far, and its loss.
#[derive(Default)]
struct Tried {
    best: Option<(f64, Candidate)>,
    reports: Vec<CandidateReport>,
}

impl<'b, 'j, 'm> Bench<'b, 'j, 'm> {
    /// The bench of a job with a budget.
    ///
    /// # Errors
    /// [`Input`](ErrorKind::Input) if nothing can be measured on the samples.
    pub(super) fn new(job: &'b Job<'j, 'm>, options: &'b CompressOptions, only: Option<&'b str>) -> Result<Self> {
        let request = job.request(1, 1);
        let Quota::Budget(budget) = request.quota else {
            return Err(Error::usage("`compress` needs a budget of parameters, multiply–accumulates, bytes or time"));
        };
        let pricing = job.pricing.as_ref().map_err(|why| Error::input(format!("means cannot be compared: {why}")))?;
        Ok(Self { job, options, pricing, request, budget, only })
    }

    /// The candidate that loses least on samples that it was not fitted to, and all that were tried.
    ///
    /// # Errors
    /// [`Nothing`](ErrorKind::Nothing) if no means meets the budget; if a model cannot be made or run.
    pub(super) fn best(&self, clock: &mut Clock) -> Result<(Candidate, Vec<CandidateReport>)> {
        let mut tried = Tried::default();
        let (narrows, splits) = (self.options.narrows(), self.options.splits());
        let is_slow = self.options.effort != Effort::Fast;
        let wants = |means: &str, is_meant: bool| is_meant && self.only.is_none_or(|only| only == means);
        if wants(WIDTHS, narrows) {
            tried.enter(WIDTHS, self.widths())?;
            clock.lap("score")?;
        }
        if wants(EVEN_WIDTHS, narrows && is_slow) {
            let found = self.even(self.budget).and_then(|choice| self.with_ranks(choice, clock));
            tried.enter(EVEN_WIDTHS, found)?;
        }
        if wants(WIDTHS_AND_RANKS, narrows && splits) || wants(RANKS, splits) {
            let subject = self.job.survey.analysis.subject();
            let splitting = self.splitting();
            let found = layers(subject, &splitting)?;
            let offers = self.offers(subject, &found, &splitting, clock)?;
            if wants(WIDTHS_AND_RANKS, narrows) {
                tried.enter(WIDTHS_AND_RANKS, self.mixed(&offers, &splitting, clock))?;
            }
            if wants(RANKS, true) {
                let nothing = (Choice::default(), &Bases::default());
                let ranks = self.split(nothing, (self.job.model, subject), (&found, offers, &splitting), clock);
                tried.enter(RANKS, ranks)?;
            }
        }
        if wants(EVEN_WIDTHS_AND_RANKS, narrows && splits && is_slow) {
            let found = self.even(self.halfway()).and_then(|choice| self.with_ranks(choice, clock));
            tried.enter(EVEN_WIDTHS_AND_RANKS, found)?;
        }
        let Tried { best, mut reports } = tried;
        let Some((loss, best)) = best else {
            let why: Vec<String> = reports
                .iter()
                .filter_map(|tried| Some(format!("\n  {}: {}", tried.means, tried.reason.as_ref()?)))
                .collect();
            return Err(Error::nothing(format!("no means meets the budget:{}", why.concat())));
        };
        for report in &mut reports {
            report.is_chosen = report.loss == Some(loss);
        }
        Ok((best, reports))
    }

    /// How layers are split down to the budget.
    fn splitting(&self) -> FactorizeOptions {
        let limit = Remaining::Absolute(self.budget.limit());
        self.options.splitting(match self.budget {
            Budget::Params(_) => select::Target::Params(limit),
            Budget::Macs(_) => select::Target::Macs(limit),
            Budget::Latency(_) => select::Target::Latency(limit),
            Budget::Bytes { .. } => select::Target::Size(limit),
        })
    }

    /// What times operators, under a budget of latency.
    fn meter(&self) -> Option<&Meter> {
        self.job.meter.filter(|_| matches!(self.budget, Budget::Latency(_)))
    }

    /// The layers of a model, decomposed on the samples that are fitted on, with prices.
    fn offers<'c>(
        &self,
        subject: Subject<'_>,
        found: &'c Candidates,
        splitting: &FactorizeOptions,
        clock: &mut Clock,
    ) -> Result<Offers<'c>> {
        let mut offers = Offers::new(subject, found, splitting, Some(self.pricing.fitted()), clock)?;
        if let Some(meter) = self.meter() {
            offers.time(subject, splitting, meter)?;
            clock.lap("time operators")?;
        }
        offers.weigh(subject, splitting, self.judge())?;
        clock.lap("weigh")?;
        Ok(offers)
    }

    /// What the budget limits, of a model as it is.
    fn figure(&self, subject: Subject<'_>) -> Result<u64> {
        let progress = &self.options.setting.progress;
        let times = self.meter().map(|meter| times(subject, &[], 1, meter, progress)).transpose()?;
        let cost = CostModel::timed(subject, &times.unwrap_or_default().timed);
        Ok(self.budget.of(cost.cost(&Selection::all())))
    }

    fn judge(&self) -> Judge<'_> {
        let (reference, batches) = self.pricing.judge();
        Judge { reference, batches }
    }

    /// Units alone, by prices measured in as many rounds as they take to be reliable.
    fn widths(&self) -> Result<(f64, Candidate)> {
        let choice = self.job.choose_in_rounds()?;
        let measured = choice.pricing.last().and_then(|round| round.measured);
        let loss = match measured {
            Some(loss) => loss,
            None => self.job.loss_of(self.pricing, &choice.selection)?,
        };
        let model = rewrite::prune(self.job.survey.analysis.subject(), &choice.selection)?;
        let nanos = self.job.cost.cost(&choice.selection).nanos;
        Ok((loss, Candidate { choice, model, nanos, ..Candidate::default() }))
    }

    /// The same share of every group, down to a budget.
    fn even(&self, budget: Budget) -> Result<Choice> {
        let (job, survey) = (self.job, self.job.survey);
        let (scored, prices) = survey.priced(job.options, &self.request, job.judges())?;
        let request = Request { quota: Quota::Budget(budget), scope: Scope::Layer, ..self.request };
        let selection = by_ratio(&scored, &job.cost, &request)?;
        let prices = prices.as_ref().map_err(|why| Error::nothing(why.clone()))?;
        let report = self.pricing.report(&scored, prices, &Allocation::of(&selection, &scored, prices, &request));
        Ok(Choice { selection, pricing: vec![report], notes: Vec::new() })
    }

    /// The geometric mean of the budget and what the original has.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn halfway(&self) -> Budget {
        let whole = self.budget.of(self.job.cost.cost(&Selection::all()));
        self.budget.with_limit((self.budget.limit() as f64 * whole as f64).sqrt() as u64)
    }

    /// Units and ranks: the widths that one allocation over both chooses, and then the ranks that the narrowed model needs.
    fn mixed(&self, offers: &Offers<'_>, splitting: &FactorizeOptions, clock: &mut Clock) -> Result<(f64, Candidate)> {
        let (job, survey) = (self.job, self.job.survey);
        let (scored, prices) = survey.priced(job.options, &self.request, job.judges())?;
        let prices = prices.as_ref().map_err(|why| Error::nothing(why.clone()))?;
        let curves: Vec<Option<&Curve>> = prices.curves.iter().map(|curve| curve.as_ref().ok()).collect();
        let cost = &job.cost;
        let narrowed = |ratio: f64| {
            let request = Request { quota: Quota::Ratio(ratio), scope: Scope::Layer, ..self.request };
            by_ratio(&scored, cost, &request)
        };
        let narrowed: Vec<Selection> = NARROWED.into_iter().map(narrowed).collect::<Result<_>>()?;
        let resized = offers.resized(survey.analysis.subject(), &narrowed, splitting)?;
        let splits: Vec<&dyn Splittable> = resized.iter().map(|layer| layer as &dyn Splittable).collect();
        let allocation = allocate(&scored, &curves, &splits, cost, (&self.request, self.budget))?;
        let report = self.pricing.report(&scored, prices, &allocation);
        let choice = Choice { selection: allocation.selection, pricing: vec![report], notes: Vec::new() };
        clock.lap("select")?;
        self.with_ranks(choice, clock)
    }

    /// A choice of units, and the ranks that take what is left down to the budget.
    fn with_ranks(&self, choice: Choice, clock: &mut Clock) -> Result<(f64, Candidate)> {
        let (proto, bases) = self.job.tried_on(self.pricing, &choice.selection)?;
        clock.lap("repair")?;
        let narrow = self.job.model.with_proto(proto);
        let analysis = Analysis::new(&narrow, &self.options.setting.dims, &BTreeSet::new())?;
        let subject = analysis.subject();
        let figure = self.figure(subject)?;
        if figure <= self.budget.limit() {
            let (loss, model) = (self.pricing.distance(&narrow.proto)?, narrow.proto.clone());
            return Ok((loss, Candidate { choice, model, nanos: figure, ..Candidate::default() }));
        }
        let splitting = self.splitting();
        let found = layers(subject, &splitting)?;
        let offers = self.offers(subject, &found, &splitting, clock)?;
        self.split((choice, &bases), (&narrow, subject), (&found, offers, &splitting), clock)
    }

    /// A choice of units, and the ranks that take its model down to the budget.
    fn split<'c>(
        &self,
        (choice, bases): (Choice, &Bases),
        model: (&Model, Subject<'_>),
        (found, offers, splitting): (&'c Candidates, Offers<'c>, &FactorizeOptions),
        clock: &mut Clock,
    ) -> Result<(f64, Candidate)> {
        let split = offers.split(model, (found, splitting), (Some(self.pricing.fitted()), None), clock)?;
        let Split { model, ranks, layers, gap, nanos, .. } = split;
        let fitted = Some(self.pricing.fitted());
        let (model, _) = self.job.refitted((&choice.selection, bases), model, ranks.keys(), fitted)?;
        clock.lap("repair")?;
        Ok((self.pricing.distance(&model)?, Candidate { choice, ranks, layers, gap, model, nanos }))
    }
}

impl Tried {
    /// Enters a candidate, or why there is none.
    fn enter(&mut self, means: &str, found: Result<(f64, Candidate)>) -> Result<()> {
        let mut report = CandidateReport { means: means.to_owned(), ..CandidateReport::default() };
        match found {
            Ok((loss, candidate)) => {
                report.loss = Some(loss);
                if loss.is_finite() && self.best.as_ref().is_none_or(|(least, _)| loss < *least) {
                    self.best = Some((loss, candidate));
                }
            }
            Err(error) if error.kind() == ErrorKind::Nothing => report.reason = Some(error.to_string()),
            Err(error) => return Err(error),
        }
        self.reports.push(report);
        Ok(())
    }
}
