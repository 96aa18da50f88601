"""The jobs. Each has the options of its command; what they mean, ``paredown COMMAND --help`` explains at length."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Union

from . import _paredown
from ._metric import Metric, judge
from ._models import ModelLike, read
from ._options import typed
from ._progress import Listener, listening
from ._results import Report, Result
from ._samples import DataLike, Samples
from .errors import UsageError

PathLike = Union[str, "os.PathLike[str]"]
#: A share of what there is (``0.5``), a number, or a text such as ``"12.5M"``.
Budget = Union[float, str]
#: A share (``0.01``), or a text such as ``"1%"``.
Share = Union[float, str]
Names = Union[str, Sequence[str]]
Plan = Union[PathLike, Mapping[str, Any]]
Hardware = Literal["cpu", "avx512", "avx2", "neon", "cuda", "cuda-int8", "tensorrt", "none"]


class Engine(Protocol):
    """Where the samples of a job are run, if not here: see :class:`paredown.ray.Engine`."""

    def team(
        self, command: str, model: ModelLike, options: dict[str, Any]
    ) -> contextlib.AbstractContextManager[tuple[Any, int]]:
        """Workers that run the samples of a job: where they meet, and their number."""
        ...


def prune(
    model: ModelLike,
    *,
    ratio: Share | None = None,
    params: Budget | None = None,
    macs: Budget | None = None,
    size: Budget | None = None,
    latency: Budget | None = None,
    max_drop: Share | None = None,
    confidence: Share | None = None,
    plan: Plan | None = None,
    data: DataLike | None = None,
    eval: DataLike | None = None,
    images: PathLike | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    layout: Literal["nchw", "nhwc"] | None = None,
    batch_axis: Mapping[str, int | None] | None = None,
    dim: Mapping[str, int] | None = None,
    criterion: str | None = None,
    repair: str | None = None,
    steps: int | None = None,
    scope: Literal["layer", "global"] | None = None,
    effort: Literal["fast", "normal", "thorough"] | None = None,
    unit: Literal["auto", "heads", "dims", "both"] | None = None,
    min_keep: int | None = None,
    target: Hardware | None = None,
    align: int | None = None,
    allow_shifts: bool = False,
    include: Names | None = None,
    exclude: Names | None = None,
    thaw: Names | None = None,
    retrain: int | None = None,
    finish: float | None = None,
    lr: float | None = None,
    batch: int | None = None,
    loss: Literal["kl", "mse", "cosine"] | None = None,
    mixup: float | None = None,
    weight_decay: float | None = None,
    patience: int | None = None,
    checkpoint_dir: PathLike | None = None,
    onnxruntime: PathLike | None = None,
    bench_cmd: str | None = None,
    threads: int | None = None,
    stats: PathLike | None = None,
    runtime: Literal["onnxruntime", "tract"] | None = None,
    bench_table: PathLike | None = None,
    memory: str | None = None,
    seed: int | None = None,
    no_verify: bool = False,
    metric: Metric | None = None,
    metric_cmd: str | None = None,
    metric_timeout: float | None = None,
    lower_is_better: bool = False,
    engine: Engine | None = None,
    progress: bool | Listener = False,
) -> Result:
    """Removes the least important neurons, channels and attention heads, repairs the kept weights and proves the result.

    Give one of ``ratio`` (the share that is removed from every group), ``params``, ``macs`` and ``size`` (what remains),
    ``latency`` (the time of one run, a share or a text such as ``"8ms"``), ``max_drop`` (the accuracy that may be lost) and ``plan``.

    ``data`` are samples for decisions and repair, a few hundred are enough: a path, arrays by the names of the model's
    inputs, a loader of batches, or an object with ``get_next()``. ``eval`` are samples that only measure the result.

    ``metric`` is a function that gets a session of ONNX Runtime, or the bytes of the model if its parameter is annotated so, and
    returns a number; higher is better unless ``lower_is_better`` is set. ``max_drop`` then bounds the share of it that is lost.

    >>> import numpy, paredown as pd
    >>> with numpy.load("fixtures/calib.npz") as file:
    ...     images = file["input"]
    >>> result = pd.prune("fixtures/digits_mlp.onnx", params=0.5, data={"input": images})
    >>> result.report["calibration"]["samples"] == len(images)
    True
    """
    return _rewrite("prune", model, dict(locals()))


def factorize(
    model: ModelLike,
    *,
    rank: int | None = None,
    energy: Share | None = None,
    params: Budget | None = None,
    macs: Budget | None = None,
    size: Budget | None = None,
    latency: Budget | None = None,
    plan: Plan | None = None,
    data: DataLike | None = None,
    eval: DataLike | None = None,
    images: PathLike | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    layout: Literal["nchw", "nhwc"] | None = None,
    batch_axis: Mapping[str, int | None] | None = None,
    dim: Mapping[str, int] | None = None,
    method: Literal["svd", "nmf", "semi-nmf"] | None = None,
    conv: Literal["channel", "spatial", "tucker2", "none"] | None = None,
    target: Hardware | None = None,
    align: int | None = None,
    include: Names | None = None,
    exclude: Names | None = None,
    keep_faster: bool = False,
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
    runtime: Literal["onnxruntime", "tract"] | None = None,
    bench_table: PathLike | None = None,
    memory: str | None = None,
    seed: int | None = None,
    no_verify: bool = False,
    metric: Metric | None = None,
    metric_cmd: str | None = None,
    metric_timeout: float | None = None,
    lower_is_better: bool = False,
    engine: Engine | None = None,
    progress: bool | Listener = False,
) -> Result:
    """Splits layers into smaller ones of low rank, and proves the result.

    Give one of ``rank``, ``energy`` (the share of Σσ² to keep in every layer), ``params``, ``macs``, ``size`` and ``latency`` (what
    remains of the whole model) and ``plan``.

    >>> import paredown as pd
    >>> result = pd.factorize("fixtures/digits_mlp.onnx", params=0.6, data="fixtures/calib.npz")
    >>> any(layer["decision"] == "split" for layer in result.report["layers"])
    True
    """
    return _rewrite("factorize", model, dict(locals()))


def compress(
    model: ModelLike,
    *,
    params: Budget | None = None,
    macs: Budget | None = None,
    size: Budget | None = None,
    latency: Budget | None = None,
    max_drop: Share | None = None,
    plan: Plan | None = None,
    data: DataLike | None = None,
    eval: DataLike | None = None,
    images: PathLike | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    layout: Literal["nchw", "nhwc"] | None = None,
    batch_axis: Mapping[str, int | None] | None = None,
    dim: Mapping[str, int] | None = None,
    means: Sequence[Literal["prune", "dims", "rank", "tables"]] | None = None,
    effort: Literal["fast", "normal", "thorough"] | None = None,
    min_keep: int | None = None,
    target: Hardware | None = None,
    align: int | None = None,
    include: Names | None = None,
    exclude: Names | None = None,
    onnxruntime: PathLike | None = None,
    bench_cmd: str | None = None,
    threads: int | None = None,
    stats: PathLike | None = None,
    runtime: Literal["onnxruntime", "tract"] | None = None,
    bench_table: PathLike | None = None,
    memory: str | None = None,
    seed: int | None = None,
    no_verify: bool = False,
    metric: Metric | None = None,
    metric_cmd: str | None = None,
    metric_timeout: float | None = None,
    lower_is_better: bool = False,
    engine: Engine | None = None,
    progress: bool | Listener = False,
) -> Result:
    """Removes units and splits layers, whatever costs the output least under one budget, and proves the result.

    Give one of ``params``, ``macs``, ``size`` and ``latency`` (what remains), ``max_drop`` (the accuracy that may be lost) and ``plan``.

    >>> import paredown as pd
    >>> result = pd.compress("fixtures/digits_mlp.onnx", params=0.5, data="fixtures/calib.npz")
    >>> figures = result.report["model"]
    >>> figures["after"]["params"] <= 0.5 * figures["before"]["params"]
    True
    """
    return _rewrite("compress", model, dict(locals()))


def tune(
    model: ModelLike,
    *,
    data: DataLike | None = None,
    teacher: ModelLike | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    no_labels: bool = False,
    eval: DataLike | None = None,
    images: PathLike | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    layout: Literal["nchw", "nhwc"] | None = None,
    batch_axis: Mapping[str, int | None] | None = None,
    dim: Mapping[str, int] | None = None,
    lr: float | None = None,
    batch: int | None = None,
    loss: Literal["kl", "mse", "cosine"] | None = None,
    mixup: float | None = None,
    weight_decay: float | None = None,
    patience: int | None = None,
    include: Names | None = None,
    exclude: Names | None = None,
    memory: str | None = None,
    seed: int | None = None,
    no_verify: bool = False,
    metric: Metric | None = None,
    metric_cmd: str | None = None,
    metric_timeout: float | None = None,
    lower_is_better: bool = False,
    progress: bool | Listener = False,
) -> Result:
    """Trains the weights of a model on labels, or on the outputs of ``teacher``. Nothing else in the file changes.

    >>> import paredown as pd
    >>> result = pd.tune("fixtures/digits_mlp.onnx", data="fixtures/train.npz", epochs=1)
    >>> len(result.report["training"])
    1
    """
    return _rewrite("tune", model, dict(locals()))


def inspect(
    model: ModelLike,
    *,
    dim: Mapping[str, int] | None = None,
    allow_shifts: bool = False,
    thaw: Names | None = None,
) -> Report:
    """Lists every coupled group of a model: its kind of units, its tensors, its cost, and the node that freezes it.

    >>> import paredown as pd
    >>> report = pd.inspect("fixtures/digits_resnet.onnx")
    >>> sum(group["role"] == "free" for group in report["groups"]) > 1
    True
    """
    options = dict(locals())
    return Report(_paredown.inspect(typed(without(options, "model")), read(model)))


def verify(
    original: ModelLike,
    rewritten: ModelLike,
    *,
    plan: Plan | None = None,
    data: DataLike | None = None,
    eval: DataLike | None = None,
    images: PathLike | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    layout: Literal["nchw", "nhwc"] | None = None,
    batch_axis: Mapping[str, int | None] | None = None,
    dim: Mapping[str, int] | None = None,
    memory: str | None = None,
    max_rel_l2: float | None = None,
    seed: int | None = None,
    metric: Metric | None = None,
    metric_cmd: str | None = None,
    metric_timeout: float | None = None,
    lower_is_better: bool = False,
    progress: bool | Listener = False,
) -> Report:
    """Proves a rewritten model against its original: valid and, with the plan, exact; measures fidelity and latency.

    >>> import paredown as pd
    >>> result = pd.prune("fixtures/digits_mlp.onnx", ratio=0.5)
    >>> pd.verify("fixtures/digits_mlp.onnx", result.model_bytes(), plan=result.plan)["verify"]["valid"]
    True
    """
    options = dict(locals())
    first, second = read(original), read(rewritten)
    judge_of = judged(options)
    with Given(without(options, "original", "rewritten", "progress"), first) as given, listening(progress) as listener:
        return Report(_paredown.verify(typed(given.options), first, second, listener, judge_of))


def _rewrite(command: str, model: ModelLike, options: dict[str, Any]) -> Result:
    """Runs a job that rewrites a model."""
    loaded = read(model)
    teacher, progress = options.get("teacher"), options["progress"]
    options = without(options, "model", "teacher", "progress")
    judge_of = judged(options)
    options["onnxruntime"] = options.get("onnxruntime") or onnxruntime_of(command)
    engine: Engine | None = options.pop("engine", None)
    shared = contextlib.nullcontext() if engine is None else engine.team(command, model, options)
    with shared as team, Given(options, loaded) as given, listening(progress) as listener:
        taught = None if teacher is None else read(teacher)
        outcome = _paredown.rewrite(command, typed(given.options), loaded, taught, listener, judge_of, team)
        return Result(outcome, given.samples)


def judged(options: dict[str, Any]) -> tuple[Callable[[bytes], float], bool] | None:
    """Takes a metric that is a function out of the options."""
    metric = options.pop("metric")
    if metric is None:
        return None
    if options["metric_cmd"] is not None or options["metric_timeout"] is not None:
        raise UsageError("`metric` is a function: `metric_cmd` and `metric_timeout` belong to a command")
    return judge(metric), bool(options.pop("lower_is_better"))


def without(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The options without some of them."""
    return {name: value for name, value in options.items() if name not in names}


def onnxruntime_of(command: str) -> str | None:
    """The library of ONNX Runtime in this interpreter, for the commands that measure latency."""
    if "onnxruntime" not in _paredown.options_of(command):
        return None
    found = importlib.util.find_spec("onnxruntime")
    folders = found.submodule_search_locations if found else None
    capi = Path(folders[0]) / "capi" if folders else None
    return str(capi) if capi and any(capi.glob("*onnxruntime.*")) else None


class Given:
    """Options in which samples and plans from memory have become files."""

    def __init__(self, options: dict[str, Any], model: _paredown.Model) -> None:
        self.options = options
        self.samples: list[Samples] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        for name in ("data", "eval"):
            if options.get(name) is not None:
                samples = Samples(name, options[name], model.inputs())
                self.samples.append(samples)
                options[name] = samples.path
        if isinstance(options.get("plan"), Mapping):
            self._folder = tempfile.TemporaryDirectory(prefix="paredown-")
            path = Path(self._folder.name) / "plan.json"
            path.write_text(json.dumps(options["plan"]), encoding="utf-8")
            options["plan"] = path

    def __enter__(self) -> Given:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()
