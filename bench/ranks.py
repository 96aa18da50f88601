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
    """A layer that can be split: a map from `inputs` to `outputs` values that costs `cost` whole."""

    name: str
    inputs: int
    outputs: int
    cost: int

    def price(self, rank: int) -> float:
        """Cost at a rank; whole where that does not pay."""
        return min(self.cost, self.cost * rank * (self.inputs + self.outputs) / (self.inputs * self.outputs))

    def rank(self, share: float) -> int:
        """The largest rank that costs at most this share."""
        return max(1, int(share * self.inputs * self.outputs / (self.inputs + self.outputs)))


class Runner:
    """Runs `paredown factorize` on one model with fixed options."""

    def __init__(self, paredown: str, model: Path, options: list[str], folder: Path):
        self.base = [paredown, "factorize", str(model), *options]
        self.folder = folder

    def run(self, *options: str, out: Path | None = None) -> dict:
        report = self.folder / "report.json"
        target = ["-o", str(out), "--force"] if out else ["--dry-run", "--no-verify"]
        subprocess.run([*self.base, *options, *target, "--quiet", "--report", str(report)], check=True)
        return json.loads(report.read_text())

    def layers(self, figure: str) -> list[Layer]:
        """Every layer that a rank can be chosen for, with its cost in `figure`: params or macs."""
        told = self.run("--energy", "1.0")["layers"]
        open_layers = [layer for layer in told if layer["rank_for_90"] is not None]
        found = []
        for layer in open_layers:
            outputs, *rest = layer["shape"] if len(layer["shape"]) > 2 else layer["shape"][::-1]
            inputs = 1
            for size in rest:
                inputs *= size
            found.append(Layer(layer["name"], inputs, outputs, layer[figure]))
        return found

    def plan(self, ranks: dict[str, int]) -> str:
        path = self.folder / "plan.json"
        path.write_text(json.dumps({"version": 1, "groups": [], "ranks": ranks}))
        return str(path)


def uniform(layers: list[Layer], budget: float) -> dict[str, int]:
    """The same share everywhere, as large as the budget allows."""
    shares = [step / 1000 for step in range(1, 1000)]
    cost = {share: sum(layer.price(layer.rank(share)) for layer in layers) for share in shares}
    share = max(share for share in shares if cost[share] <= budget)
    return paying(layers, {layer.name: layer.rank(share) for layer in layers})


def paying(layers: list[Layer], ranks: dict[str, int]) -> dict[str, int]:
    return {layer.name: ranks[layer.name] for layer in layers if layer.price(ranks[layer.name]) < layer.cost}


def threshold(runner: Runner, layers: list[Layer], budget: float) -> dict[str, int]:
    """The same share of energy everywhere, by bisection on the share."""
    low, high, best = 0.0, 1.0, {}
    for _ in range(12):
        share = (low + high) / 2
        told = {layer["name"]: layer["rank"] for layer in runner.run("--energy", str(share), "--align", "1")["layers"]}
        ranks = {layer.name: told[layer.name] for layer in layers if told.get(layer.name)}
        cost = sum(layer.price(ranks[layer.name]) if layer.name in ranks else layer.cost for layer in layers)
        if cost <= budget:
            low, best = share, paying([layer for layer in layers if layer.name in ranks], ranks)
        else:
            high = share
    return best


def compare(title: str, runner: Runner, data: list[str], figure: str, share: float, score, whole: bool) -> None:
    """One row for each way at `share` of the layers' cost (`whole`: of the model's). `runner` has no data."""
    layers = runner.layers(figure)
    total = runner.run("--energy", "1.0")["model"]["before"][figure]
    cost = sum(layer.cost for layer in layers)
    fixed = total - cost
    budget = share * total - fixed if whole else share * cost
    even = uniform(layers, budget)
    ways = {
        "chosen": lambda: ["--" + figure, str(int(budget + fixed)), *data],
        "uniform": lambda: ["--plan", runner.plan(even), *data],
        "threshold": lambda: ["--plan", runner.plan(threshold(runner, layers, budget)), *data],
        "plain SVD": lambda: ["--plan", runner.plan(even)],
    }
    for way, options in ways.items():
        typed, out = options(), runner.folder / "out.onnx"
        began = time.perf_counter()
        told = runner.run(*typed, out=out)
        seconds = time.perf_counter() - began
        left = 100 * (told["model"]["after"][figure] - fixed) / cost
        print(f"| {title} | {100 * share:.0f} % | {way} | {left:.1f} % | {score(told, out)} | {seconds:.1f} |", flush=True)


def digits(args: argparse.Namespace, folder: Path) -> None:
    model = ROOT / "fixtures" / "digits_resnet.onnx"
    data = ["--data", str(ROOT / "fixtures" / "calib.npz")]

    def accuracy(told: dict, _: Path) -> str:
        return f"{100 * told['verify']['accuracy']['after']:.2f}"

    for conv in args.conv:
        for share in args.share or (0.6, 0.5, 0.4):
            runner = Runner(args.paredown, model, ["--conv", conv, "--eval", str(EVAL)], folder)
            compare(f"digits_resnet, {conv}", runner, data, "macs", share, accuracy, whole=True)


def minilm(args: argparse.Namespace, folder: Path) -> None:
    sys.path.insert(0, str(ROOT / "bench"))
    import sts

    calib = folder / "calib"
    script = [sys.executable, str(ROOT / "bench" / "sts_calib.py"), "--data", str(args.sts / "stsb-en-train.csv")]
    subprocess.run([*script, "-n", "512", "--out", str(calib)], check=True, stdout=subprocess.DEVNULL)
    model = args.models / "minilm.onnx"

    def spearman(_: dict, out: Path) -> str:
        return f"{sts.spearman(out, args.sts / 'stsb-en-dev.csv'):.2f}"

    print(f"| MiniLM | 100 % | original | 100.0 % | {spearman({}, model)} | |", flush=True)
    for share in args.share or (0.7, 0.5):
        compare("MiniLM", Runner(args.paredown, model, [], folder), ["--data", str(calib)], "params", share, spearman, whole=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=("digits", "minilm"))
    parser.add_argument("--paredown", default="target/release/paredown")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--sts", type=Path, help="folder of stsb-en-train.csv and stsb-en-dev.csv")
    parser.add_argument("--conv", nargs="+", default=["channel", "spatial", "tucker2"])
    parser.add_argument("--share", nargs="+", type=float)
    args = parser.parse_args()
    print("| network | asked | ranks | left | score | s |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        (digits if args.network == "digits" else minilm)(args, Path(name))


if __name__ == "__main__":
    main()
