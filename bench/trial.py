"""One network through paredown: prune, then check the result with onnx.checker and ONNX Runtime.

A trial is a plain dict, so that it can be kept as JSON. Nothing here takes paredown's word for validity; exactness is
its own measurement in tract (`verify.exact_max_rel` of the report). Where tract did not run the file, the masked original
that examples/mask.rs writes is compared in ONNX Runtime.
"""

import json
import resource
import signal
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import check
import inputs
import numpy as np
import onnxruntime

import onnx
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

RUNTIME_ERRORS = (Fail, InvalidArgument, RuntimeException)


@dataclass
class Trial:
    """What became of one file. `error` is what went wrong, None when all went well; `note` is a limit of the check."""

    file: str
    before: int = 0
    after: int = 0
    statistics: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    exact: float | None = None
    exact_in: str = "tract"
    verified: bool = False
    steps: int | None = None
    note: str | None = None
    sizes: int = 0
    seconds: float = 0.0
    error: str | None = None
    holders: list[str] = field(default_factory=list)
    groups: list[dict] = field(default_factory=list)
    widths: dict[str, list[int]] = field(default_factory=dict)

    @property
    def removed(self) -> float:
        return 1 - self.after / self.before if self.before else 0.0


def first_lines(text: str, count: int = 2) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return " ".join(lines[:count])[:300]


def prune(binary: str, model: Path, target: Path, options: list[str], limit: float) -> tuple[int, str, float]:
    """Exit code, standard error and seconds; 124 when the limit, in seconds of processor time, was reached."""
    command = [binary, "prune", str(model), "-o", str(target), "--force", "--quiet", *options]
    seconds = int(limit)
    set_limit = lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # noqa: E731
    start = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=set_limit)
    if run.returncode == -signal.SIGXCPU:
        return 124, f"no end in {limit:.0f} s", time.perf_counter() - start
    return run.returncode, run.stderr.replace(f"{model.parent}/", ""), time.perf_counter() - start


def holders(report: dict, count: int = 3) -> list[str]:
    """The frozen or shifting groups that hold most parameters, with the reason given for each."""
    held = [group for group in report["groups"] if group["role"] != "free" and group["params"]]
    held.sort(key=lambda group: -group["params"])
    return [f"{group['name']} ({group['role']}, {group['params']}): {group['reason']}" for group in held[:count]]


def is_beyond_tract(message: str) -> bool:
    """Whether verification ended at an operator that tract lacks, or whose form or element type it does not take."""
    limits = ("tract has no operator", "tract cannot read", "tract cannot run this", "tract cannot plan this")
    return any(limit in message for limit in limits)


def validate(trial: Trial, model: Path, target: Path) -> None:
    """The full onnx.checker; what it finds in the original too is a note."""
    try:
        check.validate(target)
    except onnx.checker.ValidationError as error:
        try:
            check.validate(model)
        except onnx.checker.ValidationError:
            trial.note = f"onnx.checker refuses the original too: {first_lines(str(error))}"
            return
        raise


