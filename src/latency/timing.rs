//! Runs of two models by turns, and what they tell.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Unmeasured runs of each model.
const WARM_UP: usize = 3;
/// Measured runs of each model, at most; always [`FEWEST`].
const MOST: usize = 400;
/// Measured runs of each model, however long they take.
const FEWEST: usize = 5;
/// No further round begins after this time.
const TIME: Duration = Duration::from_millis(1500);

/// Time of one run, in milliseconds: the median of all runs, and the quartiles around it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Half of the runs took no longer.
    pub median_ms: f64,
    /// A quarter of the runs took no longer.
    pub low_ms: f64,
    /// Three quarters of the runs took no longer.
    pub high_ms: f64,
    /// Measured runs.
    pub runs: usize,
}

impl Timing {
    /// Of runs of these milliseconds; all zero if there are none.
    pub fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let at = |quarter: usize| -> f64 {
            // Between two runs, their mean by distance.
            let last = times.len().saturating_sub(1);
            let (index, rest) = (last * quarter / 4, last * quarter % 4);
            let ms = |index: usize| times.get(index).copied().unwrap_or(0.0);
            let next = ms((index + 1).min(last));
            ms(index) + (next - ms(index)) * f64::from(u8::try_from(rest).unwrap_or(0)) / 4.0
        };
        Self { median_ms: at(2), low_ms: at(1), high_ms: at(3), runs: times.len() }
    }
}

/// The time of two models in one runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RuntimeLatency {
    /// The runtime with its version, or the command.
    pub runtime: String,
    /// What it computes on: `CPUExecutionProvider`; `None` where a command decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Threads that one run may use; `None` where a command decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Of the original.
    pub before: Timing,
    /// Of the rewritten model.
    pub after: Timing,
}

impl RuntimeLatency {
    /// How many times as fast the rewritten model is.
    pub fn speedup(&self) -> f64 {
        self.before.median_ms / self.after.median_ms.max(1e-9)
    }

    /// Whether the rewritten model is slower by more than the spread of the runs.
    pub fn is_slower(&self) -> bool {
        self.after.median_ms > self.before.median_ms && self.after.low_ms > self.before.high_ms
    }
}

/// Times two models by turns (A B A B …), so that a machine that slows down meets both alike.
///
/// # Errors
/// What a run returns.
pub fn by_turns(mut first: impl FnMut() -> Result<()>, mut second: impl FnMut() -> Result<()>) -> Result<[Timing; 2]> {
    for _ in 0..WARM_UP {
        first()?;
        second()?;
    }
    let mut times = [Vec::new(), Vec::new()];
    let started = Instant::now();
    while times[0].len() < FEWEST || (times[0].len() < MOST && started.elapsed() < TIME) {
        times[0].push(timed(&mut first)?);
        times[1].push(timed(&mut second)?);
    }
    Ok(times.map(Timing::of))
}

fn timed(run: &mut impl FnMut() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    run()?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_runs() {
        let timing = Timing::of(vec![4.0, 1.0, 2.0, 3.0, 900.0]);
        assert_eq!((timing.low_ms, timing.median_ms, timing.high_ms, timing.runs), (2.0, 3.0, 4.0, 5));
        let timing = Timing::of(vec![1.0, 2.0]);
        assert_eq!((timing.low_ms, timing.median_ms, timing.high_ms), (1.25, 1.5, 1.75));
        assert_eq!(Timing::of(Vec::new()), Timing { median_ms: 0.0, low_ms: 0.0, high_ms: 0.0, runs: 0 });
    }

    #[test]
    fn runs_take_turns_and_slow_models_run_a_few_times() {
        let order = std::cell::RefCell::new(String::new());
        let run = |name: char| {
            order.borrow_mut().push(name);
            std::thread::sleep(Duration::from_millis(150));
            Ok(())
        };
        let [first, second] = by_turns(|| run('a'), || run('b')).unwrap();
        assert_eq!(order.take(), "ab".repeat(WARM_UP + FEWEST));
        assert!(first.runs == FEWEST && first.low_ms >= 150.0 && second.median_ms >= 150.0);
    }
}
