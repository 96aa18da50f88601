//! A budget of latency: the predicted time is limited, the result measured, and the limit corrected until the measured time is
//! what was asked for.

use super::setting::Setting;
use crate::analysis::Analysis;
use crate::error::{Error, ErrorKind, Result};
use crate::latency::{RuntimeLatency, Stopwatch};
use crate::onnx::Model;
use crate::plan::Remaining;
use crate::report::{LatencyReport, LatencyRound};
use crate::runtime::NamedTensor;
use crate::runtime::latency::Fed;
use crate::runtime::probes::probes;
use crate::times::table::Meter;
use crate::times::{Times, signature};

/// The largest number of results that are measured before one is chosen.
const ROUNDS: usize = 4;

/// Limits that differ by less lead to the same result.
const SAME: f64 = 1e-3;

/// A result that was measured; times are shares of the original's.
#[derive(Debug, Clone)]
pub(super) struct Tried<C> {
    /// What was chosen.
    pub(super) choice: C,
    /// The limit that it was chosen by.
    pub(super) limit: f64,
    /// Its predicted time.
    pub(super) predicted: f64,
    /// Its measured time; `None` where nothing can be measured here.
    pub(super) measured: Option<RuntimeLatency>,
}

impl<C> Tried<C> {
    /// Its measured time, or the predicted one.
    fn share(&self) -> f64 {
        self.measured
            .as_ref()
            .map_or(self.predicted, |measured| measured.after.median_ms / measured.before.median_ms.max(1e-9))
    }

    /// Whether its time is close enough to `wanted`.
    pub(super) fn meets(&self, wanted: f64) -> bool {
        (self.share() / wanted - 1.0).abs() <= LatencyReport::CLOSE
    }

    /// How far its time is from `wanted`. A result that is slower than asked for is worse than one that is faster.
    pub(super) fn miss(&self, wanted: f64) -> f64 {
        let miss = self.share() / wanted - 1.0;
        if miss > LatencyReport::CLOSE { 10.0 * miss } else { miss.abs() }
    }

    fn round(&self) -> LatencyRound {
        let (before, after) = self.measured.as_ref().map(|measured| (measured.before, measured.after)).unzip();
        LatencyRound { predicted: self.predicted, before, after }
    }
}

/// What a latency budget needs to know of a model.
pub(super) struct Aim<'a> {
    original: &'a Model,
    inputs: Vec<NamedTensor>,
    meter: &'a Meter,
    /// The share of the original's time that is asked for.
    pub(super) wanted: f64,
    /// The original's time in milliseconds: measured if a time in milliseconds was asked for, else that of the table.
    before_ms: f64,
}

impl<'a> Aim<'a> {
    /// What `remaining`, a share or a time in nanoseconds, asks of `original`, whose operators take `nanos` by the table.
    ///
    /// # Errors
    /// [`Nothing`](ErrorKind::Nothing) if the original is that fast already; [`Input`](ErrorKind::Input) if the runtime does not
    /// run it.
    pub(super) fn new(
        original: &'a Model,
        analysis: &Analysis<'_>,
        setting: &Setting,
        (remaining, nanos): (Remaining, u64),
        meter: &'a Meter,
    ) -> Result<Self> {
        let inputs = inputs(analysis, setting)?;
        let known = meter.known(&signature_of(original, &inputs));
        let before_ms = known.unwrap_or(nanos as f64 / 1e6);
        let mut aim = Self { original, inputs, meter, wanted: 0.0, before_ms };
        match remaining {
            Remaining::Share(share) => aim.wanted = share,
            Remaining::Absolute(limit) => {
                if let Some(measured) = aim.measure(original)? {
                    aim.before_ms = measured.before.median_ms;
                }
                aim.wanted = limit as f64 / 1e6 / aim.before_ms.max(1e-9);
            }
        }
        if aim.wanted >= 1.0 {
            let message = format!("nothing has to be removed: the original takes {:.3} ms", aim.before_ms);
            return Err(Error::nothing(message));
        }
        Ok(aim)
    }

    /// Times a result beside the original, if the table is of this machine.
    ///
    /// # Errors
    /// As [`Stopwatch::compare`].
    pub(super) fn measure(&self, rewritten: &Model) -> Result<Option<RuntimeLatency>> {
        let compare = |stopwatch: &Stopwatch| stopwatch.compare(self.original, rewritten, &self.inputs);
        self.meter.stopwatch().map(compare).transpose()
    }

