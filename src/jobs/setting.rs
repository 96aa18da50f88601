//! Settings that all jobs share, and the samples that a job opens.

use super::dataset::Dataset;
use crate::calibrate::data::{BatchAxes, Dataset as Samples};
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::progress::Progress;
use crate::report::CalibrationReport;
use crate::runtime::Limits;
use crate::runtime::inputs::DimSizes;

/// Settings that all jobs share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setting {
    /// Samples that decisions are based on.
    pub(crate) data: Option<Dataset>,
    /// Samples for measuring only, which no decision uses.
    pub(crate) eval: Option<Dataset>,
    /// Sizes of dynamic dimensions.
    pub(crate) dims: DimSizes,
    /// Batch axes of inputs, where the model does not declare them.
    pub(crate) batch_axes: BatchAxes,
    /// Memory that the job may use.
    pub(crate) limits: Limits,
    /// Seed for every random choice.
    pub(crate) seed: u64,
    /// The progress listener and the flag that cancels the job.
    pub(crate) progress: Progress,
}

/// Options that hold a [`Setting`], which the command line fills in as a whole.
#[cfg(feature = "cli")]
pub(crate) trait Configured {
    /// The setting.
    fn setting_mut(&mut self) -> &mut Setting;
}

/// The builder methods that all options share. The options have a field `setting`.
macro_rules! configured {
    ($options:ty) => {
        impl $options {
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
        }
    };
}

pub(crate) use configured;

/// The samples of a job, opened.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// Samples that decisions are based on.
    pub(crate) data: Option<Samples>,
    eval: Option<Samples>,
    /// Keeps temporary files until the samples are no longer read.
    _sources: [Option<Dataset>; 2],
}

impl Opened {
    /// The samples to measure fidelity and accuracy on.
    pub(crate) fn to_measure(&self) -> Option<&Samples> {
        self.eval.as_ref().or(self.data.as_ref())
    }
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
        ..CalibrationReport::default()
    }
}

impl Setting {
    /// Opens the samples for `model`.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if they do not fit the model, [`Usage`](crate::ErrorKind::Usage) if an option
    /// does not.
    pub(crate) fn open(&self, model: &Model) -> Result<Opened> {
        if let Some((name, _)) = self.dims.named.iter().find(|&(_, &size)| size == 0) {
            return Err(Error::usage(format!("`dim` {name}=0: a size is at least one")));
        }
        let open = |data: &Option<Dataset>| -> Result<Option<Samples>> {
            let Some(data) = data else { return Ok(None) };
            let samples = data.open(model, &self.dims, &self.batch_axes, self.seed)?;
            Ok(Some(samples.within(&self.progress)))
        };
        Ok(Opened {
            data: open(&self.data)?,
            eval: open(&self.eval)?,
            _sources: [self.data.clone(), self.eval.clone()],
        })
    }
}
