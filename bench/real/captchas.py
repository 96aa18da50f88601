"""Captchas of the package that draws them: a network that reads them."""

import importlib
import random
import sys

import numpy as np
from packages import Shelf, only
from samples import Feed, Made

import onnx

READER = "captcha-whisperer==0.1.0"
WRITER = "captcha==0.7.1"
# Without 0, 1, I and O, which a captcha does not tell apart.
LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"


class Seeded:
    """What the package takes from `secrets`, from numbers that are the same in every run."""

    randbelow = staticmethod(random.randrange)
    randbits = staticmethod(random.getrandbits)
    choice = staticmethod(random.choice)


def captcha(shelf: Shelf) -> Made:
    """Four or five letters and digits. The labels are the texts."""
    sys.path.insert(0, str(shelf.wheel(WRITER)))
    module = importlib.import_module("captcha.image")
    module.secrets = Seeded  # type: ignore[attr-defined]
    writer = module.ImageCaptcha(width=160, height=60)
    model = onnx.load(only(shelf.wheel(READER), "*/models/*.onnx"))
    feeds: list[Feed] = []
    texts: list[str] = []
    for part, count in (("calib", 128), ("judged", 300)):
        random.seed(f"captcha {part}")
        texts = ["".join(random.choices(LETTERS, k=random.choice((4, 5)))) for _ in range(count)]
        pictures = [np.asarray(writer.generate_image(text).convert("RGB"), np.float32) for text in texts]
        feeds.append({"image": np.stack([picture[:, :, ::-1].transpose(2, 0, 1) for picture in pictures])})
    return Made(model, feeds[0], feeds[1], texts)