    /// Tries limits of the predicted time until the measured one is as asked for, and returns all results, the best last.
    ///
    /// # Errors
    /// What `attempt` returns for the first limit; for a later one only what is not [`Nothing`](ErrorKind::Nothing).
    pub(super) fn approach<C>(&self, mut attempt: impl FnMut(f64) -> Result<Tried<C>>) -> Result<Vec<Tried<C>>> {
        let mut all = vec![attempt(self.wanted)?];
        while all.len() < ROUNDS && all.last().is_some_and(|last| last.measured.is_some() && !last.meets(self.wanted)) {
            let limit = self.corrected(&all);
            if all.iter().any(|tried| (tried.limit - limit).abs() < SAME) {
                break;
            }
            match attempt(limit) {
                // No size lies between this limit and one that was tried.
                Ok(tried) if all.iter().any(|known| (known.predicted - tried.predicted).abs() < f64::EPSILON) => break,
                Ok(tried) => all.push(tried),
                Err(error) if error.kind() == ErrorKind::Nothing => break,
                Err(error) => return Err(error),
            }
        }
        let miss = |index: &usize| all[*index].miss(self.wanted);
        let best = (0..all.len()).min_by(|a, b| miss(a).total_cmp(&miss(b))).unwrap_or(0);
        let best = all.remove(best);
        all.push(best);
        Ok(all)
    }

    /// The limit that should lead to the wanted time: on the line through the results on both sides of it, of which the original
    /// is one.
    pub(super) fn corrected<C>(&self, tried: &[Tried<C>]) -> f64 {
        let points = || tried.iter().map(|tried| (tried.predicted, tried.share())).chain([(1.0, 1.0)]);
        let nearest = |(x, y): (f64, f64), is_above: bool| ((y > self.wanted) == is_above).then_some((x, y));
        let above = points().filter_map(|point| nearest(point, true)).min_by(|a, b| a.1.total_cmp(&b.1));
        let below = points().filter_map(|point| nearest(point, false)).max_by(|a, b| a.1.total_cmp(&b.1));
        let (first, second) = match (above, below) {
            (Some(above), Some(below)) => (above, below),
            (Some(above), None) => ((1.0, 1.0), above),
            (None, _) => return self.wanted,
        };
        let rise = first.1 - second.1;
        if rise.abs() < 1e-6 {
            return self.wanted;
        }
        let limit = second.0 + (self.wanted - second.1) * (first.0 - second.0) / rise;
        limit.clamp(self.wanted / 4.0, 1.0)
    }

    /// The entry in the report, and notes.
    pub(super) fn report<C>(&self, times: &Times, tried: &[Tried<C>]) -> (LatencyReport, Vec<String>) {
        let before =
            tried.iter().filter_map(|tried| tried.measured.as_ref()).map(|found| found.before.median_ms).last();
        let before_ms = before.unwrap_or(self.before_ms);
        let report = LatencyReport {
            runtime: self.meter.place().to_string(),
            before_ms,
            wanted_ms: self.wanted * before_ms,
            rounds: tried.iter().map(Tried::round).collect(),
            operators: times.units,
            estimated: times.estimated,
            timed: self.meter.measured(),
            times: Vec::new(),
        };
        let mut notes = self.meter.notes();
        if times.estimated > 0 {
            notes.push(format!(
                "the times of {} of {} operators are estimates from multiply–accumulates and bytes ({} of the whole), because they cannot be run alone",
                times.estimated,
                times.units,
                crate::report::percent(times.estimated_share)
            ));
        }
        if times.in_bodies > 0.0 {
            notes.push(format!(
                "nodes in the bodies of `If`, `Loop` or `Scan` are not timed: {} of the multiply–accumulates are in no prediction",
                crate::report::percent(times.in_bodies)
            ));
        }
        if let Some(last) = tried.last().filter(|last| last.measured.is_some() && !last.meets(self.wanted)) {
            notes.push(format!(
                "the latency budget is {:.3} ms, and the nearest result that was found takes {:.3} ms: its sizes are the smallest, or the next ones are further away",
                self.wanted * before_ms,
                last.share() * before_ms
            ));
        }
        (report, notes)
    }
}

/// Refuses a share that is not between 0 and 1.
pub(super) fn check(remaining: Remaining) -> Result<()> {
    match remaining {
        Remaining::Share(share) if share <= 0.0 || share >= 1.0 || share.is_nan() => {
            Err(Error::usage(format!("`latency` {share}: a share of the original's time is between 0 and 1")))
        }
        _ => Ok(()),
    }
}

/// What the time of a whole model is called in a table.
pub(super) fn signature_of(model: &Model, inputs: &[NamedTensor]) -> String {
    signature::whole(&Fed { model: model.proto.clone(), inputs: inputs.to_vec() })
}

