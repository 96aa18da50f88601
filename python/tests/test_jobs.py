"""The jobs give what the command line gives, from any kind of model and samples."""

from __future__ import annotations

import hashlib
import inspect as signatures
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import paredown as pd
import pytest
from paredown import _paredown

#: Options of the command line that write files or print, which results of the API do themselves.
OF_THE_TERMINAL = {"all", "dry-run", "external-data", "force", "help", "json", "output", "plan-out", "quiet", "report"}
#: Arguments of the API that are typed as arguments without a name, or in another way.
OF_PYTHON = {"engine", "metric", "model", "original", "rewritten", "progress"}
#: Options that a command takes with all others on samples and makes no use of.
UNUSED = {"gather": {"eval"}}


def command(*typed: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "paredown", *typed], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("job", [pd.prune, pd.factorize, pd.compress, pd.tune, pd.inspect, pd.verify, pd.gather, pd.sweep])
def test_options_are_those_of_the_command(job: Any) -> None:
    of_command = set(_paredown.options_of(job.__name__)) - OF_THE_TERMINAL - UNUSED.get(job.__name__, set())
    of_function = {name.replace("_", "-") for name in signatures.signature(job).parameters} - OF_PYTHON - OF_THE_TERMINAL
    assert of_function == of_command


def test_the_command_and_the_function_write_the_same_bytes(tmp_path: Path, resnet: str) -> None:
    typed = ["prune", resnet, "--macs", "50%", "--data", "fixtures/calib.npz", "--seed", "3"]
    done = command(*typed, "-o", str(tmp_path / "command.onnx"), "--quiet")
    assert done.returncode == 0, done.stderr
    pd.prune(resnet, macs=0.5, data="fixtures/calib.npz", seed=3).save(tmp_path / "function.onnx")
    digests = {hashlib.sha256((tmp_path / f"{name}.onnx").read_bytes()).digest() for name in ("command", "function")}
    assert len(digests) == 1


def test_a_model_is_a_path_bytes_or_a_message(mlp: str) -> None:
    content = Path(mlp).read_bytes()
    models = [mlp, Path(mlp), content, bytearray(content), onnx.load(mlp)]
    results = {pd.prune(model, ratio=0.5, align=1).model_bytes() for model in models}
    assert len(results) == 1
    with pytest.raises(TypeError, match="not int"):
        pd.prune(3, ratio=0.5)  # type: ignore[arg-type]


