"""Table of docs/MEANS.md: what each means of compression, and all of them together, leave of a network under a budget.

    cargo build --release
    python bench/means.py --paredown target/release/paredown --out means.md
    python bench/means.py --paredown … --model MODEL.onnx --data CALIB.npz --metric "python metric.py {model}" --unit params

Without --model the fixtures are measured: accuracy in ONNX Runtime on eval.npz, calibrated on the unlabelled calib.npz.
--metric is a command that prints the figure of a model as its last word.
"""

import argparse
import json
import shlex
import subprocess
import tempfile
from pathlib import Path

from criteria import FIXTURES, NETWORKS, accuracy

BUDGETS = ["80%", "65%", "50%", "35%"]
MEANS = {"prune": "prune,dims", "rank": "rank", "all": None}


def figure(metric: str | None, model: Path) -> float:
    """The metric of a model."""
    if metric is None:
        return accuracy(model)
    said = subprocess.run(shlex.split(metric.format(model=model)), check=True, capture_output=True, text=True)
    return float(said.stdout.split()[-1])


def compressed(args: argparse.Namespace, model: Path, data: Path, budget: str, means: str | None) -> tuple[str, str]:
    """The metric after a compression, and what was done and lost on held-out samples."""
    with tempfile.TemporaryDirectory() as folder:
        output, report = Path(folder) / "small.onnx", Path(folder) / "report.json"
        command = [args.paredown, "compress", model, "-o", output, f"--{args.unit}", budget, "--data", data]
        command += ["--report", report, "--quiet", "--no-verify", *shlex.split(args.options)]
        if means is not None:
            command += ["--means", means]
        done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True)
        if done.returncode:
            return "–", done.stderr.strip().splitlines()[0]
        chosen = next(tried for tried in json.loads(report.read_text())["candidates"] if tried["chosen"])
        return f"{figure(args.metric, output):.2f}", f"{chosen['means']}, {chosen['loss']:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paredown", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--metric")
    parser.add_argument("--unit", default="macs", choices=["macs", "params", "size"])
    parser.add_argument("--budgets", default=",".join(BUDGETS))
    parser.add_argument("--options", default="", help="further options of paredown")
    args = parser.parse_args()
    if args.model is None:
        networks = [(name, FIXTURES / f"{name}.onnx", FIXTURES / "calib.npz") for name in NETWORKS]
    else:
        networks = [(args.model.stem, args.model, args.data)]
    lines = [f"| network | {args.unit} left | " + " | ".join(MEANS) + " |", "|---" * (2 + len(MEANS)) + "|"]
    for name, model, data in networks:
        lines.append(f"| `{name}` | 100% | " + " | ".join([f"{figure(args.metric, model):.2f}"] * len(MEANS)) + " |")
        for budget in args.budgets.split(","):
            cells = [compressed(args, model, data, budget, means) for means in MEANS.values()]
            lines.append(f"| `{name}` | {budget} | " + " | ".join(f"{value} ({how})" for value, how in cells) + " |")
            print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
