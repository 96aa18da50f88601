"""Prunes and factorizes the networks of a folder to half of their MACs, measures them, and writes bench/REAL.md.

    python bench/real/page.py FOLDER --binary target/release/paredown [--network NAME …] [-o bench/REAL.md]
    python bench/real/page.py FOLDER --render -o bench/REAL.md

`make.py` fills the folder. Each network's figures are kept in FOLDER/results/NAME.json, so that one network can be
measured again; the page shows all of them. `--render` measures nothing, and `--summary` writes the table of README.md
instead. `--before-job` and `--before-latency` name a command to put in front of a measurement, such as `taskset -c 0`.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
from catalogue import CATALOGUE, VERBS
from metrics import metric
from networks import Network, faults
from report import OUT_OF_REACH, TARGET, page, summary

MEASURE = Path(__file__).with_name("measure.py")
# What is to remain, of the MACs. The second is tried where the first is out of reach.
BUDGETS = ("50%", "65%")


@dataclass(frozen=True)
class Setting:
    """How jobs are run."""

    folder: Path
    binary: str
    before_job: list[str]
    before_latency: list[str]


def measured(before: list[str], *arguments: str) -> Any:
    command = [*before, sys.executable, str(MEASURE), *arguments]
    environment = os.environ | {"PAREDOWN_TARGET": TARGET}
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def compressed(setting: Setting, name: str, verb: str) -> dict[str, Any]:
    """One verb on one network, its metric included; under `said`, why nothing was written."""
    folder = setting.folder / name
    written, report = folder / f"{verb}.onnx", folder / f"{verb}.json"
    found: dict[str, Any] = {}
    for budget in BUDGETS:
        written.unlink(missing_ok=True)
        arguments = [verb, str(folder / "model.onnx"), "-o", str(written), "--macs", budget]
        arguments += ["--data", str(folder / "calib.npz"), "--report", str(report), "--force"]
        found = {"budget": budget, **measured(setting.before_job, "job", setting.binary, *arguments)}
        if found["code"] != OUT_OF_REACH:
            break
    if found["code"] == 0:
        found |= {
            "said": "",
            "model": json.loads(report.read_text())["model"]["after"],
            "metric": metric(folder, written),
        }
        found["faults"] = faults(Network(name, folder / "model.onnx", folder / "calib.npz"), written)
    return found


def network(setting: Setting, name: str) -> dict[str, Any]:
    """Everything about one network."""
    folder = setting.folder / name
    verbs = {verb: compressed(setting, name, verb) for verb in VERBS}
    report = next((folder / f"{verb}.json" for verb in VERBS if verbs[verb]["code"] == 0), None)
    original = json.loads(report.read_text())["model"]["before"] if report else {}
    found = {"original": {"metric": metric(folder), "model": original}, **verbs}
    files = {"original": folder / "model.onnx"} | {v: folder / f"{v}.onnx" for v in VERBS if verbs[v]["code"] == 0}
    times = measured(setting.before_latency, "latency", str(folder / "calib.npz"), *map(str, files.values()))
    for which, milliseconds in zip(files, times, strict=True):
        found[which]["ms"] = milliseconds
    return found


def processor() -> str:
    """The name of this machine's processor, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--binary", default="target/release/paredown")
    parser.add_argument("--network", action="append", default=[])
    parser.add_argument("--before-job", default="")
    parser.add_argument("--before-latency", default="")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    results = options.folder / "results"
    results.mkdir(exist_ok=True)
    before_job, before_latency = shlex.split(options.before_job), shlex.split(options.before_latency)
    setting = Setting(options.folder.resolve(), options.binary, before_job, before_latency)
    made = [name for name in CATALOGUE if (options.folder / name / "model.onnx").exists()]
    measures = not (options.render or options.summary)
    for name in (options.network or made) if measures else ():
        figures = network(setting, name)
        figures["machine"] = {"processor": processor(), "onnxruntime": onnxruntime.__version__}
        (results / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
        print(name, {verb: figures[verb].get("metric", figures[verb]["said"]) for verb in VERBS}, flush=True)
    kept = {name: results / f"{name}.json" for name in CATALOGUE}
    found = {name: json.loads(path.read_text()) for name, path in kept.items() if path.exists()}
    text = summary(found) if options.summary else page(found)
    if options.output:
        options.output.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
