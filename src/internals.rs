//! The crate's modules as its own integration tests, benchmarks, examples and fuzz targets see them.
//!
//! **This is not part of the API.** Nothing in here is covered by semantic versioning: an item may change or disappear in
//! any release. What is meant to be used stands at the root of the crate.

#![allow(missing_docs)]

/// A public name for each private module.
macro_rules! reachable {
    ($($module:ident)*) => {
        $(pub mod $module {
            pub use crate::$module::*;
        })*
    };
}

reachable! {
    analysis axes calibrate factorize facts graph jobs latency linalg lowrank onnx ops plan price repair report rewrite
    runtime score train verify
}
