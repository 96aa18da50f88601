//! How long a run takes: by the clock, or in processor time where a run is one thread.

use std::time::{Duration, Instant};

use crate::Result;

/// What tells how long a run takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    /// The clock on the wall.
    Wall,
    /// The processor time of the calling thread, in which what other programs take does not count.
    Thread,
}

impl Watch {
    /// For runs on this many threads: of a single one, the calling thread, processor time where the system reports it.
    pub(crate) fn of(threads: usize) -> Self {
        if threads == 1 && thread_time().is_some() { Self::Thread } else { Self::Wall }
    }

    /// Runs once.
    ///
    /// # Errors
    /// What the run returns.
    pub(crate) fn time(self, run: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let (started, began) = (Instant::now(), thread_time());
        run()?;
        let on_wall = started.elapsed();
        Ok(match (self, began, thread_time()) {
            (Self::Thread, Some(began), Some(ended)) => ended.saturating_sub(began),
            _ => on_wall,
        })
    }
}

/// Processor time of the calling thread so far.
#[cfg(all(any(target_os = "linux", target_os = "macos"), target_pointer_width = "64"))]
fn thread_time() -> Option<Duration> {
    use std::ffi::c_int;

    #[repr(C)]
    struct Timespec {
        seconds: i64,
        nanoseconds: i64,
    }

    unsafe extern "C" {
        fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int;
    }

    /// `CLOCK_THREAD_CPUTIME_ID`.
    const THREAD: c_int = if cfg!(target_os = "macos") { 16 } else { 3 };

    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the function writes one `struct timespec`, which on these systems is two 64-bit integers.
    let failed = unsafe { clock_gettime(THREAD, &raw mut time) };
    let (seconds, nanoseconds) = (u64::try_from(time.seconds).ok()?, u32::try_from(time.nanoseconds).ok()?);
    (failed == 0).then(|| Duration::new(seconds, nanoseconds))
}

#[cfg(not(all(any(target_os = "linux", target_os = "macos"), target_pointer_width = "64")))]
fn thread_time() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_counts_work_and_not_waiting() {
        let pause = || {
            std::thread::sleep(Duration::from_millis(30));
            Ok(())
        };
        assert!(Watch::Wall.time(pause).unwrap() >= Duration::from_millis(30));
        assert_eq!(Watch::of(2), Watch::Wall);
        if Watch::of(1) == Watch::Thread {
            assert!(Watch::Thread.time(pause).unwrap() < Duration::from_millis(20));
            let work = || {
                let started = Instant::now();
                let mut sum = 0_u64;
                while started.elapsed() < Duration::from_millis(20) {
                    sum = std::hint::black_box(sum + 1);
                }
                Ok(())
            };
            assert!(Watch::Thread.time(work).unwrap() > Duration::ZERO);
        }
    }
}
