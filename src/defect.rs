//! Panics become errors: a mistake of paredown's own ends its job with one clear message, and nothing else.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;

use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;

/// Name of the threads whose panics are never printed, because they are often tract's and always reported as errors.
pub(crate) const QUIET_THREAD: &str = "paredown-tract";

thread_local! {
    /// Where the last panic of this thread began.
    static HERE: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// Where the last panic of any thread began: it may reach a job from one of its workers.
static ANYWHERE: Mutex<Option<Place>> = Mutex::new(None);

/// How the message of a defect begins.
const HEAD: &str = "a defect in paredown";

static SILENT: AtomicBool = AtomicBool::new(false);

/// A line of source code.
#[derive(Debug, Clone)]
struct Place {
    file: String,
    line: u32,
}

impl Place {
    /// Whether it is in this crate.
    fn is_ours(&self) -> bool {
        file!().strip_suffix("defect.rs").is_some_and(|folder| self.file.starts_with(folder))
    }
}

/// Keeps panics from being printed by Rust, for a program that prints the errors they become.
#[cfg(feature = "cli")]
pub(crate) fn print_no_panics() {
    SILENT.store(true, Ordering::Relaxed);
    watch();
}

/// Remembers where panics begin, from now on.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let outer = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map(|at| Place { file: at.file().to_owned(), line: at.line() });
            HERE.set(place.clone());
            *ANYWHERE.lock().unwrap_or_else(PoisonError::into_inner) = place;
            if !SILENT.load(Ordering::Relaxed) && thread::current().name() != Some(QUIET_THREAD) {
                outer(info);
            }
        }));
    });
}

/// A panic that was caught.
#[derive(Debug)]
pub(crate) struct Panic {
    /// The first line of its message.
    pub(crate) message: String,
    place: Option<Place>,
}

impl Panic {
    fn new(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let message = text.and_then(|text| text.lines().next()).unwrap_or("no message").to_owned();
        let anywhere = || ANYWHERE.lock().unwrap_or_else(PoisonError::into_inner).take();
        Self { message, place: HERE.take().or_else(anywhere) }
    }

    /// Whether it began in paredown's own code.
    pub(crate) fn is_ours(&self) -> bool {
        self.place.as_ref().is_some_and(Place::is_ours)
    }

    /// The panic as a defect, yet without the phase.
    pub(crate) fn into_error(self) -> Error {
        let place = self.place.map(|at| format!(" ({}:{})", at.file, at.line)).unwrap_or_default();
        Error::defect(format!("{}{place}", self.message))
    }
}

/// Runs `work`; the error is its panic.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    watch();
    HERE.take();
    // What `work` leaves half done is dropped with it: nothing but its result is looked at afterwards.
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| Panic::new(&*payload))
}

/// Runs a job; a panic in it becomes [`ErrorKind::Defect`], with the phase that the job was in.
pub(crate) fn contained<T>(progress: &Progress, job: impl FnOnce() -> Result<T>) -> Result<T> {
    let outcome = caught(job).unwrap_or_else(|panic| Err(panic.into_error()));
    outcome.map_err(|error| match error.kind() {
        // One that an inner boundary has told already stays as it is.
        ErrorKind::Defect => error.restated(|message| {
            if message.starts_with(HEAD) {
                return message.to_owned();
            }
            let phase = progress.phase();
            let during = if phase.is_empty() { String::new() } else { format!(" while {phase}") };
            format!("{HEAD}{during}: {message}; no file was written; please report it")
        }),
        _ => error,
    })
}

/// Runs `work` on one node; a panic in it becomes a defect that names the node.
pub(crate) fn at_node<T>(node: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(work).unwrap_or_else(|panic| Err(panic.into_error().at_node(node)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_names_the_phase_the_node_and_the_line() {
        let progress = Progress::default();
        progress.say("splitting layers");
        let error = contained::<()>(&progress, || at_node("Gemm_3", || panic!("index out of bounds"))).unwrap_err();
        assert_eq!((error.kind(), error.node()), (ErrorKind::Defect, Some("Gemm_3")));
        let told = error.to_string();
        assert!(told.contains("a defect in paredown while splitting layers: index out of bounds"), "{told}");
        assert!(told.contains("defect.rs:"), "{told}");
    }

    #[test]
    fn a_panic_of_a_worker_is_caught_too() {
        use rayon::prelude::*;
        let work = || (0..64).into_par_iter().for_each(|i| assert!(i != 40, "worker {i}"));
        let error = contained(&Progress::default(), || {
            work();
            Ok(())
        });
        let error = error.unwrap_err();
        assert!(error.to_string().contains("a defect in paredown: worker 40"), "{error}");
    }

    #[test]
    fn a_defect_is_told_once() {
        let (outer, inner) = (Progress::default(), Progress::default());
        inner.say("scoring");
        let error = contained::<()>(&outer, || contained(&inner, || panic!("odd"))).unwrap_err();
        assert_eq!(error.to_string().matches(HEAD).count(), 1, "{error}");
    }

    #[test]
    fn errors_stay_what_they_are() {
        let error = contained::<()>(&Progress::default(), || Err(Error::input("bad"))).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Input, "bad"));
    }
}
