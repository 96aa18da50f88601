"""Statistics and sweeps on a local Ray cluster have the bytes of one machine, also if workers are killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import paredown as pd
import pytest

from conftest import ROOT

ray = pytest.importorskip("ray", reason="ray is not installed")
import paredown.ray  # noqa: E402

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="workers are found in /proc")

LIMIT = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 200_000_000}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    # Workers are patient by default: on a busy machine, they would hardly run.
    os.environ["RAY_worker_niceness"] = "0"
    ray.init(num_cpus=4, **LIMIT)
    yield
    ray.shutdown()
    del os.environ["RAY_worker_niceness"]
    deadline = time.monotonic() + 30
    while workers("") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers(""), "the cluster is still running"


def workers(title: str) -> list[int]:
    """The processes below this one that run a task of this name."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and f"ray::{title}".encode() in (folder / "cmdline").read_bytes():
                parent = parent_of(int(folder.name))
                if parent_of(parent) == os.getpid():
                    found.append(int(folder.name))
        except OSError:
            continue
    return found


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


@pytest.fixture
def parts(tmp_path: Path) -> list[str]:
    """The samples in three files."""
    with numpy.load(ROOT / "fixtures" / "calib.npz") as file:
        images = file["input"]
    names = [str(tmp_path / name) for name in ("zebra.npz", "ant.npz", "bee.npz")]
    for name, part in zip(names, numpy.array_split(images, 3)):
        numpy.savez(name, input=part)
    return names


def alone(folder: Path, model: Any, data: Any, **options: Any) -> bytes:
    path = folder / "alone.stats"
    pd.gather(model, data=data, stats=path, **options)
    return path.read_bytes()


def test_any_number_of_workers_gives_the_bytes_of_one_machine(cluster: None, tmp_path: Path, resnet: str, parts: list[str]) -> None:
    expected = alone(tmp_path, resnet, parts)
    for shards in (1, 2, 4):
        path = tmp_path / f"{shards}.stats"
        heard: list[str] = []
        merged = pd.ray.statistics(resnet, parts, stats=path, shards=shards, progress=heard.append)
        assert path.read_bytes() == expected, shards
        assert merged.results > 0 and merged.missing == []
        assert heard[-1] == f"gathered {shards} of {shards} shards"
    result = pd.prune(resnet, macs=0.5, data=parts, stats=tmp_path / "2.stats")
    assert result.report["calibration"]["reused"] > 0
    assert result.model_bytes() == pd.prune(resnet, macs=0.5, data=parts).model_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_samples_come_from_loaders_datasets_and_arrays(cluster: None, tmp_path: Path, mlp: str, images: numpy.ndarray) -> None:
    halves = numpy.array_split(images, 2)
    content = Path(mlp).read_bytes()

    def statistics(data: Any, number: int) -> bytes:
        path = tmp_path / f"{number}.stats"
        pd.ray.statistics(content, data, stats=path, shards=2)
        return path.read_bytes()

    class Loader:
        def __init__(self, half: numpy.ndarray) -> None:
            self._half = half

        def __iter__(self) -> Iterator[Any]:
            yield from ((self._half[start : start + 50],) for start in range(0, len(self._half), 50))

    loaders = [Loader(half) for half in halves]
    batches = [batch for loader in loaders for batch in loader]
    expected = alone(tmp_path, mlp, batches)
    assert statistics(loaders, 1) == expected
    assert statistics(batches, 2) == expected


def test_a_dataset_of_ray_keeps_its_order(cluster: None, tmp_path: Path, mlp: str, images: numpy.ndarray) -> None:
    pytest.importorskip("pyarrow", reason="ray[data] is not installed")
    import ray.data

    dataset = ray.data.from_numpy(numpy.array_split(images, 5)).rename_columns({"data": "input"})
    pd.ray.statistics(mlp, dataset, stats=tmp_path / "stats", shards=2)
    batches = [{"input": images[start : start + 256]} for start in range(0, len(images), 256)]
    assert (tmp_path / "stats").read_bytes() == alone(tmp_path, mlp, batches)


