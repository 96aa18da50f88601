//! Options that several subcommands share, and how typed figures are read.

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use crate::calibrate::data::BatchAxes;
use crate::error::{Error, Result};
use crate::jobs::setting::Setting;
use crate::plan::Align;
use crate::progress::Progress;
use crate::runtime::Limits;
use crate::runtime::inputs::DimSizes;
use crate::{Dataset, Effort, Hardware, ImageOptions, Layout, Remaining};

/// Least budget of memory, in bytes: the program itself takes some of it.
const LEAST_MEMORY: u64 = 64_000_000;

/// Number of synthetic samples.
const SYNTHETIC: usize = 256;

/// Where samples come from.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Data {
    /// Samples: an .npz with one array per graph input (and optionally `labels`), an .npy for a model with one input, a
    /// directory of either, an ONNX test_data_set directory, or `synthetic`
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Samples for measuring fidelity and accuracy only; no decision uses them [default: those of --data]
    #[arg(long, value_name = "PATH")]
    eval: Option<PathBuf>,
    /// Batch axis of an input, or `none`, where the model does not declare it; may be repeated
    #[arg(long, value_name = "NAME=AXIS")]
    batch_axis: Vec<String>,
    /// A directory of images, instead of --data
    #[arg(long, value_name = "DIR", conflicts_with = "data")]
    images: Option<PathBuf>,
    /// Mean to subtract from each image channel, where full brightness is 1
    #[arg(long, value_name = "X,…", value_delimiter = ',', requires = "images")]
    mean: Vec<f32>,
    /// Standard deviation to divide each image channel by
    #[arg(long, value_name = "X,…", value_delimiter = ',', requires = "images")]
    std: Vec<f32>,
    /// Resize the shorter side of each image to this many pixels before the center crop
    #[arg(long, value_name = "PIXELS", requires = "images")]
    resize: Option<u32>,
    /// Order of the image input's axes
    #[arg(long, value_enum, default_value = "nchw")]
    layout: TypedLayout,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum TypedLayout {
    Nchw,
    Nhwc,
}

impl Data {
    /// The files and folders that samples are read from.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.data, &self.eval, &self.images].into_iter().flatten().map(PathBuf::as_path)
    }

    /// The samples to decide on.
    pub(super) fn calibration(&self) -> Option<Dataset> {
        match (&self.data, &self.images) {
            (Some(path), _) => Some(at(path)),
            (None, Some(folder)) => Some(Dataset::from_images(folder, self.image_options())),
            (None, None) => None,
        }
    }

    /// The samples to measure on.
    pub(super) fn eval(&self) -> Option<Dataset> {
        self.eval.as_deref().map(at)
    }

    /// The axes of samples.
    pub(super) fn batch_axes(&self) -> Result<BatchAxes> {
        let mut axes = BatchAxes::default();
        self.batch_axis.iter().try_for_each(|typed| axes.add(typed))?;
        Ok(axes)
    }

    fn image_options(&self) -> ImageOptions {
        let layout = match self.layout {
            TypedLayout::Nchw => Layout::Nchw,
            TypedLayout::Nhwc => Layout::Nhwc,
        };
        let (mean, std) = (self.mean.clone(), self.std.clone());
        ImageOptions { mean, std, resize: self.resize, layout, ..ImageOptions::default() }
    }
}

/// The samples at `path`, or the synthetic ones.
pub(super) fn at(path: &Path) -> Dataset {
    if path.as_os_str() == "synthetic" { Dataset::synthetic(SYNTHETIC) } else { Dataset::from_path(path) }
}

/// Sizes of dynamic dimensions.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Dims {
    /// Size of a dynamic dimension for counting MACs and running the model, by name or as input:axis; may be repeated
    /// [default: that of the first sample, if samples are given]
    #[arg(long = "dim", value_name = "NAME=SIZE")]
    dims: Vec<String>,
}

