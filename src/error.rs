//! The one error type of the library: what went wrong, where, and what to do next.

use std::fmt;
use std::path::{Path, PathBuf};

/// Result of every fallible library call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure this is. Each kind has one exit code of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The options contradict each other or are out of range (exit code 2).
    Usage,
    /// A file that was read is missing, malformed or unsupported (exit code 3).
    Input,
    /// Nothing can be removed, or a budget is out of reach (exit code 4).
    NothingToDo,
    /// The rewritten model could not be proved (exit code 5).
    Verification,
    /// The output could not be written, or exists already (exit code 6).
    Output,
    /// The user interrupted the work (exit code 130).
    Interrupted,
}

impl ErrorKind {
    /// The process exit code that scripts rely on.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Input => 3,
            Self::NothingToDo => 4,
            Self::Verification => 5,
            Self::Output => 6,
            Self::Interrupted => 130,
        }
    }
}

/// A failure with its kind, and the file and node that it concerns where known.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    file: Option<PathBuf>,
    node: Option<String>,
    message: String,
}

impl Error {
    /// A failure of `kind`; `message` is one sentence without a final full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, file: None, node: None, message: message.into() }
    }

    /// Malformed or unsupported input ([`ErrorKind::Input`]).
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Input, message)
    }

    /// Contradictory or out-of-range options ([`ErrorKind::Usage`]).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// Nothing to do, or a budget out of reach ([`ErrorKind::NothingToDo`]).
    pub fn nothing(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NothingToDo, message)
    }

    /// A proof that failed ([`ErrorKind::Verification`]).
    pub fn verification(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Verification, message)
    }

    /// An output that could not be written ([`ErrorKind::Output`]).
    pub fn output(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Output, message)
    }

    /// Names the file that the failure concerns, unless one is named already.
    #[must_use]
    pub fn in_file(mut self, file: &Path) -> Self {
        self.file.get_or_insert_with(|| file.to_owned());
        self
    }

    /// Names the graph node that the failure concerns, unless one is named already.
    #[must_use]
    pub fn at_node(mut self, node: impl Into<String>) -> Self {
        self.node.get_or_insert_with(|| node.into());
        self
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The graph node that the failure concerns.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// The file that the failure concerns.
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

impl std::error::Error for Error {}