def exposed(model: onnx.ModelProto, operators: set[str]) -> tuple[bytes, list[str]]:
    """The model with every result of `operators` as a graph output, and those names in node order."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output}
    names = [node.output[0] for node in copy.graph.node if node.op_type in operators]
    for name in names:
        if name not in present:
            copy.graph.output.append(onnx.ValueInfoProto(name=name))
    return copy.SerializeToString(), names


def widths(path: Path, operators: set[str], feed: dict[str, np.ndarray]) -> list[list[int]]:
    """Run-time shapes of the results of `operators`, in node order."""
    data, names = exposed(onnx.load(path), operators)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [list(array.shape) for array in session.run(names, feed)] if names else []


def halved(before: list[list[int]], after: list[list[int]]) -> list[int]:
    """Number of values, and of those with half as many elements afterwards."""
    pairs = zip(before, after, strict=True)
    return [len(before), sum(2 * int(np.prod(a)) == int(np.prod(b)) for b, a in pairs)]


def check_result(trial: Trial, model: Path, target: Path, sizes: int, thawed: bool, alike: bool) -> None:
    """Raises what onnx.checker or ONNX Runtime find; fills in parameters and the number of input sizes run. Results of
    another shape are a finding if they are to be `alike`."""
    validate(trial, model, target)
    original = onnx.load(model, load_external_data=False)
    rewritten = onnx.load(target, load_external_data=False)
    trial.before, trial.after = check.parameters(original.graph), check.parameters(rewritten.graph)
    trial.statistics = check.running_statistics(rewritten.graph)
    trial.bytes_before, trial.bytes_after = model.stat().st_size, target.stat().st_size
    changes = [] if thawed else check.signature_changes(original, rewritten)
    if changes:
        raise ValueError("signature: " + "; ".join(changes))
    sets = inputs.dimension_sets(rewritten, {}, count=sizes)
    feeds = [inputs.random_inputs(rewritten, size, seed) for seed, size in enumerate(sets)]
    try:
        check.session(model)
    except Exception as error:  # the original itself is beyond ONNX Runtime
        trial.note = f"ONNX Runtime cannot run the original: {first_lines(str(error))}"
        return
    if thawed or not alike:
        session = check.session(target)
        for feed in feeds:
            session.run(None, feed)
    else:
        try:
            rows = check.compare(model, target, feeds)
        except RUNTIME_ERRORS as error:
            feeds = runnable(trial, model, feeds, error)
            rows = check.compare(model, target, feeds)
        for name, shape, distance in rows:
            if not np.isfinite(distance.rel_l2):
                raise ValueError(f"{name} {shape} is not finite")
    trial.sizes = len(feeds)


def runnable(trial: Trial, model: Path, feeds: list[dict], error: Exception) -> list[dict]:
    """The feeds that the original itself takes; `error` again if it takes all. A note says what it does not take."""
    session, taken = check.session(model), []
    for feed in feeds:
        try:
            session.run(None, feed)
            taken.append(feed)
        except RUNTIME_ERRORS as refusal:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
            trial.note = f"ONNX Runtime does not run the original on {shapes}: {first_lines(str(refusal))}"
    if len(taken) in (0, len(feeds)):
        raise error
    return taken


def exact_in_runtime(trial: Trial, masker: str, model: Path, target: Path, plan: Path) -> None:
    """Fills in `exact`: the pruned file against the masked original, on several samples where the batch is open."""
    reference = target.with_name("masked.onnx")
    command = [masker, str(model), str(plan), str(reference)]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    if run.returncode:
        raise ValueError(f"no masked original: {first_lines(run.stderr)}")
    rewritten = onnx.load(target, load_external_data=False)
    feed = inputs.random_inputs(rewritten, inputs.dimension_sets(rewritten, {})[-1], 0)
    trial.exact = max(distance.max_rel for _, _, distance in check.compare(reference, target, [feed]))
    trial.exact_in = "ONNX Runtime"


def count_halved(trial: Trial, model: Path, target: Path, kinds: dict[str, set[str]]) -> None:
    """Fills in `widths`: for each kind of value, how many there are and how many became half as large."""
    original = onnx.load(model, load_external_data=False)
    size = inputs.dimension_sets(original, {})[-1]
    feed = inputs.random_inputs(original, size, 0)
    for kind, operators in kinds.items():
        trial.widths[kind] = halved(widths(model, operators, feed), widths(target, operators, feed))


def run(
    binary: str,
    model: Path,
    scratch: Path,
    *,
    options: tuple[str, ...] = (),
    sizes: int = 3,
    verify: bool = True,
    limit: float = 120,
    kinds: dict[str, set[str]] | None = None,
    kept_signature: bool = True,
    alike: bool = True,
    masker: str | None = None,
) -> Trial:
    """Prunes `model` at ratio 0.5 and checks the result.

    A file that tract cannot run is written once more without verification, and `verified` stays False. `alike`: the result
    gives as many values as the original (a detector finds other boxes).
    """
    trial = Trial(model.name)
    target, report_path, plan = scratch / "pruned.onnx", scratch / "report.json", scratch / "plan.json"
    for leftover in scratch.iterdir():
        leftover.unlink()
    arguments = ["--ratio", "0.5", "--report", str(report_path), "--plan-out", str(plan), *options]
    code, message, trial.seconds = prune(
        binary, model, target, arguments if verify else [*arguments, "--no-verify"], limit
    )
    problem, refused = None, False
    if code and verify and (code not in (2, 3, 4) or is_beyond_tract(message)):
        if is_beyond_tract(message):
            trial.note = f"not in tract: {first_lines(message).split(': ', 2)[-1]}"
        else:
            problem = f"verification, exit {code}: {first_lines(message)}"
        refused = True
        code, message, trial.seconds = prune(binary, model, target, [*arguments, "--no-verify"], limit)
    if code:
        trial.error = f"exit {code}: {first_lines(message, 4)}"
        return trial
    report = json.loads(report_path.read_text())
    trial.exact = report["verify"]["exact_max_rel"]
    trial.steps = report["verify"].get("quantization_steps")
    trial.verified = verify and not refused
    trial.holders = holders(report)
    trial.groups = [
        {key: group[key] for key in ("name", "role", "axis", "size", "kept")}
        for group in report["groups"]
        if group["role"] == "free"
    ]
    try:
        check_result(trial, model, target, sizes, not kept_signature, alike)
        if kinds and trial.sizes:
            count_halved(trial, model, target, kinds)
        if masker and trial.exact is None and trial.sizes and kept_signature:
            exact_in_runtime(trial, masker, model, target, plan)
    except Exception as error:  # whatever the checker or the runtime raise is the finding
        found = f"{type(error).__name__}: {first_lines(str(error))}"
        problem = f"{found}; {problem}" if problem else found
    trial.error = problem
    return trial


def as_json(trial: Trial) -> dict:
    return asdict(trial)
