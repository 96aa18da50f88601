//! Any bytes: loading and inspecting a model must end in a result, never in a panic.
//!
//! ```text
//! cargo fuzz run load_inspect -- -rss_limit_mb=2048
//! ```

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use paredown::{ErrorKind, InspectOptions, Model, inspect};

fuzz_target!(|data: &[u8]| {
    let result = Model::from_bytes(Bytes::copy_from_slice(data))
        .and_then(|model| inspect(&model, &InspectOptions::new().allow_shifts(true)));
    if let Err(error) = result {
        // A panic inside of the analysis would come out as a defect.
        assert_eq!(error.kind(), ErrorKind::Input, "{error}");
        assert!(!error.to_string().is_empty(), "a refusal must say why");
    }
});
