"""Text lines drawn with Pillow: a recognizer of text lines, and a classifier of their orientation."""

import re
from pathlib import Path

import numpy as np
from packages import Shelf, only
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from samples import Feed, Made, generator

import onnx

RAPIDOCR = "rapidocr_onnxruntime==1.4.4"
FONTS = "matplotlib==3.11.2"
TEXTS = "pygments==2.21.0"
HEIGHT = 48

FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Bold",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
)  # fmt: skip


def sentences(shelf: Shelf) -> tuple[list[str], list[str]]:
    """Plain English from the documentation of Pygments, to calibrate on and to be judged on: no sentence is in both."""
    pages = sorted(shelf.source(TEXTS).glob("pygments-*/doc/**/*.rst"))
    text = " ".join(re.sub(r"`+[^`]*`+|:\w+:|[*_|]+", " ", page.read_text()) for page in pages)
    found = re.findall(r"[A-Z][A-Za-z0-9 ,'\-\n]{25,160}[.!?]", text)
    clean = list(dict.fromkeys(re.sub(r"\s+", " ", sentence) for sentence in found))
    return clean[::2], clean[1::2]


def phrase(words: list[str], draw: np.random.Generator) -> str:
    """Two to four words that stand beside each other."""
    start = draw.integers(len(words) - 4)
    return " ".join(words[start : start + draw.integers(2, 5)])


def render(text: str, face: Path, width: int, draw: np.random.Generator) -> np.ndarray:
    """A line of text as a picture `[48, w, 3]`, w <= width: any colours of enough contrast, a little turned and blurred."""
    font = ImageFont.truetype(str(face), int(draw.integers(26, 38)))
    left, top, right, bottom = font.getbbox(text)
    margin = draw.integers(3, 10, 4)
    size = (int(right - left + margin[0] + margin[1]), int(bottom - top + margin[2] + margin[3]))
    dark, light = draw.integers(0, 90, 3), draw.integers(165, 256, 3)
    paper, ink = (light, dark) if draw.random() < 0.7 else (dark, light)
    picture = Image.new("RGB", size, tuple(int(c) for c in paper))
    ImageDraw.Draw(picture).text((margin[0] - left, margin[2] - top), text, tuple(int(c) for c in ink), font)
    colour = tuple(int(c) for c in paper)
    picture = picture.rotate(draw.uniform(-1.5, 1.5), Image.Resampling.BICUBIC, fillcolor=colour)
    picture = picture.filter(ImageFilter.GaussianBlur(draw.uniform(0, 1.0)))
    picture = picture.resize((min(width, round(size[0] * HEIGHT / size[1])), HEIGHT), Image.Resampling.BILINEAR)
    noisy = np.asarray(picture, np.float32) + draw.normal(0, draw.uniform(0, 15), (HEIGHT, picture.width, 3))
    return noisy.clip(0, 255)


def tensor(picture: np.ndarray, width: int) -> np.ndarray:
    """A picture as RapidOCR feeds it: channels first in the order of OpenCV, -1 to 1, padded with zeros."""
    padded = np.zeros((3, HEIGHT, width), np.float32)
    padded[:, :, : picture.shape[1]] = picture[:, :, ::-1].transpose(2, 0, 1) / 127.5 - 1
    return padded


def drawn(shelf: Shelf, part: str, count: int, width: int) -> tuple[list[np.ndarray], list[str], np.random.Generator]:
    """Pictures of text lines, and what they say."""
    draw = generator("lines", f"{part} {width}")
    words = " ".join(sentences(shelf)[part == "judged"]).split()
    fonts = shelf.wheel(FONTS) / "matplotlib/mpl-data/fonts/ttf"
    texts = [phrase(words, draw) for _ in range(count)]
    pictures = [render(text, fonts / f"{FACES[draw.integers(len(FACES))]}.ttf", width, draw) for text in texts]
    return pictures, texts, draw


def recognizer(shelf: Shelf) -> Made:
    """Text lines of 320 columns. The labels are the texts, and what each class stands for."""
    model = onnx.load(only(shelf.wheel(RAPIDOCR), "*/models/*_rec_infer.onnx"))
    characters = next(entry.value for entry in model.metadata_props if entry.key == "character").splitlines()
    feeds: list[Feed] = []
    texts: list[str] = []
    for part, count in (("calib", 128), ("judged", 300)):
        pictures, texts, _ = drawn(shelf, part, count, 320)
        feeds.append({"x": np.stack([tensor(picture, 320) for picture in pictures])})
    return Made(model, feeds[0], feeds[1], {"texts": texts, "classes": ["", *characters, " "]})


def orientation(shelf: Shelf) -> Made:
    """Text lines of 192 columns, half of them upside down. The labels are the classes: 0 upright, 1 upside down."""
    model = onnx.load(only(shelf.wheel(RAPIDOCR), "*/models/*_cls_infer.onnx"))
    feeds: list[Feed] = []
    labels: list[int] = []
    for part, count in (("calib", 128), ("judged", 400)):
        pictures, _, draw = drawn(shelf, part, count, 192)
        labels = [int(label) for label in draw.integers(0, 2, count)]
        turned = [picture[::-1, ::-1] if label else picture for picture, label in zip(pictures, labels, strict=True)]
        feeds.append({"x": np.stack([tensor(picture, 192) for picture in turned])})
    return Made(model, feeds[0], feeds[1], labels)
