"""Hash the results of twenty-three jobs, to see that a refactoring changes no byte.

    python bench/same_bytes.py --binary target/release/paredown --models models --out before.json
    python bench/same_bytes.py --binary target/release/paredown --models models --against before.json

The jobs prune, factorize and tune the fixtures and, from --models, what `export_minilm.py`, `export_torchvision.py`,
`export_quantized.py`, `export_recurrent.py` and `sts_calib.py` write (minilm.onnx, resnet18.onnx, shufflenet_v2_x1_0.onnx,
quant/resnet18_qdq.onnx, rnn/lstm2_bi.onnx, sts_calib0.npz). A job whose model is missing is skipped and named. Exit code 1
if a job of the earlier file has another hash now.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
DIGITS = ["--data", FIXTURES / "calib.npz"]
SYNTHETIC = ["--data", "synthetic"]

# Name: (verb, model, options). Models with a slash are in --models, the others are fixtures.
JOBS = {
    "resnet-ratio": ("prune", "digits_resnet.onnx", ["--ratio", "0.5"]),
    "resnet-macs": ("prune", "digits_resnet.onnx", ["--macs", "25%", *DIGITS]),
    "resnet-bn": ("prune", "digits_resnet.onnx", ["--ratio", "0.3", "--repair", "bn", *DIGITS]),
    "resnet-steps": ("prune", "digits_resnet.onnx", ["--macs", "40%", "--steps", "2", *DIGITS]),
    "resnet-drop": ("prune", "digits_resnet.onnx", ["--max-drop", "2%", *DIGITS]),
    "resnet-split": ("factorize", "digits_resnet.onnx", ["--macs", "60%", *DIGITS]),
    "resnet-spatial": ("factorize", "digits_resnet.onnx", ["--params", "60%", "--conv", "spatial", *DIGITS]),
    "resnet-tune": ("tune", "digits_resnet.onnx", ["--epochs", "2", "--data", FIXTURES / "train.npz"]),
    "mlp-wanda": ("prune", "digits_mlp.onnx", ["--params", "30%", "--criterion", "wanda", *DIGITS]),
    "mlp-taylor": ("prune", "digits_mlp.onnx", ["--ratio", "0.5", "--criterion", "taylor", "--data", FIXTURES / "train.npz"]),
    "mlp-external": ("prune", "digits_mlp.onnx", ["--ratio", "0.5", "--external-data"]),
    "nonneg-nmf": ("factorize", "digits_nonneg.onnx", ["--params", "50%", "--method", "nmf"]),
    "vit-heads": ("prune", "digits_vit.onnx", ["--ratio", "0.5", *DIGITS]),
    "vit-split": ("factorize", "digits_vit.onnx", ["--params", "60%"]),
    "vit-tune": ("tune", "digits_vit.onnx", ["--epochs", "1", "--data", FIXTURES / "train.npz"]),
    "minilm-ratio": ("prune", "./minilm.onnx", ["--ratio", "0.5"]),
    "minilm-data": ("prune", "./minilm.onnx", ["--ratio", "0.5", "--data", "./sts_calib0.npz"]),
    "minilm-split": ("factorize", "./minilm.onnx", ["--params", "70%"]),
    "resnet18-ratio": ("prune", "./resnet18.onnx", ["--ratio", "0.5"]),
    "resnet18-data": ("prune", "./resnet18.onnx", ["--macs", "50%", "--criterion", "wanda", *SYNTHETIC]),
    "shufflenet": ("prune", "./shufflenet_v2_x1_0.onnx", ["--ratio", "0.5"]),
    "quantized": ("prune", "./quant/resnet18_qdq.onnx", ["--ratio", "0.5"]),
    "recurrent": ("prune", "./rnn/lstm2_bi.onnx", ["--ratio", "0.5"]),
}


def located(path: object, models: Path | None) -> str | None:
    """A path of the table as a path on this machine, `None` if it is not there."""
    text = str(path)
    if not text.startswith("./"):
        return text
    found = models / text if models else None
    return str(found) if found and found.exists() else None


def digest(output: Path) -> str:
    """Hash of a model file and of the external data beside it."""
    sums = hashlib.sha256()
    for part in sorted(output.parent.iterdir()):
        sums.update(part.name.encode() + part.read_bytes())
    return sums.hexdigest()


def run(binary: str, verb: str, model: str, options: list[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.onnx"
        command = [binary, verb, model, "-o", str(output), "--no-verify", "--quiet", *options]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            return f"exit {done.returncode}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ''}"
        return digest(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--models", type=Path, help="folder of the exported models")
    parser.add_argument("--out", type=Path, help="write the hashes to this file")
    parser.add_argument("--against", type=Path, help="compare with the hashes of an earlier run")
    parser.add_argument("--only", nargs="*", help="run these jobs only")
    args = parser.parse_args()
    before = json.loads(args.against.read_text()) if args.against else {}
    hashes, changed = {}, []
    for name, (verb, model, options) in JOBS.items():
        if args.only and name not in args.only:
            continue
        model = located(model if model.startswith("./") else FIXTURES / model, args.models)
        options = [located(option, args.models) for option in options]
        if model is None or None in options:
            print(f"{name:16} skipped: its model or data is not in --models")
            continue
        started = time.monotonic()
        hashes[name] = run(args.binary, verb, model, options)
        same = before.get(name) in (None, hashes[name])
        changed += [] if same else [name]
        print(f"{name:16} {hashes[name][:60]} {time.monotonic() - started:6.1f} s{'' if same else '  CHANGED'}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(hashes, indent=1) + "\n")
    if changed:
        sys.exit(f"other bytes than before: {', '.join(changed)}")


if __name__ == "__main__":
    main()
