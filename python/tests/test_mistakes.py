"""Mistakes are clear exceptions, and leave nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import paredown as pd
import pytest


def test_every_failure_has_its_class(tmp_path: Path, mlp: str) -> None:
    with pytest.raises(pd.UsageError, match="invalid value '2' for `ratio`"):
        pd.prune(mlp, ratio=2)
    with pytest.raises(pd.UsageError, match="`max_drop`"):
        pd.prune(mlp, data="fixtures/calib.npz")
    with pytest.raises(pd.UsageError, match="`macs` is 'half'|is not an amount"):
        pd.prune(mlp, macs="half")
    with pytest.raises(pd.InputError, match="missing.onnx") as raised:
        pd.inspect(tmp_path / "missing.onnx")
    assert raised.value.file is not None and raised.value.file.endswith("missing.onnx")
    with pytest.raises(pd.InputError):
        pd.inspect(b"not a model")
    with pytest.raises(pd.NothingToDo):
        pd.prune(mlp, params=10, data="fixtures/calib.npz")
    with pytest.raises(pd.Error):
        pd.inspect(mlp, thaw="nothing")


def test_wrong_arrays_are_named(mlp: str, images: numpy.ndarray, tensor: Any) -> None:
    wrong: list[tuple[Any, str]] = [
        ({"x": images}, "input"),
        ({"input": images.astype(object)}, "'input' of `data` has the type object"),
        ({"input": images.astype(str)}, "has the type"),
        ({"input": images.astype(numpy.complex64)}, "complex64"),
        ({"input": images.astype(numpy.int64)}, "input"),
        ({"input": images[:, :, :4]}, "input"),
        ({"input": numpy.where(images > 0, numpy.nan, images)}, "NaN"),
        ({"input": 1.0}, "single number"),
        ({"input": [[1.0], [1.0, 2.0]]}, "'input' of `data` cannot be read"),
        ([(images, images, images)], "a tuple of 3"),
        ([(images, 3)], "'labels' of `data` is a single number"),
        ([tensor(None)], "BFloat16"),
        ([3], "a batch of `data` is int"),
    ]
    for data, message in wrong:
        with pytest.raises(pd.InputError, match=message):
            pd.prune(mlp, params=0.5, data=data)
    with pytest.raises(TypeError, match="`data` is a path"):
        pd.prune(mlp, params=0.5, data=3)


class Loader:
    """A loader that announces more batches than it has, or fails before its end."""

    def __init__(self, batch: Any, announced: int, failure: Exception | None = None) -> None:
        self._batch = batch
        self._announced = announced
        self._failure = failure

    def __len__(self) -> int:
        return self._announced

    def __iter__(self) -> Iterator[Any]:
        yield self._batch
        if self._failure:
            raise self._failure


def test_a_loader_that_ends_early_is_noticed(mlp: str, images: numpy.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(pd.InputError, match="announced 3 batches and ended after 1"):
        pd.prune(mlp, params=0.5, data=Loader({"input": images}, 3))
    with pytest.raises(pd.InputError, match="ended before its first batch"):
        pd.prune(mlp, params=0.5, data=iter([]))
    with pytest.raises(ZeroDivisionError):
        pd.prune(mlp, params=0.5, data=Loader({"input": images}, 3, ZeroDivisionError()))
    result = pd.prune(mlp, params=0.5, data={"input": images})
    assert len(list(tmp_path.iterdir())) == 1
    del result
    assert list(tmp_path.iterdir()) == []


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, mlp: str) -> None:
    result = pd.prune(mlp, ratio=0.5)
    existing = tmp_path / "existing.onnx"
    existing.write_bytes(b"mine")
    with pytest.raises(pd.OutputError, match="exists"):
        result.save(existing)
    assert existing.read_bytes() == b"mine"
    result.save(existing, force=True)
    assert existing.read_bytes() == result.model_bytes()
    with pytest.raises(pd.UsageError):
        result.save(mlp, force=True)
    with pytest.raises(pd.OutputError):
        result.save(tmp_path / "no folder" / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["existing.onnx"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder in which nobody may create files")
def test_a_read_only_folder_is_an_error_of_the_output(mlp: str) -> None:
    result = pd.prune(mlp, ratio=0.5)
    with pytest.raises(pd.OutputError, match="/proc"):
        result.save("/proc/m.onnx")
    assert result.model_bytes()


def test_no_temporary_folder_is_an_error_of_the_output(mlp: str, images: numpy.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/dev/null/nowhere")
    with pytest.raises(pd.OutputError, match="temporary folder"):
        pd.prune(mlp, params=0.5, data={"input": images})


def test_a_listener_that_fails_ends_the_job(resnet: str) -> None:
    def listener(phase: str) -> None:
        raise ZeroDivisionError(phase)

    with pytest.raises(ZeroDivisionError):
        pd.prune(resnet, macs=0.5, data="fixtures/calib.npz", progress=listener)


def test_a_metric_that_fails_ends_the_job(mlp: str) -> None:
    def failing(session: Any) -> float:
        raise ZeroDivisionError("no score")

    for metric, raised, message in [
        (failing, ZeroDivisionError, "no score"),
        (lambda session: float("nan"), pd.MetricError, "returned nan"),
        (lambda session: "good", pd.MetricError, "returned 'good', which is not a number"),
        (3, TypeError, "not int"),
    ]:
        with pytest.raises(raised, match=message):
            pd.prune(mlp, max_drop=0.01, data="fixtures/calib.npz", metric=metric)  # type: ignore[arg-type]
    with pytest.raises(pd.UsageError, match="belong to a command"):
        pd.prune(mlp, ratio=0.5, metric=failing, metric_timeout=3)


def test_other_threads_run_during_a_job(resnet: str) -> None:
    counted = 0
    is_done = threading.Event()

    def count() -> None:
        nonlocal counted
        while not is_done.wait(0.001):
            counted += 1

    thread = threading.Thread(target=count)
    thread.start()
    pd.prune(resnet, macs=0.5, data="fixtures/calib.npz")
    is_done.set()
    thread.join()
    assert counted > 10


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as on Unix")
def test_an_interrupt_ends_a_job() -> None:
    script = textwrap.dedent(
        """
        import paredown as pd
        try:
            pd.tune("fixtures/digits_resnet.onnx", data="fixtures/train.npz", minutes=600,
                    progress=lambda phase: print("begun", flush=True))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert "interrupted\n" in iter(process.stdout.readline, "")
        process.send_signal(signal.SIGKILL)
