"""Metrics of the networks, each computed from what ONNX Runtime makes of the judged samples; higher is better.

    python bench/real/metrics.py FOLDER NAME [MODEL.onnx]

Without a model, the original is judged.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from networks import Feed, session


def outputs(model: Path, feed: Feed, batch: int, axis: int = 0) -> list[np.ndarray]:
    """The outputs for all samples, joined along the axis that counts samples."""
    runner = session(model)
    count = len(next(iter(feed.values())))
    starts = range(0, count, batch)
    runs = [runner.run(None, {name: array[at : at + batch] for name, array in feed.items()}) for at in starts]
    return [np.concatenate(parts, axis) for parts in zip(*runs, strict=True)]


def distance(left: str, right: str) -> int:
    """Characters to insert, delete or replace."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]


def characters(read: Sequence[str], texts: Sequence[str]) -> float:
    """One minus the character error rate; a line costs at most its own length."""
    wrong = sum(min(len(text), distance(found, text)) for found, text in zip(read, texts, strict=True))
    return 1 - wrong / sum(map(len, texts))


def decoded(steps: np.ndarray, classes: Sequence[str], blank: int) -> str:
    """The text of a connectionist classifier: repetitions become one character, blanks vanish."""
    kept = [step for at, step in enumerate(steps) if step != blank and (at == 0 or step != steps[at - 1])]
    return "".join(classes[step] for step in kept)


def recognizer(model: Path, feed: Feed, labels: Any) -> float:
    found = outputs(model, feed, 16)[0].argmax(-1)
    read = [decoded(steps, labels["classes"], 0).replace(" ", "") for steps in found]
    return characters(read, [text.replace(" ", "") for text in labels["texts"]])


def captcha(model: Path, feed: Feed, labels: Any) -> float:
    found = outputs(model, feed, 20, axis=1)[0].argmax(-1).T
    classes = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_"
    return characters([decoded(steps, classes, 36) for steps in found], labels)


def top1(model: Path, feed: Feed, labels: Any) -> float:
    return float((outputs(model, feed, 16)[0].argmax(1) == np.array(labels)).mean())


def file_type(model: Path, feed: Feed, labels: Any) -> float:
    found = outputs(model, feed, 32)[0].argmax(1)
    right = [labels["classes"][at] in accepted for at, accepted in zip(found, labels["types"], strict=True)]
    return float(np.mean(right))


def pitch(model: Path, feed: Feed, labels: Any) -> float:
    """The weighted mean of the nine bins around the strongest one, as CREPE reads its output."""
    cents = 20 * np.arange(360) + 1997.3794084376191
    right = 0
    for row, hertz in zip(outputs(model, feed, 32)[0], labels, strict=True):
        near = slice(max(0, row.argmax() - 4), row.argmax() + 5)
        found = (row[near] * cents[near]).sum() / row[near].sum()
        right += bool(abs(found - 1200 * np.log2(hertz / 10)) < 50)
    return right / len(labels)


def activity(model: Path, feed: Feed, labels: Any) -> float:
    runner = session(model)
    runs = [runner.run(None, {name: array[at] for name, array in feed.items()})[0] for at in range(len(labels))]
    scores, truth = np.concatenate([run.ravel() for run in runs]), np.ravel(labels)
    scores, truth = scores[truth >= 0], truth[truth >= 0] == 1
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores, kind="stable")] = np.arange(1, len(scores) + 1)
    speech = truth.sum()
    return float((ranks[truth].sum() - speech * (speech + 1) / 2) / (speech * (len(truth) - speech)))


def quality(model: Path, feed: Feed, labels: Any) -> float:
    overall = outputs(model, feed, 4)[0][:, 2]
    pairs = [(i, j) for i, a in enumerate(labels) for j, b in enumerate(labels) if a[0] == b[0] and a[1] < b[1]]
    return float(np.mean([overall[i] > overall[j] for i, j in pairs]))


def speaker(model: Path, feed: Feed, labels: Any) -> float:
    found, truth = outputs(model, feed, 16)[0], np.array(labels)
    names, rows = np.unique(truth), np.arange(len(truth))
    right = 0
    for at in rows:
        means = np.stack([found[(truth == name) & (rows != at)].mean(0) for name in names])
        right += bool(names[(means @ found[at] / np.linalg.norm(means, axis=1)).argmax()] == truth[at])
    return right / len(truth)


METRICS: dict[str, Callable[[Path, Feed, Any], float]] = {
    "captcha": captcha,
    "file_type": file_type,
    "mobilenet": top1,
    "orientation": top1,
    "pitch": pitch,
    "quality": quality,
    "recognizer": recognizer,
    "speaker": speaker,
    "activity": activity,
}


def metric(folder: Path, model: Path | None = None) -> float:
    """The metric of a network's folder, for its own or another model."""
    with np.load(folder / "eval.npz") as archive:
        feed = dict(archive)
    labels = json.loads((folder / "labels.json").read_text())
    return METRICS[folder.name](model or folder / "model.onnx", feed, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", choices=METRICS)
    parser.add_argument("model", type=Path, nargs="?")
    options = parser.parse_args()
    print(f"{metric(options.folder / options.name, options.model):.4f}")


if __name__ == "__main__":
    main()
