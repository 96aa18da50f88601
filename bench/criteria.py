"""Table of docs/CRITERIA.md: every criterion on the fixtures, half and three quarters of every group removed, without
repair and with least squares. Accuracy in ONNX Runtime on eval.npz, calibrated on the unlabelled calib.npz.

    cargo build --release
    python bench/criteria.py --paredown target/release/paredown --out criteria.md
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
NETWORKS = ["digits_mlp", "digits_resnet", "digits_vit"]
CRITERIA = ["l1", "l2", "activation", "apoz", "wanda", "fluctuation", "obd", "obs", "ablation", "taylor", "fisher", "obd-loss"]
SEEDS = range(5)  # of `random`
COLUMNS = [(ratio, repair) for ratio in ("0.5", "0.75") for repair in ("none", "lstsq")]


def accuracy(model: Path) -> float:
    """Share of the test images that are classified right, in percent."""
    samples = np.load(FIXTURES / "eval.npz")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": samples["input"]})[:1]
    return 100 * float((logits.argmax(1) == samples["labels"]).mean())


def pruned(binary: Path, network: str, criterion: str, ratio: str, repair: str, seed: int = 0) -> float:
    """Accuracy of a fixture after pruning."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pruned.onnx"
        command = [binary, "prune", FIXTURES / f"{network}.onnx", "-o", output, "--ratio", ratio, "--seed", str(seed)]
        command += ["--criterion", criterion, "--repair", repair, "--data", FIXTURES / "calib.npz"]
        subprocess.run([*map(str, command), "--quiet", "--no-verify"], check=True)
        return accuracy(output)


def table(binary: Path, network: str) -> list[str]:
    """The lines of one network's table."""
    original = accuracy(FIXTURES / f"{network}.onnx")
    lines = [f"### `{network}`, original {original:.2f}", ""]
    lines += ["| criterion | 50 %, no repair | 50 %, `lstsq` | 75 %, no repair | 75 %, `lstsq` |", "|---|---|---|---|---|"]
    for criterion in CRITERIA:
        cells = [f"{pruned(binary, network, criterion, *column):.2f}" for column in COLUMNS]
        lines.append(f"| `{criterion}` | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    means = [np.mean([pruned(binary, network, "random", *column, seed=seed) for seed in SEEDS]) for column in COLUMNS]
    lines.append("| `random`, mean of 5 seeds | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")
    print(lines[-1], flush=True)
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paredown", type=Path, default=Path("target/release/paredown"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=NETWORKS, choices=NETWORKS)
    args = parser.parse_args()
    lines = [line for network in args.only for line in table(args.paredown, network)]
    args.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
