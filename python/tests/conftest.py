"""Fixtures of the tests: the networks and samples of the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples name files from the root of the repository, and give the same sizes on every processor."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PAREDOWN_TARGET", "avx2")


@pytest.fixture
def mlp() -> str:
    return str(ROOT / "fixtures" / "digits_mlp.onnx")


@pytest.fixture
def resnet() -> str:
    return str(ROOT / "fixtures" / "digits_resnet.onnx")


@pytest.fixture
def images() -> numpy.ndarray:
    with numpy.load(ROOT / "fixtures" / "calib.npz") as file:
        return file["input"]


@pytest.fixture
def labelled() -> dict[str, numpy.ndarray]:
    with numpy.load(ROOT / "fixtures" / "eval.npz") as file:
        return {name: file[name] for name in file.files}


class Tensor:
    """What the package asks of a tensor of torch, on a device that is not the CPU until ``cpu`` is called."""

    def __init__(self, values: Any, is_on_cpu: bool = False) -> None:
        self._values = values
        self._is_on_cpu = is_on_cpu

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return Tensor(self._values, is_on_cpu=True)

    def numpy(self) -> numpy.ndarray:
        if not self._is_on_cpu:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if self._values is None:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return numpy.asarray(self._values)

    def __array__(self, *_: object, **__: object) -> numpy.ndarray:
        raise AssertionError("a tensor is moved to the CPU first")


@pytest.fixture
def tensor() -> type[Tensor]:
    return Tensor

