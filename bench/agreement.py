"""Do the files that paredown writes mean the same to tract, to ONNX Runtime and to onnx.checker?

    cargo build --release --bins --examples
    python bench/agreement.py --models models [--target target/release] [--page bench/AGREEMENT.md]

Every fixture, MiniLM (three exports) and ResNet-50, as far as they are in --models, pruned to --ratio 0.25, 0.5 and 0.75 with
--scope layer and global (l2, no data). Of each file: onnx.checker's full check; paredown's own proof (pruned against masked
original, both in tract); tract against ONNX Runtime on the same random inputs. The distance is max|Δ| over
max|y − mean of y over samples|; more than 1e-4 fails. An output that ignores its input (that spread is below 1e-2 of the
output's magnitude, as in random networks without repair) proves nothing and is marked deaf; there 1e-6 of the magnitude is the
limit. Exit code 1 on any failure.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import inputs
import numpy as np
from check import Distance, session, validate

import onnx

BENCH = Path(__file__).resolve().parent
RATIOS = ("0.25", "0.5", "0.75")
SCOPES = ("layer", "global")
LIMIT, SPREAD = 1e-4, 1e-2


@dataclass
class Row:
    """One file. `exact` and `apart` are distances, `left` the share of parameters that remains."""

    model: str
    ratio: str
    scope: str
    left: float = 0.0
    exact: float | None = None
    apart: float = 0.0
    spread: float = 0.0
    problem: str = ""

    def is_deaf(self) -> bool:
        return self.spread < SPREAD


def run(command: list[str]) -> str:
    """What went wrong, in one line, or nothing."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"exit {done.returncode}: {done.stderr.strip()[:200]}"


def in_both(model: Path, target: Path, folder: Path) -> Distance:
    """The outputs of tract against those of ONNX Runtime: the worst output."""
    proto = onnx.load(model, load_external_data=False)
    sizes = inputs.dimension_sets(proto, {})[:2][-1]  # three samples, where the batch is dynamic
    feed = inputs.random_inputs(proto, sizes, 0)
    np.savez(folder / "inputs.npz", **feed)
    outputs = folder / "outputs.npz"
    failed = run([str(target / "examples" / "run"), str(model), str(folder / "inputs.npz"), str(outputs)])
    if failed:
        raise ValueError(f"tract: {failed}")
    expected = session(model)
    names = [output.name for output in expected.get_outputs()]
    with np.load(outputs) as found:
        pairs = zip(names, expected.run(names, feed), strict=True)
        return max((Distance.between(y, found[name]) for name, y in pairs), key=lambda distance: distance.max_rel)


def check(model: Path, ratio: str, scope: str, target: Path) -> Row:
    row = Row(model.stem, ratio, scope)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pruned, report = folder / "pruned.onnx", folder / "report.json"
        options = ["--ratio", ratio, "--scope", scope, "--criterion", "l2", "--quiet", "--report", str(report)]
        row.problem = run([str(target / "paredown"), "prune", str(model), "-o", str(pruned), *options])
        if row.problem:
            return row
        told = json.loads(report.read_text())
        row.left = told["model"]["after"]["params"] / told["model"]["before"]["params"]
        row.exact = told["verify"]["exact_max_rel"]
        try:
            validate(pruned)
            distance = in_both(pruned, target, folder)
        except (ValueError, onnx.checker.ValidationError) as error:
            row.problem = str(error).splitlines()[0][:200]
            return row
        row.apart, row.spread = distance.max_rel, distance.spread
        limit = LIMIT * SPREAD / max(row.spread, 1e-12) if row.is_deaf() else LIMIT
        if row.exact is None or not row.exact <= limit:
            row.problem = "not exact"
        elif not row.apart <= limit:
            row.problem = "tract and ONNX Runtime differ"
    return row


def page(rows: list[Row]) -> str:
    lines = [
        "# Agreement",
        "",
        "`bench/agreement.py` writes this page. Every file passes onnx.checker's full check. `exact` compares the pruned model",
        "with the masked original in tract; `runtimes` compares tract with ONNX Runtime on the pruned file. Both are max|Δ|",
        "divided by the spread of the output (limit 1e-4). Deaf: with random weights and no repair, the output varies by less",
        "than 1e-2 of its magnitude, so a distance relative to the spread means nothing; the limit is then 1e-6 of the magnitude.",
        "",
        "| model | ratio | scope | parameters left | exact | runtimes | |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        exact = "–" if r.exact is None else f"{r.exact:.1e}"
        status = r.problem or ("deaf" if r.is_deaf() else "ok")
        lines.append(
            f"| {r.model} | {r.ratio} | {r.scope} | {100 * r.left:.1f} % | {exact} | {r.apart:.1e} | {status} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--target", type=Path, default=Path("target/release"))
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="models whose name contains this")
    parser.add_argument("--page", type=Path, default=BENCH / "AGREEMENT.md")
    args = parser.parse_args()
    found = sorted((BENCH.parent / "fixtures").glob("*.onnx"))
    found += [args.models / f"{name}.onnx" for name in ("minilm", "minilm_sdpa", "minilm_dynamo", "resnet50")]
    rows = []
    for model in found:
        if not model.exists() or (args.only and not any(part in model.stem for part in args.only)):
            continue
        for ratio in RATIOS:
            for scope in SCOPES:
                rows.append(check(model, ratio, scope, args.target))
                print(rows[-1], flush=True)
    args.page.write_text(page(rows))
    return 1 if any(row.problem for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
