"""Spearman correlation (×100) of a sentence-embedding model on an STS-B csv.

    python bench/sts.py models/minilm.onnx --data stsb-en-dev.csv

Embedding: mean of the last hidden states under the attention mask, L2-normalized; score: cosine.
csv without header: sentence 1, sentence 2, similarity.
"""

import argparse
import time
from pathlib import Path

import minilm
import numpy as np
import onnxruntime
from scipy.stats import spearmanr

BATCH = 64


def embed(session: onnxruntime.InferenceSession, encodings: list) -> np.ndarray:
    """Unit embeddings [n, width], computed in padded batches of similar length."""
    wanted = {value.name for value in session.get_inputs()}
    order = sorted(range(len(encodings)), key=lambda i: len(encodings[i].ids))
    rows: list[np.ndarray | None] = [None] * len(encodings)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        feed = minilm.padded([encodings[i] for i in chosen])
        (hidden,) = session.run(None, {k: v for k, v in feed.items() if k in wanted})[:1]
        mask = feed["attention_mask"][:, :, None]
        pooled = (hidden.astype(np.float64) * mask).sum(1) / mask.sum(1)
        for i, row in zip(chosen, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), strict=True):
            rows[i] = row
    return np.stack(rows)


def spearman(model: Path, data: Path, tokenizer: Path | None = None) -> float:
    encode = minilm.tokenizer(tokenizer).encode_batch
    first, second, similarity = minilm.sentence_pairs(data)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    cosine = (embed(session, encode(first)) * embed(session, encode(second))).sum(1)
    return 100 * float(spearmanr(cosine, similarity).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, help="folder with tokenizer.json; default: the installed package's")
    args = parser.parse_args()
    for model in args.models:
        start = time.perf_counter()
        value = spearman(model, args.data, args.tokenizer)
        print(f"{model}  {value:.2f}  ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
