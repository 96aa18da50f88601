"""How well a latency budget is met: predicted and measured times of several networks.

    python bench/latency.py MODEL … [--binary target/release/paredown] [--latency 50%] [--runtime onnxruntime tract] [--data | --sizes]

Prunes each model to the budget, without data or (`--data`) with the `calib.npz` beside it, and prints a Markdown table: the
predicted share of the first result, the measured share of the first and the last one, the number of results that were
measured, and how long the operators took to time. The error is that of the first prediction. `--sizes` takes only the sizes of open
dimensions from `calib.npz`.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx

HEADER = "| network | runtime | original, ms | predicted | measured first | error | measured last | results | timing, s |"


def name(model: Path) -> str:
    return model.parent.name if model.stem == "model" else model.stem


def job(binary: str, model: Path, latency: str, runtime: str, extra: list[str]) -> dict | str:
    """The report, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [binary, "prune", str(model), "--dry-run", "--no-verify", "--latency", latency, "--runtime", runtime]
        command += ["--bench-table", str(Path(folder) / "times.json"), "--report", str(report), *extra]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        if said.returncode != 0:
            return said.stderr.strip().splitlines()[0]
        return json.loads(report.read_text())


def sizes(model: Path) -> list[str]:
    """The options that give the open dimensions of a model the sizes of its samples."""
    options = []
    with np.load(model.parent / "calib.npz") as samples:
        for given in onnx.load(model, load_external_data=False).graph.input:
            if given.name not in samples:
                continue
            shape, dims = samples[given.name].shape, given.type.tensor_type.shape.dim
            # An array with one axis more holds whole runs.
            runs = len(shape) - len(dims)
            for axis, dim in enumerate(dims):
                if not dim.HasField("dim_value") and (axis > 0 or runs):
                    options += ["--dim", f"{given.name}:{axis}={shape[axis + runs]}"]
    return options


def row(model: Path, runtime: str, found: dict | str) -> str:
    if isinstance(found, str):
        return f"| {name(model)} | {runtime} | {found} |"
    budget = found["latency_budget"]
    measured = [each["after"]["median_ms"] / each["before"]["median_ms"] for each in budget["rounds"]]
    predicted = budget["rounds"][0]["predicted"]
    error = abs(predicted / measured[0] - 1)
    seconds = found["seconds"].get("time operators", 0)
    return (
        f"| {name(model)} | {runtime} | {budget['before_ms']:.3g} | {predicted:.1%} | {measured[0]:.1%} | {error:.1%} "
        f"| {measured[-1]:.1%} | {len(measured)} | {seconds:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--binary", default="target/release/paredown")
    parser.add_argument("--latency", default="50%")
    parser.add_argument("--runtime", nargs="+", default=["onnxruntime", "tract"])
    parser.add_argument("--data", action="store_true")
    parser.add_argument("--sizes", action="store_true")
    arguments = parser.parse_args()
    print(HEADER)
    print("|" + "---|" * HEADER.count(" | ") + "---|")
    for model in arguments.models:
        extra = ["--data", str(model.parent / "calib.npz")] if arguments.data else sizes(model) if arguments.sizes else []
        for runtime in arguments.runtime:
            print(row(model, runtime, job(arguments.binary, model, arguments.latency, runtime, extra)), flush=True)


if __name__ == "__main__":
    main()
