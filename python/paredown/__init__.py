"""Makes trained ONNX models smaller and faster: structured pruning and low-rank factorization, proved in tract.

>>> import paredown as pd
>>> result = pd.prune("fixtures/digits_resnet.onnx", macs=0.5, data="fixtures/calib.npz", eval="fixtures/eval.npz")
>>> figures = result.report["model"]
>>> figures["after"]["macs"] <= 0.5 * figures["before"]["macs"]
True
>>> result.report["verify"]["accuracy"]["after"] > 0.98
True

Options are named as on the command line, with underscores: ``--max-drop 1%`` is ``max_drop="1%"`` or ``max_drop=0.01``.
"""

from __future__ import annotations

from ._jobs import compress, factorize, inspect, prune, tune, verify
from ._paredown import __version__
from ._results import Report, Result
from ._statistics import Merged, gather, merge_stats
from ._sweep import Sweep, sweep
from .errors import (
    Defect,
    Error,
    InputError,
    Interrupted,
    MetricError,
    NothingToDo,
    OutputError,
    ProofError,
    RuntimeUnsupported,
    UsageError,
    WorkerError,
)

__all__ = [
    "Defect",
    "Error",
    "InputError",
    "Interrupted",
    "Merged",
    "MetricError",
    "NothingToDo",
    "OutputError",
    "ProofError",
    "Report",
    "Result",
    "RuntimeUnsupported",
    "Sweep",
    "UsageError",
    "WorkerError",
    "__version__",
    "compress",
    "factorize",
    "gather",
    "inspect",
    "merge_stats",
    "prune",
    "sweep",
    "tune",
    "verify",
]