impl Dims {
    pub(super) fn sizes(&self) -> Result<DimSizes> {
        let mut sizes = DimSizes::default();
        self.dims.iter().try_for_each(|typed| sizes.add(typed))?;
        if let Some((name, _)) = sizes.named.iter().find(|&(_, &size)| size == 0) {
            return Err(Error::usage(format!("--dim {name}=0: a size is at least one")));
        }
        Ok(sizes)
    }
}

/// How many widths are tried when effects on the output are measured.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum TypedEffort {
    Fast,
    Normal,
    Thorough,
}

impl TypedEffort {
    pub(super) fn effort(self) -> Effort {
        match self {
            Self::Fast => Effort::Fast,
            Self::Normal => Effort::Normal,
            Self::Thorough => Effort::Thorough,
        }
    }
}

/// What kept sizes are multiples of.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Sizes {
    /// Hardware that the result will run on: kept channels and ranks become multiples of its block size, or of a
    /// fraction of it where a group or layer is too small. `cpu` is this machine; `none` allows any size
    #[arg(long = "target", value_name = "HARDWARE", value_parser = hardware, default_value = "cpu")]
    hardware: Align,
    /// Make kept channels and ranks multiples of N, regardless of --target; 1 allows any size
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    align: Option<u32>,
}

impl Sizes {
    pub(super) fn align(&self) -> Align {
        self.align.map_or(self.hardware, |align| Align::Multiple(align as usize))
    }
}

/// `cpu`, `none` or the name of a [`Hardware`].
fn hardware(typed: &str) -> Result<Align, String> {
    match typed {
        "cpu" => Ok(Align::default()),
        "none" => Ok(Align::Multiple(1)),
        _ => match Hardware::ALL.into_iter().find(|hardware| hardware.name() == typed) {
            Some(hardware) => Ok(Align::For(hardware)),
            None => {
                let names: Vec<&str> = Hardware::ALL.iter().map(|hardware| hardware.name()).collect();
                Err(format!("choose one of cpu, {}, none", names.join(", ")))
            }
        },
    }
}

/// How much memory a job may take.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Memory {
    /// Memory that the job may use, such as 4GB [default: half of the available memory]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<Limits>,
}

impl Memory {
    /// The budget that was typed, or the default.
    pub(super) fn limits(&self) -> Limits {
        self.memory.unwrap_or_default()
    }
}

/// What every job on a model reads: samples, sizes, and the memory to use.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Inputs {
    #[command(flatten)]
    pub(super) data: Data,
    #[command(flatten)]
    dims: Dims,
    #[command(flatten)]
    memory: Memory,
}

impl Inputs {
    /// The setting of a job with this seed.
    pub(super) fn setting(&self, seed: u64, progress: Progress) -> Result<Setting> {
        let Self { data, dims, memory } = self;
        Ok(Setting {
            data: data.calibration(),
            eval: data.eval(),
            dims: dims.sizes()?,
            batch_axes: data.batch_axes()?,
            limits: memory.limits(),
            seed,
            progress,
            ..Setting::default()
        })
    }
}

fn memory(typed: &str) -> Result<Limits, String> {
    match remaining(typed) {
        Ok(Remaining::Absolute(bytes)) if bytes >= LEAST_MEMORY => Ok(Limits::new(bytes)),
        Ok(Remaining::Absolute(bytes)) => Err(format!("{bytes} bytes are too few: at least 64MB are needed")),
        _ => Err(format!("'{typed}' is not an amount of memory such as 4GB or 500MB")),
    }
}

/// `0.5` or `50%`, in 0..=1.
pub(super) fn share(typed: &str) -> Result<f64, String> {
    let wrong = || format!("'{typed}' is not a share between 0 and 1, nor a percentage");
    let share = match typed.trim().strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map_err(|_| wrong())? / 100.0,
        None => typed.trim().parse::<f64>().map_err(|_| wrong())?,
    };
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(wrong()) }
}

/// The share that is removed: less than everything.
pub(super) fn ratio(typed: &str) -> Result<f64, String> {
    let ratio = share(typed)?;
    if ratio < 1.0 {
        Ok(ratio)
    } else {
        Err("--ratio is the share that is removed; 1 would remove everything".to_owned())
    }
}

