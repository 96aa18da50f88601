"""Synthetic speech under noise: networks that find speech, judge its quality and tell speakers apart."""

import numpy as np
import torch
from lines import sentences
from packages import Shelf, only
from samples import Feed, Made, generator
from tones import exported
from voices import RATE, SPEAKERS, Voices, mel_spectrogram, noise

import onnx

SILERO = "silero_vad==6.2.3"
SPEECHMOS = "speechmos==0.0.1.1"
RESEMBLYZER = "Resemblyzer==0.1.4"

FRAME, CONTEXT, FRAMES = 512, 64, 250
CLIP = 144_160
DECIBELS = (40, 25, 15, 8, 2, -4)
WINDOW, BANDS = 160, 40
HELD_OUT = 14  # speakers that judged windows have; the others are calibrated on


def stream(voices: Voices, texts: list[str], draw: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    """Eight seconds `[250, 576]` as silero_vad feeds them, and what each frame of 32 ms holds.

    1 is speech, 0 is none within a tenth of a second, and -1 is left out: pauses inside and edges of a sentence. Chirps
    and knocks that are no speech lie between the sentences.
    """
    clean, other, said = np.zeros(FRAME * FRAMES), np.zeros(FRAME * FRAMES), np.zeros(FRAMES, bool)
    at = int(draw.uniform(0.2, 1.5) * RATE)
    while at < len(clean) - RATE:
        words = texts[draw.integers(len(texts))].split()
        sound = voices.speak(" ".join(words[: draw.integers(3, 9)]), int(draw.integers(len(SPEAKERS))))
        sound = sound[: len(clean) - at] * draw.uniform(0.4, 1.2)
        clean[at : at + len(sound)] += sound
        said[at // FRAME : (at + len(sound)) // FRAME + 1] = True
        gap = int(draw.uniform(0.6, 2.0) * RATE)
        middle, at = at + len(sound) + gap // 2, at + len(sound) + gap
        if draw.random() < 0.5 and middle + RATE // 4 < len(other):
            other[middle : middle + RATE // 5] += disturbance(draw, RATE // 5)
    sound = clean + other + noise(draw, len(clean)) * clean.std() * 10 ** (-draw.uniform(-8, 12) / 20)
    loud = np.sqrt((clean.reshape(FRAMES, FRAME) ** 2).mean(1))
    near = np.convolve(said, np.ones(7), "same") > 0
    labels = np.where(loud > 0.15 * loud.max(), 1, np.where(near, -1, 0))
    frames = (0.7 * sound / np.abs(sound).max()).astype(np.float32).reshape(FRAMES, FRAME)
    contexts = np.concatenate([np.zeros((1, CONTEXT), np.float32), frames[:-1, -CONTEXT:]])
    return np.concatenate([contexts, frames], 1), labels.tolist()


def disturbance(draw: np.random.Generator, count: int) -> np.ndarray:
    """A chirp or a knock: loud, short, and no speech."""
    time = np.arange(count) / RATE
    if draw.random() < 0.5:
        low, high = draw.uniform(200, 800), draw.uniform(1000, 4000)
        return np.asarray(0.1 * np.sin(2 * np.pi * (low * time + (high - low) * time**2 / (2 * time[-1]))))
    return np.asarray(draw.normal(0, 0.3, count) * np.exp(-time * draw.uniform(30, 120)))


def activity(shelf: Shelf) -> Made:
    """Streams of sentences and pauses. A sample is one run, because the network carries a state from frame to frame."""
    model = onnx.load(only(shelf.wheel(SILERO), "silero_vad/data/silero_vad_16k_sequence.onnx"))
    voices, texts = Voices(shelf), sentences(shelf)
    feeds: list[Feed] = []
    labels: list[list[int]] = []
    for part, count in (("calib", 12), ("judged", 24)):
        draw = generator("activity", part)
        streams = [stream(voices, texts[part == "judged"], draw) for _ in range(count)]
        state = np.zeros((count, 1, 1, 128), np.float32)
        feeds.append({"input": np.stack([frames for frames, _ in streams]), "h": state, "c": state})
        labels = [found for _, found in streams]
    return Made(model, feeds[0], feeds[1], labels)


def passage(voices: Voices, texts: list[str], speaker: int, count: int, draw: np.random.Generator) -> np.ndarray:
    """`count` samples of one speaker, from as many sentences as are needed."""
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < count:
        parts.append(voices.speak(texts[draw.integers(len(texts))], speaker, int(draw.integers(140, 190))))
    return np.concatenate(parts)[:count]


def quality(shelf: Shelf) -> Made:
    """Passages of nine seconds, each under six levels of noise. A label is passage and level, 0 the cleanest."""
    model = onnx.load(only(shelf.wheel(SPEECHMOS), "speechmos/dnsmos_models/sig_bak_ovr.onnx"))
    voices, texts = Voices(shelf), sentences(shelf)
    feeds: list[Feed] = []
    labels: list[list[int]] = []
    for part, count in (("calib", 2), ("judged", 12)):
        draw = generator("quality", part)
        clips, labels = [], []
        for number in range(count):
            clean = passage(voices, texts[part == "judged"], int(draw.integers(len(SPEAKERS))), CLIP, draw)
            hiss = noise(draw, CLIP)
            for level, decibels in enumerate(DECIBELS):
                sound = clean + hiss * clean.std() * 10 ** (-decibels / 20)
                clips.append((0.7 * sound / np.abs(sound).max()).astype(np.float32))
                labels.append([number, level])
        feeds.append({"input_1": np.stack(clips)})
    return Made(model, feeds[0], feeds[1], labels)


class Encoder(torch.nn.Module):
    """Resemblyzer's network: three LSTMs, the last state of which becomes an embedding of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(BANDS, 256, 3, batch_first=True)
        self.linear = torch.nn.Linear(256, 256)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        _, (hidden, _) = self.lstm(mels)
        raw = torch.relu(self.linear(hidden[-1]))
        norm: torch.Tensor = torch.linalg.vector_norm(raw, dim=1, keepdim=True)
        return raw / norm


def speaker(shelf: Shelf) -> Made:
    """Windows of 1.6 s of 24 voices. Ten voices are calibrated on, fourteen are judged. The labels are the voices."""
    saved = torch.load(only(shelf.wheel(RESEMBLYZER), "resemblyzer/pretrained.pt"), map_location="cpu")
    network = Encoder()
    network.load_state_dict(saved["model_state"], strict=False)
    model = exported(network, torch.zeros(2, WINDOW, BANDS), ("mels", "embedding"))
    voices, texts = Voices(shelf), sentences(shelf)
    feeds: list[Feed] = []
    labels: list[int] = []
    for part, chosen, count in (("calib", range(HELD_OUT, len(SPEAKERS)), 16), ("judged", range(HELD_OUT), 24)):
        draw = generator("speaker", part)
        windows, labels = [], []
        for number in chosen:
            for _ in range(count):
                sound = passage(voices, texts[part == "judged"], number, (WINDOW - 1) * RATE // 100, draw)
                sound = sound + noise(draw, len(sound)) * 0.1 * 10 ** (-draw.uniform(5, 30) / 20)
                windows.append(mel_spectrogram(sound * 10 ** (-30 / 20) / np.sqrt((sound**2).mean())))
                labels.append(number)
        feeds.append({"mels": np.stack(windows)})
    return Made(model, feeds[0], feeds[1], labels)
