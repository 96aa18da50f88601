"""Constants of a job on one core, and what they come to on a network of 70 B parameters: the tables of docs/SCALE.md.

    RAYON_NUM_THREADS=1 python bench/scale.py measure MODEL.onnx SAMPLES.npz
    python bench/scale.py paper --forward 20 --sums 20 --solve 10
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

GIGA = 1e9


class Stage(NamedTuple):
    """Layers of a block that read the same rows: their inputs and all of their outputs."""

    name: str
    inputs: int
    outputs: int


#: A block of 70 B parameters: 64 heads of 128, 8 of them for keys and values, and a gated network of two layers.
BLOCKS, HIDDEN, INNER, NARROW = 80, 8192, 28672, 1024
STAGES = [
    Stage("query, key, value", HIDDEN, HIDDEN + 2 * NARROW),
    Stage("output", HIDDEN, HIDDEN),
    Stage("gate, up", HIDDEN, 2 * INNER),
    Stage("down", INNER, HIDDEN),
]
SAMPLES, TOKENS, WORKERS, CORES = 4096, 512, 64, 16

#: Rows of a layer for each input, ridges that are tried, and how many widths of a group are priced (on a fifth of the samples).
ROWS, RIDGES, WIDTHS, HELD_OUT = 20, 4, 3, 0.2
#: Groups of a block that are priced: query and key dimensions, value dimensions, neurons.
GROUPS = 3


def measure(model: str, samples: str) -> None:
    """Times passes over the samples, sums and solves."""
    import paredown as pd

    with np.load(samples) as file:
        arrays = {name: file[name] for name in file.files}
    count = len(next(iter(arrays.values())))
    with tempfile.TemporaryDirectory() as folder:
        seconds = {}
        for part in (count // 2, count):
            path = Path(folder, str(part))
            start = time.perf_counter()
            pd.gather(model, data={name: array[:part] for name, array in arrays.items()}, stats=path)
            seconds[part] = time.perf_counter() - start
            print(f"gather: {part} samples, {seconds[part]:.1f} s, {os.path.getsize(path)} bytes")
        each = (seconds[count] - seconds[count // 2]) / (count - count // 2)
        print(f"a sample more: {each * 1e3:.2f} ms")
    result = pd.prune(model, ratio=0.01, data={name: array[:32] for name, array in arrays.items()}, align=1)
    before = result.report["model"]["before"]
    print(f"forward: {2e-6 * before['macs'] / before['latency_ms']:.1f} GFLOP/s ({before['latency_ms']:.2f} ms a sample)")
    for width in (2048, 4096, 8192):
        sums_and_solves(pd, width)


def sums_and_solves(pd: Any, width: int) -> None:
    """Times the sums over one layer's inputs, and its solves: twice the rows take the same solves."""
    model, random = network(width), np.random.default_rng(0)
    seconds = {}
    for rows in (width, 2 * width):
        data = {"x": random.standard_normal((rows, 64), dtype=np.float32)}
        report = pd.prune(model, ratio=0.5, criterion="l2", align=1, data=data, no_verify=True).report
        seconds[rows] = report["seconds"]["repair"]
    # Half of the neurons are left.
    inputs, outputs = width // 2, 64
    sums = (seconds[2 * width] - seconds[width]) / width
    solve = max(seconds[width] - width * sums, 1e-9)
    print(
        f"{inputs} inputs: {1e-9 * flops_of_sums(inputs, outputs) / sums:.1f} GFLOP/s of sums, {solve:.2f} s to solve, "
        f"{1e-9 * flops_of_solve(inputs, outputs) / solve:.1f} GFLOP/s"
    )


