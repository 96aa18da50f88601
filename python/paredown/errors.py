"""Exceptions: one class for each kind of failure, all of them an :class:`Error`."""

from __future__ import annotations


class Error(Exception):
    """What failed, where, and what to do next.

    The message names options as keyword arguments.
    """

    #: The graph node that the error concerns, if known.
    node: str | None
    #: The file that the error concerns, if known.
    file: str | None
    #: What to do next, if known; it is part of the message.
    hint: str | None

    def __init__(
        self, message: str, *, node: str | None = None, file: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.node = node
        self.file = file
        self.hint = hint


class UsageError(Error):
    """The options contradict each other or are out of range."""


class InputError(Error):
    """A model, a plan or samples are missing, malformed or unsupported."""


class RuntimeUnsupported(Error):
    """tract cannot run a model."""


class ProofError(Error):
    """The rewritten model runs, but fails a check: it is not valid, or not exact."""


class NothingToDo(Error):
    """Nothing can be removed, or a budget is out of reach."""


class OutputError(Error):
    """A file could not be written, or exists already."""


class Interrupted(Error):
    """The job was cancelled."""


class Defect(Error):
    """paredown itself is at fault."""


class MetricError(Error):
    """The caller's metric returned something that is not a finite number."""


class WorkerError(Error):
    """A worker of a cluster failed, or has another version of paredown or of the model than the caller."""
