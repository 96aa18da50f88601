//! Settings that all jobs share, and the samples that a job opens.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;

use super::dataset::Dataset;
use crate::calibrate::data::{BatchAxes, Dataset as Samples};
use crate::calibrate::{LEAVES, Origin, Stats, Team};
use crate::error::{Error, Result};
use crate::graph::bodies::has_branches;
use crate::metric::{Metric, MetricReport};
use crate::onnx::{Model, hash_of};
use crate::progress::Progress;
use crate::report::CalibrationReport;
use crate::runtime::inputs::{DimSizes, declared_inputs};
use crate::runtime::{Limits, NamedTensor};

/// Settings that all jobs share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setting {
    /// Samples that decisions are based on.
    pub(crate) data: Option<Dataset>,
    /// Samples for measuring only, which no decision uses.
    pub(crate) eval: Option<Dataset>,
    /// The user's own metric, which judges the result.
    pub(crate) metric: Option<Metric>,
    /// Sizes of dynamic dimensions.
    pub(crate) dims: DimSizes,
    /// The first of the samples as it was given, with its padding: what latency is measured on. `None` where there are none, or
    /// where `dims` asks for other sizes.
    pub(crate) first_sample: Option<Vec<NamedTensor>>,
    /// Batch axes of inputs, where the model does not declare them.
    pub(crate) batch_axes: BatchAxes,
    /// Memory that the job may use.
    pub(crate) limits: Limits,
    /// Seed for every random choice.
    pub(crate) seed: u64,
    /// The file that keeps what passes over the samples found.
    pub(crate) stats: Option<PathBuf>,
    /// The share of the samples to gather from, counted from 1, and the number of shares.
    pub(crate) share: Option<(usize, usize)>,
    /// Whether the first share keeps one sum over its portions, not one for each.
    pub(crate) folds: bool,
    /// The processes that share the repair.
    pub(crate) team: Option<Team>,
    /// The progress listener and the flag that cancels the job.
    pub(crate) progress: Progress,
}

/// Options that hold a [`Setting`], which the command line fills in as a whole.
#[cfg(feature = "cli")]
pub(crate) trait Configured {
    /// The setting.
    fn setting_mut(&mut self) -> &mut Setting;

    /// How often the job measures the user's metric at most.
    fn metric_runs(&self) -> usize;
}

/// The builder methods that all options share. The options have a field `setting`. The number says how often the job
/// measures the user's metric at most: by default on the original and on the result.
macro_rules! configured {
    ($options:ty) => {
        configured!($options, |_| 2);
    };
    ($options:ty, $metric_runs:expr) => {
        impl $options {
            /// Opens the samples for `model`.
            ///
            /// # Errors
            /// As [`Setting::opened`](crate::jobs::setting::Setting::opened).
            pub(crate) fn opened(
                &self,
                model: &crate::onnx::Model,
            ) -> crate::error::Result<(Self, crate::jobs::setting::Opened)> {
                let (setting, opened) = self.setting.opened(model)?;
                Ok((Self { setting, ..self.clone() }, opened))
            }

            /// Sets the samples that decisions are based on. They also measure the result unless [`eval`](Self::eval)
            /// gives others.
            pub fn data(mut self, data: impl Into<crate::jobs::Dataset>) -> Self {
                self.setting.data = Some(data.into());
                self
            }

            /// Sets the samples that measure fidelity and accuracy; no decision uses them.
            pub fn eval(mut self, eval: impl Into<crate::jobs::Dataset>) -> Self {
                self.setting.eval = Some(eval.into());
                self
            }

            /// Judges the result by a metric of one's own, besides the outputs. It is measured on the original before any
            /// work is done.
            pub fn metric(mut self, metric: crate::metric::Metric) -> Self {
                self.setting.metric = Some(metric);
                self
            }

            /// Sets the size of a dynamic dimension, by name (`sequence_length`) or by input and axis (`input_ids:1`).
            pub fn dim(mut self, name: impl Into<String>, size: usize) -> Self {
                self.setting.dims.named.insert(name.into(), size);
                self
            }

            /// Sets the batch axis of an input where the model does not declare it; `None` if the input has none.
            pub fn batch_axis(mut self, input: impl Into<String>, axis: Option<usize>) -> Self {
                self.setting.batch_axes.set(input, axis);
                self
            }

            /// Limits the memory that the job may use, in bytes; the default is half of the available memory.
            pub fn memory(mut self, bytes: u64) -> Self {
                self.setting.limits = crate::runtime::Limits::new(bytes);
                self
            }

            /// Sets the seed for every random choice; 0 by default.
            pub fn seed(mut self, seed: u64) -> Self {
                self.setting.seed = seed;
                self
            }

            /// Calls `listener` with a short description of each phase of the job.
            pub fn progress(mut self, listener: impl Fn(&str) + Send + Sync + 'static) -> Self {
                let cancel = self.setting.progress.cancel().clone();
                self.setting.progress = crate::progress::Progress::to(listener).with_cancel(cancel);
                self
            }

            /// Ends the job with [`Interrupted`](crate::ErrorKind::Interrupted) once `cancel` is set.
            pub fn cancel(mut self, cancel: &crate::progress::Cancel) -> Self {
                self.setting.progress = self.setting.progress.with_cancel(cancel.clone());
                self
            }
        }

        #[cfg(feature = "cli")]
        impl crate::jobs::setting::Configured for $options {
            fn setting_mut(&mut self) -> &mut crate::jobs::setting::Setting {
                &mut self.setting
            }

            fn metric_runs(&self) -> usize {
                let runs: fn(&Self) -> usize = $metric_runs;
                runs(self)
            }
        }
    };
}

