"""Which ranks are worth it? Three ways of choosing them at equal cost, and plain SVD for contrast.

    cargo build --release --bins
    python bench/ranks.py digits --paredown target/release/paredown
    python bench/ranks.py minilm --paredown target/release/paredown --models models --sts FOLDER   # stsb-en-{train,dev}.csv

* chosen: paredown's budget (the knapsack over layers weighed by what each does to the output);
* uniform: every layer keeps the same share of its cost;
* threshold: every layer keeps the same share of its weight's energy (Σσ²);
* plain SVD: the uniform ranks, split without data.

All but the last are split on the same unlabelled data. digits: convolutions of fixtures/digits_resnet.onnx, a share of the
network's MACs, accuracy on eval.npz. minilm: 36 linear layers, a share of their parameters, Spearman ×100 on the STS-B dev
split, 512 training sentences. Prints one Markdown row each.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EVAL = ROOT / "fixtures" / "eval.npz"


@dataclass(frozen=True)
class Layer:
    """A layer that can be split: `outputs`×`inputs` with a window of `window` (empty for matrices)."""

    name: str
    outputs: int
    inputs: int
    window: tuple[int, ...]

    def price(self, conv: str, rank: int) -> float:
        """Cost at a rank as a share of the whole layer's."""
        o, i, area = self.outputs, self.inputs, math.prod(self.window)
        if conv == "spatial" and area > 1:
            cost = rank * (i * self.window[0] + o * self.window[1])
        elif conv == "tucker2" and area > 1:
            inner = max(1, (rank * i + o // 2) // o)
            cost = i * inner + inner * rank * area + rank * o
        else:
            cost = rank * (i * area + o)
        return cost / (o * i * area)

    def rank(self, conv: str, share: float) -> int:
        """The largest rank that costs at most this share."""
        fitting = [rank for rank in range(1, self.outputs * self.inputs) if self.price(conv, rank) <= share]
        return max(fitting, default=1)


class Runner:
    """Runs `paredown factorize` on one model with fixed options."""

    def __init__(self, paredown: str, model: Path, conv: str, options: list[str], folder: Path):
        self.base = [paredown, "factorize", str(model), "--conv", conv, *options]
        self.conv = conv
        self.folder = folder

    def run(self, *options: str, out: Path | None = None) -> dict:
        report = self.folder / "report.json"
        target = ["-o", str(out), "--force"] if out else ["--dry-run", "--no-verify"]
        subprocess.run([*self.base, *options, *target, "--quiet", "--report", str(report)], check=True)
        return json.loads(report.read_text())

    def layers(self) -> list[Layer]:
        """Every layer that a rank can be chosen for."""
        found = []
        for told in self.run("--rank", "1")["layers"]:
            if told.get("rank_for_90") is None:
                continue
            if len(told["shape"]) == 2:
                inputs, outputs = told["shape"]
                found.append(Layer(told["name"], outputs, inputs, ()))
            else:
                outputs, inputs, *window = told["shape"]
                found.append(Layer(told["name"], outputs, inputs, tuple(window)))
        return found

    def planned(self, ranks: dict[str, int]) -> list[str]:
        path = self.folder / "plan.json"
        path.write_text(json.dumps({"version": 1, "groups": [], "ranks": ranks}))
        return ["--plan", str(path)]


def largest(runner: Runner, figure: str, budget: float, ranks) -> list[str]:
    """The plan of the largest share whose `ranks(share)` stay within the budget of the whole model."""
    low, high, best = 0.0, 1.0, None
    for _ in range(11):
        share = (low + high) / 2
        plan = runner.planned(ranks(share))
        if runner.run(*plan)["model"]["after"][figure] <= budget:
            low, best = share, ranks(share)
        else:
            high = share
    return runner.planned(best)


def compare(title: str, runner: Runner, data: list[str], figure: str, budget: float, score, fixed: int) -> None:
    """One row for each way; `fixed` is what no split can save, `runner` has no data."""
    layers = runner.layers()
    whole = runner.run("--rank", "1")["model"]["before"][figure]

    def uniform(share: float) -> dict[str, int]:
        ranks = {layer.name: layer.rank(runner.conv, share) for layer in layers}
        return {layer.name: rank for layer in layers if layer.price(runner.conv, rank := ranks[layer.name]) < 1}

    def threshold(share: float) -> dict[str, int]:
        told = runner.run("--energy", str(share), "--align", "1")["layers"]
        return {layer["name"]: layer["rank"] for layer in told if layer.get("rank") is not None}

    ways = {
        "chosen": lambda: ["--" + figure, str(int(budget)), *data],
        "uniform": lambda: largest(runner, figure, budget, uniform) + data,
        "threshold": lambda: largest(runner, figure, budget, threshold) + data,
        "plain SVD": lambda: largest(runner, figure, budget, uniform),
    }
    for way, options in ways.items():
        typed, out = options(), runner.folder / "out.onnx"
        began = time.perf_counter()
        told = runner.run(*typed, out=out)
        seconds = time.perf_counter() - began
        left = 100 * (told["model"]["after"][figure] - fixed) / (whole - fixed)
        print(f"| {title} | {way} | {left:.1f} % | {score(told, out)} | {seconds:.1f} |", flush=True)


def digits(args: argparse.Namespace, folder: Path) -> None:
    model = ROOT / "fixtures" / "digits_resnet.onnx"
    data = ["--data", str(ROOT / "fixtures" / "calib.npz")]

    def accuracy(told: dict, _: Path) -> str:
        return f"{100 * told['verify']['accuracy']['after']:.2f}"

    for conv in args.conv:
        for share in args.share or (0.6, 0.5, 0.4):
            runner = Runner(args.paredown, model, conv, ["--eval", str(EVAL)], folder)
            macs = runner.run("--rank", "1")["model"]["before"]["macs"]
            compare(f"digits_resnet, {conv}, {100 * share:.0f} % of MACs", runner, data, "macs", share * macs, accuracy, 0)


def minilm(args: argparse.Namespace, folder: Path) -> None:
    sys.path.insert(0, str(ROOT / "bench"))
    import sts

    calib = folder / "calib"
    script = [sys.executable, str(ROOT / "bench" / "sts_calib.py"), "--data", str(args.sts / "stsb-en-train.csv")]
    subprocess.run([*script, "-n", "512", "--out", str(calib)], check=True, stdout=subprocess.DEVNULL)
    model = args.models / "minilm.onnx"

    def spearman(_: dict, out: Path) -> str:
        return f"{sts.spearman(out, args.sts / 'stsb-en-dev.csv'):.2f}"

    print(f"| MiniLM | original | 100.0 % | {spearman({}, model)} | |", flush=True)
    runner = Runner(args.paredown, model, "channel", [], folder)
    linear = sum(layer.inputs * layer.outputs for layer in runner.layers())
    fixed = runner.run("--rank", "1")["model"]["before"]["params"] - linear
    for share in args.share or (0.7, 0.5):
        title = f"MiniLM, {100 * share:.0f} % of 36 layers' parameters"
        compare(title, runner, ["--data", str(calib)], "params", fixed + share * linear, spearman, fixed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=("digits", "minilm"))
    parser.add_argument("--paredown", default="target/release/paredown")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--sts", type=Path, help="folder of stsb-en-train.csv and stsb-en-dev.csv")
    parser.add_argument("--conv", nargs="+", default=["channel", "spatial", "tucker2"])
    parser.add_argument("--share", nargs="+", type=float)
    args = parser.parse_args()
    print("| network | ranks | left | score | s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        (digits if args.network == "digits" else minilm)(args, Path(name))


if __name__ == "__main__":
    main()
