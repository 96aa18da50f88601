"""The examples of the docstrings and the snippets of the guide run as they are printed."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import paredown
import pytest

from conftest import ROOT

PAGES = sorted((ROOT / "docs" / "guide").glob("*.md"))

#: What a page finds in its folder, and which fixture it is.
FILES = {
    "model.onnx": "digits_resnet.onnx",
    "vit.onnx": "digits_vit.onnx",
    "mlp.onnx": "digits_mlp.onnx",
    "samples.npz": "calib.npz",
    "labelled.npz": "eval.npz",
    "train.npz": "train.npz",
}


@pytest.mark.parametrize("name", ["paredown", *(f"paredown.{module.name}" for module in pkgutil.iter_modules(paredown.__path__))])
def test_docstrings_are_true(name: str) -> None:
    if name == "paredown.__main__":
        return
    if name == "paredown.ray":
        pytest.importorskip("ray", reason="ray is not installed")
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def test_public_functions_have_examples() -> None:
    public = [getattr(paredown, name) for name in paredown.__all__]
    functions = [item for item in public if callable(item) and not isinstance(item, type)]
    assert len(functions) >= 5
    assert all(">>>" in (function.__doc__ or "") for function in functions)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.stem == "cluster":
        pytest.importorskip("ray", reason="ray is not installed")
    for name, fixture in FILES.items():
        shutil.copy(ROOT / "fixtures" / fixture, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, started in {"paredown": "-m paredown ", "python": ""}.items():
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {started}"$@"\n', encoding="utf-8")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    names: dict[str, object] = {}
    for language, snippet in re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        if language == "sh":
            done = subprocess.run(["bash", "-e", "-c", snippet], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{snippet}\n{done.stdout}\n{done.stderr}"
        elif language == "python":
            exec(compile(snippet, str(page), "exec"), names)
        else:
            assert language == "text", f"a snippet in {language} is not run"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target
