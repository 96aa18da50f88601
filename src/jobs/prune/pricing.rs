//! What a budget is shared by: the price of every group, measured once.

use crate::analysis::Subject;
use crate::calibrate::Calibration;
use crate::error::Result;
use crate::onnx::proto::ModelProto;
use crate::plan::{Request, Scored};
use crate::price::Effort;
use crate::price::allocate::Allocation;
use crate::price::distance::Reference;
use crate::price::groups::{Market, Prices};
use crate::price::samples::Samples;
use crate::repair::Method;
use crate::report::{PriceReport, PricingReport};
use crate::runtime::NamedTensor;

/// Samples, and the original's outputs on them.
#[derive(Debug)]
pub(in crate::jobs) struct Pricing {
    samples: Samples,
    reference: Reference,
    method: Method,
    effort: Effort,
}

impl Pricing {
    /// Prices by the distance from `original`, or why there can be none.
    pub(in crate::jobs) fn new(
        original: Subject<'_>,
        data: Option<Calibration<'_>>,
        (effort, method): (Effort, Method),
    ) -> std::result::Result<Self, String> {
        let data =
            data.ok_or("there are no samples to measure its effect on the output with; give some with `data`")?;
        let samples = Samples::new(data).map_err(|e| e.to_string())?;
        let mut samples = samples.ok_or("there are too few samples to hold some out")?;
        let reference = samples.reference(original.model).map_err(|e| e.to_string())?;
        if !reference.tells_models_apart() {
            return Err("no output of the model varies over the held-out samples".to_owned());
        }
        Ok(Self { samples, reference, method, effort })
    }

    /// What each group of a model costs at every width.
    ///
    /// # Errors
    /// If a narrowed model cannot be made or run.
    pub(in crate::jobs) fn prices(
        &self,
        subject: Subject<'_>,
        scored: &[Scored<'_>],
        request: &Request,
    ) -> Result<Prices> {
        let Self { samples, reference, method, effort } = self;
        Market { subject, reference, samples, method: *method, effort: *effort }.prices(scored, request)
    }

    /// The samples that prices are fitted on.
    pub(in crate::jobs) fn fitted(&self) -> Calibration<'_> {
        self.samples.fitted()
    }

    /// The original's outputs on the samples that prices are measured on, and the inputs.
    pub(in crate::jobs) fn judge(&self) -> (&Reference, &[Vec<NamedTensor>]) {
        (&self.reference, self.samples.batches())
    }

    /// What a model loses on the samples that prices are measured on.
    ///
    /// # Errors
    /// If it cannot be run.
    pub(in crate::jobs) fn distance(&self, model: &ModelProto) -> Result<f64> {
        self.reference.distance_of(model, self.samples.batches())
    }

    /// What was chosen, and for how much.
    pub(in crate::jobs) fn report(&self, scored: &[Scored<'_>], prices: &Prices, chosen: &Allocation) -> PricingReport {
        let group = |index: usize| {
            let (group, kept) = (scored[index].group, chosen.kept[index]);
            let mut report = PriceReport { name: group.name.clone(), kept, ..PriceReport::default() };
            match &prices.curves[index] {
                Ok(curve) => {
                    let at = |width: usize| curve.at(group.size - width);
                    report.loss = Some(at(kept));
                    report.next = chosen.next[index].map(|width| (width, at(width)));
                    let points = curve.points().iter();
                    report.measured = points.map(|&(removed, loss)| (group.size - removed, loss)).collect();
                }
                Err(why) => report.reason = Some(why.clone()),
            }
            report
        };
        PricingReport {
            metric: self.reference.metric().to_owned(),
            samples: self.samples.measured(),
            loss: chosen.loss,
            measured: None,
            seconds: prices.seconds,
            groups: (0..scored.len()).map(group).collect(),
        }
    }
}
