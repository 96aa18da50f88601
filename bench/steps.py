"""How many quantization steps lie between a pruned QDQ network and its masked original in ONNX Runtime.

    python bench/steps.py models/quant/resnet18_qdq.onnx --paredown target/release/paredown

The masked original has the input channels that go zeroed in the stored int8 kernels (zero points are 0). Quantizers are
printed in graph order with the most steps between the two and the share of values that differ: where the two part, it
is by one step in few values, which is float32 rounding of sums in another order; after that the difference spreads.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import numpy_helper

import onnx


def prune(binary: str, model: Path, folder: Path) -> tuple[onnx.ModelProto, dict, dict[str, np.ndarray]]:
    """The pruned model, the report, and the kept indices of every group."""
    target, report, plan = folder / "pruned.onnx", folder / "report.json", folder / "plan.json"
    options = ["--ratio", "0.5", "--quiet", "--no-verify", "--report", report, "--plan-out", plan]
    subprocess.run([binary, "prune", model, "-o", target, *options], check=True)
    kept = {group["name"]: np.array(group["kept"]) for group in json.loads(plan.read_text())["groups"]}
    return onnx.load(target), json.loads(report.read_text()), kept


def mask(model: onnx.ModelProto, report: dict, kept: dict[str, np.ndarray]) -> None:
    """Zeroes the input channels that go in every stored kernel and matrix."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for group in report["groups"]:
        gone = np.setdiff1d(np.arange(group["size"]), kept.get(group["name"], np.arange(group["size"])))
        for member in group["members"]:
            tensor = stored.get(member["tensor"])
            if len(gone) and tensor is not None and len(tensor.dims) > 1 and member["axis"] == 1:
                values = numpy_helper.to_array(tensor).copy()
                values[:, gone] = 0
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def run(model: onnx.ModelProto, taps: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in taps)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(taps, feed)


def apart(whole: np.ndarray, rest: np.ndarray, choices: list[np.ndarray]) -> np.ndarray:
    """Steps between the two; of the groups that fit in size, the one whose channels agree best is the value's."""
    whole, rest = whole.astype(np.int64), rest.astype(np.int64)
    if whole.shape == rest.shape:
        return np.abs(whole - rest)
    fitting = [kept for kept in choices if len(kept) == rest.shape[1] and kept.max() < whole.shape[1]]
    return min((np.abs(whole[:, kept] - rest) for kept in fitting), key=lambda steps: steps.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--paredown", default="paredown")
    args = parser.parse_args()
    masked = onnx.load(args.model)
    taps = [node.output[0] for node in masked.graph.node if node.op_type == "QuantizeLinear"]
    with tempfile.TemporaryDirectory() as folder:
        pruned, report, kept = prune(args.paredown, args.model, Path(folder))
    mask(masked, report, kept)
    feed = {"input": np.random.RandomState(0).randn(4, 3, 224, 224).astype(np.float32)}
    for name, whole, rest in zip(taps, run(masked, taps, feed), run(pruned, taps, feed), strict=True):
        steps = apart(whole, rest, list(kept.values()))
        print(f"{name}: at most {steps.max()} steps, {(steps > 0).mean():.1e} of the values differ")


if __name__ == "__main__":
    main()
