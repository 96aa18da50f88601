//! Runs over batches, as many side by side as memory allows.

use rayon::prelude::*;

use super::{Limits, NamedTensor};
use crate::error::Result;

/// How many batches run side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    /// Batches that fit in memory even if every value is asked for.
    pub surely: usize,
    /// Most bytes of values that are alive at one time inside a run.
    pub inside: u64,
}

impl Runs {
    /// Batches that fit where a run gives `found` bytes: those that run, and the results of as many before them.
    fn beside(self, limits: Limits, found: u64) -> usize {
        let each = found.saturating_mul(2).saturating_add(self.inside).max(1);
        usize::try_from(limits.running() / each).unwrap_or(usize::MAX).max(self.surely)
    }
}

/// What a run gives.
pub(crate) trait Found: Send {
    /// Bytes of all its values.
    fn bytes(&self) -> u64;
}

impl Found for Vec<NamedTensor> {
    fn bytes(&self) -> u64 {
        self.iter().map(|(_, tensor)| tensor.as_bytes().len() as u64).sum()
    }
}

impl<A: Found, B: Found> Found for (A, B) {
    fn bytes(&self) -> u64 {
        self.0.bytes() + self.1.bytes()
    }
}

/// Batches for each thread that run before the next ones are begun: threads that are done with theirs help with the others'.
const AT_ONCE: usize = 4;

/// Runs the batches side by side: some for each thread, if they fit in memory by what the first ones gave. Beside these
/// runs, it takes in what the runs before them gave, in their order, and reads the next batches.
///
/// # Errors
/// That of the first batch that has one.
pub(crate) fn in_turn<B: Send + Sync, R: Found>(
    batches: impl Iterator<Item = Result<B>> + Send,
    (runs, limits): (Runs, Limits),
    run: impl Fn(usize, &B) -> Result<R> + Sync,
    mut take: impl FnMut(B, R) -> Result<()> + Send,
) -> Result<()> {
    let threads = rayon::current_num_threads();
    let mut width = runs.surely.clamp(1, threads);
    let mut batches = batches.enumerate();
    let mut read = |width| batches.by_ref().take(width).collect::<Vec<(usize, Result<B>)>>();
    let mut next = read(width);
    let mut ready: Vec<(B, R)> = Vec::new();
    while !next.is_empty() || !ready.is_empty() {
        let before = std::mem::take(&mut ready);
        let taken = || -> Result<_> {
            before.into_iter().try_for_each(|(batch, found)| take(batch, found))?;
            Ok(read(width))
        };
        let run = |(index, batch): (usize, Result<B>)| {
            let batch = batch?;
            run(index, &batch).map(|found| (batch, found))
        };
        let found = || next.into_par_iter().with_max_len(1).map(run).collect::<Vec<Result<(B, R)>>>();
        let (taken, found) = rayon::join(taken, found);
        next = taken?;
        ready = found.into_iter().collect::<Result<_>>()?;
        if let Some(largest) = ready.iter().map(|(_, found)| found.bytes()).max() {
            width = runs.beside(limits, largest).clamp(1, AT_ONCE * threads);
        }
        limits.relieve();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::Error;

    /// A result: the number of its batch, and the bytes that it claims to have.
    struct Answer(usize, u64);

    impl Found for Answer {
        fn bytes(&self) -> u64 {
            self.1
        }
    }

    /// Runs ten batches whose results have `bytes` bytes each, and returns the most that ran at one time.
    fn most_at_a_time(surely: usize, bytes: u64) -> usize {
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let run = |index: usize, batch: &usize| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(10));
            running.fetch_sub(1, Ordering::SeqCst);
            assert_eq!(index, *batch);
            Ok(Answer(*batch, bytes))
        };
        let mut order = Vec::new();
        let runs = (Runs { surely, inside: 100 }, Limits::new(4000));
        in_turn((0..10).map(Ok), runs, run, |batch, found| {
            assert_eq!(batch, found.0);
            order.push(batch);
            Ok(())
        })
        .unwrap();
        assert_eq!(order, (0..10).collect::<Vec<_>>());
        most.into_inner()
    }

    #[test]
    fn results_come_in_order_and_fit_in_memory() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        // A quarter of the budget is 1000 bytes: results of 450 fill it with one run, those of 10 leave room for more.
        assert_eq!(pool.install(|| most_at_a_time(1, 450)), 1);
        assert!(pool.install(|| most_at_a_time(1, 10)) > 1);
        assert_eq!(Runs { surely: 1, inside: 100 }.beside(Limits::new(4000), 10), 8);
        assert_eq!(Runs { surely: 3, inside: 100 }.beside(Limits::new(4000), 450), 3);
    }

    #[test]
    fn the_first_failure_is_told() {
        let batches = (0..6).map(|batch| if batch == 4 { Err(Error::input("unreadable")) } else { Ok(batch) });
        let runs = (Runs { surely: 2, inside: 0 }, Limits::new(1 << 30));
        let mut taken = Vec::new();
        let take = |batch: usize, _| {
            taken.push(batch);
            Ok(())
        };
        let error = in_turn(batches, runs, |_, &batch| Ok(Answer(batch, 1)), take).unwrap_err();
        assert!(error.to_string().contains("unreadable"), "{error}");
        assert!(taken.iter().copied().eq(0..taken.len()), "{taken:?}");
        let fails = |_: usize, &batch: &usize| {
            if batch > 2 { Err(Error::input(format!("run {batch}"))) } else { Ok(Answer(batch, 1)) }
        };
        let error = in_turn((0..6).map(Ok), runs, fails, |_, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains("run 3"), "{error}");
    }
}
