//! tract's time for one run: of two models side by side, and of many small ones in alternation.

use std::time::{Duration, Instant};

use super::{NamedTensor, Prepared, RunOptions, Runnable, Watch, on_deep_stack};
use crate::onnx::proto::ModelProto;
use crate::{Error, Result};

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
    let watch = Watch::of(1);
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
                times.push(watch.time(|| model.run_once())?);
            }
        }
        Ok(())
    })?;
    let [before_ms, after_ms] = times.map(median_ms);
    Ok(Latency { before_ms, after_ms })
}

/// A model with what it is fed with.
#[derive(Debug, Clone)]
pub(crate) struct Fed {
    /// The model.
    pub(crate) model: ModelProto,
    /// A tensor for each input.
    pub(crate) inputs: Vec<NamedTensor>,
}

impl Fed {
    /// Names of the outputs.
    pub(crate) fn outputs(&self) -> Vec<String> {
        output_names(&self.model)
    }
}

/// Names of the outputs of a model, in graph order.
pub(crate) fn output_names(model: &ModelProto) -> Vec<String> {
    model.graph.iter().flat_map(|graph| &graph.output).map(|output| output.name().to_owned()).collect()
}

/// Most measured runs of each model, and the fewest.
const RUNS: (usize, usize) = (60, 4);

/// Time for measuring one model of many; those that are faster than the others leave theirs to these.
const TIME_EACH: Duration = Duration::from_millis(20);

/// The least time of one run of each of `count` models, in milliseconds, measured in alternation: whatever else the machine does
/// only ever adds to it, and the weights of one model drive those of the others out of caches, as in a whole network. `None`
/// for those that fail.
pub(crate) fn least_times(watch: Watch, count: usize, run: impl Fn(usize) -> Result<()>) -> Vec<Option<f64>> {
    // A first run, which is not measured.
    let mut times: Vec<Option<f64>> = (0..count).map(|index| run(index).is_ok().then_some(f64::INFINITY)).collect();
    let limit = TIME_EACH * u32::try_from(count).unwrap_or(u32::MAX);
    let mut spent = Duration::ZERO;
    for round in 0..RUNS.0 {
        if round >= RUNS.1 && spent > limit {
            break;
        }
        for (index, time) in times.iter_mut().enumerate() {
            let Some(least) = time else { continue };
            match watch.time(|| run(index)) {
                Ok(taken) => {
                    spent += taken;
                    *least = least.min(taken.as_secs_f64() * 1e3);
                }
                Err(_) => *time = None,
            }
        }
    }
    times
}

/// The least time of one run of each model in tract, as [`least_times`].
///
/// # Errors
/// If there is no thread to run them on.
pub(crate) fn times(models: &[Fed]) -> Result<Vec<Option<f64>>> {
    let load = |fed: &Fed| Runnable::new(&fed.model, &RunOptions::default()).ok();
    let runnables: Vec<Option<Runnable>> = models.iter().map(load).collect();
    let prepared: Vec<Option<Prepared<'_>>> =
        runnables.iter().zip(models).map(|(runnable, fed)| runnable.as_ref()?.prepare(&fed.inputs).ok()).collect();
    on_deep_stack(|| {
        let run = |index: usize| match &prepared[index] {
            Some(model) => model.run_once(),
            None => Err(Error::runtime("the model does not load")),
        };
        Ok(least_times(Watch::of(1), models.len(), run))
    })
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
    fn the_least_of_many_runs_counts_and_what_fails_has_no_time() {
        let pauses = std::cell::RefCell::new([9_u64, 1, 5, 2, 7].into_iter().cycle());
        let found = least_times(Watch::Wall, 2, |index| {
            let pause = pauses.borrow_mut().next().unwrap();
            std::thread::sleep(Duration::from_millis(pause));
            if index == 0 { Ok(()) } else { Err(Error::runtime("broken")) }
        });
        assert!((1.0..5.0).contains(&found[0].unwrap()) && found[1].is_none(), "{found:?}");
        let fed = Fed { model: mlp(), inputs: vec![("x".to_owned(), Tensor::new(&[1, 3], &[1_f32; 3]).unwrap())] };
        let unfed = Fed { model: mlp(), inputs: Vec::new() };
        let found = times(&[fed, unfed]).unwrap();
        assert!(found[0].is_some_and(|ms| ms > 0.0) && found[1].is_none(), "{found:?}");
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