/// The builder method of options whose job takes up what was gathered before. The options have a field `setting`.
macro_rules! recalling {
    ($options:ty) => {
        impl $options {
            /// Keeps what passes over the samples find in this file, and takes up what an earlier job left in it, so that
            /// another budget needs few passes. The file belongs to one model, one data set and one seed. The result is the
            /// same with and without it.
            pub fn stats(mut self, file: impl Into<std::path::PathBuf>) -> Self {
                self.setting.stats = Some(file.into());
                self
            }
        }
    };
}

/// The builder methods of options that say what may change and to which sizes. The options have the fields `align`, `include`
/// and `exclude`; `$what` is what changes, such as `groups`, and `$sizes` what is aligned.
macro_rules! selecting {
    ($options:ty, $what:literal, $sizes:literal) => {
        impl $options {
            #[doc = concat!("Aligns ", $sizes, " to multiples of this number, unless the group or layer is smaller. This replaces")]
            /// [`hardware`](Self::hardware); 1 allows any size.
            pub fn align(mut self, multiple: usize) -> Self {
                self.align = crate::plan::Align::Multiple(multiple);
                self
            }

            #[doc = concat!("Aligns ", $sizes, " to multiples of this hardware's block size, or of a fraction of it where the group or layer")]
            /// is too small. The default is this machine.
            pub fn hardware(mut self, hardware: crate::plan::Hardware) -> Self {
                self.align = crate::plan::Align::For(hardware);
                self
            }

            #[doc = concat!("Changes only ", $what, " whose name or tensors match this pattern (`*` and `?` are wildcards).")]
            /// Further calls add patterns.
            pub fn include(mut self, pattern: impl Into<String>) -> Self {
                self.include.push(pattern.into());
                self
            }

            #[doc = concat!("Skips ", $what, " whose name or tensors match this pattern. Further calls add patterns.")]
            pub fn exclude(mut self, pattern: impl Into<String>) -> Self {
                self.exclude.push(pattern.into());
                self
            }
        }
    };
}

/// The builder of options that can ask for a latency.
macro_rules! timing {
    ($options:ty) => {
        impl $options {
            /// Sets the runtime whose latency a budget limits, and the file of its operator times. The default is ONNX Runtime
            /// if its library is found, and tract otherwise.
            pub fn runtimes(mut self, runtimes: crate::latency::RuntimeOptions) -> Self {
                self.runtimes = runtimes;
                self
            }
        }
    };
}

