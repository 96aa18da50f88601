//! A thread with a deep stack, whose panics become errors.

use std::any::Any;
use std::fmt::Display;
use std::sync::Once;
use std::thread;

use rayon::ThreadPoolBuilder;

use crate::{Error, ErrorKind, Result};

/// Virtual size of the stack in bytes; pages are only backed once touched.
const STACK_BYTES: usize = 256 << 20;

/// Name of the threads whose panics are reported as errors, not printed.
const THREAD_NAME: &str = "paredown-tract";

/// Runs `work` on a thread of its own with a deep stack, and turns a panic into an error.
///
/// tract walks graphs by recursion in places and panics on some malformed ones: neither may end the process. Some of its
/// operators work in parallel by rayon. Had they to wait for workers that themselves wait for this thread, all would wait
/// for ever; so this thread is a pool by itself.
///
/// # Errors
/// The error of `work`; [`ErrorKind::Verification`] when it panics or when the thread cannot be started.
pub(crate) fn on_deep_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    silence_worker_panics();
    let no_thread =
        |e: &dyn Display| Error::new(ErrorKind::Verification, format!("no thread to run the model on: {e}"));
    let pool = ThreadPoolBuilder::new().num_threads(1).stack_size(STACK_BYTES).thread_name(|_| THREAD_NAME.to_owned());
    let pool = pool.build().map_err(|e| no_thread(&e))?;
    // A worker of another pool would take up further work while it waits; a plain thread waits.
    thread::scope(|scope| {
        let waiting = thread::Builder::new().spawn_scoped(scope, || pool.install(work)).map_err(|e| no_thread(&e))?;
        waiting.join().unwrap_or_else(|panic| Err(panicked(&*panic)))
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

    /// Every worker waits for a thread that itself works in parallel: GroupQueryAttention in tract, once for ever.
    #[test]
    fn parallel_work_inside_parallel_work_ends() {
        use rayon::prelude::*;
        let many = 4 * rayon::current_num_threads();
        let sum = |n: usize| on_deep_stack(move || Ok((0..100_usize).into_par_iter().map(|i| i + n).sum::<usize>()));
        let sums: Vec<usize> = (0..many).into_par_iter().map(|n| sum(n).unwrap()).collect();
        assert_eq!(sums, (0..many).map(|n| 4950 + 100 * n).collect::<Vec<_>>());
    }

    #[test]
    fn a_panic_becomes_an_error_with_its_message() {
        let error = on_deep_stack::<()>(|| panic!("node 7 is odd")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Verification);
        assert!(error.to_string().contains("node 7 is odd"), "{error}");
    }
}
