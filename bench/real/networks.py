"""Real trained networks in a folder, each `NAME/model.onnx` with samples in `NAME/calib.npz`: run paredown on one, and check
what it wrote with onnx.checker and ONNX Runtime at three sizes of every dynamic axis."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

import onnx

Feed = dict[str, np.ndarray]

# Sizes of an axis of samples, and of every other dynamic axis as factors of what the samples have.
SAMPLES = (1, 2, 3)
FACTORS = (1.0, 0.5, 2.0)


@dataclass(frozen=True)
class Job:
    """A command line of paredown, and what became of it."""

    arguments: list[str]
    code: int
    seconds: float
    megabytes: float
    said: str

    @property
    def reason(self) -> str:
        """The first line of what was said."""
        lines = [line for line in self.said.splitlines() if line.strip()]
        return lines[0] if lines else "nothing was said"


def run(binary: str, arguments: list[str], timeout: float) -> Job:
    """Runs paredown; the code is -1 where it does not end in time."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([binary, *arguments], stdout=output, stderr=subprocess.STDOUT)
        late, kilobytes = "", 0
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            if time.monotonic() - started > timeout:
                process.kill()
                ended, late = os.wait4(process.pid, 0), f"no end in {timeout:.0f} s"
                break
            kilobytes = max(kilobytes, peak(process.pid))
            time.sleep(0.02)
        process.returncode = -1 if late else os.waitstatus_to_exitcode(ended[1])
        output.seek(0)
        said = late or output.read()
    return Job(arguments, process.returncode, time.monotonic() - started, kilobytes / 1000, said)


def peak(process: int) -> int:
    """Most kilobytes that a process has had in memory so far, 0 once it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


@dataclass(frozen=True)
class Network:
    """A trained file and its samples."""

    name: str
    model: Path
    samples: Path

    def shapes(self) -> dict[str, list[int | str]]:
        """Declared shapes of the inputs; a dynamic axis is a symbol, one without is called `input:axis`."""
        graph = onnx.load(self.model, load_external_data=False).graph
        stored = {tensor.name for tensor in graph.initializer}
        found: dict[str, list[int | str]] = {}
        for value in graph.input:
            if value.name not in stored:
                dims = value.type.tensor_type.shape.dim
                found[value.name] = [size(dim, f"{value.name}:{axis}") for axis, dim in enumerate(dims)]
        return found

    def feeds(self) -> Iterator[tuple[str, Feed]]:
        """One run for each of three sizes of each dynamic axis, with what it is called."""
        shapes = self.shapes()
        sample = first_run(self.samples, shapes)
        symbols = {size: None for sizes in shapes.values() for size in sizes if isinstance(size, str)}
        for symbol in symbols or [""]:
            front = any(sizes and sizes[0] == symbol for sizes in shapes.values())
            for step in range(len(SAMPLES)):
                feed = {}
                for name, sizes in shapes.items():
                    array = sample[name]
                    for axis in (at for at, size in enumerate(sizes) if size == symbol):
                        base = array.shape[axis]
                        wanted = SAMPLES[step] if front and base == 1 else max(1, int(base * FACTORS[step]))
                        array = np.take(array, np.arange(wanted) % base, axis)
                    feed[name] = np.array(array, order="C")  # `ascontiguousarray` gives a number an axis
                yield f"{symbol} {step}", feed


def size(dim: onnx.TensorShapeProto.Dimension, name: str) -> int | str:
    """The size of an axis, or what it is called where it is dynamic."""
    if dim.HasField("dim_value") and dim.dim_value > 0:
        return dim.dim_value
    return dim.dim_param or name


def first_run(path: Path, shapes: dict[str, list[int | str]]) -> Feed:
    """The first sample as one run: `array[:1]`, or `array[0]` where the array has an axis more than the input."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in shapes}
    return {n: a[0] if a.ndim == len(shapes[n]) + 1 else a[:1] if a.ndim else a for n, a in arrays.items()}


def networks(folder: Path, chosen: list[str]) -> list[Network]:
    """The networks of a folder, by name."""
    found = [Network(path.parent.name, path, path.parent / "calib.npz") for path in sorted(folder.glob("*/model.onnx"))]
    return [network for network in found if not chosen or network.name in chosen]


def session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Idle threads that spin would take cores from another session.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def faults(network: Network, written: Path) -> list[str]:
    """What is wrong with a file that was written for a network: nothing, if all is well."""
    try:
        onnx.checker.check_model(onnx.load(written), full_check=True)
    except Exception as error:  # whatever the checker raises is a finding
        return [f"onnx.checker: {first_line(error)}"]
    before, after = session(network.model), session(written)
    found = []
    sizes = 0
    for what, feed in network.feeds():
        try:
            expected = before.run(None, feed)
        except Exception:  # the original does not run at this size either
            continue
        sizes += 1
        try:
            results = after.run(None, feed)
        except Exception as error:  # whatever ONNX Runtime raises is a finding
            found.append(f"{what}: {first_line(error)}")
            continue
        for output, old, new in zip(before.get_outputs(), expected, results, strict=True):
            if old.shape != new.shape or old.dtype != new.dtype:
                found.append(f"{what}: {output.name} {old.shape} {old.dtype} became {new.shape} {new.dtype}")
            elif new.dtype.kind == "f" and np.isfinite(old).all() and not np.isfinite(new).all():
                found.append(f"{what}: {output.name} is not finite")
    return found if sizes else ["the original runs at no size that was tried"]


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:200]

