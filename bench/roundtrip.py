"""Does loading and saving unchanged give an equal ModelProto?

    python bench/roundtrip.py [FOLDER]

Runs `cargo run --release --example round_trip` over every .onnx file in FOLDER (default: the folder of the
installed `onnx` package, with its backend tests) and compares what was written with what was read, decoded by
`onnx` itself: equal messages, equal deterministic encodings, no unknown fields. Exit status 1 on any difference.
"""

import os
import subprocess
import sys
import tempfile

import onnx
from google.protobuf import unknown_fields

COMMAND = ["cargo", "run", "--quiet", "--release", "--example", "round_trip", "--"]


def has_unknown_fields(message):
    if len(unknown_fields.UnknownFieldSet(message)):
        return True
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        values = value if isinstance(value, (list, tuple)) or hasattr(value, "add") else [value]
        if any(has_unknown_fields(part) for part in values):
            return True
    return False


def differences(original, saved):
    before = onnx.load(original, load_external_data=False)
    after = onnx.load(saved, load_external_data=False)
    # NaN weights make equal messages compare unequal; their encodings tell.
    if before.SerializeToString(deterministic=True) != after.SerializeToString(deterministic=True):
        yield "another ModelProto"
    if has_unknown_fields(before):
        yield "fields that onnx does not know"


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(onnx.__file__)
    bad = 0
    with tempfile.TemporaryDirectory() as out:
        listing = subprocess.run(COMMAND + [folder, out], check=True, capture_output=True, text=True).stdout
        rows = [line.split("\t") for line in listing.splitlines()]
        for original, saved, _, _, warnings in rows:
            found = list(differences(original, saved)) + ([warnings] if warnings != "[]" else [])
            bad += bool(found)
            for difference in found:
                print(f"{original}: {difference}")
    print(f"{len(rows)} models, {bad} differ")
    return 1 if bad or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
