"""What a job costs from Python beside the command line: seconds and peak memory of whole processes that take turns.

    python bench/python_cost.py --binary target/release/paredown fixtures/digits_resnet.onnx \
        --options '{"macs": 0.5, "data": "fixtures/calib.npz"}'

The command and the installed package must be built from the same sources in the same profile. Seconds are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

FROM_PYTHON = """
import json, sys
import paredown
verb, model, options, output = sys.argv[1:]
getattr(paredown, verb)(model, **json.loads(options)).save(output, force=True)
"""


class Cost(NamedTuple):
    """Wall-clock seconds, CPU seconds and peak memory in bytes of a process."""

    wall: float
    cpu: float
    memory: int


def cost(command: list[str]) -> Cost:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"exit code {process.returncode}: {' '.join(command)}")
    return Cost(time.perf_counter() - start, used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss)


def flags(options: dict[str, object]) -> list[str]:
    """Options of the package as those of the command line."""
    given = []
    for name, value in options.items():
        given.append("--" + name.replace("_", "-"))
        if value is not True:
            given.append(f"{100 * value}%" if name in ("macs", "params", "size") and isinstance(value, float) else str(value))
    return given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--binary", required=True)
    parser.add_argument("--verb", default="prune")
    parser.add_argument("--options", default='{"ratio": 0.5}', help="options of the package, as JSON")
    parser.add_argument("--runs", type=int, default=5)
    typed = parser.parse_args()

    options = json.loads(typed.options)
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder, "out.onnx"))
        line = [typed.binary, typed.verb, typed.model, "-o", output, "--force", *flags(options)]
        python = [sys.executable, "-c", FROM_PYTHON, typed.verb, typed.model, json.dumps(options), output]
        pairs = [(cost(line), cost(python)) for _ in range(typed.runs)]
    for name, figure in (("wall", "s"), ("cpu", "s"), ("memory", "MB")):
        before, after = (statistics.median(getattr(side, name) for side in sides) for sides in zip(*pairs, strict=True))
        scale = 1e6 if figure == "MB" else 1
        print(f"{name}: {before / scale:.2f} {figure} from the command line, {after / scale:.2f} {figure} from Python, {after / before:.3f}×")


if __name__ == "__main__":
    main()
