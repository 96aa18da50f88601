"""Small models to start fuzzing from, written to fuzz/corpus/load_inspect.

    python fuzz/seeds.py PAREDOWN          # the paredown program; needs the package onnx

Two sources: the networks of fixtures/, pruned to a few units (a mutation should hit structure, not weights), and the node
tests that the package onnx defines: one tiny model for nearly every operator.
"""

import subprocess
import sys
from pathlib import Path

from onnx.backend.test.case.node import collect_testcases

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz" / "corpus" / "load_inspect"
LARGEST = 8192


def shrink(paredown: str, model: Path) -> None:
    """Five of a hundred units stay."""
    target = CORPUS / model.name
    options = ["--ratio", "0.95", "--allow-shifts", "--no-verify", "--force", "--quiet"]
    subprocess.run([paredown, "prune", str(model), "-o", str(target), *options], check=True)


def main() -> None:
    CORPUS.mkdir(parents=True, exist_ok=True)
    for model in sorted((ROOT / "fixtures").glob("*.onnx")):
        shrink(sys.argv[1], model)
    written = 0
    for case in collect_testcases(None):
        encoded = case.model.SerializeToString()
        if len(encoded) <= LARGEST:
            (CORPUS / f"{case.name}.onnx").write_bytes(encoded)
            written += 1
    print(f"{CORPUS}: {written} node tests and the shrunk fixtures")


if __name__ == "__main__":
    main()
