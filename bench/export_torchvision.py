"""Export torchvision architectures with random weights to ONNX.

Random weights need care: a network whose batch-norm statistics are untrained
barely reacts to its input, so agreement of two files would prove nothing. Before the
export every affine parameter and bias is drawn at random and the batch-norm statistics
are taken from a few training-mode passes.

    python bench/export_torchvision.py resnet50 --out models
    python bench/export_torchvision.py resnet50 --keep-bn --out models   # resnet50_bn.onnx
    python bench/export_torchvision.py resnet50 --dynamo --out models    # resnet50_dynamo.onnx
    python bench/export_torchvision.py resnet18 --static --out models    # resnet18_static.onnx
    python bench/export_torchvision.py --coverage --out models           # all of COVERAGE
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import torch
import torchvision
from torch import nn

COVERAGE = [
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "densenet121",
    "regnet_y_400mf",
    "googlenet",
    "inception_v3",
    "vgg16_bn",
    "squeezenet1_1",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
    "shufflenet_v2_x1_0",
    "alexnet",
]
OPSET = 17
STATISTICS_PASSES = 2
STATISTICS_BATCH = 4
NORMALIZATIONS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def image_size(name: str) -> int:
    return 299 if name == "inception_v3" else 224


class Output(nn.Module):
    """The tensor a user wants from a model that returns a dict (`out` of segmentation)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.model(x)
        return y["out"] if isinstance(y, dict) else y


class Detector(nn.Module):
    """Boxes, scores and labels of one image: detectors take a list and return a list of dicts."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model([x[0]])[0]
        return found["boxes"], found["scores"], found["labels"]


def sample(name: str, batch: int) -> torch.Tensor:
    """A normal input of the shape that the architecture's family takes."""
    if is_video(name):
        depth, size = (16, 224) if name.startswith(("mvit", "swin3d", "s3d")) else (8, 112)
        return torch.randn(batch, 3, depth, size, size)
    if is_detection(name):
        return torch.rand(1, 3, 320, 320)
    size = image_size(name)
    return torch.randn(batch, 3, size, size)


def is_video(name: str) -> bool:
    return name in torchvision.models.list_models(module=torchvision.models.video)


def is_segmentation(name: str) -> bool:
    return name in torchvision.models.list_models(module=torchvision.models.segmentation)


def is_detection(name: str) -> bool:
    return name in torchvision.models.list_models(module=torchvision.models.detection)


def build(name: str) -> nn.Module:
    """The architecture `name` with random weights and no auxiliary classifier."""
    options = {"weights": None}
    if is_detection(name):
        return Detector(torchvision.models.get_model(name, weights=None, weights_backbone=None))
    if is_segmentation(name):
        options.update(weights_backbone=None, aux_loss=False)
    elif name in ("googlenet", "inception_v3"):
        options.update(aux_logits=False, init_weights=False)
    return Output(torchvision.models.get_model(name, **options))


def randomize(model: nn.Module, name: str) -> None:
    """Random affine parameters and biases, then batch-norm statistics from training-mode passes.

    Weights keep torchvision's initialization but for layer scales and the zero-initialized
    last gamma of residual blocks, which would switch whole branches off. Without any normalization
    the signal would fade below the biases: there, weights keep its variance (He initialization).
    """
    with torch.no_grad():
        if not any(isinstance(module, NORMALIZATIONS) for module in model.modules()):
            for module in model.modules():
                if isinstance(module, (nn.Conv2d, nn.Linear)):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for module in model.modules():
            if isinstance(module, NORMALIZATIONS) and module.weight is not None:
                module.weight.uniform_(0.5, 1.5)
            bias = getattr(module, "bias", None)
            if isinstance(bias, nn.Parameter):
                bias.normal_(0.0, 0.1)
            if hasattr(module, "layer_scale"):
                module.layer_scale.uniform_(0.5, 1.5)
            heads = getattr(module, "heads", None)
            if heads is not None and hasattr(heads, "head"):
                nn.init.normal_(heads.head.weight, std=0.02)  # ViT starts its classifier at zero
    batch_norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not batch_norms or is_detection(name):
        return  # a detector's pyramid ends in single pixels, which have no batch statistics
    model.eval()
    for module in batch_norms:
        module.train()
        module.momentum = None  # cumulative average over the passes
        module.reset_running_stats()
    with torch.no_grad():
        for _ in range(STATISTICS_PASSES):
            model(sample(name, STATISTICS_BATCH))
    for module in batch_norms:
        module.momentum = 0.1


def export(model: nn.Module, name: str, path: Path, *, dynamo: bool, static: bool, keep_bn: bool) -> None:
    """Write `path` in inference form; the batch axis is named `batch` unless `static`."""
    model.eval()
    inputs = sample(name, 2 if dynamo and not static else 1)
    names = {"input_names": ["input"], "output_names": ["logits"]}
    if is_detection(name):
        static, names = True, {"input_names": ["input"], "output_names": ["boxes", "scores", "labels"]}
    if dynamo:
        shapes = None if static else {"x": {0: "batch"}}
        program = torch.onnx.export(
            model, (inputs,), dynamo=True, opset_version=18, dynamic_shapes=shapes, verbose=False, **names
        )
        program.save(str(path), external_data=False)
        return
    axes = None if static else {"input": {0: "batch"}, "logits": {0: "batch"}}
    # The exporter fuses batch norm into convolutions in eval mode only. PRESERVE on a module
    # in eval mode keeps the nodes, in their inference form.
    training = torch.onnx.TrainingMode.PRESERVE if keep_bn else torch.onnx.TrainingMode.EVAL
    torch.onnx.export(
        model,
        (inputs,),
        str(path),
        dynamo=False,
        opset_version=OPSET,
        dynamic_axes=axes,
        training=training,
        do_constant_folding=not keep_bn,
        **names,
    )


def file_name(name: str, dynamo: bool, static: bool, keep_bn: bool) -> str:
    marks = [mark for mark, on in (("bn", keep_bn), ("dynamo", dynamo), ("static", static)) if on]
    return "_".join([name, *marks]) + ".onnx"


def run(name: str, args: argparse.Namespace) -> None:
    path = args.out / file_name(name, args.dynamo, args.static, args.keep_bn)
    if path.exists() and not args.force:
        print(f"{path} exists")
        return
    start = time.perf_counter()
    torch.manual_seed(args.seed)
    model = build(name)
    randomize(model, name)
    export(model, name, path, dynamo=args.dynamo, static=args.static, keep_bn=args.keep_bn)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    size = path.stat().st_size / 1e6
    print(f"{path}  {millions:.2f} M parameters  {size:.1f} MB  {time.perf_counter() - start:.1f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="torchvision model names")
    parser.add_argument("--coverage", action="store_true", help="every model of the coverage table")
    parser.add_argument("--dynamo", action="store_true", help="torch.export based exporter, opset 18")
    parser.add_argument("--static", action="store_true", help="batch 1 instead of a dynamic axis")
    parser.add_argument("--keep-bn", action="store_true", help="BatchNormalization stays a node")
    parser.add_argument("--out", type=Path, default=Path("models"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="write again what exists")
    args = parser.parse_args()
    if args.dynamo and args.keep_bn:
        parser.error("--keep-bn needs the TorchScript exporter")
    warnings.filterwarnings("ignore")
    args.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in args.names + (COVERAGE if args.coverage else []):
        try:
            run(name, args)
        except Exception as error:  # one architecture that does not export must not stop the rest
            failed.append(name)
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
