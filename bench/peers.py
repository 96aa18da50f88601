"""One peer tool on one network: parameters left after half of every group it finds is removed.

    python bench/peers.py onnxsim models/resnet18.onnx      # onnxsim's structured and attention-head pruning
    python bench/peers.py torch-pruning resnet18            # Torch-Pruning on the torchvision network, then export

Prints one line of JSON: {"parameters": …, "statistics": …, "seconds": …}, the second being how many of the first are
running statistics of batch norms. A crash is a traceback and exit code 1; the caller sets the
time limit. coverage.py runs this in a process of its own.
"""

import argparse
import itertools
import json
import tempfile
import time
import warnings
from pathlib import Path

import check

import onnx


def figures(graph: onnx.GraphProto) -> dict[str, int]:
    return {"parameters": check.parameters(graph), "statistics": check.running_statistics(graph)}


def onnxsim(path: Path) -> dict[str, int]:
    """Attention heads first, then channels and neurons, of the file as it is and simplified. What is smallest counts, of
    the package's two implementations too."""
    import onnxsim as package

    model = onnx.load(path)
    smallest = figures(model.graph)
    for suffix, start in itertools.product(("", "_cpp"), (model, package.simplify(model)[0])):
        pruned = start
        for step in ("apply_attention_head_pruning", "apply_structured_pruning"):
            pruned = getattr(package, step + suffix)(pruned, sparsity=0.5)
        smallest = min(smallest, figures(pruned.graph), key=lambda found: found["parameters"])
    return smallest


def torch_pruning(name: str) -> dict[str, int]:
    """Group magnitude, ratio 0.5, the classifier kept; counted in the exported file as everywhere else."""
    import export_torchvision
    import torch
    import torch_pruning as package

    torch.manual_seed(0)
    model = export_torchvision.build(name).eval()
    for module in model.modules():
        for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            if tensor.ndim == 1 and tensor.is_floating_point():  # the exporter stores equal vectors once, which would count too few
                tensor.data.uniform_(0.5, 1.5)
    sample = export_torchvision.sample(name, 1)
    kept = [m for m in model.modules() if 1000 in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))]
    projection = getattr(model.model, "conv_proj", None)
    if projection is not None:
        kept.append(projection)  # torchvision's ViT reshapes to a fixed hidden width
    pruner = package.pruner.MetaPruner(
        model,
        sample,
        importance=package.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=kept,
    )
    pruner.step()
    with torch.no_grad():
        model(sample)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pruned.onnx"
        export_torchvision.export(model, name, path, dynamo=False, static=False, keep_bn=False)
        return figures(onnx.load(path).graph)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("onnxsim", "torch-pruning"))
    parser.add_argument("subject", help="ONNX file (onnxsim) or torchvision name (torch-pruning)")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    start = time.perf_counter()
    found = onnxsim(Path(args.subject)) if args.peer == "onnxsim" else torch_pruning(args.subject)
    print(json.dumps(found | {"seconds": round(time.perf_counter() - start, 2)}))


if __name__ == "__main__":
    main()
