//! tract's median time for one run, of two models side by side.

use std::time::{Duration, Instant};

use super::{NamedTensor, Prepared, Runnable, on_deep_stack};
use crate::Result;

/// Median time of one run, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// Of the original.
    pub before_ms: f64,
    /// Of the rewritten model.
    pub after_ms: f64,
}

/// How long to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatencyBudget {
    /// Unmeasured runs of each model.
    pub warm_up: usize,
    /// Maximum number of measured runs of each model; there is always one.
    pub rounds: usize,
    /// No further round is begun after this time.
    pub time: Duration,
}

impl Default for LatencyBudget {
    fn default() -> Self {
        Self { warm_up: 1, rounds: 31, time: Duration::from_millis(600) }
    }
}

/// Measures both models in turn (A B A B …), so that a machine that slows down meets both alike.
///
/// # Errors
/// What running the models returns.
pub fn latency(before: &Runnable, after: &Runnable, inputs: &[NamedTensor], budget: LatencyBudget) -> Result<Latency> {
    latency_each((before, inputs), (after, inputs), budget)
}

/// [`latency`] where each model has inputs of its own.
///
/// # Errors
/// As [`latency`].
pub fn latency_each(
    before: (&Runnable, &[NamedTensor]),
    after: (&Runnable, &[NamedTensor]),
    budget: LatencyBudget,
) -> Result<Latency> {
    let (before, after) = rayon::join(|| before.0.prepare(before.1), || after.0.prepare(after.1));
    let prepared = [before?, after?];
    let mut times: [Vec<Duration>; 2] = [Vec::new(), Vec::new()];
    on_deep_stack(|| {
        for _ in 0..budget.warm_up {
            prepared.iter().try_for_each(Prepared::run_once)?;
        }
        let start = Instant::now();
        for round in 0..budget.rounds.max(1) {
            if round > 0 && start.elapsed() > budget.time {
                break;
            }
            for (model, times) in prepared.iter().zip(&mut times) {
                let start = Instant::now();
                model.run_once()?;
                times.push(start.elapsed());
            }
        }
        Ok(())
    })?;
    let [before_ms, after_ms] = times.map(median_ms);
    Ok(Latency { before_ms, after_ms })
}

fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let ms = |index: usize| times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    let middle = times.len() / 2;
    if times.len() % 2 == 1 { ms(middle) } else { f64::midpoint(ms(middle.saturating_sub(1)), ms(middle)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::sample_models::mlp;
    use crate::runtime::{RunOptions, Tensor};

    #[test]
    fn the_median_ignores_outliers() {
        let ms = |times: &[u64]| median_ms(times.iter().map(|&t| Duration::from_millis(t)).collect());
        assert_eq!((ms(&[3, 1, 900]), ms(&[4, 1, 2, 900]), ms(&[])), (3.0, 3.0, 0.0));
    }

    #[test]
    fn both_models_are_timed_even_without_a_budget() {
        let runnable = Runnable::new(&mlp(), &RunOptions::default()).unwrap();
        let inputs = [("x".to_owned(), Tensor::new(&[1, 3], &[1_f32; 3]).unwrap())];
        let budget = LatencyBudget { warm_up: 0, rounds: 0, time: Duration::ZERO };
        let found = latency(&runnable, &runnable, &inputs, budget).unwrap();
        assert!(found.before_ms > 0.0 && found.after_ms > 0.0);
    }
}
