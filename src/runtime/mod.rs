//! Runs ONNX models in tract: to tap activations, to check a rewrite, to measure time.
//!
//! [`Runnable`] holds one model with its input shapes open. For each set of concrete input shapes it has tract
//! type, optimize and plan the graph once; with concrete shapes every chain of `Shape`, `Gather`, `Concat` that
//! exporters write is a constant to tract, which is when tract is most robust. Plans share their weights.
//!
//! A file is never trusted: tract runs on a thread with a deep stack whose panics are caught, and no value larger
//! than [`RunOptions::max_value_bytes`] is ever allocated.
//!
//! [`inputs`] says what a graph wants to be fed, [`probes`] makes it up.

mod bounds;
mod branch;
mod failure;
pub mod inputs;
pub mod latency;
mod limits;
mod lowered;
mod misread;
mod nodes;
mod optimize;
pub mod probes;
mod promote;
mod recurrent;
mod runnable;
#[cfg(test)]
mod runnable_tests;
mod running_sum;
#[cfg(test)]
#[path = "../../tests/support/graph.rs"]
pub(crate) mod sample_models;
mod single_channel;
mod skeleton;
mod squeeze;
mod stack;
mod stream;
mod support;
mod tensor;
mod top_k;
mod turns;
mod watch;
mod weights;

pub(crate) use limits::release_memory;
pub use limits::{Limits, peak_bytes};
pub use promote::Precision;
pub use runnable::{Footprint, NamedTensor, RunOptions, Runnable};
pub use stream::{Activations, Checkpoint, Held, Segment, Stream};
pub use support::{UnsupportedNode, unsupported_nodes};
pub use tensor::{Element, Tensor};
pub use turns::Runs;

pub(crate) use misread::takes_own_statistics;
pub(crate) use probes::elements as elements_as;
pub(crate) use runnable::Prepared;
pub(crate) use stack::on_deep_stack;
pub(crate) use stream::run_both;
pub(crate) use support::{framework, is_supported, refuse_unsupported, spell_out_default};
pub(crate) use tensor::element_count;
pub(crate) use turns::in_turn;
pub(crate) use watch::Watch;
pub(crate) use weights::tensor_of;
