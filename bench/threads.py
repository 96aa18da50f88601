"""Speedup of results in ONNX Runtime on several threads and with several samples at once.

    python bench/threads.py SAMPLES.npz MODEL RESULT … [--threads 1 2] [--batch 1 8]

Prints one row of a Markdown table for each combination: medians of the original and of each result, which take turns, and how many
times as fast each result is. A batch repeats the first sample; a model whose number of samples is fixed has only its own.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "real"))
from measure import in_turns
from networks import Feed, Network, first_run, session


def batch(network: Network, samples: int) -> Feed | None:
    """The first sample so many times, if the axis in front of every input is open."""
    shapes = network.shapes()
    feed = first_run(network.samples, shapes)
    if samples > 1:
        if not all(shape and isinstance(shape[0], str) and feed[name].shape[0] == 1 for name, shape in shapes.items()):
            return None
        feed = {name: np.repeat(array, samples, 0) for name, array in feed.items()}
    return {name: np.array(array, order="C") for name, array in feed.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    given = parser.parse_args()
    network = Network("", given.model, given.samples)
    for samples in given.batch:
        feed = batch(network, samples)
        for threads in given.threads if feed else []:
            original, *results = in_turns([session(path, threads) for path in (given.model, *given.results)], feed)
            for result, taken in zip(given.results, results, strict=True):
                print(f"| {result.stem} | {samples} | {threads} | {original:.3g} → {taken:.3g} | {original / taken:.2f}× |", flush=True)


if __name__ == "__main__":
    main()