pub(crate) use configured;
pub(crate) use recalling;
pub(crate) use selecting;
pub(crate) use timing;

/// The samples of a job, opened.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// Samples that decisions are based on.
    pub(crate) data: Option<Samples>,
    eval: Option<Samples>,
    /// The metric of the original, if there is one.
    pub(crate) metric: Option<f64>,
    /// Keeps temporary files until the samples are no longer read.
    sources: [Option<Dataset>; 2],
}

impl Opened {
    /// The same samples, for another job.
    pub(crate) fn again(&self) -> Self {
        let again = |data: &Option<Samples>| data.as_ref().map(|data| data.part(0..data.samples()));
        let (data, eval) = (again(&self.data), again(&self.eval));
        Self { data, eval, metric: self.metric, sources: self.sources.clone() }
    }

    /// Keeps what passes over the samples found, where that was asked for, and returns what the job did.
    ///
    /// # Errors
    /// That of the job; [`Output`](crate::ErrorKind::Output) if the file cannot be written.
    pub(super) fn kept<T>(&self, done: Result<T>) -> Result<T> {
        let saved = self.data.as_ref().and_then(Samples::stats).map_or(Ok(()), Stats::save);
        let done = done?;
        saved.map(|()| done)
    }

    /// `dims` with what the samples tell of the inputs of `model`: the dynamic axes that count samples; sizes of the others in
    /// the first sample; where the model has branches, also what is the same in all samples. With them, the first sample.
    ///
    /// # Errors
    /// If a sample cannot be read, or an input is malformed.
    fn seen(&self, model: &Model, dims: DimSizes) -> Result<(DimSizes, Option<Vec<NamedTensor>>)> {
        // Synthetic samples have the sizes that they were given.
        let data = self.data.as_ref().or(self.eval.as_ref()).filter(|data| !data.is_synthetic());
        let (Some(data), Some(graph)) = (data, &model.proto.graph) else { return Ok((dims, None)) };
        let declared = declared_inputs(graph)?;
        let Some(first) = data.batches(1).next().transpose()? else { return Ok((dims, None)) };
        let typical = first.open_sizes(&declared);
        let (mut values, mut alike) = (BTreeMap::new(), BTreeSet::new());
        if has_branches(graph) {
            values = first.small_integers()?;
            alike = typical.keys().cloned().collect();
            for sample in self.data.iter().chain(&self.eval).flat_map(|data| data.batches(1)) {
                let sample = sample?;
                let (sizes, others) = (sample.open_sizes(&declared), sample.small_integers()?);
                alike.retain(|name| sizes.get(name) == typical.get(name));
                values.retain(|name, elements| others.get(name) == Some(elements));
            }
        }
        let dims = DimSizes { typical, values, alike, samples: first.open_counts(&declared), ..dims };
        Ok((dims, Some(first.inputs)))
    }

    /// The samples to measure fidelity and accuracy on.
    pub(crate) fn to_measure(&self) -> Option<&Samples> {
        self.eval.as_ref().or(self.data.as_ref())
    }

    /// Whether fidelity and accuracy are measured on the samples that decisions are based on.
    pub(crate) fn measures_on_data(&self) -> bool {
        self.data.is_some() && self.eval.is_none()
    }

    /// The samples that the proof of a result measures fidelity and accuracy on. If the result was fitted to them and they have no
    /// labels, a part of them is enough.
    pub(crate) fn to_prove(&self) -> Option<Samples> {
        let all = self.to_measure()?;
        let batch = all.fixed_batch().unwrap_or(1);
        let every = (all.samples() / batch) / MEASURED.div_ceil(batch);
        if self.eval.is_some() || all.has_labels() || every < 2 {
            return Some(all.part(0..all.samples()));
        }
        let [_, some] = all.split(every);
        Some(some)
    }
}

/// Unlabelled samples that the proof of a result runs on, where the result was fitted to them.
const MEASURED: usize = 64;

