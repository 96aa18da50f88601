"""What workers of a local Ray cluster cost and save: seconds, bytes on the way, and whether the model is the same.

    python bench/ray_jobs.py MODEL.onnx SAMPLES.npz --options '{"ratio": 0.5}' --workers 1 2 4 --repeat 3
    python bench/ray_jobs.py MODEL.onnx SAMPLES.npz --options '{"ratio": 0.5}' --workers 2 --kills 20

The job alone and with each number of workers take turns. Seconds are medians of whole calls; the cluster runs before them. With
one worker, it has all processors. `--kills` kills a worker at a random moment of every job.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import paredown as pd
import paredown.ray
import ray

SIZES: dict[str, int] = {}


class Counting(pd.ray.Engine):
    """An engine that keeps the sizes of what its processes left for each other."""

    @contextlib.contextmanager
    def team(self, *args: Any) -> Iterator[tuple[Any, int]]:
        SIZES.clear()
        with super().team(*args) as (seat, workers):
            yield seat, workers
            SIZES.update(seat.sizes())


def kinds() -> dict[str, tuple[int, int]]:
    """How many things of each kind were left, and their bytes."""
    found: dict[str, list[int]] = collections.defaultdict(list)
    for key, size in SIZES.items():
        found[key.split("/")[1].split(" ")[0] + (" of all" if key == "0/sums" else "")].append(size)
    return {kind: (len(sizes), sum(sizes)) for kind, sizes in found.items()}


def predicted(model: bytes, workers: int) -> int:
    """Bytes of the sums of all stages by the formula of docs/guide/cluster.md."""
    graph = onnx.load_from_string(model).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    layers: dict[tuple[str, int], int] = collections.defaultdict(int)
    first: dict[str, tuple[str, int]] = {}
    for node in graph.node:
        weights = [shapes[name] for name in node.input[1:2] if len(shapes.get(name, [])) > 1]
        if node.op_type not in ("Conv", "Gemm", "MatMul") or not weights:
            continue
        shape = weights[0]
        is_turned = node.op_type == "MatMul" or (node.op_type == "Gemm" and not any(a.name == "transB" and a.i for a in node.attribute))
        outputs = shape[1] if is_turned else shape[0]
        inputs = shape[0] if is_turned else int(onnx.numpy_helper.np.prod(shape[1:]))
        layers[node.input[0], inputs] += outputs
        first[node.output[0]] = (node.input[0], inputs)
    quarters = sum(1 if worker == 0 else (worker + 1) * 4 // workers - worker * 4 // workers for worker in range(workers))
    names = {key.split("/rows of ", 1)[1].rsplit("/", 1)[0] for key in SIZES if "/rows of " in key}
    return sum(
        16 * quarters * (inputs * (inputs + 1) // 2 + inputs * layers[at, inputs])
        for at, inputs in (first[name] for name in names if name in first)
    )


def killer(done: threading.Event, seconds: float, killed: list[int]) -> None:
    """Kills a worker after some seconds."""
    while not done.wait(0.01):
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and b"ray::served" in (folder / "cmdline").read_bytes():
                    if done.wait(seconds):
                        return
                    os.kill(int(folder.name), signal.SIGKILL)
                    killed.append(int(folder.name))
                    return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("samples")
    parser.add_argument("--verb", default="prune")
    parser.add_argument("--options", type=json.loads, default={"ratio": 0.5})
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--kills", type=int, default=0)
    args = parser.parse_args()
    cores = os.cpu_count() or 1
    os.environ["RAY_worker_niceness"] = "0"
    ray.init(num_cpus=max(cores, *args.workers), include_dashboard=False, log_to_driver=False)

    def job(workers: int) -> tuple[float, bytes]:
        engine = Counting(workers=workers, cpus=max(1, cores // workers)) if workers else None
        start = time.perf_counter()
        result = getattr(pd, args.verb)(args.model, data=args.samples, engine=engine, **args.options)
        return time.perf_counter() - start, result.model_bytes()

    _, expected = job(0)
    print(f"{args.verb} {args.options}: {hashlib.sha256(expected).hexdigest()[:16]}, {len(expected)} bytes")
    if args.kills:
        random.seed(0)
        workers = args.workers[0]
        # The first job starts the processes.
        whole = min(job(workers)[0] for _ in range(3))
        same = killed_in_all = 0
        for number in range(args.kills):
            done, killed = threading.Event(), list[int]()
            seconds = random.uniform(0.05, 0.9) * whole
            thread = threading.Thread(target=killer, args=(done, seconds, killed))
            thread.start()
            taken, found = job(workers)
            done.set()
            thread.join()
            same += found == expected
            killed_in_all += bool(killed)
            print(f"kill {number + 1}: after {seconds:.1f} s, {len(killed)} killed, {taken:.1f} s, same bytes: {found == expected}")
        print(f"{killed_in_all} of {args.kills} jobs lost a worker, {same} of {args.kills} have the same bytes (no kill: {whole:.1f} s)")
        return
    seconds = collections.defaultdict(list)
    for _ in range(args.repeat):
        for workers in (0, *args.workers):
            taken, found = job(workers)
            seconds[workers].append(taken)
            assert found == expected, f"{workers} workers make another model"
            if workers and len(seconds[workers]) == 1:
                print(f"{workers} workers: " + ", ".join(f"{count} {kind} {size / 1e6:.1f} MB" for kind, (count, size) in sorted(kinds().items())))
                measured = sum(size for key, size in SIZES.items() if "/rows of " in key)
                if measured:
                    print(f"  sums of stages by the formula: {predicted(found, workers) / 1e6:.1f} MB, measured {measured / 1e6:.1f} MB")
    alone = statistics.median(seconds[0])
    for workers, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{workers or 'no'} workers: {median:.1f} s ({median / alone:.2f}×), " + ", ".join(f"{one:.1f}" for one in taken))


if __name__ == "__main__":
    main()
