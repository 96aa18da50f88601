"""Wall time and peak memory of whole processes; writes the first section of bench/SPEED.md.

    python bench/speed.py --models models --paredown target/release/paredown
    python bench/speed.py --only resnet50 --models models --paredown target/release/paredown

ResNet-50 is read from and written to a folder in memory (--memory), the file cache warm, best of five. The big models
(big_model.py) run once from disk, with the data segment limited as prlimit --data does; their results are checked
with onnx.checker and, for the chain, in ONNX Runtime. Peaks include mapped pages.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

BENCH = Path(__file__).resolve().parent
REPEATS = 5


@dataclass(frozen=True)
class Case:
    """A run and its limits. `data` is the limit of the data segment in bytes, 0 for none."""

    name: str
    model: str
    options: tuple[str, ...]
    seconds: float | None = None
    megabytes: float | None = None
    data: int = 0


CASES = [
    Case("ResNet-50, no verification", "resnet50.onnx", ("--criterion", "l2", "--no-verify"), 0.4, 250),
    Case("ResNet-50, verified", "resnet50.onnx", ("--criterion", "l2"), 3.0),
    Case("chain of Gemm, 3.2 GB", "big/chain.onnx", ("--criterion", "l2", "--no-verify"), data=1_000_000_000),
    Case("Llama, 1.1 B parameters, 4.4 GB", "big/llama.onnx", ("--criterion", "l2", "--no-verify"), data=2_000_000_000),
]


@dataclass
class Result:
    """`peak` in bytes, resident set with mapped pages; `error` is None when the run ended well."""

    seconds: float
    peak: int
    error: str | None = None


def measure(command: list[str], data: int) -> Result:
    """Runs `command` once. This process stays small, so that its own memory does not count as the child's."""
    limit = (lambda: resource.setrlimit(resource.RLIMIT_DATA, (data, data))) if data else None
    with tempfile.TemporaryFile() as messages:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=messages, preexec_fn=limit)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        messages.seek(0)
        text = messages.read().decode(errors="replace").strip()
    error = None if process.returncode == 0 else f"exit {process.returncode}: {text[:200]}"
    return Result(seconds, usage.ru_maxrss * 1024, error)


def run(case: Case, args: argparse.Namespace) -> Result:
    big = case.model.startswith("big/")
    with tempfile.TemporaryDirectory(dir=args.models if big else args.memory) as folder:
        source = args.models / case.model
        if not big:
            source = Path(shutil.copy(source, folder))
        target = Path(folder) / "out.onnx"
        command = [args.paredown, "prune", str(source), "-o", str(target), "--ratio", "0.5", "--force", "--quiet"]
        runs = [measure([*command, *case.options], case.data) for _ in range(1 if big else REPEATS)]
        failed = next((result for result in runs if result.error), None)
        if failed is None and big:
            failed = checked(source, target, runs[0])
    return failed or Result(min(r.seconds for r in runs), max(r.peak for r in runs))


def checked(source: Path, target: Path, result: Result) -> Result | None:
    """The result as a failure where the written file is not valid. In a process of its own, for the memory."""
    script = ["onnx.checker.check_model(sys.argv[2], full_check=True)"]
    if "chain" in source.name:
        script += [
            "session = check.session(sys.argv[2])",
            "output, = session.run(None, {'input': np.ones((2, 256), np.float32)})",
            "assert np.isfinite(output).all()",
        ]
    code = "\n".join(["import sys, onnx, check, numpy as np", *script])
    command = [sys.executable, "-c", code, str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=BENCH)
    if done.returncode == 0:
        return None
    result.error = "not valid: " + done.stderr.strip().splitlines()[-1][:200]
    return result


def problem(case: Case, result: Result) -> str | None:
    if result.error:
        return result.error
    late = case.seconds and result.seconds >= case.seconds
    large = case.megabytes and result.peak >= case.megabytes * 1e6
    missed = ([f"limit {case.seconds} s"] if late else []) + ([f"limit {case.megabytes:.0f} MB"] if large else [])
    return ", ".join(missed) or None


def page(results: dict[str, Result], profile: str) -> str:
    lines = [
        "# Speed and memory",
        "",
        "The first table is written by `bench/speed.py`: `--ratio 0.5 --criterion l2`, from process start to closed file.",
        f"ResNet-50 in memory, best of {REPEATS}; big models from disk, once, under `prlimit --data`. Peak is the resident set, mapped",
        f"pages included. {profile}".rstrip(),
        "",
        "| run | data limit | s | peak MB | status |",
        "|---|---|---|---|---|",
    ]
    for case in CASES:
        if case.name in results:
            result = results[case.name]
            limit = f"{case.data / 1e9:.0f} GB" if case.data else "–"
            status = problem(case, result) or "ok"
            lines.append(f"| {case.name} | {limit} | {result.seconds:.2f} | {result.peak / 1e6:.0f} | {status} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--paredown", default="paredown")
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="models whose file contains this")
    parser.add_argument("--note", default="", help="a line for the page: machine, build profile")
    parser.add_argument("--page", type=Path, default=BENCH / "SPEED.md")
    args = parser.parse_args()
    store = args.models / "speed.json"
    results = {n: Result(**r) for n, r in json.loads(store.read_text()).items()} if store.exists() else {}
    missed = 0
    for case in CASES:
        if args.only and not any(part in case.model for part in args.only):
            continue
        if not (args.models / case.model).exists():
            print(f"{case.name}: {case.model} is missing")
            continue
        results[case.name] = run(case, args)
        found = problem(case, results[case.name])
        missed += found is not None
        result = results[case.name]
        print(f"{case.name}: {result.seconds:.2f} s, {result.peak / 1e6:.0f} MB, {found or 'ok'}", flush=True)
    store.write_text(json.dumps({name: asdict(result) for name, result in results.items()}, indent=1))
    # What other scripts measured stands behind the first section.
    others = "".join(args.page.read_text().partition("\n## ")[1:]) if args.page.exists() else ""
    args.page.write_text(page(results, args.note) + others)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
