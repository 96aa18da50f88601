"""Speed of paredown's linear algebra beside NumPy and SciPy, one thread on both sides, in one run.

    cargo bench --bench linalg --no-run [--features lapack]     # prints the path of the executable
    python bench/linalg.py EXECUTABLE [--repeats 5] [--quick]

Both sides decompose matrices of the same size and distribution in turns, so that a busy machine slows both;
the best time of each side counts. Exits with 1 when a ratio is above its limit.
"""

import argparse
import os
import subprocess
import sys
import time

os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
import scipy.linalg

# operation, size, most that paredown's default backend may take, as a multiple of the peer's time
ROWS = [
    ("svd_f32", 1024, 1.0),
    ("svd_f32", 2048, 1.3),
    ("svd_f64", 1024, None),
    ("eigh_f64", 2048, 1.1),
    ("matmul_f32", 2048, None),
    ("matmul_f64", 2048, None),
]


def peer(operation, n):
    """The peer's call and its name."""
    a = np.random.default_rng(0).uniform(-1, 1, (n, n))
    if operation.endswith("f32"):
        a = a.astype(np.float32)
    if operation.startswith("svd"):
        return lambda: np.linalg.svd(a, full_matrices=False), "numpy.linalg.svd"
    if operation.startswith("eigh"):
        gram = a.T @ a
        return lambda: scipy.linalg.eigh(gram), "scipy.linalg.eigh"
    return lambda: a @ a, "numpy.matmul"


def seconds(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def ours(executable, operation, n):
    """Best of two runs of each backend."""
    lines = subprocess.run([executable, operation, str(n), "2"], check=True, capture_output=True, text=True).stdout
    return {backend: float(best) for _, _, backend, best in map(str.split, lines.splitlines())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("executable", help="the compiled bench target")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side")
    parser.add_argument("--quick", action="store_true", help="a quarter of each size, no limits")
    options = parser.parse_args()
    print(f"numpy {np.__version__}, scipy {scipy.__version__}, one thread, best of {2 * options.repeats}")
    print("| operation | size | peer | s | backend | s | ratio | limit |\n|---|---|---|---|---|---|---|---|")
    failed = False
    for operation, n, limit in ROWS:
        if options.quick:
            n, limit = n // 4, None
        call, name = peer(operation, n)
        call()
        theirs, mine = [], {}
        for _ in range(options.repeats):
            theirs += [seconds(call), seconds(call)]
            for backend, best in ours(options.executable, operation, n).items():
                mine[backend] = min(best, mine.get(backend, best))
        for backend, best in mine.items():
            ratio = best / min(theirs)
            allowed = limit if backend == "faer" else None
            failed |= allowed is not None and ratio > allowed
            print(
                f"| {operation} | {n} | {name} | {min(theirs):.3f} | {backend} | {best:.3f} "
                f"| {ratio:.2f} | {'' if allowed is None else allowed} |"
            )
    layers = ours(options.executable, "allocate", 200)["-"]
    failed |= layers > 0.1 and not options.quick
    print(f"\nranks of 200 layers under a budget: {layers:.4f} s, limit 0.1")
    sys.exit(failed)


if __name__ == "__main__":
    main()
