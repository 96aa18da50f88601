"""Prunes a sentence-embedding model as far as its rank correlation with human judgements allows.

    pip install 'paredown-0.1.0-cp310-abi3-manylinux_2_28_x86_64.whl[all]' tokenizers
    python minilm_spearman.py minilm.onnx --tokenizer tokenizer.json --pairs sts-dev.csv --sentences sentences.txt

The pairs are a csv without header: sentence 1, sentence 2, similarity. The sentences, one a line, calibrate; they are not those of
the pairs.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import paredown as pd
from tokenizers import Tokenizer

BATCH = 64


class Metric:
    """Spearman's rank correlation of cosine similarities with those of humans, times 100."""

    def __init__(self, tokenizer: Tokenizer, pairs: Path) -> None:
        with pairs.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        self._tokenizer = tokenizer
        self._sentences = [row[0] for row in rows] + [row[1] for row in rows]
        self._similarity = np.array([float(row[2]) for row in rows])

    def __call__(self, session: onnxruntime.InferenceSession) -> float:
        embeddings = np.concatenate(
            [
                self._embed(session, self._sentences[start : start + BATCH])
                for start in range(0, len(self._sentences), BATCH)
            ]
        )
        first, second = np.split(embeddings, 2)
        return 100 * float(np.corrcoef(ranks((first * second).sum(axis=1)), ranks(self._similarity))[0, 1])

    def _embed(self, session: onnxruntime.InferenceSession, sentences: Sequence[str]) -> np.ndarray:
        """The mean of the last hidden states under the mask, of length 1."""
        feed = encoded(self._tokenizer, sentences)
        wanted = {value.name for value in session.get_inputs()}
        hidden = session.run(None, {name: array for name, array in feed.items() if name in wanted})[0]
        mask = feed["attention_mask"][:, :, None]
        pooled = (hidden * mask).sum(axis=1) / mask.sum(axis=1)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def ranks(values: np.ndarray) -> np.ndarray:
    """The rank of every value; equal values share the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def encoded(tokenizer: Tokenizer, sentences: Sequence[str]) -> dict[str, np.ndarray]:
    """The inputs of the model for these sentences, padded to the longest."""
    rows = tokenizer.encode_batch(list(sentences))
    of = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {name: np.array([getattr(row, part) for row in rows], dtype=np.int64) for name, part in of.items()}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--tokenizer", type=Path, required=True)
    arguments.add_argument("--pairs", type=Path, required=True)
    arguments.add_argument("--sentences", type=Path, required=True)
    arguments.add_argument("--max-drop", type=float, default=0.01, help="share of the correlation that may be lost")
    arguments.add_argument("--out", type=Path, default=Path("minilm-small.onnx"))
    typed = arguments.parse_args()

    tokenizer = Tokenizer.from_file(str(typed.tokenizer))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(128)
    sentences = typed.sentences.read_text(encoding="utf-8").splitlines()
    batches = (encoded(tokenizer, sentences[start : start + BATCH]) for start in range(0, len(sentences), BATCH))
    metric = Metric(tokenizer, typed.pairs)
    result = pd.prune(typed.model, max_drop=typed.max_drop, data=batches, metric=metric, progress=True)
    print(result.report)
    result.save(typed.out, force=True)


if __name__ == "__main__":
    main()
