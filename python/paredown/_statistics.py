"""Statistics: what passes over the samples find, in a file that the option ``stats`` of other jobs takes up."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from . import _paredown
from ._jobs import Given, PathLike, without
from ._models import ModelLike, read
from ._options import typed
from ._progress import Listener, listening
from ._samples import DataLike


class Merged(NamedTuple):
    """What came of a merger."""

    #: Number of results in the merged file.
    results: int
    #: The eighths of the samples that no file covers, counted from 1; empty if the file is complete.
    missing: list[int]


def gather(
    model: ModelLike,
    *,
    data: DataLike | None = None,
    stats: PathLike | None = None,
    share: str | None = None,
    images: PathLike | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    layout: Literal["nchw", "nhwc"] | None = None,
    batch_axis: Mapping[str, int | None] | None = None,
    dim: Mapping[str, int] | None = None,
    memory: str | None = None,
    seed: int | None = None,
    progress: bool | Listener = False,
) -> int:
    """Passes over the samples and keeps the sums that ``prune`` and ``factorize`` are based on in the file ``stats``.

    Returns the number of results that are new in the file. With ``share="2/4"``, only the sums of the second of four shares of
    the samples are kept; :func:`merge_stats` puts the files of all shares together.

    >>> import paredown as pd, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     new = pd.gather("fixtures/digits_mlp.onnx", data="fixtures/calib.npz", stats=f"{folder}/stats")
    ...     result = pd.factorize("fixtures/digits_mlp.onnx", params=0.6, data="fixtures/calib.npz", stats=f"{folder}/stats")
    >>> new > 0 and result.report["calibration"]["reused"] > 0
    True
    """
    options = without(dict(locals()), "model", "progress")
    loaded = read(model)
    with Given(options, loaded) as given, listening(progress) as listener:
        return _paredown.gather(typed(given.options), loaded, listener)


def merge_stats(files: Sequence[PathLike], output: PathLike) -> Merged:
    """Puts files of statistics together that were gathered from shares of the same samples, in any order.

    The merged file has the bytes that :func:`gather` writes without ``share``. A file of some of the shares can be merged with the
    others later.

    >>> import paredown as pd, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = [f"{folder}/{number}" for number in (1, 2)]
    ...     for number, file in enumerate(files, 1):
    ...         new = pd.gather("fixtures/digits_mlp.onnx", data="fixtures/calib.npz", stats=file, share=f"{number}/2")
    ...     pd.merge_stats(files, f"{folder}/stats").missing
    []
    """
    results, missing = _paredown.merge_stats([os.fspath(file) for file in files], os.fspath(output))
    return Merged(results, missing)