class Killer:
    """Kills the first worker that has been at a task of this name for a while."""

    def __init__(self, title: str, seconds: float) -> None:
        self.killed: list[int] = []
        self._title = title
        self._seconds = seconds
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        since: dict[int, float] = {}
        while not self._is_done.wait(0.02):
            now = time.monotonic()
            for worker in workers(self._title):
                if not self.killed and now - since.setdefault(worker, now) > self._seconds:
                    os.kill(worker, signal.SIGKILL)
                    self.killed.append(worker)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join()


def test_a_killed_worker_changes_nothing(cluster: None, tmp_path: Path, resnet: str, images: numpy.ndarray) -> None:
    data = {"input": numpy.concatenate([images] * 3)}
    expected = alone(tmp_path, resnet, data)
    with Killer("gathered", 1) as killer:
        pd.ray.statistics(resnet, data, stats=tmp_path / "stats", shards=2)
    assert len(killer.killed) == 1
    assert (tmp_path / "stats").read_bytes() == expected


def test_a_worker_that_always_dies_is_an_error(cluster: None, tmp_path: Path, mlp: str) -> None:
    class Deadly:
        def __iter__(self) -> Iterator[Any]:
            os.kill(os.getpid(), signal.SIGKILL)
            yield {}

    with pytest.raises(pd.WorkerError, match="lost its worker too often") as raised:
        pd.ray.statistics(mlp, [Deadly()], stats=tmp_path / "stats", shards=1, retries=1)
    assert raised.value.hint
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_the_exceptions_of_one_machine(cluster: None, tmp_path: Path, mlp: str, images: numpy.ndarray) -> None:
    path = tmp_path / "stats"
    with pytest.raises(pd.InputError, match="input"):
        pd.ray.statistics(mlp, {"input": images[:, :, :4]}, stats=path, shards=2)
    with pytest.raises(pd.UsageError, match="`shards` is 9"):
        pd.ray.statistics(mlp, {"input": images}, stats=path, shards=9)
    with pytest.raises(pd.UsageError, match="`cpus` is 64"):
        pd.ray.statistics(mlp, {"input": images}, stats=path, cpus=64)
    with pytest.raises(pd.UsageError, match="give some with `data`"):
        pd.ray.statistics(mlp, stats=path, shards=1)
    path.write_bytes(b"mine")
    with pytest.raises(pd.UsageError, match="exists already"):
        pd.ray.statistics(mlp, {"input": images}, stats=path)
    assert path.read_bytes() == b"mine"
    with pytest.raises(pd.OutputError, match="no folder"):
        pd.ray.statistics(mlp, {"input": images}, stats=tmp_path / "no folder" / "stats")


def test_a_worker_with_something_else_is_refused(cluster: None) -> None:
    same = {"version": "1", "build": "b" * 64, "model": "m" * 64}
    pd.ray.check(same, same)
    for what in same:
        with pytest.raises(pd.WorkerError, match=f"another {what}"):
            pd.ray.check(same, {**same, what: "x"})


BUDGETS = [0.6, 0.4, 0.2]


