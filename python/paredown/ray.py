"""Passes over the samples, repairs, sweeps and metrics on a Ray cluster (``pip install 'paredown[ray]'``). paredown computes, Ray
moves bytes.

Every node has the same wheel. Paths are of files that every node sees, such as those of a shared file system; what comes from
memory moves through Ray's object store.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy
import ray

from . import __version__, _paredown
from ._jobs import Given, PathLike, without
from ._metric import Metric, judge
from ._models import ModelLike, content, read
from ._options import typed
from ._progress import Listener, listening
from ._samples import LABELS, batches, files_in, is_array, named
from ._statistics import Merged, gather, merge_stats
from ._sweep import COUNTED, sweep, typable
from .errors import Error, NothingToDo, OutputError, UsageError, WorkerError

#: Portions that paredown divides samples into: there are no more shards.
PORTIONS = 8

#: Portions that it divides samples into for a repair: there are no more workers.
QUARTERS = 4

#: Rows of a ``ray.data.Dataset`` in a batch.
ROWS = 256


def statistics(
    model: ModelLike,
    data: Any = None,
    *,
    stats: PathLike,
    shards: int | None = None,
    cpus: int = 1,
    retries: int = 3,
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
) -> Merged:
    """Does what :func:`paredown.gather` does, on a Ray cluster. The file ``stats`` gets the same bytes, whatever ``shards`` is.

    ``data`` is a list of files, a list of loaders (each is read by a worker), a ``ray.data.Dataset`` (in batches of 256 rows, in its
    order), or anything else that ``gather`` takes.

    Each of ``shards`` tasks passes over one share of the samples with ``cpus`` processors. There are at most 8; the default is as
    many as the cluster has room for. ``memory`` limits each task; the default is its share of the memory of the smallest node. If
    the worker of a task dies, the task starts again on another one, at most ``retries`` times.

    Raises :class:`paredown.WorkerError` if a worker has another version of paredown or of the model, or if a task lost its worker
    too often. Then no file is written.
    """
    if Path(stats).exists():
        hint = "delete it, or give it to the jobs that take it up"
        raise UsageError(f"`stats`: {os.fspath(stats)} exists already: {hint}", file=os.fspath(stats), hint=hint)
    loaded = read(model)
    connect()
    room = nodes_with(cpus)
    shards = shards or min(PORTIONS, sum(int(node["CPU"] // cpus) for node in room))
    if not 1 <= shards <= PORTIONS:
        raise UsageError(f"`shards` is {shards}: there are 1 to {PORTIONS}")
    job = {
        "versions": versions(loaded),
        "model": placed_model(model),
        "data": None if data is None else moved(data, loaded.inputs(), cpus, retries),
        "options": {
            "images": absolute(images),
            "mean": mean,
            "std": std,
            "resize": resize,
            "layout": layout,
            "batch_axis": batch_axis,
            "dim": dim,
            "memory": memory or share_of_memory(room, cpus),
            "seed": seed,
        },
    }
    task = ray.remote(gathered).options(**placed(cpus, retries))
    job = ray.put(job)
    waiting = {task.remote(job, number, shards): number for number in range(1, shards + 1)}
    with listening(progress) as listener, folder_beside(stats) as folder:
        files = [Path(folder) / str(number) for number in range(1, shards + 1)]
        results = 0
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=1)
                number = waiting.pop(ready[0])
                results, sums = got(ready.pop(), f"shard {number} of {shards}")
                sums.tofile(files[number - 1])
                if listener is not None:
                    listener(f"gathered {shards - len(waiting)} of {shards} shards")
        finally:
            stop(waiting)
        if shards > 1:
            return merge_stats(files, stats)
        os.replace(files[0], stats)
        return Merged(results, [])


def gathered(job: dict[str, Any], number: int, of: int) -> tuple[int, numpy.ndarray]:
    """Gathers one share of the sums on a worker: the number of results, and the content of the file that keeps them."""
    loaded = checked_model(job)
    data = arrived(job["data"])
    with tempfile.TemporaryDirectory(prefix="paredown-") as folder:
        path = Path(folder) / "stats"
        share = None if of == 1 else f"{number}/{of}"
        results = gather(loaded, data=data, stats=path, share=share, **job["options"])
        return results, numpy.fromfile(path, dtype=numpy.uint8)


@dataclass(frozen=True)
class Engine:
    """Carries out passes over the samples, budgets of a sweep and evaluations of a metric as tasks on a Ray cluster.

    Each task has ``cpus`` processors and ``gpus`` graphics processors. If its worker dies, it starts again on another one, at most
    ``retries`` times. ``workers`` is the number of tasks that share the samples of one job: at most 4, and by default as many as the
    cluster has room for.
    """

    cpus: int = 1
    gpus: float = 0
    retries: int = 3
    workers: int | None = None

    @contextlib.contextmanager
    def team(self, command: str, model: ModelLike, options: dict[str, Any]) -> Iterator[tuple[Seat, int]]:
        """Workers that run the samples of a job, as long as it runs: where they meet, and their number.

        The options are those of the job. ``data`` and ``stats`` become what the job takes up here.
        """
        if options.get("data") is None:
            raise UsageError("`engine` shares the samples of a job: give some with `data`")
        connect()
        room, loaded = nodes_with(self.cpus), read(model)
        workers = self.workers or min(QUARTERS, sum(int(node["CPU"] // self.cpus) for node in room))
        if not 1 <= workers <= QUARTERS:
            raise UsageError(f"`workers` is {workers}: there are 1 to {QUARTERS}")
        data = moved(options["data"], loaded.inputs(), self.cpus, self.retries)
        options["data"] = arrived(data)
        job = {
            "versions": versions(loaded),
            "model": placed_model(model),
            "data": data,
            "options": {
                **{name: options.get(name) for name in ("mean", "std", "resize", "layout", "batch_axis", "dim", "seed")},
                "images": absolute(options.get("images")),
                "memory": options.get("memory") or share_of_memory(room, self.cpus),
            },
            "needs": needs_of(command, options),
            "thaw": names_in(options.get("thaw")),
        }
        board = ray.remote(Board).options(num_cpus=0).remote()
        task = ray.remote(served).options(**placed(self.cpus, self.retries, self.gpus))
        job = ray.put(job)
        tasks = [task.remote(job, board, number, workers) for number in range(1, workers + 1)]
        seat = Seat(board, tasks)
        try:
            with tempfile.TemporaryDirectory(prefix="paredown-") as folder:
                given = options.get("stats")
                stats = Path(folder, "stats") if given is None or Path(given).exists() else Path(given)
                _paredown.gathered(seat, workers, os.fspath(stats))
                options["stats"] = given or stats
                yield seat, workers
        finally:
            stop(tasks)
            ray.kill(board)

    def sweep(self, model: ModelLike, options: dict[str, Any], progress: bool | Listener) -> _paredown.Sweep:
        """Does what :func:`paredown.sweep` does, a task for each budget; it passes on its arguments.

        The first task leaves its statistics to the others. What a task has finished is in the folder at once.
        """
        connect()
        room, loaded = nodes_with(self.cpus), read(model)
        samples = {
            name: None if options[name] is None else moved(options[name], loaded.inputs(), self.cpus, self.retries)
            for name in ("data", "eval")
        }
        output = os.fspath(options["output"])
        found = {name: arrived(samples[name]) for name in samples}
        unmeasured = {"metric_cmd": None, "metric_timeout": None, "lower_is_better": False, "stats": None}
        with Given(typable({**without(options, "metric"), **found, **unmeasured}), loaded) as given:
            budgets = _paredown.begin_sweep(typed(given.options), loaded)
        order = [name for name, _, _ in budgets]
        waiting = {name: text for name, text, is_finished in budgets if not is_finished}
        stats = options["stats"]
        paths = {name: absolute(options[name]) for name in ("images", "onnxruntime")}
        job = {
            "versions": versions(loaded),
            "model": placed_model(model),
            "samples": samples,
            "counted": next((name for name in COUNTED if options[name] is not None), "macs"),
            "options": {
                **without(options, "data", "eval", "output", "stats", *COUNTED),
                **paths,
                "memory": options["memory"] or share_of_memory(room, self.cpus),
            },
        }
        with listening(progress) as listener, folder_beside(Path(output, "sweep.json")) as folder:
            heard = functools.partial(self._take_over, folder, output, order, listener)
            self._carry_out(ray.put(job), waiting, stats, heard)
        return _paredown.end_sweep(output)

    def _carry_out(
        self, job: ray.ObjectRef, waiting: dict[str, str], stats: PathLike | None, done: Callable[[str, Any], None]
    ) -> None:
        """Carries out the first budget, then all others with what it found in its passes over the samples."""
        task = ray.remote(carried_out).options(num_returns=2, **placed(self.cpus, self.retries, self.gpus))
        known = ray.put(numpy.fromfile(stats, dtype=numpy.uint8)) if stats is not None and Path(stats).exists() else None
        running: dict[ray.ObjectRef, str] = {}
        try:
            for number, (name, text) in enumerate(waiting.items()):
                point, found = task.remote(job, text, known)
                running[point] = name
                if number == 0:
                    ray.wait([point])
                    done(running.pop(point), got(point, f"the budget {name}"))
                    known = found
                    if stats is not None:
                        keep(got(found, f"the budget {name}"), stats)
            while running:
                ready, _ = ray.wait(list(running), num_returns=1)
                name = running.pop(ready[0])
                done(name, got(ready.pop(), f"the budget {name}"))
        finally:
            stop(running)

    @staticmethod
    def _take_over(
        folder: str, output: str, order: list[str], listener: Listener | None, name: str, files: Mapping[str, numpy.ndarray]
    ) -> None:
        """Puts the files of a budget into the folder of the sweep."""
        with tempfile.TemporaryDirectory(dir=folder) as part:
            for file, content_of_file in files.items():
                content_of_file.tofile(Path(part, file))
            _paredown.take_over(part, output, order)
        if listener is not None:
            listener(f"carried out {name}")

    def metric(self, metric: Metric) -> Callable[[bytes], float]:
        """A metric that is evaluated by tasks, for the option ``metric`` of any job.

        ``metric`` is what that option takes. It moves to the workers with everything that it refers to.
        """
        task = ray.remote(judge(metric)).options(**placed(self.cpus, self.retries, self.gpus))

        def evaluated(model: bytes) -> float:
            connect()
            figure: float = got(task.remote(model), "the metric")
            return figure

        return evaluated


class Board:
    """Where the processes of a job leave what others wait for: an actor."""

    def __init__(self) -> None:
        self._left: dict[str, ray.ObjectRef | None] = {}
        self._events: dict[str, asyncio.Event] = {}
        self._sizes: dict[str, int] = {}

    def _event(self, key: str) -> asyncio.Event:
        return self._events.setdefault(key, asyncio.Event())

    async def put(self, key: str, left: numpy.ndarray) -> None:
        """Leaves something, unless a worker did so that died later."""
        if key not in self._left:
            # What belongs to this actor is there as long as the actor is.
            self._left[key] = ray.put(left)
            self._sizes[key] = left.nbytes
            self._event(key).set()

    async def get(self, key: str) -> list[ray.ObjectRef | None]:
        """Waits until something is left."""
        await self._event(key).wait()
        return [self._left[key]]

    async def drop(self, key: str) -> None:
        """Forgets something that nobody else waits for."""
        self._left[key] = None

    async def sizes(self) -> dict[str, int]:
        """The bytes of everything that was left."""
        return self._sizes


class Seat:
    """A place at a board."""

    def __init__(self, board: Any, tasks: Sequence[ray.ObjectRef] = ()) -> None:
        self._board = board
        #: The tasks of the workers, if this is the place of the lead.
        self._tasks = list(tasks)

    def put(self, key: str, content: bytes) -> None:
        """Leaves something."""
        ray.get(self._board.put.remote(key, numpy.frombuffer(content, dtype=numpy.uint8)))

    def get(self, key: str) -> bytes:
        """Waits until something is left."""
        reference = self._board.get.remote(key)
        ready, _ = ray.wait([reference, *self._tasks], num_returns=1)
        if ready[0] != reference:
            # A worker does not end before the job does, unless it failed.
            number = self._tasks.index(ready[0]) + 1
            got(ready[0], f"worker {number} of {len(self._tasks)}")
            raise WorkerError(f"worker {number} of {len(self._tasks)} ended too early")
        (left,) = ray.get(reference)
        content: bytes = ray.get(left).tobytes()
        if self._tasks:
            self._board.drop.remote(key)
        return content

    def sizes(self) -> dict[str, int]:
        """The bytes of everything that was left, by its key."""
        sizes: dict[str, int] = ray.get(self._board.sizes.remote())
        return sizes


def served(job: dict[str, Any], board: Any, number: int, of: int) -> int:
    """Runs a share of the samples of a job on a worker: the number of repairs."""
    loaded = checked_model(job)
    with tempfile.TemporaryDirectory(prefix="paredown-") as folder:
        options = {**job["options"], "data": arrived(job["data"]), "stats": Path(folder, "stats")}
        with Given(options, loaded) as given:
            seat = Seat(board)
            return _paredown.serve(typed(given.options), loaded, seat, (number, of), job["needs"], job["thaw"])


def needs_of(command: str, options: Mapping[str, Any]) -> dict[str, bool]:
    """Whether a job scores units, splits layers, and shares a budget by prices."""
    is_shared = any(options.get(name) is not None for name in ("macs", "params", "size", "latency", "max_drop"))
    return {"scores": command != "factorize", "splits": command != "prune", "prices": is_shared}


def names_in(names: str | Sequence[str] | None) -> set[str]:
    """The names that an option gives."""
    return {names} if isinstance(names, str) else set(names or ())


def carried_out(
    job: dict[str, Any], budget: str, known: numpy.ndarray | None
) -> tuple[dict[str, numpy.ndarray], numpy.ndarray | None]:
    """Carries out one budget of a sweep on a worker: the files of its folder, and the content of the file of statistics."""
    loaded = checked_model(job)
    samples = {name: arrived(data) for name, data in job["samples"].items()}
    with tempfile.TemporaryDirectory(prefix="paredown-") as folder:
        point, stats = Path(folder, "point"), Path(folder, "stats")
        if known is not None:
            known.tofile(stats)
        has_samples = samples["data"] is not None
        options = {**job["options"], **samples, job["counted"]: budget, "stats": stats if has_samples else None}
        try:
            sweep(loaded, point, **options)
        except NothingToDo:
            # The report says that this budget is out of reach.
            if not (point / "sweep.json").exists():
                raise
        files = {path.name: numpy.fromfile(path, dtype=numpy.uint8) for path in point.iterdir()}
        return files, numpy.fromfile(stats, dtype=numpy.uint8) if has_samples else None


def keep(content_of_file: numpy.ndarray | None, path: PathLike) -> None:
    """Writes a file of statistics, completely or not at all."""
    if content_of_file is None:
        return
    with folder_beside(path) as folder:
        content_of_file.tofile(Path(folder, "stats"))
        os.replace(Path(folder, "stats"), path)


def batches_of(loader: Any, inputs: list[str]) -> list[dict[str, numpy.ndarray]]:
    """Reads a loader on a worker."""
    return [named("data", batch, inputs) for batch in batches("data", loader)]


def moved(data: Any, inputs: list[str], cpus: int, retries: int) -> Any:
    """Paths that every node sees, or references to batches in the object store."""
    if isinstance(data, (str, os.PathLike)):
        return data if data == "synthetic" else os.path.abspath(data)
    if files := files_in(data):
        return [os.path.abspath(file) for file in files]
    if is_list_of_loaders(data):
        task = ray.remote(batches_of).options(num_cpus=cpus, max_retries=retries)
        references = [task.remote(loader, inputs) for loader in data]
        # Shards that waited for batches would take the place of the tasks that read these.
        ray.wait(references, num_returns=len(references), fetch_local=False)
        return references
    if hasattr(data, "iter_batches"):
        data = rows_of(data, inputs)
    return [ray.put([named("data", batch, inputs)]) for batch in batches("data", data)]


def is_list_of_loaders(data: Any) -> bool:
    """Whether ``data`` is a list whose elements are not batches."""
    if not isinstance(data, (list, tuple)) or not data:
        return False
    return not any(isinstance(item, (Mapping, tuple, list)) or is_array(item) for item in data)


def rows_of(dataset: Any, inputs: list[str]) -> Iterator[Any]:
    """Batches of a ``ray.data.Dataset``, in the order of its rows."""
    dataset = dataset.select_columns([name for name in dataset.columns() if name in (*inputs, LABELS)])
    dataset.context.execution_options.preserve_order = True
    return iter(dataset.iter_batches(batch_size=ROWS, batch_format="numpy"))


def arrived(data: Any) -> Any:
    """What ``moved`` made of samples, where a job reads it: paths as they are, batches one reference at a time."""
    if not (isinstance(data, list) and data and isinstance(data[0], ray.ObjectRef)):
        return data
    return (batch for reference in data for batch in ray.get(reference))


def stop(running: Iterable[ray.ObjectRef]) -> None:
    """Ends the tasks that are still running."""
    references = list(running)
    if references:
        # Ray 2.60 ends this process ("Tried to complete task that was not pending") if it cancels a task that is just ending. What
        # ends one task, such as a wrong sample, often ends the others at the same time.
        _, others = ray.wait(references, num_returns=len(references), timeout=1)
        for reference in others:
            ray.cancel(reference, force=True)


def connect() -> None:
    """Starts a local cluster if the program is connected to none."""
    if not ray.is_initialized():
        ray.init()


def placed(cpus: int, retries: int, gpus: float = 0) -> dict[str, Any]:
    """How Ray places a task, and how often it starts it again."""
    # A worker reads these when it starts. It has as many threads as its task has processors, and chooses sizes for the processor
    # of the caller, so that all nodes agree on them.
    variables = {"RAYON_NUM_THREADS": str(cpus), "PAREDOWN_TARGET": _paredown.target()}
    return {"num_cpus": cpus, "num_gpus": gpus, "max_retries": retries, "runtime_env": {"env_vars": variables}}


def placed_model(model: ModelLike) -> Any:
    """A path that every node sees, or a reference to bytes in the object store."""
    return os.path.abspath(model) if isinstance(model, (str, os.PathLike)) else ray.put(content(model))


def checked_model(job: Mapping[str, Any]) -> _paredown.Model:
    """The model on a worker, if worker and model are those of the caller."""
    model = job["model"]
    loaded = read(ray.get(model) if isinstance(model, ray.ObjectRef) else model)
    check(job["versions"], versions(loaded))
    return loaded


def absolute(path: PathLike | None) -> str | None:
    """A path as workers find it, which have another working directory."""
    return None if path is None else os.path.abspath(path)


def share_of_memory(room: list[dict[str, float]], cpus: int) -> str:
    """The memory that a task with as many processors may use on every node."""
    return str(int(min(cpus / node["CPU"] * node["memory"] for node in room)))


def nodes_with(cpus: int) -> list[dict[str, float]]:
    """The resources of the nodes that have as many processors."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [node for node in nodes if node.get("CPU", 0) >= cpus]
    if cpus < 1 or not nodes:
        raise UsageError(f"`cpus` is {cpus}, and no node of the cluster has that many processors")
    return nodes


