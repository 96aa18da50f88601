"""Measurements that run as processes of their own, so that a command in front of them can wait for a quiet machine.

    python bench/real/measure.py job BINARY ARGUMENT …
    python bench/real/measure.py latency SAMPLES.npz MODEL.onnx …

`job` runs paredown once: exit code, seconds, peak of the resident set, and what was said. `latency` prints the median
milliseconds of each model in ONNX Runtime on one thread. Both print one line of JSON.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from networks import Feed, Network, first_run, run, session

# Rounds of a latency: every model runs once in each.
SECONDS, FEWEST, MOST = 6.0, 15, 400
TIMEOUT = 3600.0


def job(binary: str, arguments: list[str]) -> dict[str, float | str]:
    done = run(binary, arguments, TIMEOUT)
    return {"code": done.code, "seconds": done.seconds, "megabytes": done.megabytes, "said": done.said}


def latency(samples: Path, models: list[Path]) -> list[float]:
    """Median milliseconds of each model on the first sample. All are alive, and they take turns."""
    shapes = Network("", models[0], samples).shapes()
    feed = {name: np.ascontiguousarray(array) for name, array in first_run(samples, shapes).items()}
    return in_turns([session(model) for model in models], feed)


def in_turns(runners: list[onnxruntime.InferenceSession], feed: Feed) -> list[float]:
    """Median milliseconds of each session on `feed`, in alternation."""
    for runner in runners * 3:
        runner.run(None, feed)
    times: list[list[float]] = [[] for _ in runners]
    started = time.perf_counter()
    while len(times[0]) < MOST and (len(times[0]) < FEWEST or time.perf_counter() - started < SECONDS):
        for runner, taken in zip(runners, times, strict=True):
            start = time.perf_counter()
            runner.run(None, feed)
            taken.append(1000 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


def main() -> None:
    verb, first, *rest = sys.argv[1:]
    found = job(first, rest) if verb == "job" else latency(Path(first), [Path(model) for model in rest])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
