"""The examples run, and show what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    import nbformat

    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(ROOT / "examples" / "python" / "digits.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "stored without outputs"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    shown = [output["data"] for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    pages = [data["text/html"] for data in shown if "srcdoc=" in data.get("text/html", "")]
    assert len(pages) == 1
    assert "Width of every layer" in pages[0]
    figures = next(data["text/plain"] for data in shown if "'after'" in data.get("text/plain", ""))
    assert eval(figures)["after"] > 0.98


def test_the_detector_loses_no_more_of_its_f1_score_than_allowed(tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = ["--weights=random", "--count=8", "--size=128", "--threshold=0.5", "--max-drop=0.5", "--out", tmp_path / "small.onnx"]
    program = ROOT / "examples" / "python" / "detector.py"
    done = subprocess.run([sys.executable, program, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"your metric .*? (\S+) % worse", done.stdout)
    assert found and 0 <= float(found[1]) <= 50, done.stdout
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "detector.onnx").stat().st_size
