"""Prunes a ResNet-18 of torchvision with images from a DataLoader.

    pip install 'paredown-0.1.0-cp310-abi3-manylinux_2_28_x86_64.whl[all]' torch torchvision
    python resnet18.py --images path/to/imagenet/val --latency 0.5 --out resnet18-fast.onnx

Without --images, the samples are random: enough to see the sizes, not to judge the result.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import paredown as pd
import torch
import torchvision


def loader(folder: Path | None) -> torch.utils.data.DataLoader:
    """Batches of prepared images and their classes."""
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    if folder is None:
        images = torch.randn(64, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        samples = torch.utils.data.TensorDataset(images)
    else:
        samples = torchvision.datasets.ImageFolder(folder, transform=weights.transforms())
    return torch.utils.data.DataLoader(samples, batch_size=32, shuffle=folder is not None)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--images", type=Path, help="a folder with one folder of images for each class")
    arguments.add_argument("--weights", choices=["pretrained", "random"], default="pretrained")
    budget = arguments.add_mutually_exclusive_group()
    budget.add_argument("--latency", type=float, help="share of the time of one run to keep")
    budget.add_argument("--macs", type=float, default=0.5, help="share of the multiply–accumulates to keep")
    arguments.add_argument("--batches", type=int, default=8, help="batches to calibrate on")
    arguments.add_argument("--effort", choices=["fast", "normal", "thorough"], default="normal")
    arguments.add_argument("--out", type=Path, default=Path("resnet18-half.onnx"))
    typed = arguments.parse_args()

    network = torchvision.models.resnet18(weights="DEFAULT" if typed.weights == "pretrained" else None).eval()
    exported = typed.out.with_name("resnet18.onnx")
    example = torch.zeros(1, 3, 224, 224)
    names = {"input_names": ["input"], "output_names": ["logits"], "dynamic_axes": {"input": {0: "batch"}}}
    torch.onnx.export(network, (example,), exported, opset_version=17, dynamo=False, **names)

    # The first batches decide, the next ones only measure.
    batches = iter(loader(typed.images))
    data = list(itertools.islice(batches, typed.batches))
    judged = list(itertools.islice(batches, typed.batches)) or None
    wanted = {"macs": typed.macs} if typed.latency is None else {"latency": typed.latency}
    result = pd.prune(exported, **wanted, data=data, eval=judged, effort=typed.effort, progress=True)
    print(result.report)
    result.save(typed.out, force=True)


if __name__ == "__main__":
    main()