def written(folder: Path) -> dict[str, bytes]:
    """The models of a sweep and their plans; reports contain times."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.endswith((".onnx", ".plan.json"))}


def of_this_module(session: Any) -> float:
    """A metric that workers do not find: they have no such module."""
    return 1.0


@pytest.fixture
def accuracy() -> Callable[[Any], float]:
    with numpy.load(ROOT / "fixtures" / "eval.npz") as file:
        images, labels = file["input"], file["labels"]

    def share_of_right_classes(session: Any) -> float:
        scores = session.run(None, {"input": images})[0]
        return float((scores.argmax(axis=1) == labels).mean())

    return share_of_right_classes


def test_a_sweep_has_the_bytes_of_one_machine_and_goes_on(
    cluster: None, tmp_path: Path, mlp: str, images: numpy.ndarray
) -> None:
    local = pd.sweep(mlp, tmp_path / "alone", params=BUDGETS, data={"input": images}, eval="fixtures/eval.npz")
    heard: list[str] = []
    options = {"data": {"input": images}, "eval": "fixtures/eval.npz", "engine": pd.ray.Engine(), "progress": heard.append}
    folder, stats = tmp_path / "tasks", tmp_path / "stats"
    report = pd.sweep(mlp, folder, params=[0.6, 0.4], stats=stats, **options)
    assert [point["name"] for point in report["points"]] == ["params-60", "params-40"]
    assert sorted(heard) == ["carried out params-40", "carried out params-60"]
    heard.clear()
    report = pd.sweep(mlp, folder, params=BUDGETS, **options)
    assert heard == ["carried out params-20"]
    assert written(folder) == written(tmp_path / "alone")
    compared = ("name", "hash", "quality", "lost", "on_front")
    figures = [[{name: point[name] for name in compared} for point in sweep["points"]] for sweep in (report, local)]
    assert figures[0] == figures[1]
    assert [report[name] for name in ("job", "quality", "quality_before")] == [
        local[name] for name in ("job", "quality", "quality_before")
    ]
    assert report["before"]["params"] == local["before"]["params"]
    assert json.loads((folder / "sweep.json").read_text(encoding="utf-8")) == report
    assert (folder / "sweep.html").read_text(encoding="utf-8") == report.to_html()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    # Other jobs take up what the first task found.
    pruned = pd.prune(mlp, params=0.6, data={"input": images}, stats=stats)
    assert pruned.report["calibration"]["reused"] > 0
    assert pruned.model_bytes() == (folder / "params-60.onnx").read_bytes()


def test_workers_share_a_job_and_change_nothing(cluster: None, tmp_path: Path, resnet: str, parts: list[str]) -> None:
    def jobs(engine: Any) -> list[bytes]:
        given = {"data": parts, "engine": engine, "align": 1}
        return [
            pd.prune(resnet, ratio=0.4, **given).model_bytes(),
            pd.prune(resnet, macs=0.5, effort="fast", **given).model_bytes(),
            pd.factorize(resnet, params=0.7, data=iter(batches), engine=engine).model_bytes(),
            pd.compress(resnet, params=0.4, effort="fast", data=parts, engine=engine).model_bytes(),
        ]

    batches = [dict(numpy.load(part)) for part in parts]
    expected = jobs(None)
    for number in (1, 2, 4):
        assert jobs(pd.ray.Engine(workers=number)) == expected, number
    stats = tmp_path / "stats"
    first = pd.prune(resnet, ratio=0.4, align=1, data=parts, engine=pd.ray.Engine(workers=2), stats=stats)
    assert first.model_bytes() == expected[0] and stats.exists()
    again = pd.prune(resnet, ratio=0.4, align=1, data=parts, engine=pd.ray.Engine(workers=2), stats=stats)
    assert again.model_bytes() == expected[0] and again.report["calibration"]["reused"] > 0


@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.5])
def test_a_killed_worker_changes_no_job(cluster: None, resnet: str, images: numpy.ndarray, seconds: float) -> None:
    given = {"ratio": 0.4, "align": 1, "data": {"input": numpy.concatenate([images] * 4)}, "no_verify": True}
    expected = pd.prune(resnet, **given).model_bytes()
    with Killer("served", seconds) as killer:
        found = pd.prune(resnet, **given, engine=pd.ray.Engine(workers=2)).model_bytes()
    assert len(killer.killed) == 1
    assert found == expected


def test_mistakes_in_a_shared_job_are_the_exceptions_of_one_machine(cluster: None, tmp_path: Path, mlp: str) -> None:
    engine = pd.ray.Engine(workers=2, retries=1)

    class Deadly:
        def __iter__(self) -> Iterator[Any]:
            os.kill(os.getpid(), signal.SIGKILL)
            yield {}

    with pytest.raises(pd.UsageError, match="`engine` shares the samples of a job"):
        pd.prune(mlp, ratio=0.5, engine=engine)
    with pytest.raises(pd.UsageError, match="`workers` is 5"):
        pd.prune(mlp, ratio=0.5, data="fixtures/calib.npz", engine=pd.ray.Engine(workers=5))
    with pytest.raises(pd.InputError, match="missing.npz"):
        pd.prune(mlp, ratio=0.5, data=str(tmp_path / "missing.npz"), engine=engine)
    with pytest.raises(pd.NothingToDo):
        pd.prune(mlp, ratio=0.5, min_keep=10_000, data="fixtures/calib.npz", engine=engine)
    with pytest.raises(pd.WorkerError, match="lost its worker too often"):
        pd.prune(mlp, ratio=0.5, data=[Deadly()], engine=engine)


def test_a_killed_worker_changes_no_sweep(cluster: None, tmp_path: Path, resnet: str) -> None:
    options = {"macs": [0.6, 0.3], "data": "fixtures/calib.npz"}
    pd.sweep(resnet, tmp_path / "alone", **options)
    with Killer("carried_out", 0.5) as killer:
        pd.sweep(resnet, tmp_path / "tasks", **options, engine=pd.ray.Engine())
    assert len(killer.killed) == 1
    assert written(tmp_path / "tasks") == written(tmp_path / "alone")


def test_a_metric_judges_on_workers(cluster: None, tmp_path: Path, mlp: str, accuracy: Callable[[Any], float]) -> None:
    engine = pd.ray.Engine()
    options = {"data": "fixtures/calib.npz", "align": 1}
    report = pd.sweep(mlp, tmp_path / "sizes", params=[0.6, 1], metric=accuracy, engine=engine, **options)
    found, beyond = report["points"]
    assert report["quality"] == "your metric"
    assert found["metric"]["after"] > 0.9
    assert "out of reach" in beyond["reason"]
    with pytest.raises(pd.NothingToDo, match="no budget can be met"):
        pd.sweep(mlp, tmp_path / "none", params=[1], engine=engine, **options)

    # The first evaluation loses its worker.
    marker = tmp_path / "marker"

    def deadly(session: Any) -> float:
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return accuracy(session)

    results = [
        pd.prune(mlp, max_drop=0.02, metric=metric, effort="fast", **options) for metric in (accuracy, engine.metric(deadly))
    ]
    assert marker.exists()
    assert results[0].model_bytes() == results[1].model_bytes()


def test_mistakes_in_a_sweep_are_the_exceptions_of_one_machine(cluster: None, tmp_path: Path, mlp: str) -> None:
    def broken(session: Any) -> float:
        raise KeyError("labels")

    options = {"data": "fixtures/calib.npz", "engine": pd.ray.Engine()}
    with pytest.raises(KeyError, match="labels"):
        pd.sweep(mlp, tmp_path / "sizes", params=0.5, metric=broken, **options)
    with pytest.raises(pd.WorkerError, match="must be on every node"):
        pd.sweep(mlp, tmp_path / "sizes", params=0.5, metric=of_this_module, **options)
    assert [path.name for path in (tmp_path / "sizes").glob("*.onnx")] == []
    with pytest.raises(pd.UsageError, match="is not an amount"):
        pd.sweep(mlp, tmp_path / "sizes", params=["half"], **options)
    pd.sweep(mlp, tmp_path / "sizes", params=0.5, **options)
    with pytest.raises(pd.InputError, match="another sweep"):
        pd.sweep(mlp, tmp_path / "sizes", params=0.5, seed=1, **options)
