//! Work on a thread of its own, and the desk at the caller's thread where it reports.
//!
//! The thread that called from Python releases the interpreter and waits for messages. It alone calls back into Python, so
//! that a listener runs where the user started the job, and an interrupt is noticed within [`PATIENCE`].

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use paredown::cli::embed::Board;
use paredown::{Cancel, Error, ErrorKind, Result};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use crate::errors::exception;

/// Longest time between two looks at signals.
const PATIENCE: Duration = Duration::from_millis(50);

/// Why a job ends whose board gives no answer.
const UNREACHED: &str = "the board cannot be reached";

/// What arrives at the desk.
enum Message {
    /// The job entered a phase.
    Phase(String),
    /// The job wants to know how good this model is.
    Judge(Vec<u8>, Sender<f64>),
    /// The job leaves something for other processes.
    Put(String, Vec<u8>, Sender<()>),
    /// The job wants what another process leaves.
    Get(String, Sender<Vec<u8>>),
    /// The work has ended.
    Ended,
}

/// Where the messages of a job go. Clones share one line.
#[derive(Clone, Default)]
pub(crate) struct Line(Arc<Mutex<Option<Sender<Message>>>>);

impl Line {
    /// Says that the job entered a phase. Nobody hears it if no one waits.
    pub(crate) fn say(&self, phase: &str) {
        self.send(Message::Phase(phase.to_owned()));
    }

    /// Asks how good a model is, and waits for the answer.
    pub(crate) fn judge(&self, model: Vec<u8>) -> Result<f64> {
        self.ask(|answer| Message::Judge(model, answer), "the metric gave no figure")
    }

    /// Sends a message and waits for the answer. Nobody answers if Python raised an exception, which is what the caller sees; the
    /// job ends with `otherwise`.
    fn ask<T>(&self, message: impl FnOnce(Sender<T>) -> Message, otherwise: &str) -> Result<T> {
        let (sender, answer) = channel();
        self.send(message(sender));
        answer.recv().map_err(|_| Error::new(ErrorKind::Interrupted, otherwise))
    }

    fn send(&self, message: Message) {
        if let Some(sender) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // A caller that was interrupted does not listen any more.
            let _ = sender.send(message);
        }
    }

    fn connect(&self, sender: Option<Sender<Message>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = sender;
    }
}

/// A job in progress: its line, the flag that cancels it, the listener to its phases, and its metric.
pub(crate) struct Desk {
    pub(crate) line: Line,
    pub(crate) cancel: Cancel,
    pub(crate) listener: Option<Py<PyAny>>,
    /// The metric: a function of a model's bytes.
    pub(crate) metric: Option<Py<PyAny>>,
    /// Where processes meet that share the job: an object with `put` and `get`.
    pub(crate) board: Option<Py<PyAny>>,
}

impl Desk {
    /// Runs `work` on another thread, without the interpreter, and returns its result.
    ///
    /// An exception of the listener or the metric, or an interrupt, cancels the job and is raised at once: the thread ends by itself when
    /// the job next looks at its flag, and nobody sees its result.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        py: Python<'_>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> PyResult<T> {
        let (sender, mut messages) = channel();
        self.line.connect(Some(sender));
        let line = self.line.clone();
        let worker = std::thread::Builder::new().name("paredown-job".to_owned()).spawn(move || {
            let result = work();
            line.send(Message::Ended);
            result
        });
        let worker = worker.map_err(|error| {
            exception(py, &Error::runtime(format!("a thread for the job cannot be started: {error}")))
        })?;
        let heard = loop {
            let (back, message) = py.detach(|| wait(messages));
            messages = back;
            let noted = match message {
                Ok(Message::Phase(phase)) => self.note(py, &phase),
                Ok(Message::Judge(model, answer)) => self.judge(py, &model, &answer),
                Ok(Message::Put(key, content, answer)) => self.put(py, &key, &content, &answer),
                Ok(Message::Get(key, answer)) => self.get(py, &key, &answer),
                Ok(Message::Ended) | Err(RecvTimeoutError::Disconnected) => break Ok(()),
                // A thread that panicked says nothing more.
                Err(RecvTimeoutError::Timeout) if worker.is_finished() => break Ok(()),
                Err(RecvTimeoutError::Timeout) => Ok(()),
            };
            if let Err(raised) = noted.and_then(|()| py.check_signals()) {
                break Err(raised);
            }
        };
        self.line.connect(None);
        if let Err(raised) = heard {
            self.cancel.cancel();
            return Err(raised);
        }
        match py.detach(|| worker.join()) {
            Ok(result) => result.map_err(|error| exception(py, &error)),
            Err(_) => Err(exception(py, &Error::defect("the thread of the job panicked; please report it"))),
        }
    }

    fn judge(&self, py: Python<'_>, model: &[u8], answer: &Sender<f64>) -> PyResult<()> {
        if let Some(metric) = &self.metric {
            let figure = metric.call1(py, (PyBytes::new(py, model),))?.extract(py)?;
            // A job that has ended does not listen any more.
            let _ = answer.send(figure);
        }
        Ok(())
    }

    fn put(&self, py: Python<'_>, key: &str, content: &[u8], answer: &Sender<()>) -> PyResult<()> {
        if let Some(board) = &self.board {
            board.call_method1(py, "put", (key, PyBytes::new(py, content)))?;
            let _ = answer.send(());
        }
        Ok(())
    }

    fn get(&self, py: Python<'_>, key: &str, answer: &Sender<Vec<u8>>) -> PyResult<()> {
        if let Some(board) = &self.board {
            let content = board.call_method1(py, "get", (key,))?;
            let _ = answer.send(content.extract::<PyBackedBytes>(py)?.to_vec());
        }
        Ok(())
    }

    fn note(&self, py: Python<'_>, phase: &str) -> PyResult<()> {
        self.listener.as_ref().map_or(Ok(()), |listener| listener.call1(py, (phase,)).map(drop))
    }
}

impl Board for Line {
    fn put(&self, key: &str, content: Vec<u8>) -> Result<()> {
        self.ask(|answer| Message::Put(key.to_owned(), content, answer), UNREACHED)
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        self.ask(|answer| Message::Get(key.to_owned(), answer), UNREACHED)
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

/// The next message; gives the receiver back.
fn wait(messages: Receiver<Message>) -> (Receiver<Message>, Result<Message, RecvTimeoutError>) {
    let message = messages.recv_timeout(PATIENCE);
    (messages, message)
}