class Reader:
    """A ``CalibrationDataReader`` of ONNX Runtime."""

    def __init__(self, batches: list[dict[str, numpy.ndarray]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, numpy.ndarray] | None:
        return next(self._batches, None)


def test_samples_are_given_in_any_form(mlp: str, images: numpy.ndarray, tensor: Any, tmp_path: Path) -> None:
    parts = numpy.array_split(images, 4)
    # Files are read in the order of the list, which is not that of their names.
    files = [tmp_path / "second.npz", tmp_path / "first.npy"]
    numpy.savez(files[0], input=images[300:])
    numpy.save(files[1], images[:300])
    forms: dict[str, Any] = {
        "arrays": {"input": images},
        "an array": images,
        "not contiguous": {"input": images.repeat(2, axis=0)[::2]},
        "files": [files[1], files[0]],
        "dicts": [{"input": part} for part in parts],
        "tuples": [(part,) for part in parts],
        "a generator": (part for part in parts),
        "a reader": Reader([{"input": part} for part in parts]),
        "tensors": [[tensor(part)] for part in parts],
        "big endian": {"input": images.astype(">f4")},
    }
    expected = pd.prune(mlp, params=0.5, data="fixtures/calib.npz")
    for form, data in forms.items():
        result = pd.prune(mlp, params=0.5, data=data)
        assert result.report["calibration"]["samples"] == len(images), form
        # Batches of another size are summed in another order.
        assert result.plan == expected.plan, form


def test_files_that_are_missing_are_named(mlp: str, tmp_path: Path) -> None:
    with pytest.raises(pd.InputError, match="missing.npz is no file") as raised:
        pd.prune(mlp, params=0.5, data=["fixtures/calib.npz", tmp_path / "missing.npz"])
    assert raised.value.file == str(tmp_path / "missing.npz")


def test_shares_of_the_samples_make_the_file_of_all(tmp_path: Path, resnet: str) -> None:
    typed = ["gather", resnet, "--data", "fixtures/calib.npz", "--stats", str(tmp_path / "command")]
    assert command(*typed, "--quiet").returncode == 0
    new = pd.gather(resnet, data="fixtures/calib.npz", stats=tmp_path / "function")
    shares = [tmp_path / f"{number}" for number in (1, 2, 3)]
    for number, path in enumerate(shares, 1):
        pd.gather(resnet, data="fixtures/calib.npz", stats=path, share=f"{number}/3")
    some = pd.merge_stats([shares[2], shares[0]], tmp_path / "some")
    assert some.missing
    merged = pd.merge_stats([tmp_path / "some", shares[1]], tmp_path / "merged")
    assert merged == (new, [])
    contents = {(tmp_path / name).read_bytes() for name in ("command", "function", "merged")}
    assert len(contents) == 1
    with pytest.raises(pd.UsageError, match="at least two"):
        pd.merge_stats([shares[0]], tmp_path / "again")
    with pytest.raises(pd.InputError, match="no file of statistics"):
        pd.merge_stats([resnet, shares[0]], tmp_path / "again")
    with pytest.raises(pd.UsageError, match="`stats`"):
        pd.gather(resnet, data="fixtures/calib.npz")


def test_a_sweep_is_a_report_a_table_and_files(tmp_path: Path, mlp: str) -> None:
    data = {"data": "fixtures/calib.npz", "eval": "fixtures/eval.npz"}
    report = pd.sweep(mlp, tmp_path / "sizes", params=[0.6, 20_000], **data)
    assert [point["name"] for point in report["points"]] == ["params-60", "params-20000-in-all"]
    assert "params-60" in str(report)
    table = report.to_dataframe()
    assert list(table["params"] <= [0.6 * report["before"]["params"], 20_000]) == [True, True]
    assert json.loads((tmp_path / "sizes" / "sweep.json").read_text(encoding="utf-8")) == report
    assert (tmp_path / "sizes" / "sweep.html").read_text(encoding="utf-8") == report.to_html()
    assert "srcdoc=" in report._repr_html_()
    pruned = pd.prune(mlp, params=0.6, **data)
    assert (tmp_path / "sizes" / "params-60.onnx").read_bytes() == pruned.model_bytes()
    # What is finished is taken from there.
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "sizes").glob("*.onnx")}
    again = pd.sweep(mlp, tmp_path / "sizes", params="60%,20000", **data)
    assert again["points"] == report["points"]
    assert times == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "sizes").glob("*.onnx")}


def test_a_sweep_of_a_model_in_memory_is_judged_by_a_metric(tmp_path: Path, mlp: str) -> None:
    report = pd.sweep(Path(mlp).read_bytes(), tmp_path, macs=0.5, data="fixtures/calib.npz", metric=accuracy)
    (point,) = report["points"]
    assert report["quality"] == "your metric"
    assert point["metric"]["after"] > 0.9
    assert point["latencies"], "ONNX Runtime of this interpreter measures"
    with pytest.raises(pd.UsageError, match="is not an amount"):
        pd.sweep(mlp, tmp_path / "other", macs=["half"], data="fixtures/calib.npz")


def test_torch_loads_samples(mlp: str, labelled: dict[str, numpy.ndarray]) -> None:
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(labelled[name]) for name in ("input", "labels")]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors), batch_size=64)
    result = pd.prune(mlp, params=0.5, data=loader)
    assert result.report["verify"]["accuracy"]["after"] > 0.9


def test_labels_come_last_in_a_tuple(resnet: str, labelled: dict[str, numpy.ndarray]) -> None:
    batches = [(labelled["input"][i : i + 64], labelled["labels"][i : i + 64]) for i in range(0, 256, 64)]
    result = pd.prune(resnet, ratio=0.25, eval=batches)
    accuracy = result.report["verify"]["accuracy"]
    assert accuracy["before"] > 0.99
    assert 0 < accuracy["after"] < 1


