"""One model at several sizes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, Union

from . import _paredown
from ._jobs import Budget, Given, Hardware, Names, PathLike, judged, onnxruntime_of, without
from ._metric import Metric
from ._models import ModelLike, read
from ._options import budgets, typed
from ._progress import Listener, listening
from ._results import Document
from ._samples import DataLike

if TYPE_CHECKING:
    import pandas

#: What budgets of a sweep may count.
COUNTED = ("macs", "params", "size")

#: One budget or several: ``[0.8, 0.5]``, or a text such as ``"80,65,50,35%"``.
Budgets = Union[Budget, Sequence[Budget]]


class Engine(Protocol):
    """Where the budgets of a sweep are carried out, if not here: see :class:`paredown.ray.Engine`."""

    def sweep(self, model: ModelLike, options: dict[str, Any], progress: bool | Listener) -> _paredown.Sweep:
        """Carries out a sweep with the options of :func:`sweep`."""
        ...


class Sweep(Document[_paredown.Sweep]):
    """The report of a sweep, as nested dictionaries: the same as ``sweep.json``. ``points`` has an entry for each budget.

    Printing it shows the text that the command line prints.
    """

    def to_dataframe(self) -> pandas.DataFrame:
        """The points as a ``pandas.DataFrame``: a row for each budget, with the figures of the result."""
        import pandas

        rows = [{**without(point, "after", "verify", "metric", "latencies"), **point["after"]} for point in self["points"]]
        return pandas.DataFrame(rows)


def sweep(
    model: ModelLike,
    output: PathLike,
    *,
    macs: Budgets | None = None,
    params: Budgets | None = None,
    size: Budgets | None = None,
    data: DataLike | None = None,
    eval: DataLike | None = None,
    images: PathLike | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    layout: Literal["nchw", "nhwc"] | None = None,
    batch_axis: Mapping[str, int | None] | None = None,
    dim: Mapping[str, int] | None = None,
    target: Hardware | None = None,
    align: int | None = None,
    include: Names | None = None,
    exclude: Names | None = None,
    retrain: int | None = None,
    finish: float | None = None,
    lr: float | None = None,
    batch: int | None = None,
    loss: Literal["kl", "mse", "cosine"] | None = None,
    mixup: float | None = None,
    weight_decay: float | None = None,
    patience: int | None = None,
    onnxruntime: PathLike | None = None,
    bench_cmd: str | None = None,
    threads: int | None = None,
    stats: PathLike | None = None,
    memory: str | None = None,
    seed: int | None = None,
    metric: Metric | None = None,
    metric_cmd: str | None = None,
    metric_timeout: float | None = None,
    lower_is_better: bool = False,
    engine: Engine | None = None,
    progress: bool | Listener = False,
) -> Sweep:
    """Prunes a model to several budgets, proves and times each result, and marks the sizes that no other one beats.

    Give the budgets of one of ``macs``, ``params`` and ``size`` (what remains); the default is eight shares of the multiply-
    accumulates. The models, their plans and reports, ``sweep.json`` and the page ``sweep.html`` are written to the folder
    ``output``. A sweep that was interrupted goes on there. With an ``engine``, such as :class:`paredown.ray.Engine`, budgets are
    carried out on other machines.

    >>> import paredown as pd, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = pd.sweep("fixtures/digits_mlp.onnx", folder, params=[0.7, 0.4], data="fixtures/calib.npz")
    >>> [point["name"] for point in report["points"]]
    ['params-70', 'params-40']
    """
    options = without(dict(locals()), "model", "engine", "progress")
    if engine is not None:
        return Sweep(engine.sweep(model, options, progress))
    judge = judged(options)
    options = typable(options)
    loaded = read(model)
    options["onnxruntime"] = onnxruntime or onnxruntime_of("sweep")
    with Given(options, loaded) as given, listening(progress) as listener:
        return Sweep(_paredown.sweep(typed(given.options), loaded, listener, judge))


def typable(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a sweep, with lists of budgets as they are typed."""
    lists = {name: budgets(name, options[name]) for name in COUNTED if options[name] is not None}
    return {**options, **lists, "output": os.fspath(options["output"])}
