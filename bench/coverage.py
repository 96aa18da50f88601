"""Prune every network at ratio 0.5, check the results with other tools, and write bench/COVERAGE.md.

    python bench/coverage.py --models models --paredown target/release/paredown --masker target/release/examples/mask
    python bench/coverage.py anchors wide --only 'resnet*' --models models                 # some
    python bench/coverage.py wide --resume --models models                                 # what is missing
    python bench/coverage.py --render --models models                                      # only the page again
    python bench/coverage.py --render --update --models models                             # only the rows with results

Sections: `anchors` (the table with peers), `wide` (torchvision, both exporters), `detectors`, `transformers`,
`recurrent`, `quantized`, `fused`. Files that are missing are exported where a torchvision name says how; the others come
from the export_*.py scripts. Results are kept in DIR/coverage/, so that a section can be run again by itself; peers
are run once for each file (--peers runs them again, --no-peers leaves them out).
"""

import argparse
import fnmatch
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import coverage_page
import trial
from coverage_models import ANCHORS, DETECTORS, WIDE

BENCH = Path(__file__).resolve().parent
PEER_LIMIT = 200  # seconds of processor time
EXPORT_LIMIT = 600
ATTENTION = {"Softmax"}
ACTIVATIONS = {"Erf", "Gelu", "Relu", "Sigmoid", "Tanh", "QuickGelu", "FastGelu", "BiasGelu"}
RECURRENT = {"GRU", "LSTM", "RNN"}
SECTIONS = ("anchors", "wide", "detectors", "transformers", "recurrent", "quantized", "fused")


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def python(script: str, *arguments: str, limit: float, processor: int | None = None) -> tuple[int, str, str]:
    """Exit code (124: time limit), standard output and standard error of a script of this folder. `limit` is by the clock,
    `processor` of processor time, both in seconds."""
    command = [sys.executable, str(BENCH / script), *arguments]
    set_limit = None if processor is None else lambda: resource.setrlimit(resource.RLIMIT_CPU, (processor, processor + 5))
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, check=False, env=environment(), preexec_fn=set_limit
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"no end in {limit:.0f} s"
    return run.returncode, run.stdout, run.stderr


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no message"


def exported(models: Path, name: str, dynamo: bool, leave: bool) -> tuple[Path, str | None]:
    """The file of a torchvision network, made if it is missing unless `leave`, and why it could not be made."""
    folder = models / "dynamo" if dynamo else models
    path = folder / (name + ("_dynamo" if dynamo else "") + ".onnx")
    if path.exists() or leave:
        return path, None
    code, _, error = python(
        "export_torchvision.py", name, *(["--dynamo"] if dynamo else []), "--out", str(folder), limit=EXPORT_LIMIT
    )
    path.unlink(missing_ok=True) if code else None
    return path, None if code == 0 else last_line(error)


def peer(tool: str, subject: str) -> dict:
    """Limited in processor time, so that other work on the machine costs a peer nothing."""
    code, output, error = python("peers.py", tool, subject, limit=5 * PEER_LIMIT, processor=PEER_LIMIT)
    if code:
        late = code in (124, -signal.SIGXCPU)
        return {"parameters": None, "error": f"no end in {PEER_LIMIT} s" if late else last_line(error)}
    return json.loads(output.strip().splitlines()[-1]) | {"error": None}