/// What remains: `50%`, `12.5M` (10⁶), `40MB` (10⁶ bytes), or a plain number.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn remaining(typed: &str) -> Result<Remaining, String> {
    let wrong = || format!("'{typed}' is not an amount such as 50%, 12.5M or 40MB");
    let text = typed.trim();
    if text.ends_with('%') {
        return share(text).map(Remaining::Share);
    }
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[number.len()..].to_ascii_uppercase();
    let scale = match unit.strip_suffix('B').unwrap_or(&unit) {
        "" => 1.0,
        "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        _ => return Err(wrong()),
    };
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let figure = number * scale;
    if figure.is_finite() && (0.0..1.8e19).contains(&figure) {
        Ok(Remaining::Absolute(figure as u64))
    } else {
        Err(wrong())
    }
}

/// A latency that remains: `60%` of the original's, or a time such as `8ms`, `500us` or `1.2s`.
pub(super) fn latency(typed: &str) -> Result<Remaining, String> {
    let wrong = || format!("'{typed}' is not a latency such as 60%, 8ms, 500us or 1.2s");
    let text = typed.trim();
    if text.ends_with('%') {
        return share(text).map(Remaining::Share);
    }
    let number = text.trim_end_matches(|c: char| c.is_alphabetic());
    let scale = match &text[number.len()..] {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" | "μs" => 1e-6,
        _ => return Err(wrong()),
    };
    let seconds = number.trim().parse::<f64>().map_err(|_| wrong())? * scale;
    let time = std::time::Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    if time.is_zero() { Err(wrong()) } else { Ok(time.into()) }
}

/// A spinner on a terminal, nothing when piped or `--quiet`.
pub(super) fn spinner(quiet: bool, message: &'static str) -> ProgressBar {
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(message);
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}

/// A variable of the environment for the test of what a defect does: the phase in which the job panics.
const PANIC_WHILE: &str = "PAREDOWN_PANIC_WHILE";

/// What is told to the user of a job: on the spinner.
pub(super) fn listener(bar: &ProgressBar) -> Progress {
    let bar = bar.clone();
    let fatal = std::env::var(PANIC_WHILE).ok();
    Progress::to(move |what| {
        assert!(fatal.as_ref().is_none_or(|fatal| !what.ends_with(fatal)), "injected by {PANIC_WHILE}");
        bar.set_message(what.to_owned());
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_documented() {
        assert_eq!(remaining("50%"), Ok(Remaining::Share(0.5)));
        assert_eq!(remaining("12.5M"), Ok(Remaining::Absolute(12_500_000)));
        assert_eq!(remaining("40MB"), Ok(Remaining::Absolute(40_000_000)));
        assert_eq!(remaining("123"), Ok(Remaining::Absolute(123)));
        for wrong in ["", "M", "-3", "40MiB", "110%", "nan", "1e400"] {
            assert!(remaining(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_latency_is_a_share_or_a_time() {
        assert_eq!(latency("60%"), Ok(Remaining::Share(0.6)));
        assert_eq!(latency("8ms"), Ok(Remaining::Absolute(8_000_000)));
        assert_eq!(latency("1.5 s"), Ok(Remaining::Absolute(1_500_000_000)));
        assert_eq!(latency("250us"), Ok(Remaining::Absolute(250_000)));
        for wrong in ["8", "0ms", "-1ms", "8m", "ms", "nanms"] {
            assert!(latency(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn memory_is_an_amount_of_bytes() {
        assert_eq!(memory("1.5GB"), Ok(Limits::new(1_500_000_000)));
        for wrong in ["50%", "x", "1MB", "0"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_ratio_of_one_is_refused() {
        assert_eq!(ratio("0.5"), Ok(0.5));
        assert_eq!(ratio("25%"), Ok(0.25));
        assert!(ratio("1").is_err() && ratio("-0.1").is_err() && ratio("x").is_err());
    }
}