def test_a_result_is_saved_proved_and_run(tmp_path: Path, mlp: str, images: numpy.ndarray) -> None:
    result = pd.prune(mlp, ratio=0.5, no_verify=True)
    assert result.report["verify"]["valid"] is None
    phases: list[str] = []
    assert result.prove(progress=phases.append).report["verify"]["valid"] is True
    assert phases == ["proving"]
    path = tmp_path / "small.onnx"
    result.save(path).save_plan(tmp_path / "plan.json")
    assert path.read_bytes() == result.model_bytes()
    outputs = onnxruntime.InferenceSession(result.model_bytes()).run(None, {"input": images[:3]})
    assert outputs[0].shape == (3, 10)
    report = pd.verify(mlp, path, plan=tmp_path / "plan.json", data={"input": images})
    assert report["verify"]["exact_max_rel"] <= 1e-4


def test_a_plan_is_carried_out_again(mlp: str) -> None:
    first = pd.prune(mlp, ratio=0.5)
    assert pd.prune(mlp, plan=first.plan).model_bytes() == first.model_bytes()
    split = pd.factorize(mlp, rank=16)
    assert pd.factorize(mlp, plan=split.plan).model_bytes() == split.model_bytes()


def test_a_report_is_a_dictionary_a_text_and_a_table(resnet: str) -> None:
    report = pd.inspect(resnet)
    assert isinstance(report, dict)
    assert "free" in str(report)
    table = report.to_dataframe()
    assert list(table["name"]) == [group["name"] for group in report["groups"]]
    with pytest.raises(pd.UsageError, match="'model': choose one of groups"):
        report.to_dataframe("model")


def test_a_report_is_a_page(tmp_path: Path, mlp: str) -> None:
    result = pd.prune(mlp, ratio=0.5)
    result.save_report(tmp_path / "report.html").save_report(tmp_path / "report.json")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page == result.report.to_html()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == result.report
    assert "srcdoc=" in result.report._repr_html_()
    with pytest.raises(pd.OutputError):
        result.save_report(tmp_path / "no folder" / "report.html")


def test_a_student_follows_its_teacher(mlp: str) -> None:
    small = pd.prune(mlp, params=0.2, data="fixtures/calib.npz")
    trained = pd.tune(small.model_bytes(), teacher=mlp, data="fixtures/train.npz", epochs=2)
    assert trained.report["training"][0]["epochs"]


def test_progress_is_told_in_the_thread_of_the_caller(resnet: str) -> None:
    import threading

    heard: list[tuple[str, bool]] = []
    here = threading.current_thread()
    pd.prune(resnet, macs=0.5, data="fixtures/calib.npz", progress=lambda phase: heard.append((phase, threading.current_thread() is here)))
    assert any("repairing" in phase for phase, _ in heard)
    assert all(is_here for _, is_here in heard)


def test_progress_without_a_function_is_shown(mlp: str, capsys: pytest.CaptureFixture[str]) -> None:
    pd.prune(mlp, params=0.5, data="fixtures/calib.npz", progress=True)
    assert capsys.readouterr().err.strip()


def test_the_command_is_the_same(tmp_path: Path, mlp: str) -> None:
    assert command("--version").stdout.split()[:2] == ["paredown", pd.__version__]
    assert command("prune", mlp, "--ratio", "2").returncode == 2
    assert command("inspect", str(tmp_path / "missing.onnx")).returncode == 3


def accuracy(session: onnxruntime.InferenceSession) -> float:
    with numpy.load("fixtures/eval.npz") as file:
        scores = session.run(None, {"input": file["input"]})[0]
        return float((scores.argmax(axis=1) == file["labels"]).mean())


def test_a_metric_judges_candidates_by_session_or_bytes(mlp: str) -> None:
    result = pd.prune(mlp, max_drop=0.02, data="fixtures/train.npz", metric=accuracy)
    figures = result.report["metric"]
    session = onnxruntime.InferenceSession(result.model_bytes())
    assert figures["after"] == pytest.approx(accuracy(session))
    assert figures["after"] >= 0.98 * figures["before"]
    assert result.report["model"]["after"]["macs"] < 0.5 * result.report["model"]["before"]["macs"]

    def size(content: bytes) -> float:
        return len(content)

    report = pd.verify(mlp, result.model_bytes(), metric=size, lower_is_better=True)
    assert report["metric"]["lower_is_better"] is True
    assert report["metric"]["after"] == len(result.model_bytes())


def test_a_proof_that_comes_later_measures_the_metric(mlp: str) -> None:
    result = pd.prune(mlp, ratio=0.25, metric=accuracy, no_verify=True)
    assert result.prove().report["metric"]["after"] > 0.5