class Bench:
    """The options of a run and the results so far, saved after every network."""

    def __init__(self, args: argparse.Namespace, scratch: Path):
        self.args, self.scratch = args, scratch
        self.store = args.models / "coverage"
        self.store.mkdir(exist_ok=True)
        self.results = {file.stem: json.loads(file.read_text()) for file in self.store.glob("*.json")}
        self.results.setdefault("peers", {})

    def save(self, section: str) -> None:
        (self.store / f"{section}.json").write_text(json.dumps(self.results[section], indent=1))

    def wanted(self, name: str) -> bool:
        return not self.args.only or any(fnmatch.fnmatch(name, pattern) for pattern in self.args.only)

    def is_done(self, section: str, name: str) -> bool:
        """Whether a run that was interrupted has this network behind it. `anchors` and `wide` measure the same files alike."""
        if not self.args.resume:
            return False
        if section == "anchors" and name not in self.results.get(section, {}) and name in self.results.get("wide", {}):
            self.record(section, name, self.results["wide"][name])
        return name in self.results.get(section, {})

    def record(self, section: str, name: str, row: dict) -> None:
        self.results.setdefault(section, {})[name] = row
        self.save(section)
        shown = f"{100 * (1 - row['after'] / row['before']):.1f} % removed" if row.get("before") else "–"
        print(f"{section} {name}: {shown}, exact {row.get('exact')}, {row.get('error') or 'ok'}", flush=True)

    def trial(self, section: str, name: str, path: Path, **options: object) -> None:
        if self.is_done(section, name):
            return
        done = trial.run(self.args.paredown, path, self.scratch, masker=self.args.masker, **options)
        self.record(section, name, trial.as_json(done))

    def torchvision(self, section: str, name: str, dynamo: bool, **options: object) -> None:
        key = name + ("_dynamo" if dynamo else "")
        if self.is_done(section, key):
            return
        path, refusal = exported(self.args.models, name, dynamo, self.args.no_export)
        if self.args.no_export and not path.exists():
            return
        if refusal:
            self.record(section, key, {"file": path.name, "error": f"does not export: {refusal}", "unexported": True})
        else:
            verify = path.stat().st_size <= self.args.verify_below * 1e6
            self.trial(section, key, path, **{"verify": verify} | options)

    def anchors(self) -> None:
        for name in filter(self.wanted, ANCHORS):
            self.torchvision("anchors", name, dynamo=False, sizes=3, limit=300)
            if not self.args.no_peers:
                self.peers(name, self.args.models / f"{name}.onnx")
        if self.wanted("convnext_tiny"):
            path = self.args.models / "convnext_tiny.onnx"
            options = ("--allow-shifts",)
            self.trial(
                "anchors", "convnext_tiny --allow-shifts", path, sizes=3, verify=True, options=options, limit=300
            )

    def peers(self, name: str, path: Path) -> None:
        known = self.results["peers"].setdefault(name, {})
        for tool, subject in (("onnxsim", str(path)), ("torch-pruning", name)):
            if tool not in known or self.args.peers:
                known[tool] = peer(tool, subject)
                print(f"  {tool}: {known[tool]}", flush=True)
                self.save("peers")

    def wide(self) -> None:
        for name in filter(self.wanted, WIDE):
            for dynamo in self.args.exporter:
                self.torchvision("wide", name, dynamo=dynamo, sizes=2, limit=600)

    def detectors(self) -> None:
        for name in filter(self.wanted, DETECTORS):
            self.torchvision("detectors", name, dynamo=False, sizes=1, verify=False, alike=False)

    def folder(self, section: str, pattern: str, **options: object) -> None:
        for path in sorted(self.args.models.glob(pattern)):
            if self.wanted(path.stem):
                self.trial(section, path.stem, path, **options)

    def transformers(self) -> None:
        kinds = {"heads": ATTENTION, "feed_forward": ACTIVATIONS}
        self.folder("transformers", "hf/*.onnx", kinds=kinds)
        self.folder("transformers", "minilm*.onnx", kinds=kinds)

    def recurrent(self) -> None:
        """States that are graph inputs or outputs are thawed: they shrink with the hidden width."""
        for path in sorted(self.args.models.glob("rnn/*.onnx")):
            if self.wanted(path.stem):
                thawed = coverage_page.states(path)
                options = tuple(word for name in thawed for word in ("--thaw", name))
                kinds = {} if thawed else {"hidden": RECURRENT}
                self.trial("recurrent", path.stem, path, kinds=kinds, options=options, kept_signature=not thawed)

    def quantized(self) -> None:
        self.folder("quantized", "quant/*.onnx")

    def fused(self) -> None:
        self.folder("fused", "attention/*.onnx")
        self.folder("fused", "ort/*.onnx")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--paredown", default="paredown", help="the binary")
    parser.add_argument("--masker", help="the binary of examples/mask.rs, for exactness where tract does not run a file")
    parser.add_argument("--only", action="append", default=[], metavar="GLOB", help="networks of this name; may be repeated")
    parser.add_argument("--resume", action="store_true", help="leave out networks that have results")
    parser.add_argument("--peers", action="store_true", help="run the peers again")
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out of this run")
    parser.add_argument(
        "--verify-below", type=float, default=100, metavar="MB", help="larger files of torchvision are not run in tract"
    )
    parser.add_argument(
        "--exporter",
        type=lambda name: {"torchscript": [False], "dynamo": [True]}[name],
        default=[False, True],
        metavar="torchscript|dynamo",
        help="one exporter for `wide`, not both",
    )
    parser.add_argument("--no-export", action="store_true", help="leave out torchvision files that are missing")
    parser.add_argument("--render", action="store_true", help="write the page from the results, run nothing")
    parser.add_argument("--update", action="store_true", help="keep the rows of the page that there are no results for")
    parser.add_argument("--page", type=Path, default=BENCH / "COVERAGE.md")
    args = parser.parse_args()
    unknown = set(args.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}")
    args.models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(args, Path(scratch))
        for section in () if args.render else args.sections or SECTIONS:
            getattr(bench, section)()
        page, failures = coverage_page.render(bench.results)
    args.page.write_text(coverage_page.updated(args.page.read_text(), page) if args.update else page)
    print(f"{args.page}: {len(failures)} misses")
    for failure in failures:
        print(f"  {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
