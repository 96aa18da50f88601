//! A thread with a deep stack, whose panics become errors.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::defect::{Panic, QUIET_THREAD, caught};
use crate::{Error, Result};

/// Virtual size of the stack in bytes; pages are only backed once touched.
const STACK_BYTES: usize = 256 << 20;

/// Threads with a deep stack that wait for the next work: starting one takes longer than a run of a small model.
static IDLE: Mutex<Vec<ThreadPool>> = Mutex::new(Vec::new());

/// Runs `work` on a thread of its own with a deep stack, and turns a panic into an error.
///
/// tract walks graphs by recursion in places and panics on some malformed ones: neither may end the process. Some of
/// its operators work in parallel by rayon. Had they to wait for workers that themselves wait for this thread, all
/// would wait for ever; so this thread is a pool of its own.
///
/// # Errors
/// The error of `work`; [`Runtime`](crate::ErrorKind::Runtime) when the thread cannot be started or tract panics,
/// [`Defect`](crate::ErrorKind::Defect) when code of paredown does.
pub(crate) fn on_deep_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let no_thread = |e: &dyn Display| Error::runtime(format!("no thread to run the model on: {e}"));
    let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let pool = idle.map_or_else(deep_thread, Ok).map_err(|e| no_thread(&e))?;
    // A worker of another pool would take up further work while it waits; a plain thread waits.
    let outcome = thread::scope(|scope| {
        let work = || pool.install(|| caught(work));
        let waiting = thread::Builder::new().spawn_scoped(scope, work).map_err(|e| no_thread(&e))?;
        // The thread only waits for the pool, where panics are caught.
        waiting.join().map_err(|_| Error::defect("the thread that runs the model is gone"))
    })?;
    IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(pool);
    outcome.unwrap_or_else(|panic| Err(panicked(panic)))
}

/// A pool of one thread with a deep stack.
fn deep_thread() -> std::result::Result<ThreadPool, rayon::ThreadPoolBuildError> {
    let pool = ThreadPoolBuilder::new().num_threads(1).stack_size(STACK_BYTES);
    pool.thread_name(|_| QUIET_THREAD.to_owned()).build()
}

fn panicked(panic: Panic) -> Error {
    if panic.is_ours() {
        return panic.into_error();
    }
    Error::runtime(format!("tract gave up on this model ({})", panic.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

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
    fn a_panic_of_ours_becomes_a_defect_with_its_message() {
        let error = on_deep_stack::<()>(|| panic!("node 7 is odd")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Defect);
        assert!(error.to_string().contains("node 7 is odd"), "{error}");
    }
}
