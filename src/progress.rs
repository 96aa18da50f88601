//! Communication between a running job and its caller: the job reports its progress, and the caller may cancel it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, ErrorKind, Result};

/// A flag that cancels a job, from any thread. Clones share one flag.
///
/// The job checks the flag between batches, stages and layers. Once it is set, the job ends with
/// [`ErrorKind::Interrupted`].
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Creates a flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag permanently.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the flag is set.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The listener to a job's progress, and the flag that cancels the job; neither by default.
#[derive(Clone, Default)]
pub struct Progress {
    listener: Option<Arc<dyn Fn(&str) + Send + Sync>>,
    cancel: Cancel,
    /// The latest phase, without the stages around it.
    phase: Arc<Mutex<String>>,
}

impl Progress {
    /// Reports to `listener`.
    pub fn to(listener: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { listener: Some(Arc::new(listener)), ..Self::default() }
    }

    /// The same listener; the job ends once `cancel` is set.
    pub fn with_cancel(self, cancel: Cancel) -> Self {
        Self { cancel, ..self }
    }

    /// The flag that ends the job.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Reports the current phase.
    pub fn say(&self, what: &str) {
        what.clone_into(&mut self.phase.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(listener) = &self.listener {
            listener(what);
        }
    }

    /// Reports the current phase, unless the job was cancelled.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(crate) fn enter(&self, what: &str) -> Result<()> {
        self.check()?;
        self.say(what);
        Ok(())
    }

    /// Ends the job if it was cancelled.
    ///
    /// # Errors
    /// [`Interrupted`](ErrorKind::Interrupted) once the flag is set.
    pub(crate) fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, "the job was cancelled"));
        }
        Ok(())
    }

    /// The latest phase.
    pub(crate) fn phase(&self) -> String {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same listener, with `stage` as a prefix of every message.
    pub fn within(&self, stage: String) -> Self {
        let outer = self.clone();
        Self {
            listener: self.listener.clone().map(|listener| -> Arc<dyn Fn(&str) + Send + Sync> {
                Arc::new(move |what| listener(&format!("{stage}: {what}")))
            }),
            ..outer
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.listener.is_some() { "told" } else { "silent" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_job_ends_at_its_next_look() {
        let cancel = Cancel::new();
        let progress = Progress::default().with_cancel(cancel.clone());
        assert!(progress.within("step 1 of 2".to_owned()).enter("scoring").is_ok());
        assert_eq!(progress.phase(), "scoring");
        cancel.cancel();
        let error = progress.enter("repairing").unwrap_err();
        assert_eq!((error.kind(), progress.phase().as_str()), (ErrorKind::Interrupted, "scoring"));
    }
}
