"""Accuracy of a latency budget beside that of a budget of multiply-accumulates that was tuned by hand to the same time.

    python bench/equal_latency.py MODEL --data calib.npz --metric 'python evaluate.py {model}' [--latency 50%] [--arguments …]

Prunes the model to the latency budget, then to budgets of multiply-accumulates until one takes the same time within 1 %, or
until six have been tried; the one nearest in time counts. Times are medians in ONNX Runtime on one thread, original and results in
alternation. The metric is the last number that the command prints. All jobs share one gathering of statistics. Prints one row
of a Markdown table.
"""

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "real"))
from measure import latency

TRIED, WITHIN = 6, 0.01


def prune(binary: str, model: Path, target: Path, arguments: list[str]) -> None:
    command = [binary, "prune", str(model), "-o", str(target), "--force", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)}\n{done.stderr}")


def judged(command: str, model: Path) -> float:
    said = subprocess.run(command.replace("{model}", shlex.quote(str(model))), shell=True, capture_output=True, text=True, check=True)
    return float(re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", said.stdout)[-1])


def share(data: Path, model: Path, results: list[Path]) -> list[float]:
    """The time of each result, in units of the original's."""
    original, *others = latency(data, [model, *results])
    return [each / original for each in others]


def tuned(make, time_of, wanted: float, most: float) -> tuple[float, Path, float]:
    """The budget whose result takes the wanted time, by halving: budget, result and its time."""
    low, high, best = 0.0, most, None
    budget = wanted
    for _ in range(TRIED):
        result = make(budget)
        found = time_of(result)
        if best is None or abs(found - wanted) < abs(best[2] - wanted):
            best = (budget, result, found)
        if abs(found / wanted - 1) <= WITHIN:
            break
        low, high = (budget, high) if found < wanted else (low, budget)
        # Time is about proportional to the budget, until that leaves the interval.
        budget = budget * wanted / found
        if not low < budget < high:
            budget = (low + high) / 2
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--metric", required=True)
    parser.add_argument("--latency", default="50%")
    parser.add_argument("--binary", default="target/release/paredown")
    parser.add_argument("--name")
    parser.add_argument("--arguments", default="", help="options for all jobs, in one string")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        common = ["--data", str(given.data), "--stats", f"{folder}/statistics", "--no-verify", *shlex.split(given.arguments)]
        fast = Path(folder) / "latency.onnx"
        prune(given.binary, given.model, fast, [*common, "--latency", given.latency])
        (wanted,) = share(given.data, given.model, [fast])

        def make(budget: float) -> Path:
            result = Path(folder) / f"macs_{budget:.4f}.onnx"
            prune(given.binary, given.model, result, [*common, "--macs", f"{100 * budget:.2f}%"])
            return result

        def time_of(result: Path) -> float:
            # Relative to the other result, so that a change of the machine's speed counts for both.
            first, second = share(given.data, given.model, [fast, result])
            return wanted * second / first

        budget, by_hand, found = tuned(make, time_of, wanted, 1.0)
        metrics = [judged(given.metric, each) for each in (given.model, fast, by_hand)]
    name = given.name or (given.model.parent.name if given.model.stem == "model" else given.model.stem)
    print(f"| {name} | {metrics[0]:.4g} | {wanted:.3f} | {metrics[1]:.4g} | {budget:.1%} | {found:.3f} | {metrics[2]:.4g} |", flush=True)


if __name__ == "__main__":
    main()
