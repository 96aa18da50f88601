//! Timing of two models in alternation.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::runtime::Watch;

/// Unmeasured runs of each model.
const WARM_UP: usize = 3;
/// Measured runs of each model, at most; always [`FEWEST`].
const MOST: usize = 400;
/// Measured runs of each model, however long they take.
const FEWEST: usize = 5;
/// No further round begins after both models took this time.
const TIME: Duration = Duration::from_millis(1500);
/// Nor after this time by the clock, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(8);

/// Time of one run, in milliseconds: median and quartiles over all runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Median.
    pub median_ms: f64,
    /// Lower quartile.
    pub low_ms: f64,
    /// Upper quartile.
    pub high_ms: f64,
    /// Number of measured runs.
    pub runs: usize,
}

impl Timing {
    /// Summarizes run times in milliseconds; all zero if there are none.
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

/// Latency of the original and the rewritten model in one runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RuntimeLatency {
    /// Name and version of the runtime, or the command.
    pub runtime: String,
    /// Execution provider, such as `CPUExecutionProvider`; `None` for a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Number of threads for each run; `None` for a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Time of the original.
    pub before: Timing,
    /// Time of the rewritten model.
    pub after: Timing,
    /// Largest difference between an output in this runtime and in tract, of either model, as a share of the output's largest
    /// magnitude; `None` if they were not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<f64>,
}

impl RuntimeLatency {
    /// Speedup: the original's median time divided by the rewritten model's.
    pub fn speedup(&self) -> f64 {
        self.before.median_ms / self.after.median_ms.max(1e-9)
    }

    /// Whether the rewritten model is slower by more than the spread of the runs.
    pub fn is_slower(&self) -> bool {
        self.after.median_ms > self.before.median_ms && self.after.low_ms > self.before.high_ms
    }
}

/// Times two models in alternation (A B A B …), so that a slowdown of the machine affects both alike.
///
/// # Errors
/// What a run returns.
pub(crate) fn by_turns(
    watch: Watch,
    mut first: impl FnMut() -> Result<()>,
    mut second: impl FnMut() -> Result<()>,
) -> Result<[Timing; 2]> {
    for _ in 0..WARM_UP {
        first()?;
        second()?;
    }
    let mut times = [Vec::new(), Vec::new()];
    let (started, mut spent) = (Instant::now(), Duration::ZERO);
    let is_over = |spent: Duration| spent >= TIME || started.elapsed() >= PATIENCE;
    while times[0].len() < FEWEST || (times[0].len() < MOST && !is_over(spent)) {
        for (times, taken) in times.iter_mut().zip([watch.time(&mut first)?, watch.time(&mut second)?]) {
            spent += taken;
            times.push(taken.as_secs_f64() * 1e3);
        }
    }
    Ok(times.map(Timing::of))
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
        let [first, second] = by_turns(Watch::Wall, || run('a'), || run('b')).unwrap();
        assert_eq!(order.take(), "ab".repeat(WARM_UP + FEWEST));
        assert!(first.runs == FEWEST && first.low_ms >= 150.0 && second.median_ms >= 150.0);
    }
}