def versions(model: _paredown.Model) -> dict[str, str]:
    """What must be the same everywhere for the same bytes."""
    return {"version": __version__, "build": hash_of_build(), "model": model.hash()}


@functools.cache
def hash_of_build() -> str:
    """The SHA-256 of the extension module."""
    with open(_paredown.__file__, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check(wanted: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Refuses a worker that would compute something else."""
    for what, hint in (
        ("version", "install the same wheel on every node"),
        ("build", "install the same wheel on every node"),
        ("model", "give a path that is the same file on every node, or the bytes of the model"),
    ):
        if wanted[what] != found[what]:
            node = ray.util.get_node_ip_address()
            message = f"the worker on {node} has another {what} ({found[what][:12]}) than the caller ({wanted[what][:12]})"
            raise WorkerError(f"{message}: {hint}", hint=hint)


def got(reference: ray.ObjectRef, what: str) -> Any:
    """The result of a task; its failure is one of paredown's exceptions where it was one on the worker."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        cause: BaseException = error
        while isinstance(cause, ray.exceptions.RayTaskError):
            cause = cause.cause
        if isinstance(cause, Error):
            raise cause from None
        if not isinstance(cause, ray.exceptions.RayError):
            raise
        if isinstance(cause, ray.exceptions.RaySystemError):
            hint = "a metric or a loader moves with what it refers to, but the modules that it imports must be on every node"
            raise WorkerError(f"a worker cannot start {what}: {hint}\n{cause}", hint=hint) from error
        hint = "the logs of Ray say why workers died; `memory` makes a task take less, `retries` lets it start more often"
        message = f"{what} lost its worker too often ({type(cause).__name__}): {hint}"
        raise WorkerError(message, hint=hint) from error


def folder_beside(stats: PathLike) -> tempfile.TemporaryDirectory[str]:
    """A folder for files that become the file of statistics."""
    try:
        return tempfile.TemporaryDirectory(prefix=".paredown-", dir=Path(stats).absolute().parent)
    except OSError as error:
        raise OutputError(f"`stats`: {error}", file=os.fspath(stats)) from error
