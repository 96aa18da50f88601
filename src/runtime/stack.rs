//! A thread with a deep stack, whose panics become errors.

use std::any::Any;
use std::sync::Once;
use std::thread;

use crate::{Error, ErrorKind, Result};

/// Virtual size of the stack in bytes; pages are only backed once touched.
const STACK_BYTES: usize = 256 << 20;

/// Name of the threads whose panics are reported as errors, not printed.
const THREAD_NAME: &str = "paredown-tract";

/// Runs `work` on a thread of its own with a deep stack, and turns a panic into an error.
///
/// tract walks graphs by recursion in places and panics on some malformed ones: neither may end the process.
///
/// # Errors
/// The error of `work`; [`ErrorKind::Verification`] when it panics or when the thread cannot be started.
pub(crate) fn on_deep_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    silence_worker_panics();
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|e| Error::new(ErrorKind::Verification, format!("no thread to run the model on: {e}")))?;
        worker.join().unwrap_or_else(|panic| Err(panicked(&*panic)))
    })
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    let line = text.lines().next().unwrap_or_default();
    Error::verification(format!("tract gave up on this model ({line})"))
}

/// Keeps the panic hook from printing what [`on_deep_stack`] reports as an error.
fn silence_worker_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let outer = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if thread::current().name() != Some(THREAD_NAME) {
                outer(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descend(depth: usize) -> usize {
        let frame = std::hint::black_box([depth; 64]);
        if depth == 0 { frame[0] } else { descend(depth - 1) + frame[1] - depth + 1 }
    }

    #[test]
    fn recursion_beyond_a_default_stack_returns() {
        let depth = 100_000;
        assert_eq!(on_deep_stack(|| Ok(descend(depth))).unwrap(), depth);
    }

    #[test]
    fn a_panic_becomes_an_error_with_its_message() {
        let error = on_deep_stack::<()>(|| panic!("node 7 is odd")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Verification);
        assert!(error.to_string().contains("node 7 is odd"), "{error}");
    }
}
