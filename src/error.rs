//! The one error type of the library: what went wrong, where, and what to do next.
//!
//! A message names options as the API does, in backticks: `` give samples with `data` ``. The command line replaces
//! these names by its own flags.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The result of every fallible call in this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Verbs that an instruction begins with.
const INSTRUCTIONS: [&str; 12] =
    ["add", "allow", "ask", "choose", "export", "give", "leave", "name", "run", "save", "set", "use"];

/// The kind of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The options contradict each other or are out of range.
    Usage,
    /// A file that was read is missing, malformed or unsupported.
    Input,
    /// The runtime cannot run a model.
    Runtime,
    /// A rewritten model runs, but fails a check: it is not valid, or not exact.
    Proof,
    /// Nothing can be removed, or a budget is out of reach.
    Nothing,
    /// The output could not be written, or exists already.
    Output,
    /// The job was cancelled.
    Interrupted,
    /// paredown itself is at fault.
    Defect,
}

/// An error: its kind, a message, and the file and node that it concerns, if known.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    file: Option<PathBuf>,
    node: Option<String>,
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Creates an error of this kind; `message` is one sentence without a final full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, file: None, node: None, message: message.into(), source: None }
    }

    /// Creates an error for malformed or unsupported input ([`ErrorKind::Input`]).
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Input, message)
    }

    /// Creates an error for contradictory or out-of-range options ([`ErrorKind::Usage`]).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// Creates an error for a job with nothing to do or a budget out of reach ([`ErrorKind::Nothing`]).
    pub fn nothing(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Nothing, message)
    }

    /// Creates an error for a model that the runtime cannot run ([`ErrorKind::Runtime`]).
    pub fn runtime(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Runtime, message)
    }

    /// Creates an error for a failed proof ([`ErrorKind::Proof`]).
    pub fn proof(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Proof, message)
    }

    /// Creates an error for an output that could not be written ([`ErrorKind::Output`]).
    pub fn output(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Output, message)
    }

    /// Creates an error for a defect of paredown itself ([`ErrorKind::Defect`]).
    pub fn defect(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Defect, message)
    }

    /// Sets the file that the error concerns, unless one is set already.
    #[must_use]
    pub fn in_file(mut self, file: &Path) -> Self {
        self.file.get_or_insert_with(|| file.to_owned());
        self
    }

    /// Sets the graph node that the error concerns, unless one is set already.
    #[must_use]
    pub fn at_node(mut self, node: impl Into<String>) -> Self {
        self.node.get_or_insert_with(|| node.into());
        self
    }

    /// Sets the underlying error, which [`source`](std::error::Error::source) returns, unless one is set already.
    #[must_use]
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source.get_or_insert_with(|| Arc::new(source));
        self
    }

    /// The same failure in other words.
    pub(crate) fn restated(mut self, words: impl FnOnce(&str) -> String) -> Self {
        self.message = words(&self.message);
        self
    }

    /// The kind of an error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What to do next, if the message says so: its last clause, after a colon or semicolon, if it is an instruction.
    pub fn hint(&self) -> Option<&str> {
        let start = [": ", "; "].into_iter().filter_map(|mark| self.message.rfind(mark)).max()?;
        let clause = self.message.get(start + 2..)?;
        let verb = clause.split([' ', ',']).next()?;
        INSTRUCTIONS.contains(&verb).then_some(clause)
    }

    /// The graph node that the error concerns, if known.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// The file that the error concerns, if known.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        if let Some(node) = &self.node {
            write!(f, "node '{node}': ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn a_hint_is_the_instruction_at_the_end() {
        let error = Error::usage("`retrain` needs samples: give some with `data`");
        assert_eq!(error.hint(), Some("give some with `data`"));
        assert_eq!(Error::input("array 'x': 3 of 4; use more samples").hint(), Some("use more samples"));
        assert_eq!(Error::input("cannot be read: no such file").hint(), None);
        assert_eq!(Error::input("empty").hint(), None);
    }

    #[test]
    fn an_error_says_where_and_keeps_what_was_underneath() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = Error::input("cannot be read").at_node("Gemm_1").in_file(Path::new("m.onnx")).caused_by(missing);
        assert_eq!(error.to_string(), "m.onnx: node 'Gemm_1': cannot be read");
        let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
        assert_eq!(source.map(std::io::Error::kind), Some(std::io::ErrorKind::NotFound));
        assert!(Error::usage("no").source().is_none());
    }
}
