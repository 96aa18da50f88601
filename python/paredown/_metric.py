"""The caller's own metric: a function of a session of ONNX Runtime, or of the bytes of a model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from .errors import MetricError, UsageError

#: Gets an ``onnxruntime.InferenceSession``, or the bytes of the model if its parameter is annotated so.
Metric = Callable[[Any], float]


def judge(metric: Metric) -> Callable[[bytes], float]:
    """The metric as a function of the bytes of a model."""
    of_bytes = takes_bytes(metric)
    name = getattr(metric, "__name__", type(metric).__name__)

    def figure(content: bytes) -> float:
        value = metric(content if of_bytes else session(content))
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise MetricError(f"the metric '{name}' returned {value!r}, which is not a number") from error
        if not math.isfinite(number):
            raise MetricError(f"the metric '{name}' returned {number}, which cannot be compared")
        return number

    return figure


def takes_bytes(metric: Metric) -> bool:
    """Whether the first parameter of the metric is annotated as bytes."""
    if not callable(metric):
        raise TypeError(f"`metric` is a function of a session or of bytes, not {type(metric).__name__}")
    try:
        parameters = list(inspect.signature(metric).parameters.values())
    except (TypeError, ValueError):
        return False
    return bool(parameters) and parameters[0].annotation in (bytes, "bytes")


def session(content: bytes) -> Any:
    """A session of ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError as error:
        hint = "annotate its parameter as bytes, or `pip install onnxruntime`"
        raise UsageError(f"the metric takes a session of ONNX Runtime, which is not installed: {hint}", hint=hint) from error
    options = onnxruntime.SessionOptions()
    # Warnings about unused initializers are of no use to who measures candidates.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
