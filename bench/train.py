"""Time of one epoch of training digits_resnet beside PyTorch, same batches, same number of threads, in one run.

    cargo build --release
    python bench/train.py target/release/paredown [--threads 2] [--epochs 10]

paredown's epoch is the difference of two runs of `tune` with labels, of which one has more epochs; it contains the evaluation of
the held-out tenth, which PyTorch's does not. Both freeze the statistics of batch normalization. Peak memory is that of
the short and of the long run.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "fixtures"))


def ours(executable, epochs, threads, out):
    """Seconds and peak memory (MB) of a run of `tune`."""
    command = [executable, "tune", ROOT / "fixtures/digits_resnet.onnx", "-o", out, "--force", "--no-verify", "--quiet"]
    command += ["--data", ROOT / "fixtures/train.npz", "--epochs", str(epochs), "--mixup", "0"]
    began = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], env={**os.environ, "RAYON_NUM_THREADS": str(threads)})
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit("tune failed")
    return time.perf_counter() - began, usage.ru_maxrss / 1000


def torch_epoch(threads):
    """A call that trains PyTorch's network for one epoch."""
    import digits
    import networks
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    images, labels, _, _ = digits.load()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    model = networks.ResNet().eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)

    def epoch():
        for chosen in torch.randperm(len(x)).split(64):
            loss = F.cross_entropy(model(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return epoch


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("executable")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=10, help="of the long run")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    best = {"paredown": float("inf"), "PyTorch": float("inf")}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.onnx"
        # Before PyTorch is loaded: a child's peak begins at that of its parent.
        little, much = (ours(args.executable, epochs, args.threads, out)[1] for epochs in (1, 1 + args.epochs))
        epoch = torch_epoch(args.threads)
        epoch()
        for _ in range(args.turns):
            began = time.perf_counter()
            epoch()
            best["PyTorch"] = min(best["PyTorch"], time.perf_counter() - began)
            short, _ = ours(args.executable, 1, args.threads, out)
            long, _ = ours(args.executable, 1 + args.epochs, args.threads, out)
            best["paredown"] = min(best["paredown"], (long - short) / args.epochs)
    ratio = best["paredown"] / best["PyTorch"]
    print(f"one epoch: paredown {best['paredown']:.3f} s, PyTorch {best['PyTorch']:.3f} s, ratio {ratio:.2f} (limit 2)")
    print(f"peak memory: {little:.0f} MB after 1 epoch, {much:.0f} MB after {1 + args.epochs}")
    sys.exit(ratio > 2)


if __name__ == "__main__":
    main()