def network(width: int) -> bytes:
    """A network of two layers with this many neurons between 64 inputs and outputs."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(1)
    shapes = {"w1": (64, width), "b1": (width,), "w2": (width, 64), "b2": (64,)}
    stored = [numpy_helper.from_array(random.standard_normal(shape, dtype=np.float32), name) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "w2", "b2"], ["y"]),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 64])] for name in ("x", "y")]
    graph = helper.make_graph(nodes, "network", *ends, stored)
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return model


def flops_of_sums(inputs: int, outputs: int) -> float:
    """Of a row: half of the products of inputs with each other, and those with targets."""
    return inputs * inputs + 2 * inputs * outputs


def flops_of_solve(inputs: int, outputs: int) -> float:
    """A Cholesky factorization, a solution, and an error on held-out rows, for every ridge and once more for the one that is chosen."""
    each = inputs**3 / 3 + 2 * inputs**2 * outputs
    return RIDGES * (each + 2 * inputs**2 * outputs) + each


def paper(forward: float, sums: float, solve: float) -> None:
    """The job on paper. Speeds are of one core, in GFLOP/s."""
    parameters = BLOCKS * sum(stage.inputs * stage.outputs for stage in STAGES)
    print(f"{parameters / GIGA:.1f} B parameters in blocks, {4 * parameters / GIGA:.0f} GB in float32")
    print("\n| stage | sums in memory, GB | sums that move, GB | weights, GB | rows | sums, s | solve, min | memory to solve, GB |")
    print("|---|---|---|---|---|---|---|---|")
    moved = summed = solved = weights = 0.0
    for name, k, n in STAGES:
        held, sent = 2 * 8 * (k * k + k * n) / GIGA, 2 * 8 * (k * k / 2 + k * n) / GIGA
        rows = ROWS * k
        seconds = rows * flops_of_sums(k, n) / (WORKERS * CORES * sums * GIGA)
        minutes = flops_of_solve(k, n) / (CORES * solve * GIGA) / 60
        peak = held + 8 * (k * k * (1 + RIDGES) + (2 + RIDGES) * k * n) / GIGA
        print(f"| {name} | {held:.1f} | {sent:.1f} | {4 * k * n / GIGA:.2f} | {rows} | {seconds:.1f} | {minutes:.1f} | {peak:.0f} |")
        moved, summed, solved, weights = moved + sent, summed + seconds, solved + minutes, weights + 4 * k * n / GIGA
    each = SAMPLES / WORKERS
    run = 2 * parameters * TOKENS * each / (CORES * forward * GIGA) / 3600
    frontier = 2 * 4 * HIDDEN * TOKENS * each / GIGA
    print(f"\nheld: {frontier:.1f} GB of frontiers a worker; {moved:.1f} GB of sums and {weights:.1f} GB of weights a block")
    print(f"one pass of all samples: {run:.1f} h")
    print(f"repair: {2 * run:.1f} h of runs, {BLOCKS * summed / 3600:.1f} h of sums, {BLOCKS * solved / 60:.1f} h of solves")
    for gbit in (10, 100):
        hours = BLOCKS * (6 * moved + weights) / (gbit / 8) / 3600
        print(f"network at {gbit} Gbit/s: {hours:.1f} h in a tree of 6 levels")
    pricing = GROUPS * BLOCKS * WIDTHS * 0.5 * HELD_OUT
    print(f"prices: {pricing:.0f} passes of all samples, {pricing * run:.0f} h")
    stats = sum(8 * stage.inputs**2 / 2 for stage in STAGES) * BLOCKS * 2 / GIGA
    print(f"file of statistics: {stats:.0f} GB, {8 * stats:.0f} GB to the caller")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = arguments.add_subparsers(dest="command", required=True)
    measured = commands.add_parser("measure")
    measured.add_argument("model")
    measured.add_argument("samples")
    on_paper = commands.add_parser("paper")
    for name in ("forward", "sums", "solve"):
        on_paper.add_argument(f"--{name}", type=float, required=True, help="GFLOP/s of one core")
    typed = arguments.parse_args()
    if typed.command == "measure":
        measure(typed.model, typed.samples)
    else:
        paper(typed.forward, typed.sums, typed.solve)


if __name__ == "__main__":
    main()
