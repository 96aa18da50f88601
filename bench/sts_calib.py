"""Calibration data for MiniLM from the sentences of an STS-B csv: `paredown --data`.

    python bench/sts_calib.py --data stsb-en-train.csv -n 512 --out calib.npz   # padded, attention_mask marks it
    python bench/sts_calib.py --data stsb-en-train.csv -n 512 --out calib/      # a folder of batches of equal length

Arrays are named as the graph's inputs (input_ids, attention_mask, token_type_ids; int64 [batch, sequence]).
"""

import argparse
from pathlib import Path

import minilm
import numpy as np


def sample(data: Path, count: int, seed: int) -> list[str]:
    """`count` distinct sentences in a seeded order."""
    first, second, _ = minilm.sentence_pairs(data)
    distinct = sorted(set(first + second))
    if count > len(distinct):
        raise SystemExit(f"{data} has {len(distinct)} distinct sentences, {count} asked for")
    return [distinct[i] for i in np.random.RandomState(seed).permutation(len(distinct))[:count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-n", type=int, default=512, help="sentences")
    parser.add_argument("--out", type=Path, required=True, help="file.npz, or a folder for batches of equal length")
    parser.add_argument("--batch", type=int, default=64, help="largest batch of the folder form")
    parser.add_argument("--tokenizer", type=Path, help="folder with tokenizer.json; default: the installed package's")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    encodings = minilm.tokenizer(args.tokenizer).encode_batch(sample(args.data, args.n, args.seed))
    tokens = sum(len(e.ids) for e in encodings)
    if args.out.suffix == ".npz":
        args.out.parent.mkdir(parents=True, exist_ok=True)
        batch = minilm.padded(encodings)
        np.savez_compressed(args.out, **batch)
        print(f"{args.out}  {len(encodings)} sentences, {tokens} tokens, padded to {batch['input_ids'].shape[1]}")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    by_length: dict[int, list] = {}
    for encoding in encodings:
        by_length.setdefault(len(encoding.ids), []).append(encoding)
    files = 0
    for length, group in sorted(by_length.items()):
        for start in range(0, len(group), args.batch):
            name = f"length{length:03}_{start // args.batch:02}.npz"
            np.savez_compressed(args.out / name, **minilm.padded(group[start : start + args.batch]))
            files += 1
    print(f"{args.out}  {len(encodings)} sentences, {tokens} tokens in {files} batches of equal length")


if __name__ == "__main__":
    main()
