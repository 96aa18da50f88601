//! Whole jobs: hold out → analyse → score → decide → rewrite → repair → train → prove → report.
//!
//! Each job is a file or a folder with its options and one function. What they share: [`Setting`](setting::Setting) opens and
//! divides the samples, [`Clock`](clock::Clock) times the phases and checks whether the job was cancelled, [`Outcome`] proves
//! and saves what came out.

mod certificate;
mod clock;
mod compress;
mod dataset;
mod factorize;
mod gather;
mod inspect;
mod latency;
mod outcome;
pub mod prune;
mod record;
#[cfg(feature = "cli")]
mod serve;
pub(crate) mod setting;
mod sweep;
mod tune;
mod verify;

pub use compress::{CompressOptions, Means};
pub use dataset::{Array, Dataset, Values};
pub use factorize::FactorizeOptions;
pub use gather::GatherOptions;
pub use inspect::InspectOptions;
pub use outcome::{Evidence, Outcome};
pub use prune::PruneOptions;
pub use record::RecordedTimes;
pub use sweep::{Counted, SweepOptions};
pub use tune::TuneOptions;
pub use verify::VerifyOptions;

pub(crate) use compress::compress;
pub(crate) use factorize::factorize;
#[cfg(feature = "cli")]
pub use gather::Passes;
pub(crate) use gather::gather;
pub(crate) use inspect::inspect;
pub(crate) use prune::prune as prune_model;
pub(crate) use record::record;
#[cfg(feature = "cli")]
pub use serve::Service;
#[cfg(feature = "cli")]
pub(crate) use serve::{gathered, serve};
pub(crate) use sweep::sweep;
#[cfg(feature = "cli")]
pub(crate) use sweep::{begin as begin_sweep, end as end_sweep, take_over};
pub(crate) use tune::tune;
pub(crate) use verify::verify;
