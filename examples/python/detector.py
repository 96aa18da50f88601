"""Prunes an object detector of torchvision as far as the F1 score of its boxes allows.

    pip install 'paredown-0.1.0-cp310-abi3-manylinux_2_28_x86_64.whl[all]' torch torchvision
    python detector.py --images path/to/photos --out detector-small.onnx

The photos need no labels: the boxes of the original are what the small detector should find. Without --images, they are random;
with --weights random, so is the network. That is enough to see the sizes, not to judge the result.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import paredown as pd
import torch
import torchvision
from torchvision.transforms.functional import resize

#: Boxes [M, 4] and their classes [M], for each photo.
Boxes = list[tuple[torch.Tensor, torch.Tensor]]


class Exported(torch.nn.Module):
    """What is exported: the network from photos to the scores and offsets of all anchors. torchvision chooses among the boxes."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.head(list(self.backbone(2 * photos - 1).values()))
        return found["cls_logits"], found["bbox_regression"]


class F1:
    """The F1 score of boxes, if those of the original are right: a box is found if one of its class covers half of it."""

    def __init__(self, detector: Any, original: Path, photos: np.ndarray) -> None:
        self._detector = detector
        self._photos = photos
        self._size = photos.shape[2:]
        self._anchors = anchors(detector, self._size)
        self._right = self._boxes(onnxruntime.InferenceSession(str(original), providers=["CPUExecutionProvider"]))

    def __call__(self, session: onnxruntime.InferenceSession) -> float:
        found = wanted = hits = 0
        for (boxes, classes), (right_boxes, right_classes) in zip(self._boxes(session), self._right):
            found, wanted = found + len(boxes), wanted + len(right_boxes)
            overlaps = torchvision.ops.box_iou(boxes, right_boxes)
            overlaps[classes[:, None] != right_classes] = 0
            # The best boxes come first; each box of the original is found once.
            for row in overlaps:
                if len(row) and row.max() >= 0.5:
                    hits += 1
                    overlaps[:, row.argmax()] = 0
        return 2 * hits / max(found + wanted, 1)

    def _boxes(self, session: onnxruntime.InferenceSession) -> Boxes:
        """What the detector finds in each photo."""
        boxes: Boxes = []
        for photo in self._photos:
            scores, offsets = (torch.from_numpy(part) for part in session.run(None, {"photos": photo[None]}))
            outputs = {"cls_logits": scores, "bbox_regression": offsets}
            [found] = self._detector.postprocess_detections(outputs, [self._anchors], [self._size])
            boxes.append((found["boxes"], found["labels"]))
        return boxes


def anchors(detector: Any, size: tuple[int, ...]) -> torch.Tensor:
    """The boxes [A, 4] that the detector's offsets start from."""
    photo = torch.zeros(1, 3, *size)
    with torch.no_grad():
        features = list(detector.backbone(photo).values())
    [found] = detector.anchor_generator(torchvision.models.detection.image_list.ImageList(photo, [size]), features)
    return found


def detector(weights: str, threshold: float, size: int) -> Any:
    """An SSDlite with a MobileNetV3 below it."""
    torch.manual_seed(0)
    chosen = "DEFAULT" if weights == "pretrained" else None
    options = {"weights": chosen, "weights_backbone": None, "score_thresh": threshold}
    network = torchvision.models.detection.ssdlite320_mobilenet_v3_large(**options)
    if weights == "random":
        awaken(network, size)
    return network.eval()


def awaken(network: Any, size: int) -> None:
    """Makes an untrained network see: its normalizations get the statistics of random photos, and its scores differ."""
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        scores, _ = Exported(network)(torch.rand(8, 3, size, size))
        for part in network.head.classification_head.module_list:
            part[-1].weight *= 2 / scores.std()


def photos(folder: Path | None, count: int, size: int) -> np.ndarray:
    """Photos [N, 3, size, size], with values from 0 to 1."""
    if folder is None:
        return np.random.default_rng(0).random((count, 3, size, size), dtype=np.float32)
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in {".jpg", ".jpeg", ".png"})[:count]
    images = [torchvision.io.read_image(str(file), torchvision.io.ImageReadMode.RGB) for file in files]
    return np.stack([resize(image, [size, size], antialias=True).numpy() for image in images]).astype(np.float32) / 255


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--images", type=Path, help="a folder of photos")
    arguments.add_argument("--count", type=int, default=256, help="photos to use: three quarters decide, the others measure")
    arguments.add_argument("--size", type=int, default=320, help="width and height of the photos")
    arguments.add_argument("--weights", choices=["pretrained", "random"], default="pretrained")
    arguments.add_argument("--threshold", type=float, default=0.3, help="least score of a box")
    arguments.add_argument("--max-drop", type=float, default=0.05, help="share of the F1 score that may be lost")
    arguments.add_argument("--effort", choices=["fast", "normal", "thorough"], default="fast")
    arguments.add_argument("--out", type=Path, default=Path("detector-small.onnx"))
    typed = arguments.parse_args()

    network = detector(typed.weights, typed.threshold, typed.size)
    exported = typed.out.with_name("detector.onnx")
    names = {"input_names": ["photos"], "output_names": ["scores", "offsets"], "dynamic_axes": {"photos": {0: "batch"}}}
    example = torch.zeros(1, 3, typed.size, typed.size)
    torch.onnx.export(Exported(network).eval(), (example,), exported, opset_version=17, dynamo=False, **names)

    images = photos(typed.images, typed.count, typed.size)
    decide, measure = np.split(images, [3 * len(images) // 4])
    metric = F1(network, exported, measure)
    data = {"photos": decide}
    result = pd.prune(exported, max_drop=typed.max_drop, data=data, metric=metric, effort=typed.effort, progress=True)
    print(result.report)
    result.save(typed.out, force=True)


if __name__ == "__main__":
    main()
