"""What a network's samples are, and how they are written."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from networks import Feed

import onnx


@dataclass(frozen=True)
class Made:
    """A network with its samples. `calib` is for paredown, `judged` for the metric alone.

    Arrays have the names of the graph's inputs, and their first axis counts samples. `labels` are what the metric of the
    network reads.
    """

    model: onnx.ModelProto
    calib: Feed
    judged: Feed
    labels: Any

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, feed in (("calib.npz", self.calib), ("eval.npz", self.judged)):
            np.savez_compressed(folder / name, allow_pickle=False, **feed)
        (folder / "labels.json").write_text(json.dumps(self.labels))
        onnx.save(self.model, folder / "model.onnx")


def generator(name: str, part: str) -> np.random.Generator:
    """Random numbers of one part of one network's samples: the same in every run."""
    return np.random.default_rng([*name.encode(), *part.encode()])
