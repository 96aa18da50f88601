"""Random jobs on every network of a folder: none may break, and what is refused says why.

    python bench/real/jobs.py FOLDER [--binary target/release/paredown] [--jobs 40] [--seed 0] [--network NAME …]

Draws the verb, how much is to go, criterion, scope, unit, repair, alignment, steps, patterns and seed; runs the job; checks
the file with onnx.checker and ONNX Runtime at three sizes of every dynamic axis. The same seed draws the same jobs. Exit
code 1: some job broke.
"""

import argparse
import random
import shlex
import sys
import tempfile
from pathlib import Path

from networks import Network, faults, networks, run

import onnx

WITHOUT_DATA = ["l1", "l2", "random"]
WITH_DATA = ["activation", "apoz", "fisher", "fluctuation", "obd", "obd-loss", "obs", "taylor", "wanda"]
DONE, NOTHING = 0, 4


def percent(draw: random.Random, low: float, high: float) -> str:
    return f"{draw.uniform(low, high):.0f}%"


def patterns(draw: random.Random, names: list[str]) -> list[str]:
    """Now and then some nodes or tensors that alone are, or are not, to be touched."""
    option = draw.choice(["--include", "--exclude", None, None, None])
    if option is None or not names:
        return []
    chosen = draw.sample(names, min(len(names), draw.choice([1, 3])))
    return [part for name in chosen for part in (option, name.replace("[", "?").replace("]", "?"))]


def prune(draw: random.Random, data: list[str], names: list[str]) -> list[str]:
    target = draw.choice(["--ratio", "--params", "--macs", "--size"])
    arguments = [target, f"{draw.uniform(0.05, 0.7):.2f}" if target == "--ratio" else percent(draw, 30, 95)]
    has_data = draw.random() < 0.7
    arguments += data if has_data else []
    if draw.random() < 0.7:
        arguments += ["--criterion", draw.choice(WITHOUT_DATA + (WITH_DATA if has_data else []))]
    if has_data and draw.random() < 0.6:
        arguments += ["--repair", draw.choice(["none", "bias", "bn", "lstsq"])]
    for option, choices, chance in (
        ("--scope", ["layer", "global"], 0.3),
        ("--unit", ["heads", "dims", "both"], 0.3),
        ("--align", ["2", "4", "8", "16"], 0.4),
        ("--min-keep", ["2", "8"], 0.2),
        ("--steps", ["2", "3"], 0.15),
    ):
        if draw.random() < chance:
            arguments += [option, draw.choice(choices)]
    if draw.random() < 0.2:
        arguments.append("--allow-shifts")
    return ["prune", *arguments, *patterns(draw, names)]


def factorize(draw: random.Random, data: list[str], names: list[str]) -> list[str]:
    target = draw.choice(["--params", "--macs", "--energy", "--rank"])
    amount = {"--rank": str(draw.choice([4, 16, 48])), "--energy": percent(draw, 60, 99)}
    arguments = [target, amount.get(target, percent(draw, 40, 95))]
    arguments += data if draw.random() < 0.7 else []
    if draw.random() < 0.5:
        arguments += ["--conv", draw.choice(["channel", "spatial", "tucker2", "none"])]
    if draw.random() < 0.3:
        arguments += ["--align", draw.choice(["1", "4", "16"])]
    return ["factorize", *arguments, *patterns(draw, names)]


def arguments(network: Network, draw: random.Random, output: Path) -> list[str]:
    """The command line of a random job."""
    data = ["--data", str(network.samples)]
    graph = onnx.load(network.model, load_external_data=False).graph
    names = sorted({tensor.name for tensor in graph.initializer if len(tensor.dims) > 1})
    verb, *rest = draw.choice([prune, prune, prune, factorize])(draw, data, names)
    return [verb, str(network.model), "-o", str(output), *rest, "--seed", str(draw.randrange(100))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--binary", default="target/release/paredown")
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--network", action="append", default=[])
    parser.add_argument("--timeout", type=float, default=900)
    options = parser.parse_args()
    counts = {"done": 0, "refused": 0, "broken": 0}
    for network in networks(options.folder, options.network):
        for number in range(options.jobs):
            draw = random.Random(f"{options.seed} {network.name} {number}")
            with tempfile.TemporaryDirectory() as folder:
                output = Path(folder) / "out.onnx"
                job = run(options.binary, arguments(network, draw, output), options.timeout)
                found = faults(network, output) if job.code == DONE else []
            is_broken = job.code not in (DONE, NOTHING) or bool(found)
            verdict = "broken" if is_broken else "done" if job.code == DONE else "refused"
            counts[verdict] += 1
            why = "; ".join(found) if found else "" if job.code == DONE else f"exit {job.code}: {job.reason}"
            print(f"{network.name} {number} {verdict} {job.seconds:.1f} s {job.megabytes:.0f} MB {why}", flush=True)
            if is_broken:
                print(f"    {options.binary} {shlex.join(job.arguments)}", flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 1 if counts["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
