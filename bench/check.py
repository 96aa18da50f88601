"""Check a rewritten ONNX file against its original, independently of paredown: onnx.checker and ONNX Runtime.

    python bench/check.py original.onnx rewritten.onnx
    python bench/check.py original.onnx rewritten.onnx --data eval.npz --max-rel 1e-4

A pruned file is not equal to its original (compare it with the masked original for that): without --max-rel the
distances are printed and only validity decides.
Exit code 1: invalid, does not run, other inputs or outputs, or too far.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import inputs
import numpy as np
import onnxruntime

import onnx
from onnx import TensorProto
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, RuntimeException

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
BIG = 1_900_000_000


@dataclass(frozen=True)
class Distance:
    """How far `actual` is from `expected`, in float64.

    `rel_l2` = ‖a − e‖ / ‖e‖; `max_rel` = max|a − e| / max|e − mean of e over axis 0|; `spread` is that denominator
    over max|e|: near 0, the output does not depend on the input and the comparison proves nothing.
    """

    rel_l2: float
    max_rel: float
    spread: float

    @classmethod
    def between(cls, expected: np.ndarray, actual: np.ndarray) -> "Distance":
        e, a = expected.astype(np.float64), actual.astype(np.float64)
        difference = np.abs(a - e)
        samples = e.reshape(e.shape[0], -1) if e.ndim > 1 and e.shape[0] > 1 else e.reshape(-1, 1)
        spread = np.abs(samples - samples.mean(0)).max(initial=0.0)
        largest = np.abs(e).max(initial=0.0)
        tiny = np.finfo(np.float64).tiny
        return cls(
            float(np.linalg.norm(difference) / max(np.linalg.norm(e), tiny)),
            float(difference.max(initial=0.0) / max(spread, tiny)),
            float(spread / max(largest, tiny)),
        )


def parameters(graph: onnx.GraphProto) -> int:
    """Float values in initializers and Constant nodes, subgraphs included, each counted once."""
    total = sum(int(np.prod(t.dims)) for t in graph.initializer if t.data_type in FLOATS)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                total += parameters(attribute.g)
            elif node.op_type == "Constant" and attribute.name == "value" and attribute.t.data_type in FLOATS:
                total += int(np.prod(attribute.t.dims))
    return total


def running_statistics(graph: onnx.GraphProto) -> int:
    """Elements of the means and variances of BatchNormalization nodes: measured, not trained, and so not among the
    parameters of a PyTorch network."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    names = {name for node in graph.node if node.op_type == "BatchNormalization" for name in node.input[3:5]}
    return sum(sizes.get(name, 0) for name in names)


def session(path: Path) -> onnxruntime.InferenceSession:
    """A session without graph optimizations, so that the file is run as it is written, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def validate(path: Path) -> None:
    """The full onnx.checker, on disk where the file with its data is too large for one message."""
    size = sum(file.stat().st_size for file in [path, *path.parent.glob(path.stem + "*.data")])
    subject = str(path) if size > BIG else onnx.load(path)
    onnx.checker.check_model(subject, full_check=True)


def data_batches(path: Path, names: list[str], batch: int = 64) -> list[dict[str, np.ndarray]]:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in names}
    samples = len(next(iter(arrays.values())))
    return [{k: v[i : i + batch] for k, v in arrays.items()} for i in range(0, samples, batch)]


def signature_changes(original: onnx.ModelProto, rewritten: onnx.ModelProto) -> list[str]:
    """Differences in names, element types and declared shapes of inputs and outputs."""
    changes = []
    for kind, before, after in (
        ("input", inputs.graph_inputs(original), inputs.graph_inputs(rewritten)),
        ("output", original.graph.output, rewritten.graph.output),
    ):
        old, new = inputs.signature(list(before)), inputs.signature(list(after))
        if len(old) != len(new):
            changes.append(f"{len(old)} {kind}s became {len(new)}")
        changes += [f"{kind} {o} became {n}" for o, n in zip(old, new, strict=False) if o != n]
    return changes


def compare(original: Path, rewritten: Path, feeds: list[dict[str, np.ndarray]]) -> list[tuple[str, list, Distance]]:
    """Output name, run-time shape and distance for each feed and output.

    Raises ValueError where a run-time shape or type changed.
    """
    before, after = session(original), session(rewritten)
    names = [output.name for output in before.get_outputs()]
    rows = []
    for feed in feeds:
        for name, expected, actual in zip(names, before.run(names, feed), after.run(names, feed), strict=True):
            if expected.shape != actual.shape or expected.dtype != actual.dtype:
                raise ValueError(
                    f"{name}: {expected.dtype}{list(expected.shape)} became {actual.dtype}{list(actual.shape)}"
                )
            rows.append((name, list(expected.shape), Distance.between(expected, actual)))
    return rows


def parse_dims(items: list[str]) -> dict[str, list[int]]:
    """`batch=1,2,3` into sizes for the successive runs."""
    pairs = (item.rsplit("=", 1) for item in items)
    return {name: [int(size) for size in sizes.split(",")] for name, sizes in pairs}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", type=Path)
    parser.add_argument("rewritten", type=Path)
    parser.add_argument("--data", type=Path, help="npz with arrays named as the inputs; default: random inputs")
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=A,B,C", help="sizes of a symbol, one a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-rel", type=float, help="largest max|Δ| over the output's spread")
    args = parser.parse_args()

    validate(args.rewritten)
    print("onnx.checker: valid")
    original = onnx.load(args.original, load_external_data=False)
    rewritten = onnx.load(args.rewritten, load_external_data=False)
    old, new = parameters(original.graph), parameters(rewritten.graph)
    print(f"parameters: {old} -> {new} ({100 * new / max(old, 1):.2f} %)")
    changes = signature_changes(original, rewritten)
    print("inputs and outputs: " + ("; ".join(changes) or "unchanged"))

    if args.data:
        feeds = data_batches(args.data, [value.name for value in inputs.graph_inputs(original)])
    else:
        sizes = inputs.dimension_sets(original, parse_dims(args.dim))
        feeds = [inputs.random_inputs(original, s, args.seed + i) for i, s in enumerate(sizes)]
    try:
        rows = compare(args.original, args.rewritten, feeds)
    except (ValueError, Fail, InvalidArgument, InvalidGraph, RuntimeException) as error:
        print(error)
        return 1
    for name, shape, distance in rows:
        print(
            f"{name} {shape}: relative L2 {distance.rel_l2:.2e}, max over spread {distance.max_rel:.2e}, "
            f"spread {distance.spread:.2e}"
        )
    far = args.max_rel is not None and any(not d.max_rel <= args.max_rel for _, _, d in rows)
    return 1 if changes or far else 0


if __name__ == "__main__":
    sys.exit(main())
