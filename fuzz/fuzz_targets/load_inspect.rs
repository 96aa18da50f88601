//! Any bytes: loading and looking at a model must end in a result, never in a panic.
//!
//! ```text
//! cargo fuzz run load_inspect -- -rss_limit_mb=2048
//! ```

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use paredown::onnx::Model;

fuzz_target!(|data: &[u8]| {
    // A model without the words for why it was refused would be of no use: both are asked for.
    match Model::from_bytes(Bytes::copy_from_slice(data)) {
        Ok(model) => drop(model),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
