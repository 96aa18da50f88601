"""Passes over the samples on a local Ray cluster give the bytes of one machine, also if workers are killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
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


def test_a_killed_worker_changes_nothing(cluster: None, tmp_path: Path, resnet: str, images: numpy.ndarray) -> None:
    data = {"input": numpy.concatenate([images] * 3)}
    expected = alone(tmp_path, resnet, data)
    since: dict[int, float] = {}
    killed: list[int] = []
    is_done = threading.Event()

    def kill_one() -> None:
        """Kills the first worker that has been at it for a second."""
        while not is_done.wait(0.02):
            now = time.monotonic()
            for worker in workers("gathered"):
                if not killed and now - since.setdefault(worker, now) > 1:
                    os.kill(worker, signal.SIGKILL)
                    killed.append(worker)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        pd.ray.statistics(resnet, data, stats=tmp_path / "stats", shards=2)
    finally:
        is_done.set()
        killer.join()
    assert len(killed) == 1
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