/// The portions of the samples that share `number` of `of` is.
fn leaves_of((number, of): (usize, usize)) -> Result<Range<usize>> {
    if !(1..=LEAVES).contains(&of) || !(1..=of).contains(&number) {
        return Err(Error::usage(format!(
            "`share` {number} of {of}: there are at most {LEAVES} shares, counted from 1"
        )));
    }
    Ok((number - 1) * LEAVES / of..number * LEAVES / of)
}

/// The samples to score and fit on, without those that training holds out.
pub(super) fn to_fit(data: &Samples, is_trained: bool) -> Samples {
    if is_trained { data.without_held_out() } else { data.part(0..data.samples()) }
}

/// The report's entry on the samples, without repaired layers.
pub(super) fn calibration_report(data: &Samples, seed: u64) -> CalibrationReport {
    CalibrationReport {
        samples: data.samples(),
        hash: data.hash().to_owned(),
        seed,
        synthetic: data.is_synthetic(),
        reused: data.stats().map(|stats| stats.counts().0),
        ..CalibrationReport::default()
    }
}

impl Setting {
    /// The metric of `rewritten` beside that of the original, if there is one.
    ///
    /// # Errors
    /// What the metric returns.
    pub(crate) fn judge(&self, opened: &Opened, rewritten: &Model) -> Result<Option<MetricReport>> {
        let (Some(metric), Some(before)) = (&self.metric, opened.metric) else { return Ok(None) };
        Ok(Some(metric.report(before, metric.of(rewritten, &self.progress)?)))
    }

    /// Opens the samples for `model`, and measures the user's metric on it. MACs and times are those at the sizes of the first sample.
    /// After that, the samples that decisions are based on lose their padding.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if they do not fit the model, [`Usage`](crate::ErrorKind::Usage) if an option
    /// does not; what the metric returns.
    pub(crate) fn opened(&self, model: &Model) -> Result<(Self, Opened)> {
        let mut opened = self.open(model)?;
        let (dims, first) = opened.seen(model, self.dims.clone())?;
        let first_sample = first.filter(|_| dims.named.is_empty());
        opened.data = opened.data.map(|data| data.without_padding(&model.proto)).transpose()?;
        if let (Some(team), Some(data)) = (&self.team, &opened.data) {
            team.run(data);
        }
        Ok((Self { dims, first_sample, ..self.clone() }, opened))
    }

    fn open(&self, model: &Model) -> Result<Opened> {
        if self.stats.is_some() && self.data.is_none() {
            return Err(Error::usage("`stats` keeps what was found on samples: give some with `data`"));
        }
        if let Some((name, _)) = self.dims.named.iter().find(|&(_, &size)| size == 0) {
            return Err(Error::usage(format!("`dim` {name}=0: a size is at least one")));
        }
        let open = |data: &Option<Dataset>| -> Result<Option<Samples>> {
            let Some(data) = data else { return Ok(None) };
            let samples = data.open(model, &self.dims, &self.batch_axes, self.seed)?;
            Ok(Some(samples.within(&self.progress)))
        };
        let (data, eval) = (open(&self.data)?, open(&self.eval)?);
        Ok(Opened {
            data: data.map(|data| self.with_stats(model, data)).transpose()?,
            eval,
            metric: self.metric.as_ref().map(|metric| metric.of(model, &self.progress)).transpose()?,
            sources: [self.data.clone(), self.eval.clone()],
        })
    }

    /// The samples with what an earlier job on the same model found on them.
    pub(super) fn with_stats(&self, model: &Model, data: Samples) -> Result<Samples> {
        let Some(path) = &self.stats else { return Ok(data) };
        let origin = Origin {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: hash_of(&model.proto),
            data: data.hash().to_owned(),
            samples: data.samples(),
            seed: self.seed,
        };
        let leaves = self.share.map(leaves_of).transpose()?;
        let stats = Stats::open(path, origin, leaves)?;
        Ok(data.with_stats(if self.folds { stats.folding_the_first() } else { stats }))
    }
}
