"""Keyword arguments as options of the command line, which define what each of them accepts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from .errors import UsageError

#: Options that say what remains: a share as a float, or a number.
BUDGETS = {"params", "macs", "size", "latency"}


def typed(options: Mapping[str, Any]) -> list[str]:
    """The options as they are typed; those that are ``None`` or ``False`` are left out."""
    return [text for name, value in options.items() for text in option(name, value)]


def option(name: str, value: Any) -> list[str]:
    """One option as a command-line flag: once for each value of a list or pair of a mapping."""
    flag = "--" + name.replace("_", "-")
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    if isinstance(value, Mapping):
        return [f"{flag}={key}={'none' if part is None else part}" for key, part in value.items()]
    if isinstance(value, (str, os.PathLike)):
        return [f"{flag}={os.fspath(value)}"]
    if isinstance(value, Sequence):
        return [text for part in value for text in option(name, part)]
    if name in BUDGETS:
        return [f"{flag}={budget(name, value)}"]
    return [f"{flag}={value}"]


def budget(name: str, value: Any) -> str:
    """The text of a budget on the command line: ``0.25`` is 25 %, an integer is a number."""
    try:
        number = Decimal(repr(float(value)))
    except (TypeError, ValueError):
        raise UsageError(f"`{name}` is {value!r}: give a share such as 0.5, a number, or a text such as '12.5M'") from None
    if isinstance(value, int) or not 0 <= number <= 1:
        return str(int(number)) if number.is_finite() and number >= 0 else str(value)
    return f"{number * 100:f}%"


def budgets(name: str, value: Any) -> str:
    """The text of one budget or of several: ``[0.8, 0.5]`` is ``80%,50%``."""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, Sequence) else [value]
    return ",".join(part if isinstance(part, str) else budget(name, part) for part in parts)
