"""Progress of a job: a bar of tqdm where it is installed, lines on standard error elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[str], object]


@contextmanager
def listening(progress: bool | Listener) -> Iterator[Listener | None]:
    """The function that is called with each phase of a job."""
    if callable(progress):
        yield progress
    elif not progress:
        yield None
    else:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            yield lambda phase: print(f"paredown: {phase}", file=sys.stderr)
            return
        with tqdm(bar_format="{desc} [{elapsed}]", leave=False) as bar:
            yield bar.set_description_str
