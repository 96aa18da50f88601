"""Layer errors before and after repair, on networks with batch norm, concat and depthwise convolution (random weights).

    python bench/export_torchvision.py mobilenet_v2 densenet121 shufflenet_v2_x1_0 --out models
    python bench/layer_errors.py models/mobilenet_v2.onnx models/densenet121.onnx --paredown target/release/paredown

Inputs are seeded noise, smoothed so that neighbouring pixels are alike. Exits with 1 if any layer got worse.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx


def noise(model: Path, samples: int) -> np.ndarray:
    """Images [samples, channels, height, width] for the model's input."""
    dims = [d.dim_value for d in onnx.load(model, load_external_data=False).graph.input[0].type.tensor_type.shape.dim]
    images = np.random.RandomState(0).randn(samples, *dims[1:]).astype(np.float32)
    for axis in (2, 3):
        images = (images + np.roll(images, 1, axis) + np.roll(images, 2, axis)) / 3
    return images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--paredown", type=Path, default=Path("target/release/paredown"))
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--ratio", default="0.5")
    args = parser.parse_args()
    worse = 0
    for model in args.models:
        with tempfile.TemporaryDirectory() as folder:
            data, report = Path(folder) / "data.npz", Path(folder) / "report.json"
            name = onnx.load(model, load_external_data=False).graph.input[0].name
            np.savez(data, **{name: noise(model, args.samples)})
            command = [args.paredown, "prune", model, "-o", Path(folder) / "out.onnx", "--ratio", args.ratio]
            command += ["--data", data, "--report", report, "--no-verify", "--quiet"]
            start = time.perf_counter()
            subprocess.run(list(map(str, command)), check=True)
            seconds = time.perf_counter() - start
            layers = json.loads(report.read_text())["calibration"]["layers"]
        looked = [layer for layer in layers if layer["before"] is not None]
        bad = [layer for layer in looked if layer["after"] > layer["before"]]
        repaired = sum(layer["after"] < layer["before"] for layer in looked)
        before, after = (np.mean([layer[key] for layer in looked]) for key in ("before", "after"))
        print(
            f"{model.stem}: {len(looked)} layers, {repaired} repaired, {len(bad)} worse, {len(layers) - len(looked)} not "
            f"looked at; mean relative error {before:.4f} -> {after:.4f}; {seconds:.0f} s",
            flush=True,
        )
        for layer in bad:
            print(f"  worse: {layer['name']}: {layer['before']:.6f} -> {layer['after']:.6f}")
        worse += len(bad)
    sys.exit(worse > 0)


if __name__ == "__main__":
    main()