/// What both models are timed on: the first of the samples, as it was given. Its content matters too: positions that a mask
/// switches off take some kernels longer. Without samples, a synthetic one.
pub(super) fn inputs(analysis: &Analysis<'_>, setting: &Setting) -> Result<Vec<NamedTensor>> {
    if let Some(first) = &setting.first_sample {
        return Ok(first.clone());
    }
    let sizes = analysis.probe_sizes(&setting.dims);
    // The first batch is a pair where the batch is open, the next one a single sample.
    Ok(probes(analysis.subject().proto()?, &sizes, 3, setting.seed)?.pop().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::{Array, Dataset};
    use crate::latency::{RuntimeName, RuntimeOptions, Timing};
    use crate::runtime::sample_models::mlp;

    /// Measured times follow the predicted ones by this rule; sizes are whole hundredths.
    fn approach(wanted: f64, measured: impl Fn(f64) -> f64) -> Vec<Tried<f64>> {
        approach_by(wanted, |limit| (100.0 * limit).floor() / 100.0, measured)
    }

    /// The time that is predicted within a limit, and the one that is measured then.
    fn approach_by(wanted: f64, predicted: impl Fn(f64) -> f64, measured: impl Fn(f64) -> f64) -> Vec<Tried<f64>> {
        let folder = tempfile::tempdir().unwrap();
        let mut options = RuntimeOptions::default();
        (options.runtime, options.table) = (Some(RuntimeName::Tract), Some(folder.path().join("times.json")));
        let meter = Meter::open(&options).unwrap();
        let original = Model::from_proto(mlp());
        let aim = Aim { original: &original, inputs: Vec::new(), meter: &meter, wanted, before_ms: 10.0 };
        let timing = |ms: f64| Timing { median_ms: ms, low_ms: ms, high_ms: ms, runs: 9 };
        let attempt = |limit: f64| {
            let predicted = predicted(limit);
            if predicted < 0.05 {
                return Err(Error::nothing("out of reach"));
            }
            let measured = RuntimeLatency {
                runtime: "tract".to_owned(),
                provider: None,
                threads: Some(1),
                before: timing(10.0),
                after: timing(10.0 * measured(predicted)),
                difference: None,
            };
            Ok(Tried { choice: predicted, limit, predicted, measured: Some(measured) })
        };
        aim.approach(attempt).unwrap()
    }

    #[test]
    fn models_are_timed_on_the_first_sample_if_it_has_the_sizes_asked_for() {
        let values: Vec<f32> = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let data = Dataset::from_arrays([("x", Array::new(&[2, 3], values).unwrap())]).unwrap();
        let model = Model::from_proto(mlp());
        let timed_on = |setting: Setting| {
            let (setting, _) = setting.opened(&model).unwrap();
            let analysis = Analysis::new(&model, &setting.dims, &Default::default()).unwrap();
            let fed = inputs(&analysis, &setting).unwrap();
            (fed[0].1.shape().to_vec(), fed[0].1.to_vec::<f32>().unwrap())
        };
        let setting = Setting { data: Some(data), ..Setting::default() };
        assert_eq!(timed_on(setting.clone()), (vec![1, 3], vec![1.0, 2.0, 3.0]));
        let mut other = setting;
        other.dims.named.insert("x:0".to_owned(), 4);
        assert!(timed_on(other).1 != [1.0, 2.0, 3.0]);
        assert!(timed_on(Setting::default()).1 != [1.0, 2.0, 3.0]);
    }

    #[test]
    fn limits_are_corrected_until_the_time_is_as_asked_for() {
        assert_eq!(approach(0.5, |share| share).len(), 1);
        // What cannot shrink takes a third.
        let found = approach(0.6, |share| 0.33 + 0.67 * share);
        assert!(found.len() == 2 && found.last().unwrap().meets(0.6), "{found:?}");
        let found = approach(0.5, |share| share.powf(1.5));
        assert!(found.len() <= ROUNDS && found.last().unwrap().meets(0.5), "{found:?}");
    }

    #[test]
    fn the_same_result_is_not_measured_again() {
        let found = approach_by(0.5, |limit| if limit < 0.6 { 0.3 } else { 0.6 }, |share| 1.1 * share);
        assert!(found.len() == 1 && !found[0].meets(0.5), "{found:?}");
    }

    #[test]
    fn out_of_reach_the_nearest_result_is_the_last_one() {
        let found = approach(0.2, |share| 0.4 + 0.6 * share);
        let last = found.last().unwrap();
        assert!(!last.meets(0.2) && found.iter().all(|tried| tried.share() >= last.share()), "{found:?}");
    }
}
