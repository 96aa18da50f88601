//! Several processes that share a repair: each runs some quarters of the samples, and one of them solves.
//!
//! Processes meet at a [`Board`], where they leave what others wait for. The *lead* runs no samples. It adds up what the *workers*
//! summed up, solves, and leaves the new weights. All follow the same stages, so each knows what the others wait for.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::data::Dataset;
use super::leaves::{Folded, QUARTERS, Sum};
use super::stats::{decoded, encoded, row};
use super::sums::whole;
use crate::error::{Error, Result};

/// Where processes that work on one job leave what others wait for. Whatever is left under a key stays the same.
pub trait Board: Debug + Send + Sync {
    /// Leaves something under a key. It may be there already, from a process that ended before it was done.
    ///
    /// # Errors
    /// If the board cannot be reached.
    fn put(&self, key: &str, content: Vec<u8>) -> Result<()>;

    /// Waits until something is left under a key.
    ///
    /// # Errors
    /// If the board cannot be reached, or a process failed that would have left it.
    fn get(&self, key: &str) -> Result<Vec<u8>>;
}

/// A process among others.
#[derive(Debug, Clone)]
pub(crate) struct Team {
    board: Arc<dyn Board>,
    workers: usize,
    /// The number of this worker, counted from 0; `None` for the lead.
    worker: Option<usize>,
    /// Number of requests so far.
    requests: Arc<AtomicUsize>,
    /// What tells the samples that the workers run from others.
    samples: Arc<OnceLock<String>>,
}

impl Team {
    /// The lead of this many workers, or one of them.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) if there are none, more than quarters, or no such worker.
    pub(crate) fn new(board: Arc<dyn Board>, workers: usize, worker: Option<usize>) -> Result<Self> {
        if !(1..=QUARTERS).contains(&workers) || worker.is_some_and(|worker| worker >= workers) {
            return Err(Error::usage(format!("a repair is shared by 1 to {QUARTERS} workers, counted from 0")));
        }
        Ok(Self { board, workers, worker, requests: Arc::default(), samples: Arc::default() })
    }

    /// Says which samples the workers run.
    pub(crate) fn run(&self, samples: &Dataset) {
        self.samples.get_or_init(|| samples.identity().to_owned());
    }

    /// Whether the workers run these samples.
    pub(crate) fn runs(&self, samples: &Dataset) -> bool {
        self.samples.get().is_some_and(|own| own == samples.identity())
    }

    /// Whether this process solves.
    pub(crate) fn is_lead(&self) -> bool {
        self.worker.is_none()
    }

    /// The quarters of the samples that this process runs.
    pub(crate) fn own(&self) -> Range<usize> {
        let first = |worker: usize| worker * QUARTERS / self.workers;
        self.worker.map_or(0..0, |worker| first(worker)..first(worker + 1))
    }

    /// The share of the samples that this process runs: its number, counted from 1, and how many there are of that size.
    pub(crate) fn share(&self) -> (usize, usize) {
        let own = self.own();
        (own.start / own.len().max(1) + 1, QUARTERS / own.len().max(1))
    }

    /// Begins the next request: everything that is left from now on belongs to it.
    pub(crate) fn begin(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Leaves something for the other processes.
    ///
    /// # Errors
    /// As [`Board::put`].
    pub(crate) fn put(&self, key: &str, content: Vec<u8>) -> Result<()> {
        self.board.put(&self.key(key), content)
    }

    /// Waits for what another process leaves.
    ///
    /// # Errors
    /// As [`Board::get`].
    pub(crate) fn get(&self, key: &str) -> Result<Vec<u8>> {
        self.board.get(&self.key(key))
    }

    fn key(&self, key: &str) -> String {
        format!("{}/{key}", self.requests.load(Ordering::Relaxed))
    }

    /// What all workers summed up, for the lead; `own` is what this process did. Workers get nothing. There is nothing either
    /// where no sample has a row.
    ///
    /// # Errors
    /// As [`Board::put`] and [`Board::get`].
    pub(crate) fn led<S: Sum>(&self, key: &str, own: Folded<S>) -> Result<Option<S>> {
        if let Some(worker) = self.worker {
            let (numbers, sums): (Vec<usize>, Vec<S>) = own.finish().into_iter().unzip();
            let numbers: Vec<f64> = numbers.into_iter().map(|number| number as f64).collect();
            let mut record = vec![row(&numbers)];
            record.extend(sums.iter().flat_map(Sum::to_record));
            self.put(&format!("{key}/{worker}"), encoded(&record))?;
            return Ok(None);
        }
        let damaged = || Error::runtime(format!("what a worker left as '{key}' is damaged"));
        let mut folded = Folded::new(false);
        for worker in 0..self.workers {
            let record = decoded(&self.get(&format!("{key}/{worker}"))?).ok_or_else(damaged)?;
            let mut matrices = record.into_iter();
            for number in matrices.next().ok_or_else(damaged)? {
                let sums = S::from_record(&mut matrices).ok_or_else(damaged)?;
                folded.push(whole(number).ok_or_else(damaged)?, sums);
            }
        }
        Ok(folded.total())
    }

    /// What all workers summed up, for everybody.
    ///
    /// # Errors
    /// As [`led`](Self::led).
    pub(crate) fn shared<S: Sum>(&self, key: &str, own: Folded<S>) -> Result<Option<S>> {
        let total = self.led(key, own)?;
        if self.is_lead() {
            self.put(key, encoded(&total.to_record()))?;
            return Ok(total);
        }
        let record = decoded(&self.get(key)?);
        let total = record.and_then(|record| Option::<S>::from_record(&mut record.into_iter()));
        total.ok_or_else(|| Error::runtime(format!("what the lead left as '{key}' is damaged")))
    }
}

/// What all workers summed up, for the process that solves; a process without others has it already.
///
/// # Errors
/// As [`Team::led`].
pub(crate) fn led<S: Sum>(team: Option<&Team>, key: &str, own: Folded<S>) -> Result<Option<S>> {
    match team {
        Some(team) => team.led(key, own),
        None => Ok(own.total()),
    }
}

/// What all processes summed up; a process without others has it already.
///
/// # Errors
/// As [`Team::shared`].
pub(crate) fn shared<S: Sum>(team: Option<&Team>, key: &str, own: Folded<S>) -> Result<Option<S>> {
    match team {
        Some(team) => team.shared(key, own),
        None => Ok(own.total()),
    }
}
