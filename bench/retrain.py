"""Retraining on the digits: accuracy on the test images that remains, mean of some training runs.

    cargo build --release
    python fixtures/generate.py --seed 1 --out SEED1 && python fixtures/generate.py --seed 2 --out SEED2
    python bench/retrain.py target/release/paredown fixtures SEED1 SEED2 [--only marks|steps|criteria|overfit]

Prints Markdown: the marks with and without labels; one step against several at the same total of epochs; criteria at
one budget, as they are, repaired, and for the gradient criteria with and without labels; a sweep over sizes of the
overfitted network.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Bench:
    def __init__(self, executable, folders):
        self.executable, self.folders = executable, [Path(folder) for folder in folders]
        self.scratch = Path(tempfile.mkdtemp())

    def run(self, command, model, data, arguments):
        """Accuracy before and after, in percent."""
        report = self.scratch / "report.json"
        typed = [self.executable, command, model, "-o", self.scratch / "out.onnx", "--force", "--quiet"]
        typed += ["--data", ROOT / "fixtures" / data, "--eval", ROOT / "fixtures/eval.npz", "--report", report]
        subprocess.run([str(part) for part in typed] + arguments.split(), check=True)
        accuracy = json.loads(report.read_text())["verify"]["accuracy"]
        return 100 * accuracy["before"], 100 * accuracy["after"]

    def row(self, model, data, arguments, command="prune"):
        """Before and after of every training run, and the mean change."""
        pairs = [self.run(command, folder / f"{model}.onnx", data, arguments) for folder in self.folders]
        each = " · ".join(f"{before:.2f} → {after:.2f}" for before, after in pairs)
        mean = sum(after - before for before, after in pairs) / len(pairs)
        return f"{each} | {mean:+.2f}"


def marks(bench, epochs):
    print("| network | kept | data | before → after | mean change | seconds |\n|---|---|---|---|---|---|")
    rows = [
        ("digits_resnet", "--macs 25%", "25 % of the MACs"),
        ("digits_resnet", "--macs 8%", "8 % of the MACs"),
        ("digits_mlp", "--params 10%", "10 % of the parameters"),
        ("digits_vit", "--ratio 0.5", "half of heads and neurons"),
    ]
    for model, budget, remains in rows:
        for data, what in [("train.npz", "labels"), ("calib.npz", "no labels")]:
            began = time.perf_counter()
            row = bench.row(model, data, f"{budget} --retrain {epochs}")
            seconds = (time.perf_counter() - began) / len(bench.folders)
            print(f"| `{model}` | {remains} | {what} | {row} | {seconds:.0f} |", flush=True)


def steps(bench, epochs):
    print("| steps | epochs each | before → after | mean change |\n|---|---|---|---|")
    for count in (1, 2, 4, 8):
        each = max(1, epochs // count)
        row = bench.row("digits_resnet", "train.npz", f"--macs 8% --steps {count} --retrain {each}")
        print(f"| {count} | {each} | {row} |", flush=True)


def criteria(bench, _):
    print("| network | criterion | data | no repair | `lstsq` |\n|---|---|---|---|---|")
    bench = Bench(bench.executable, bench.folders[:1])
    names = ["taylor", "fisher", "obd-loss", "obs", "l2"]
    for model, budget in [("digits_mlp", "--ratio 0.5"), ("digits_mlp", "--ratio 0.75"), ("digits_resnet", "--macs 25%")]:
        for name in names:
            for data, what in [("train.npz", "labels"), ("calib.npz", "no labels")]:
                after = [
                    bench.run("prune", bench.folders[0] / f"{model}.onnx", data, f"{budget} --criterion {name} --repair {how}")[1]
                    for how in ("none", "lstsq")
                ]
                print(f"| `{model}` {budget[2:]} | `{name}` | {what} | {after[0]:.2f} | {after[1]:.2f} |", flush=True)


def overfit(bench, epochs):
    print("| kept | pruned | pruned, retrained | factorized | factorized, retrained |\n|---|---|---|---|---|")
    bench = Bench(bench.executable, bench.folders[:1])
    model = bench.folders[0] / "digits_overfit.onnx"
    for share in (80, 60, 40, 20, 10, 5):
        cells = []
        for command in ("prune", "factorize"):
            for extra in ("", f" --retrain {epochs}"):
                try:
                    cells.append("{1:.2f}".format(*bench.run(command, model, "train_overfit.npz", f"--params {share}%{extra}")))
                except subprocess.CalledProcessError:
                    cells.append("out of reach")
        print(f"| {share} % of the parameters | " + " | ".join(cells) + " |", flush=True)


PARTS = {"marks": marks, "steps": steps, "criteria": criteria, "overfit": overfit}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("executable")
    parser.add_argument("folders", nargs="+", help="fixtures of some training runs")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--epochs", type=int, default=64)
    args = parser.parse_args()
    bench = Bench(args.executable, args.folders)
    for name, part in PARTS.items():
        if args.only in (None, name):
            print(f"\n## {name}\n")
            part(bench, args.epochs)


if __name__ == "__main__":
    main()
